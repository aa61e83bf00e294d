"""Which path from the weights holds the known rules of a language by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import circuits
from bilens.algebra import CP, Factored
from bilens.base.charts import mapped, titled
from bilens.base.results import Result
from bilens.models import Transformer
from bilens.training.truth import Truth, require_fit
from bilens.wiring import require_expandable

Count = int | None  # None: the path says nothing of such a rule
EMBED = "embed"
KINDS = ("bigram", "skip")


@dataclass(frozen=True, repr=False, eq=False)
class PathScores(Result):
    """How many of a language's known rules single paths from the weights have, each by itself.

    Columns: ``path``, with W_U in front of it left out; ``bigram``: tokens for which the largest
    of what the path writes are the rule's next ones; ``skip``: rules whose next token is what the
    path writes most of their two tokens, the current one and the one that a head looks at. Empty:
    of such a rule the path says nothing: one without a head reads one token, and what a head brings
    in is another one. ``of_bigram`` and ``of_skip``: how many there are.

    >>> found = bilens.training.PathScores((("mlp0(embed, embed)", 3, None),), (8, 24))
    >>> found.rows()[0]["bigram"], found.rows()[0]["skip"]
    (3, None)
    """

    scores: tuple[tuple[str, Count, Count], ...]
    of: tuple[int, int]

    def summary(self) -> str:
        told = [self._best(n) for n in range(len(KINDS)) if self.of[n]]
        return "; ".join(told) or "no rules that a short path could have"

    def _best(self, n: int) -> str:
        counts = [(one[n + 1] or 0, one[0]) for one in self.scores if one[n + 1] is not None]
        most, path = max(counts, key=lambda one: one[0], default=(0, ""))
        if not most:
            return f"no path by itself has a {KINDS[n]} rule"
        return f"most {KINDS[n]} rules: {path}, {most} of {self.of[n]}"

    def columns(self) -> tuple[str, ...]:
        return "path", "bigram", "of_bigram", "skip", "of_skip"

    def rows(self) -> list[dict[str, Any]]:
        bigrams, skips = self.of
        return [
            dict(zip(self.columns(), (path, bigram, bigrams, skip, skips), strict=True))
            for path, bigram, skip in self.scores
        ]

    def figure(self) -> dict[str, Any]:
        counts = [one[1:] for one in self.scores]
        shares = [
            [
                None if count is None else count / (of or 1)
                for count, of in zip(row, self.of, strict=True)
            ]
            for row in counts
        ]
        texts = [["" if count is None else str(count) for count in row] for row in counts]
        across = [f"{kind}, of {of}" for kind, of in zip(KINDS, self.of, strict=True)]
        layout = titled("Known rules in single paths", "rule", "path")
        down = [one[0] for one in self.scores]
        unit = "share of the rules"
        return mapped(shares, across, down, unit, layout, strength=True, end=1.0, texts=texts)


@torch.no_grad()
def evaluate_paths(model: Transformer, truth: Truth) -> PathScores:
    """How many of the bigram and skip rules of ``truth`` each short path has, from the weights
    alone: the embeddings straight to the outputs, twice through a layer, and through a layer
    that multiplies them with what a head brings.

    Norms' scales are left at 1. Paths are those that ``circuits.virtual`` writes as a tensor, so
    that of layers which are none there are none. Cost: the known rules' own entries of each; no
    tensor over all tokens is made. Errors: those of ``virtual``; ConfigError for rules that do not
    fit ``model``.

    >>> truth = bilens.training.Truth(skip=((5, 6, 7),))
    >>> found = bilens.training.evaluate_paths(bilens.load("tinystories-1l"), truth)
    >>> found.rows()[0]["path"]
    'mlp0(embed, L0H0)'
    """
    require_expandable(model)
    require_fit(model, truth)
    scores = [
        (path, _bigrams(model, path, truth), _skips(model, path, truth)) for path in _paths(model)
    ]
    some = tuple(one for one in scores if one[1:] != (None, None))
    return PathScores(some, (len(truth.bigram), len(truth.skip)))


def _paths(model: Transformer) -> Iterator[str]:
    """Short paths over tokens, in the order of the parts; "embed" is the direct one."""
    yield EMBED
    heads: list[str] = []
    for part in model.wiring().parts:
        if part.attention is not None:
            heads += part.attention.heads
        if part.name in part.forms():
            yield f"{part.name}({EMBED}, {EMBED})"
            yield from (f"{part.name}({EMBED}, {head})" for head in heads)


def _bigrams(model: Transformer, path: str, truth: Truth) -> Count:
    """The tokens whose rule a path without a head has. One that reads two reads the token twice."""
    if not truth.bigram or not path.endswith((EMBED, f"{EMBED})")):
        return None
    tokens = [token for token, _ in truth.bigram]
    written = _written(model, path, tokens, tokens)
    return sum(
        set(row.topk(len(nexts)).indices.tolist()) == {after for after, _ in nexts}
        for row, (_, nexts) in zip(written, truth.bigram, strict=True)
    )


def _skips(model: Transformer, path: str, truth: Truth) -> Count:
    """The rules that a layer has of the current token and the one that a head looks at."""
    if not truth.skip or path.endswith((EMBED, f"{EMBED})")):
        return None
    earlier, current, after = zip(*truth.skip, strict=True)
    written = _written(model, path, current, earlier)
    return int((written.argmax(1).cpu() == torch.tensor(after, device="cpu")).sum())


def _written(
    model: Transformer, path: str, one: Sequence[int], other: Sequence[int]
) -> Float[Tensor, "n vocab"]:
    """What a path writes of two tokens each, or of the first where it reads one."""
    form = circuits.virtual(model, f"W_U {path}")
    if isinstance(form, Factored):
        return (form.a @ form.b[:, list(one)]).mT
    assert isinstance(form, CP), "a head by all its legs is not among these paths"
    return (form.left[:, list(one)] * form.right[:, list(other)]).mT @ form.out.mT
