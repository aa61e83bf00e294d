"""A small language with known rules, one character a token: which verb follows a subject (bigram),
which connective follows an adjective after a place (skip), and what repeats what came after the
same token before (induction).

Its rules are written as ``bilens.training.read_truth`` reads them.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bilens.base.documents import END

LENGTH = 64  # tokens of a text, with the beginning and the end
BEGIN = "^"
KINDS = {
    "subj": "ABCDEF",
    "verb": "abcdef",
    "loc": "UVWX",
    "adj": "uvwx",
    "conn": "1234",
    "filler": ".,;:",
}
SPECIAL = {"bos": 1, "eos": 0, "pad": 0}
FREE = {"filler": 0.4, "subj": 0.14, "loc": 0.14, "adj": 0.14, "verb": 0.1, "conn": 0.08}
CHANCES = (0.7, 0.2, 0.1)
REACH, DISTANCE, REPEATED = 12, 2, 0.9


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: the end, the beginning, and the language's own."""
    words = [END, BEGIN, *"".join(KINDS.values())]
    bpe = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, pad_token=END
    )


def rules(seed: int = 0) -> dict[str, Any]:
    """Rules drawn by ``seed``: three verbs for each subject, and a connective for half of the pairs
    of a place and an adjective.
    """
    draw, ranges = random.Random(seed), _ranges()
    of = {kind: range(first, stop) for kind, (first, stop) in ranges.items()}
    bigram = {
        str(one): dict(zip(map(str, draw.sample(of["verb"], 3)), CHANCES, strict=True))
        for one in of["subj"]
    }
    pairs = draw.sample(list(product(of["loc"], of["adj"])), 8)
    skip = [[*pair, of["conn"][n % len(of["conn"])]] for n, pair in enumerate(pairs)]
    induction = {"probability": REPEATED, "min_distance": DISTANCE, "never": ["filler", "special"]}
    return {
        "vocab_size": of["filler"].stop,
        "special": SPECIAL,
        "ranges": ranges,
        "bigram": bigram,
        "skip": skip,
        "skip_max": REACH,
        "induction": induction,
        "default": FREE,
        "seq_len": LENGTH,
    }


def _ranges() -> dict[str, list[int]]:
    """Where each kind begins and ends among the tokens."""
    found: dict[str, list[int]] = {}
    start = 2
    for kind, words in KINDS.items():
        found[kind] = [start, start + len(words)]
        start += len(words)
    return found


def texts(known: Mapping[str, Any], count: int, seed: int = 0) -> Iterator[str]:
    """``count`` texts of the language, which the end of text makes ``LENGTH`` tokens."""
    words, draw = [END, BEGIN, *"".join(KINDS.values())], random.Random(seed)
    for _ in range(count):
        yield "".join(words[token] for token in _text(known, draw))


def _text(known: Mapping[str, Any], draw: random.Random) -> list[int]:
    made = [SPECIAL["bos"]]
    while len(made) < LENGTH - 1:
        made.append(_next(known, made, draw))
    return made


def _next(known: Mapping[str, Any], made: Sequence[int], draw: random.Random) -> int:
    """The first rule that applies."""
    verbs = known["bigram"].get(str(made[-1]))
    if verbs:
        return int(draw.choices(list(verbs), list(verbs.values()))[0])
    connective = _skipped(known, made)
    if connective is not None:
        return connective
    repeated = _repeated(known, made)
    if repeated is not None:
        return repeated if draw.random() < REPEATED else _content(known, draw)
    (kind,) = draw.choices(list(FREE), list(FREE.values()))
    return draw.randrange(*known["ranges"][kind])


def _skipped(known: Mapping[str, Any], made: Sequence[int]) -> int | None:
    """What the latest place within reach makes an adjective be followed by."""
    rules = {(place, adjective): conn for place, adjective, conn in known["skip"]}
    for place in reversed(made[max(0, len(made) - 1 - REACH) : -1]):
        if (place, made[-1]) in rules:
            return rules[place, made[-1]]
    return None


def _repeated(known: Mapping[str, Any], made: Sequence[int]) -> int | None:
    """What followed the current token where it was the only time before."""
    filler = range(*known["ranges"]["filler"])
    before = [n for n, token in enumerate(made[:-1]) if token == made[-1]]
    if made[-1] in filler or made[-1] < 2 or len(before) != 1:
        return None
    return made[before[0] + 1] if before[0] <= len(made) - 1 - DISTANCE else None


def _content(known: Mapping[str, Any], draw: random.Random) -> int:
    ranges = known["ranges"]
    return draw.randrange(ranges["subj"][0], ranges["conn"][1])


def write(folder: Path, count: int, seed: int = 0) -> Path:
    """The rules and ``count`` texts, in ``folder``: rules.json and texts.txt, which it gives."""
    folder.mkdir(parents=True, exist_ok=True)
    known = rules(seed)
    (folder / "rules.json").write_text(json.dumps(known))
    file = folder / "texts.txt"
    file.write_text("".join(f"{text}\n{END}\n" for text in texts(known, count, seed)))
    return file
