"""Text data: documents (``base.documents``) packed into blocks of tokens."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt
from tokenizers import decoders
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from bilens.base.documents import PIECE, pieces, split_documents
from bilens.base.errors import ArgumentError


@dataclass(frozen=True)
class Blocks(Dataset):
    """Texts as blocks of tokens, in order. Indexed by lists, so that a batch is one slice and not a
    loop.

    ``bytes`` is what a causal loss over the blocks is about: the UTF-8 bytes of every token but the
    first of each block, which nothing predicts. ``<|endoftext|>`` is predicted like any token and
    stands for no byte.

    >>> data = bilens.training.load_text("topics", model.tokenizer, 128)
    >>> data.train.tokens.shape[1], data.valid.bytes > 0
    (128, True)
    """

    tokens: UInt[np.ndarray, "n length"]
    bytes: int

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitems__(self, indices: list[int]) -> dict[str, Int[Tensor, "b length"]]:
        return self._batch(indices)

    def __getitem__(self, index: int | slice) -> dict[str, Int[Tensor, "*b length"]]:
        return self._batch(index)

    def _batch(self, index: Any) -> dict[str, Tensor]:
        ids = torch.from_numpy(self.tokens[index].astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def bits_per_byte(self, loss: float) -> float:
        """``loss`` (nats per predicted token, meant over all blocks) in bits per UTF-8 byte of the
        predicted text.
        """
        predicted = len(self) * (self.tokens.shape[1] - 1)
        return loss * predicted / (math.log(2) * self.bytes)


@dataclass(frozen=True)
class TextData:
    """A named text in two parts.

    >>> data = bilens.training.load_text("topics", model.tokenizer, 128)
    >>> data.name, len(data.valid)
    """

    name: str
    train: Blocks
    valid: Blocks


def load_text(source: str, tokenizer: PreTrainedTokenizerFast, length: int) -> TextData:
    """``source`` (see ``read_documents``, ``split_documents``) in blocks of ``length`` tokens (see
    ``pack``).

    Errors: those of ``read_documents``, and ArgumentError where a part does not fill one block.

    >>> data = bilens.training.load_text("topics", model.tokenizer, 128)
    >>> data.name, len(data.train) > len(data.valid)
    ('topics', True)
    """
    documents = split_documents(source)
    train = pack(documents.train, tokenizer, length, f"the training text of {source}")
    return TextData(
        source, train, pack(documents.valid, tokenizer, length, f"the held-out text of {source}")
    )


@dataclass(frozen=True)
class HeldOut:
    """Held-out texts of a named source, as token ids.

    >>> held = bilens.training.held_out_ids(model, "topics", 1000)
    >>> held.name, held.ids.shape[1] <= 512
    ('topics', True)
    """

    name: str
    ids: Int[Tensor, "n length"]


def held_out(source: str, tokenizer: PreTrainedTokenizerFast, length: int) -> Blocks:
    """The held-out part of ``source`` alone, in the very blocks that ``load_text`` makes of it.

    Errors: those of ``load_text``, but for what its training part may lack.
    """
    documents = split_documents(source).valid
    return pack(documents, tokenizer, length, f"the held-out text of {source}")


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    name: str = "the text",
) -> Blocks:
    """``documents``, each followed by the tokenizer's end of text, one after the other in blocks of
    ``length`` tokens.

    A block may start and end within a document. What is left after the last whole block is dropped:
    fewer than ``length`` tokens. Memory: two or four bytes a token, and a fixed amount for
    tokenising. Errors: ArgumentError for a tokenizer that is not byte-level or has no end of text,
    for ``length`` < 2, and for text that does not fill one block.
    """
    if length < 2:
        raise ArgumentError(
            "length",
            must="be at least 2 tokens, one to predict from and one to predict",
            got=length,
        )
    lengths = _byte_lengths(tokenizer)
    tokens = _tokenise(documents, tokenizer, np.uint16 if len(lengths) <= 2**16 else np.uint32)
    if len(tokens) < length:
        todo = "Ask for shorter blocks, or bring more text."
        raise ArgumentError(
            name, must=f"fill a block of {length} tokens", got=f"{len(tokens)} tokens", todo=todo
        )
    tokens = tokens[: len(tokens) // length * length].reshape(-1, length)
    return Blocks(tokens, sum(int(lengths[block[1:]].sum()) for block in tokens))


def _byte_lengths(tokenizer: PreTrainedTokenizerFast) -> Int[np.ndarray, " vocab"]:
    """The number of bytes that each token id stands for. Special tokens stand for none."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)  # some are written in Python
    decoder = getattr(backend, "decoder", backend)
    if not isinstance(decoder, decoders.ByteLevel) or tokenizer.eos_token is None:
        got = f"{type(decoder).__name__}, eos_token {tokenizer.eos_token}"
        todo = "Use one that bilens trained, or a tokenizer of the GPT-2, Llama 3 or Qwen family."
        raise ArgumentError(
            "tokenizer", must="be byte-level and have an eos_token", got=got, todo=todo
        )
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, index in vocabulary.items():
        lengths[index] = len(token)  # byte-level tokens are written with one character a byte
    for index, added in tokenizer.added_tokens_decoder.items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    return lengths


def _tokenise(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, dtype: type
) -> UInt[np.ndarray, " tokens"]:
    encode = partial(tokenizer.backend_tokenizer.encode_batch_fast, add_special_tokens=False)
    batches = _batches(_ended(documents, str(tokenizer.eos_token)))
    ids = [np.array(encoding.ids, dtype) for batch in batches for encoding in encode(batch)]
    return np.concatenate([np.zeros(0, dtype), *ids])


def _ended(documents: Iterable[str], end: str) -> Iterator[str]:
    for document in documents:
        *whole, last = pieces(document)
        yield from whole
        yield last + end


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of about ``PIECE`` characters together: enough to keep every core busy."""
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= PIECE:
            yield batch
            batch, held = [], 0
    yield batch
