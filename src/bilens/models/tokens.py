"""Tokens in words: the true text of each, its space kept, and a name that no other token of the
vocabulary has.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from bilens.base.errors import ArgumentError
from bilens.base.words import show_tokens

BYTE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's way to write what it has no piece for
UNREADABLE = "\ufffd"

_KNOWN: WeakKeyDictionary[Any, dict[tuple[int, int], "Vocabulary"]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Vocabulary:
    """``texts``: what each token stands for in the middle of a text, "" where the tokenizer does
    not have it.
    """

    texts: tuple[str, ...]

    @cached_property
    def names(self) -> list[str]:
        """As they are shown: ␣ and ⏎ visible, the id beside a text that is not one token's
        alone.
        """
        return show_tokens(self.texts, range(len(self.texts)))

    @cached_property
    def by_text(self) -> dict[str, int]:
        """Tokens by their text, those that share one left out."""
        owners = Counter(self.texts)
        return {text: index for index, text in enumerate(self.texts) if text and owners[text] == 1}

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Tokens by the name they are shown by."""
        return {name: index for index, name in enumerate(self.names)}


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The ``size`` tokens of a model in words. Cost: the whole vocabulary is decoded once and
    remembered.
    """
    known = _KNOWN.setdefault(tokenizer, {})
    key = (len(tokenizer), size)
    if key not in known:
        known[key] = Vocabulary(_texts(tokenizer, size))
    return known[key]


def require_unicode(who: str, text: Any) -> None:
    """Raise ArgumentError unless ``text`` is text that a tokenizer can read: no half surrogates."""
    if not isinstance(text, str):
        raise ArgumentError(who, must="be text", got=type(text).__name__)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        got = f"half a surrogate pair at character {error.start} of {text!r}"
        raise ArgumentError(who, must="be Unicode text", got=got) from error


def _texts(tokenizer: Any, size: int) -> tuple[str, ...]:
    """Each token's text after another token: on its own a decoder drops the space that stands in
    front of a word.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: it decodes as it likes
        before = tokenizer("a", add_special_tokens=False)["input_ids"]
        head = tokenizer.decode(before)
        return tuple(tokenizer.decode([*before, n]).removeprefix(head) for n in range(size))
    if backend.decoder is None:  # then decoding is joining tokens with spaces, which no token holds
        texts = [backend.id_to_token(n) or "" for n in range(size)]
    else:
        before = tokenizer("a", add_special_tokens=False)["input_ids"]
        head = backend.decode(before, skip_special_tokens=False)
        pairs = backend.decode_batch([[*before, n] for n in range(size)], skip_special_tokens=False)
        texts = [text.removeprefix(head) for text in pairs]
    owners = Counter(texts)
    # a byte that a piece of text stands for too, or that is no text alone
    for n, text in enumerate(texts):
        if (
            text
            and (owners[text] > 1 or text == UNREADABLE)
            and BYTE.fullmatch(piece := backend.id_to_token(n))
        ):
            texts[n] = piece
    for index, token in tokenizer.added_tokens_decoder.items():  # matched as they are written
        if index < size:
            texts[index] = token.content
    return tuple(texts)
