"""Any text comes back from its tokens; the same text trains the same tokenizer; a damaged folder is
one clear error.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bilens.base.documents import END
from bilens.base.errors import ArgumentError, FileError
from bilens.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TEXTS = [
    "  two spaces first",
    "\n\n\tlines \r\n and\u00a0spaces \n",
    "It 's a test , isn't it ? No .",  # what cleaning up would change
    "naïve façade, 日本語, עברית, 😀👩‍👩‍👧 e\u0301",
    "\x00\x7f\ufeff\ufffd",
    f"before{END}\nafter {END}",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer on disk."""
    folder = tmp_path_factory.mktemp("tokenizer") / "new" / "folder"
    train_tokenizer("topics", 600, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_smallest_has_every_byte_and_the_end(write):
    smallest = train_tokenizer(write("ab " * 100), 257)
    assert len(smallest) == 257
    assert all(smallest.decode(smallest(text)["input_ids"]) == text for text in TEXTS)
    assert len(smallest("né😀")["input_ids"]) == 7


def test_there_is_one_special_token(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        END,
        END,
        END,
        None,
    )
    assert tokenizer.all_special_ids == [0]
    assert tokenizer(END)["input_ids"] == [0]
    assert tokenizer("a b")["input_ids"] == tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert tokenizer("a b").keys() == {"input_ids", "attention_mask"}


def test_frequent_pairs_are_joined(tokenizer):
    assert len(tokenizer) == 600
    assert len(tokenizer(" statement")["input_ids"]) < 4
    text = "An expression statement evaluates the expression list."
    assert len(tokenizer(text)["input_ids"]) < len(text) / 2


def test_training_is_deterministic(folder, tmp_path):
    train_tokenizer("topics", 600, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_one_that_is_read_is_saved_as_it_was(folder, tmp_path):
    save_tokenizer(load_tokenizer(folder), tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_held_out_text_is_not_seen(tmp_path):
    (tmp_path / "train.txt").write_text("abab " * 50)
    (tmp_path / "valid.txt").write_text("xyxy " * 50)
    tokenizer = train_tokenizer(str(tmp_path), 300)
    assert len(tokenizer("abab")["input_ids"]) == 1
    assert len(tokenizer("xyxy")["input_ids"]) == 4


def test_a_small_text_has_few_pairs(write):
    # aa, and aa after a space; bc is there once
    assert len(train_tokenizer(write("aa aa aa bc"), 1000)) == 259


def test_a_folder_holds_two_files(folder):
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_stock_transformers_reads_it(folder, tokenizer):
    stock = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert isinstance(stock, PreTrainedTokenizerFast)
    assert stock(TEXTS[3])["input_ids"] == tokenizer(TEXTS[3])["input_ids"]
    assert stock.eos_token_id == 0


@pytest.mark.bad_input
@pytest.mark.parametrize("size", [256, 0, -1, 10**12, 300.0, True])
def test_a_vocabulary_of_no_size(refuses, size):
    text = (
        f"vocab_size must be at least 257: 256 bytes and {END}, and at most 1,048,576; got {size}."
    )
    refuses(ArgumentError, lambda: train_tokenizer("topics", size), text)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file(refuses, copy, name):
    (copy / name).unlink()
    refuses(FileError, lambda: load_tokenizer(copy), f"{copy} must hold {name}; got none")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file(refuses, copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    refuses(FileError, lambda: load_tokenizer(copy), f"{copy / name} must be readable JSON")


def test_a_folder_that_is_not_there(refuses, tmp_path):
    refuses(
        FileError,
        lambda: load_tokenizer(tmp_path / "no"),
        "no must be a tokenizer folder; got nothing there",
    )
    (tmp_path / "file").touch()
    refuses(
        FileError,
        lambda: load_tokenizer(tmp_path / "file"),
        "file must be a tokenizer folder; got a file",
    )


def test_an_output_that_is_a_file(refuses, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    refuses(
        FileError,
        lambda: save_tokenizer(tokenizer, tmp_path / "file"),
        "must be a folder that can be written",
        "exists",
    )


def test_a_full_disk_leaves_what_was_there(refuses, tokenizer, copy, monkeypatch):
    def fails(self, folder):
        (copy / next(copy.glob(".saving-*")) / "tokenizer.json").write_text("half")
        raise Exception("No space left on device (os error 28)")

    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fails)
    refuses(
        FileError,
        lambda: save_tokenizer(tokenizer, copy),
        f"{copy} must be writable to the end",
        "No space left",
    )
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.fixture
def copy(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def write(tmp_path):
    def to(text):
        (tmp_path / "a.txt").write_text(f"{text}\n{END}\nheld out")
        return str(tmp_path / "a.txt")

    return to
