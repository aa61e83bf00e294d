"""Documents of a text: from this Python, a file, a folder or a Hugging Face dataset, a line or a
row at a time.

A document ends at ``<|endoftext|>``, at the end of its file, or with its row; the line ends around
the separator belong to it, and documents of white space alone are left out. Nothing else of a text
is changed (but for a byte order mark).
"""

import lzma
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bilens.base.errors import BilensError, FileError
from bilens.base.reading import to_reach_the_hub

BUILT_IN = "topics"
END = "<|endoftext|>"
SEPARATOR = re.compile(r"(?:\r?\n)?" + re.escape(END) + r"(?:\r?\n)?")
DATASET = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
SUFFIXES = (".txt", ".xz")
HELD_OUT = 10  # one document in this many
WORD_END = re.compile(r"[^\W_](?=\s)")
SNIFFED = 2**13  # bytes that are looked at before a file is read
PIECE = 2**20  # characters tokenised at once: the tokenizer takes over 100 bytes for each
LONGEST = 2**21  # characters without the end of a word, beyond which a text is cut anywhere
PLAIN = 2**26  # bytes that any .xz may unpack to
RATIO = 100  # at most so many times its own size beyond that: text is compressed three to ten times


class Split(NamedTuple):
    """Documents to train on and documents held out, each to be read once."""

    train: Iterator[str]
    valid: Iterator[str]


@dataclass(frozen=True)
class _Source:
    """Ways to read the training documents and, where they come apart from these, the held-out
    ones.
    """

    train: Callable[[], Iterator[str]]
    valid: Callable[[], Iterator[str]] | None = None


def read_documents(source: str) -> Iterator[str]:
    """All documents of ``source``, training ones first, in an order that never changes.

    ``source`` is one of
        "topics"        the help texts of the running Python (pydoc_data.topics), by name
        a file          .txt, or .xz of the same: UTF-8
        a folder        train.txt and valid.txt where there, else every .txt; each may be .txt.xz;
                        by name
        a dataset       the Hugging Face name of one with a column "text" (needs the package
                        datasets, and a network)

    Files are read a line at a time, and datasets a row; at most one document is held. Errors:
    FileError where there is no such source; while reading, for a file that is no UTF-8 (with the
    byte's offset), a damaged .xz, or no text at all.
    """
    found = _find(source)
    return chain(found.train(), found.valid() if found.valid else ())


def split_documents(source: str) -> Split:
    """The documents of ``source`` (see ``read_documents``) to train on, and those held out.

    Held out is what the source itself holds out (valid.txt, or a dataset's split "validation");
    else the last tenth of its documents (rounded down, at least one), for which it is read once
    more to count them; else, of a single document, its last tenth, cut at the last line end before
    that (in its second half; without one, between any two characters).
    """
    found = _find(source)
    if found.valid:
        return Split(found.train(), found.valid())
    count = sum(1 for _ in found.train())
    if count == 1:
        return _cut(next(found.train()))
    kept = count - max(1, count // HELD_OUT)
    return Split(islice(found.train(), kept), islice(found.train(), kept, None))


def pieces(document: str) -> Iterator[str]:
    """``document`` in parts of about ``PIECE`` characters, so that tokenising a long one takes
    little memory.

    Cut between a letter or digit and the white space after it: byte-level tokenizers never join
    these, so no token changes. Where no such place comes within ``LONGEST`` characters the cut is
    made there, and a warning says so: the tokens on either side of it may be others than without
    it.
    """
    start = 0
    while len(document) - start > LONGEST or WORD_END.search(document, start + PIECE):
        found = WORD_END.search(document, start + PIECE, start + LONGEST + 1)
        if found is None:
            warnings.warn(
                "a text without the end of a word was cut; tokens there may differ", stacklevel=2
            )
        end = start + LONGEST if found is None else found.end()
        yield document[start:end]
        start = end
    yield document[start:]


def _find(source: str) -> _Source:
    path = Path(source)
    if os.path.isdir(source):
        return _folder(path)
    if os.path.isfile(source):
        if path.suffix not in SUFFIXES:
            raise FileError(source, must="be a .txt or .xz file", got=path.suffix or "no suffix")
        return _Source(partial(_read, source, [path]))
    if source == BUILT_IN:
        return _Source(_topics)
    if DATASET.fullmatch(source) and path.suffix not in SUFFIXES:
        return _dataset(source)
    must = f'be "{BUILT_IN}", a .txt or .xz file, a folder, or the name of a Hugging Face dataset'
    raise FileError(
        source, must=must, got="something else" if os.path.lexists(source) else "nothing there"
    )


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics  # half a megabyte of text

    return (text for _, text in sorted(topics.items()))


def _folder(folder: Path) -> _Source:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        name = file.name.removesuffix(".xz")
        if name.startswith(".") or not name.endswith(".txt"):
            continue
        if name in files:
            raise FileError(str(folder), must="hold each text once", got=f"{name} and {name}.xz")
        if not os.path.isfile(file):  # a pipe would be waited for
            raise FileError(str(file), must="be a file", got="something else")
        files[name] = file
    valid = files.pop("valid.txt", None)
    train = [files["train.txt"]] if "train.txt" in files else list(files.values())
    if not train:
        raise FileError(
            str(folder), must="hold text to train on, .txt or .txt.xz", got="no such file"
        )
    return _Source(
        partial(_read, str(folder), train), partial(_read, str(valid), [valid]) if valid else None
    )


def _read(name: str, files: list[Path]) -> Iterator[str]:
    """The documents of ``files``. Errors: FileError where all of them hold none."""
    documents = chain.from_iterable(_documents(_lines(file)) for file in files)
    first = next(documents, None)
    if first is None:
        raise FileError(name, must="hold text", got="nothing, or white space alone")
    yield first
    yield from documents


def _documents(texts: Iterable[str]) -> Iterator[str]:
    """The documents in the concatenation of ``texts``."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if END in text:
            *ended, rest = SEPARATOR.split("".join(held))
            yield from filter(str.strip, ended)
            held = [rest]
    yield from filter(str.strip, ["".join(held)])


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text file, their ends as they are."""
    offset = 0
    try:
        packed = file.suffix == ".xz"
        room = max(PLAIN, RATIO * file.stat().st_size)
        with _open(file) as raw:
            _require_text(raw.read(SNIFFED), file, 0)  # before a line of a gigabyte is read
        with _open(file) as raw:
            while line := raw.readline(room + 1 - offset if packed else -1):
                if packed and offset + len(line) > room:
                    must, todo = (
                        f"unpack to at most {room:,} bytes",
                        "Unpack it, where it is meant to: xz -d.",
                    )
                    raise FileError(str(file), must=must, got="more", todo=todo)
                yield _decode(line, file, offset)
                offset += len(line)
    except EOFError as error:
        raise FileError(
            str(file),
            must="be whole",
            got="an xz stream that ends early",
            todo="Download it again.",
        ) from error
    except lzma.LZMAError as error:
        raise FileError(str(file), must="be an undamaged xz file", got=str(error)) from error
    except OSError as error:
        raise FileError(str(file), must="be readable", got=error.strerror or error) from error


def _open(file: Path) -> BinaryIO | lzma.LZMAFile:
    return lzma.open(file) if file.suffix == ".xz" else file.open("rb")


def _require_text(data: bytes, file: Path, offset: int) -> None:
    """Raise FileError for bytes that no text has: a NUL is of another kind of file, of UTF-16, or
    of a hole in it.
    """
    at = data.find(0)
    if at >= 0:
        got = f"a NUL at offset {offset + at}"
        raise FileError(
            str(file), must="be UTF-8 text", got=got, todo="Convert it, for instance with iconv."
        )


def _decode(line: bytes, file: Path, offset: int) -> str:
    _require_text(line, file, offset)
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        got = f"byte 0x{line[error.start]:02x} at offset {offset + error.start}"
        got += " of its decompressed text" if file.suffix == ".xz" else ""
        raise FileError(
            str(file), must="be UTF-8", got=got, todo="Convert it, for instance with iconv."
        ) from error
    return text if offset else text.removeprefix("\ufeff")


def _dataset(name: str) -> _Source:
    try:
        from datasets import load_dataset
        from huggingface_hub import dataset_info
    except ImportError as error:
        must = "be a file or a folder, or, with the package datasets, a Hugging Face dataset"
        raise FileError(
            name, must=must, got="none of them", todo="Check the path, or pip install datasets."
        ) from error
    with _reaching(name):
        dataset_info(name, timeout=10)  # without a network load_dataset would try for half a minute
        parts: Any = load_dataset(name, streaming=True)
    if "train" not in parts:
        raise FileError(f"dataset {name}", must='have a split "train"', got=", ".join(parts))
    valid = partial(_rows, name, parts["validation"]) if "validation" in parts else None
    return _Source(partial(_rows, name, parts["train"]), valid)


def _rows(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    found = False
    with _reaching(name):
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise FileError(
                    f"dataset {name}",
                    must='have text in a column "text"',
                    got=f"columns {', '.join(row)}",
                )
            for document in _documents([row["text"]]):
                found = True
                yield document
    if not found:
        raise FileError(f"dataset {name}", must="hold text", got="nothing, or white space alone")


@contextmanager
def _reaching(name: str) -> Iterator[None]:
    """One FileError for all that can go wrong between here and a dataset."""
    try:
        yield
    except BilensError:
        raise
    # of datasets, huggingface_hub, httpx and fsspec, which share no family
    except Exception as error:
        from huggingface_hub.errors import OfflineModeIsEnabled

        must = "be a file, a folder, or a Hugging Face dataset that can be reached and read"
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OfflineModeIsEnabled):  # whose words name the wrong remedy
            reason = "the hub was not asked"
        got = f"none of them ({reason.rstrip('.')})"
        raise FileError(name, must=must, got=got, todo=to_reach_the_hub()) from error


def _cut(text: str) -> Split:
    near = len(text) * (HELD_OUT - 1) // HELD_OUT
    at = text.rfind("\n", len(text) // 2, near) + 1 or near
    return Split(iter([text[:at]]), iter([text[at:]]))
