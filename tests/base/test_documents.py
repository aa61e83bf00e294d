"""Text comes in the documents and parts it should; every damaged source is one clear error."""

import lzma
import os
import sys
from types import ModuleType

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from hypothesis import given
from hypothesis import strategies as st

from bilens.base import documents as module
from bilens.base.documents import END, pieces, read_documents, split_documents
from bilens.base.errors import FileError
from tests.documents_made import joined


def test_the_built_in_text():
    documents = list(read_documents("topics"))
    assert len(documents) > 50
    assert documents == list(read_documents("topics"))
    assert any("lambda" in document for document in documents)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz", "a.xz"])
@pytest.mark.parametrize(
    ("raw", "documents"),
    [
        ("one\n", ["one\n"]),
        (f"one\n{END}\ntwo\n\n three", ["one", "two\n\n three"]),
        (f"one\r\n{END}\r\ntwo\r\n", ["one", "two\r\n"]),
        (f"one{END}two{END} three\n{END}\n", ["one", "two", " three"]),
        (f"{END}\n\n{END}\none\n\n{END}\n\ntwo", ["one\n", "\ntwo"]),
        ("\ufeffone\n\ufeff 😀", ["one\n\ufeff 😀"]),
    ],
)
def test_documents_of_a_file(write, name, raw, documents):
    assert list(read_documents(write(name, raw))) == documents


@given(
    st.lists(
        st.text("ab \n\r<|é", min_size=1).filter(
            lambda text: text.strip() and text == text.strip("\r\n")
        )
    )
)
def test_documents_come_back_however_they_are_cut(documents):
    lines = joined(*documents).splitlines(keepends=True)
    assert list(module._documents(lines)) == documents


def test_a_file_is_read_in_pieces(write):
    documents = read_documents(
        write("a.txt", joined("one", "two").encode() + b"\n" + END.encode() + b"\n\xff")
    )
    assert [next(documents), next(documents)] == ["one", "two"]
    with pytest.raises(FileError):
        next(documents)


def test_a_folder_with_its_own_parts(write, tmp_path):
    write("train.txt.xz", joined("a", "b"))
    write("valid.txt", "c")
    write("other.txt", "d")
    train, valid = split_documents(str(tmp_path))
    assert (list(train), list(valid)) == (["a", "b"], ["c"])
    assert list(read_documents(str(tmp_path))) == ["a", "b", "c"]


def test_a_folder_of_texts_is_read_by_name(write, tmp_path):
    for name in ("c.txt", "a.txt", "b.txt.xz", ".hidden.txt", "index.tsv"):
        write(name, name)
    assert list(read_documents(str(tmp_path))) == ["a.txt", "b.txt.xz", "c.txt"]


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (20, 2), (39, 3)])
def test_the_last_tenth_is_held_out(write, count, held_out):
    documents = [f"document {n}" for n in range(count)]
    train, valid = map(list, split_documents(write("a.txt", joined(*documents))))
    assert train + valid == documents
    assert len(valid) == held_out


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("abcdefg\n" * 10, 72),
        ("abcdefg\n" * 11, 72),
        ("x" * 100, 90),
        ("x\n" + "y" * 98, 90),
        ("é" * 60 + "\n" + "x" * 39, 61),
    ],
)
def test_one_document_is_cut_at_a_line_end(write, text, cut):
    train, valid = map(list, split_documents(write("a.txt", text)))
    assert (train, valid) == ([text[:cut]], [text[cut:]])


@pytest.mark.parametrize("raw", ["", " \n\t", f"{END}\n{END}\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz"])
def test_an_empty_file(refuses, write, raw, name):
    path = write(name, raw)
    refuses(
        FileError,
        lambda: list(read_documents(path)),
        f"{path} must hold text; got nothing, or white space alone.",
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"one\x00\n", " text; got a NUL at offset 3."),
        (b"word\n" * 4000 + b"\x00", " text; got a NUL at offset 20000."),
        (b"one\ntw\xff o\n", "; got byte 0xff at offset 6. "),
        (b"one\ntw\xc3", "; got byte 0xc3 at offset 6. "),
        ("\ufeffé".encode() + b"\n\xe2\n", "; got byte 0xe2 at offset 6. "),
    ],
    ids=["a NUL", "a NUL far in", "no byte of it", "half a letter at the end", "half a letter"],
)
def test_what_is_no_text_is_named_by_its_offset(refuses, write, raw, said):
    path = write("a.txt", raw)
    refuses(FileError, lambda: list(read_documents(path)), f"{path} must be UTF-8{said}")


def test_a_hole_is_seen_before_it_is_read(refuses, write):
    path = write("a.txt", "word\n")
    os.truncate(path, 10**12)  # takes no room on the disk
    refuses(
        FileError,
        lambda: list(read_documents(path)),
        f"{path} must be UTF-8 text; got a NUL at offset 5.",
    )


def test_invalid_utf8_in_an_xz(refuses, write):
    path = write("a.txt.xz", b"ab\n\x80")
    refuses(
        FileError,
        lambda: list(read_documents(path)),
        path,
        "byte 0x80 at offset 3 of its decompressed text",
    )


def test_a_truncated_xz(refuses, tmp_path):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(lzma.compress(b"word " * 1000)[:-20])
    refuses(
        FileError,
        lambda: list(read_documents(str(path))),
        f"{path} must be whole; got an xz stream that ends early",
    )


def test_a_corrupt_xz(refuses, tmp_path):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(b"plain text, only named so")
    refuses(
        FileError, lambda: list(read_documents(str(path))), f"{path} must be an undamaged xz file"
    )


def test_a_file_that_cannot_be_read(refuses, write, monkeypatch):
    path = write("a.txt", "one")

    def fails(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_open", fails)
    refuses(
        FileError,
        lambda: list(read_documents(path)),
        f"{path} must be readable; got Permission denied.",
    )


@pytest.mark.parametrize("source", ["gone.txt", "no/such/folder", "/no/such", "gone.txt.xz", "a b"])
def test_a_source_that_is_not_there(refuses, source):
    refuses(
        FileError,
        lambda: read_documents(source),
        f'{source} must be "topics", a .txt or .xz file',
        "got nothing there",
    )


def test_a_pipe_is_not_waited_for(refuses, tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    for source in (tmp_path, tmp_path / "a.txt"):
        refuses(
            FileError,
            lambda source=source: read_documents(str(source)),
            "a.txt must be",
            "got something else",
        )
    refuses(FileError, lambda: read_documents("x" * 300 + ".txt"), "got nothing there")


def test_a_bomb_is_not_unpacked(refuses, tmp_path, monkeypatch):
    """Ten megabytes of one line, or of many, in a few kilobytes."""
    monkeypatch.setattr(module, "PLAIN", 2**16)
    for name, line in (("a.txt.xz", b"x" * 10**7), ("b.txt.xz", b"word\n" * 2 * 10**6)):
        (tmp_path / name).write_bytes(lzma.compress(line))
        source = str(tmp_path / name)
        refuses(
            FileError,
            lambda source=source: list(read_documents(source)),
            f"{source} must unpack to at most",
            "xz -d",
        )


def test_a_file_of_another_kind(refuses, write):
    path = write("a.jsonl", "{}")
    refuses(
        FileError, lambda: read_documents(path), f"{path} must be a .txt or .xz file; got .jsonl"
    )


def test_a_folder_without_text(refuses, write, tmp_path):
    write("valid.txt", "x")
    refuses(
        FileError,
        lambda: read_documents(str(tmp_path)),
        "must hold text to train on, .txt or .txt.xz; got no such file",
    )


def test_a_folder_that_holds_a_text_twice(refuses, write, tmp_path):
    write("a.txt", "x")
    write("a.txt.xz", "x")
    refuses(
        FileError,
        lambda: read_documents(str(tmp_path)),
        "must hold each text once; got a.txt and a.txt.xz",
    )


@pytest.fixture
def hub(monkeypatch):
    """A Hugging Face hub with one dataset, ``parts`` of rows."""

    def holds(parts):
        datasets = ModuleType("datasets")
        datasets.load_dataset = lambda name, streaming: parts
        monkeypatch.setitem(sys.modules, "datasets", datasets)
        monkeypatch.setattr(huggingface_hub, "dataset_info", lambda name, timeout: None)

    return holds


def rows(*texts):
    return [{"id": n, "text": text} for n, text in enumerate(texts)]


def test_a_dataset(hub):
    hub({"train": rows("a", f"b{END}c", " "), "validation": rows("d")})
    train, valid = map(list, split_documents("owner/name"))
    assert (train, valid) == (["a", "b", "c"], ["d"])


def test_a_dataset_without_a_held_out_split(hub):
    hub({"train": rows(*"abcdefghij")})
    train, valid = map(list, split_documents("name"))
    assert (train, valid) == (list("abcdefghi"), ["j"])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            {"train": [{"id": 0, "body": "x"}]},
            'dataset owner/name must have text in a column "text"; got columns id, body.',
        ),
        ({"test": rows("a")}, 'dataset owner/name must have a split "train"; got test.'),
        ({"train": rows(" ")}, "dataset owner/name must hold text"),
    ],
)
def test_a_dataset_that_is_no_text(refuses, hub, parts, text):
    hub(parts)
    refuses(FileError, lambda: list(read_documents("owner/name")), text)


def test_a_dataset_that_breaks_off(refuses, hub):
    def breaks():
        yield from rows("a")
        raise ConnectionError("the line\nis cut")

    hub({"train": breaks()})
    refuses(
        FileError,
        lambda: list(read_documents("owner/name")),
        "owner/name must be a file",
        "(the line is cut).",
    )


def test_a_dataset_out_of_reach(refuses, hub, monkeypatch):
    def fails(name, timeout):
        raise ConnectionError("no network")

    hub({})
    monkeypatch.setattr(huggingface_hub, "dataset_info", fails)
    text = "owner/name must be a file, a folder, or a Hugging Face dataset that can be reached and "
    text += "read; got none of them"
    refuses(FileError, lambda: read_documents("owner/name"), text, "(no network)")


def test_a_dataset_on_a_hub_that_may_not_be_asked(refuses, hub, monkeypatch):
    """The words of huggingface_hub say to unset what a command sets itself."""

    def fails(name, timeout):
        raise OfflineModeIsEnabled("please unset the `HF_HUB_OFFLINE` environment variable")

    hub({})
    monkeypatch.setattr(huggingface_hub, "dataset_info", fails)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = "none of them (the hub was not asked). To ask the hub, set HF_HUB_OFFLINE=0 in the env"
    refuses(FileError, lambda: read_documents("owner/name"), text)


def test_a_dataset_without_the_package(refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refuses(
        FileError,
        lambda: read_documents("owner/name"),
        "with the package datasets",
        "pip install datasets",
    )


def test_a_long_document_is_cut(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 3)
    assert list(pieces("ab\ncd\nef.\ngh ij")) == ["ab\ncd", "\nef.\ngh", " ij"]


def test_a_text_without_an_end_of_a_word_is_cut_anywhere_and_says_so(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 3)
    monkeypatch.setattr(module, "LONGEST", 6)
    with pytest.warns(UserWarning, match="without the end of a word was cut"):
        assert list(pieces("é" * 16 + " x")) == ["éééééé", "éééééé", "éééé", " x"]
