"""Text comes in the blocks it should; what does not fill one is one clear error."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bilens.base import documents as module
from bilens.base.documents import END, pieces, split_documents
from bilens.base.errors import ArgumentError, FileError
from bilens.training.text import Blocks, _tokenise, load_text, pack
from bilens.training.tokenizer import train_tokenizer
from tests.documents_made import joined


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("topics", 400)


def test_blocks_hold_the_documents_in_order(tokenizer):
    documents = ["One day, a 😀 met", " another.\n\nThe end\n", "x" * 40]
    blocks = pack(documents, tokenizer, 7)
    whole = "".join(document + END for document in documents)
    assert blocks.tokens.dtype == np.uint16
    assert whole.startswith(tokenizer.decode(blocks.tokens.flatten()).rstrip("\ufffd"))
    assert 0 <= len(tokenizer(whole)["input_ids"]) - blocks.tokens.size < 7


def test_bytes_are_those_that_a_loss_predicts(tokenizer):
    blocks = pack(["One day, a 😀 met", "é" * 30, "日本語 and more text"], tokenizer, 7)
    backend, spoken = tokenizer.backend_tokenizer, 0
    to_byte = {char: byte for byte, char in _byte_characters().items()}
    for block in blocks.tokens:
        for token in block[1:]:
            spoken += (
                0
                if token == tokenizer.eos_token_id
                else len(bytes(map(to_byte.get, backend.id_to_token(token))))
            )
    assert blocks.bytes == spoken > 0
    assert (blocks.tokens == tokenizer.eos_token_id).any()


def test_bytes_of_whole_text_are_its_utf8(tokenizer):
    text = "naïve 😀\n" * 20
    count = len(tokenizer(text)["input_ids"]) + 1
    first = len(tokenizer.decode(tokenizer(text)["input_ids"][:1]).encode())
    assert pack([text], tokenizer, count).bytes == len(text.encode()) - first


def test_bits_per_byte_of_a_uniform_guess():
    blocks = Blocks(np.zeros((3, 5), np.uint16), bytes=24)
    assert blocks.bits_per_byte(math.log(256)) == pytest.approx(8 * 12 / 24, rel=1e-12)


def test_batches_are_made_at_once(tokenizer):
    blocks = load_text("topics", tokenizer, 32).train
    batch = blocks.__getitems__([3, 0, 5])
    assert batch.keys() == {"input_ids", "labels"}
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert (
        batch["input_ids"].tolist() == blocks.tokens[[3, 0, 5]].tolist() == batch["labels"].tolist()
    )
    assert torch.equal(blocks[3]["labels"], batch["labels"][0])
    assert blocks[2:4]["input_ids"].shape == (2, 32)


def test_text_data_has_two_parts(tokenizer):
    data = load_text("topics", tokenizer, 64)
    assert data.name == "topics"
    assert len(data.train) > 5 * len(data.valid) > 0
    assert (
        data.valid.tokens.tolist()
        == pack(split_documents("topics").valid, tokenizer, 64).tokens.tolist()
    )


@given(st.text("aé1 \n.,'😀\t", max_size=60))
@settings(max_examples=50, deadline=None)
def test_cutting_a_long_document_changes_no_token(tokenizer, document):
    before, module.PIECE = module.PIECE, 3
    try:
        cut = list(pieces(document))
        tokens = _tokenise([document, "x"], tokenizer, np.uint16)
    finally:
        module.PIECE = before
    assert "".join(cut) == document
    assert tokens.tolist() == tokenizer(document + END + "x" + END)["input_ids"]


@pytest.mark.parametrize(("length", "fits"), [(41, True), (42, False)])
def test_a_text_too_short_for_a_block(refuses, tokenizer, length, fits):
    documents = ["\x01" * 40]  # 40 bytes that no pair joins, and the end
    if fits:
        assert len(pack(documents, tokenizer, length)) == 1
    else:
        refuses(
            ArgumentError,
            lambda: pack(documents, tokenizer, length),
            "the text must fill a block of 42 tokens",
            "41",
        )


def test_an_empty_held_out_file(refuses, write, tmp_path, tokenizer):
    write("train.txt", "word " * 50)
    path = write("valid.txt", "")
    refuses(FileError, lambda: load_text(str(tmp_path), tokenizer, 8), f"{path} must hold text")


def test_a_part_too_short_for_a_block(refuses, write, tokenizer):
    path = write("a.txt", joined("many words " * 100, "few"))
    refuses(
        ArgumentError,
        lambda: load_text(path, tokenizer, 64),
        f"the held-out text of {path} must fill a block of 64",
    )


def test_a_block_must_predict_something(refuses, tokenizer):
    refuses(
        ArgumentError,
        lambda: load_text("topics", tokenizer, 1),
        "length must be at least 2 tokens",
        "got 1",
    )


def test_a_tokenizer_that_is_not_byte_level(refuses):
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    words.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    refuses(
        ArgumentError,
        lambda: pack(["a"], tokenizer, 2),
        "tokenizer must be byte-level and have an eos_token",
        "WordPiece",
    )


def test_a_tokenizer_without_an_end(refuses, tokenizer):
    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    refuses(
        ArgumentError,
        lambda: pack(["a"], endless, 2),
        "tokenizer must be byte-level",
        "eos_token None",
    )


def test_a_large_vocabulary_takes_four_bytes(tokenizer):
    large = json.loads(tokenizer.backend_tokenizer.to_str())
    large["model"]["vocab"] |= {f"{'x' * 20}{n}": 400 + n for n in range(2**16)}
    backend = Tokenizer.from_str(json.dumps(large))
    blocks = pack(["a text"], PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END), 3)
    assert blocks.tokens.dtype == np.uint32


def _byte_characters():
    """GPT-2's table from bytes to characters: printable Latin-1 as it is, the rest from U+0100
    on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + n) for n, byte in enumerate(others)
    }
