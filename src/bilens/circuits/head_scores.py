"""What each head does, in a few numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Factored
from bilens.base.charts import mapped, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole, seeded
from bilens.base.results import ANSWER_ROWS, Result
from bilens.circuits.heads import attentions, ov_circuit
from bilens.circuits.recording import Recording, record
from bilens.wiring import (
    Expandable,
    explained,
    explains,
    require_expandable,
)

MOST_TOKENS = 2**20  # of random texts: drawn before any of them is read


@dataclass(frozen=True, repr=False, eq=False)
class HeadScores(Result):
    """What each head does, in a few numbers (see ``head_scores``); ``tokens`` are the texts they
    were measured on.

    Columns: ``head``; ``copying``: 1 where W_OV gives back what it reads, −1 where it takes it
    away; ``previous token`` and ``induction``: its mean attention to the token before, and to what
    stood after the same token earlier, from 0 to 1. Where any head goes without softmax these are
    shares of the sizes of all that is looked at, from −1 to 1, and ``taken away`` is the mean share
    that is below 0.

    >>> found = bilens.circuits.head_scores(model)
    >>> found.heads[:2], found.induction.shape
    (('L0H0', 'L0H1'), torch.Size([8]))
    """

    heads: tuple[str, ...]
    copying: Float[Tensor, " n"]
    previous: Float[Tensor, " n"]
    induction: Float[Tensor, " n"]
    negative: Float[Tensor, " n"]
    tokens: Int[Tensor, "text t"]

    def summary(self) -> str:
        best = [
            f"{name} {self.heads[int(values.argmax())]} ({float(values.max()):.2f})"
            for name, values in self._columns
        ]
        texts, length = self.tokens.shape
        read = f"{texts} × {length} random tokens"
        return f"{len(self.heads)} heads on {read}; most {', most '.join(best)}"

    def columns(self) -> tuple[str, ...]:
        return ("head", *(name for name, _ in self._columns))

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"head": head} | {name: float(values[n]) for name, values in self._columns}
            for n, head in enumerate(self.heads)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The heads that do most of any of the three."""
        return sorted(self.rows(), key=self._most)[:count]

    def _most(self, row: dict[str, Any]) -> float:
        return -max(abs(row[name]) for name, _ in self._columns)

    def figure(self) -> dict[str, Any]:
        """A row for each head, those that do most on top."""
        rows = self.answer(len(self.heads))
        names = [name for name, _ in self._columns]
        values = [[row[name] for name in names] for row in rows]
        texts, length = self.tokens.shape
        title = f"What heads do, on {texts} × {length} random tokens"
        down = [row["head"] for row in rows]
        return mapped(values, names, down, "score", titled(title, "", "head"), end=1.0)

    @property
    def _columns(self) -> tuple[tuple[str, Tensor], ...]:
        found = (
            ("copying", self.copying),
            ("previous token", self.previous),
            ("induction", self.induction),
        )
        signed = bool(self.negative.any())
        return (*found, ("taken away", self.negative)) if signed else found


@explains
@torch.no_grad()
def head_scores(model: Expandable, block: int = 16, texts: int = 4, seed: int = 0) -> HeadScores:
    """What each head does, in three numbers:

        copying          Re Σ λ / Σ |λ| over the eigenvalues λ of its OV circuit W_E W_V W_O W_U, in
                         [−1, 1]: 1 where looking at a token raises that token's own logit, in all
                         directions. From a d_head × d_head product.
        previous token   mean over t ≥ 1 of A[t, t − 1]
        induction        mean over t ≥ block of A[t, t − block + 1]: attention to the token after
                         the last occurrence

    A head without softmax looks as much as it likes, and with either sign: its A is then the share
    of a row's Σ |A|, and a fourth number, ``negative``, is the mean share of what is below 0.

    The patterns A are those on ``texts`` texts of ``block`` random tokens said twice, drawn by
    ``seed``, without repetition within a block where the vocabulary allows. (TransformerLens's
    induction stripe also counts the last token of the first block, which has no earlier
    occurrence.) Cost: ``texts`` passes in parts, and O(vocab d d_head) for each head. Errors:
    ArgumentError for a model without heads, and for a text beyond its context. Source: Elhage et
    al. 2021 (copying); Olsson et al. 2022, arXiv:2209.11895 (induction).

    >>> found = bilens.circuits.head_scores(model, texts=1)
    >>> found.copying.shape, found.previous.shape
    (torch.Size([8]), torch.Size([8]))
    """
    require_expandable(model)
    model = explained(model)
    for name, value, least in (("block", block, 2), ("texts", texts, 1), ("seed", seed, 0)):
        if not is_whole(value) or value < least:
            raise ArgumentError(name, must=f"be a whole number ≥ {least}", got=repr(value))
    if block * texts > MOST_TOKENS or seed >= 2**63:
        must = f"ask for at most {MOST_TOKENS:,} tokens, by a seed below 2⁶³"
        raise ArgumentError("head_scores", must=must, got=f"{block * texts:,}, by {seed}")
    wiring = model.wiring()
    layers = [heads for _, heads in attentions(wiring)]
    tokens = _said_twice(len(model.leaf_weights()["embed"]), block, texts, seed)
    patterns = torch.stack([_shares(_patterns(record(model, text))) for text in tokens])
    copying = [
        _copying(ov_circuit(model, part.layer, head))
        for part in layers
        for head in range(part.module.n_heads)
    ]
    return HeadScores(
        heads=tuple(name for part in layers for name in part.heads),
        copying=torch.tensor(copying, dtype=torch.float64, device="cpu"),
        previous=_stripe(patterns, 1, 1),
        induction=_stripe(patterns, block - 1, block),
        negative=patterns.clamp(max=0).abs().sum(-1).double().mean((0, 2)).cpu(),
        tokens=tokens,
    )


def _patterns(found: Recording) -> Float[Tensor, "head t s"]:
    """Those of all heads of a pass."""
    return torch.cat([found.patterns(n) for n, _ in attentions(found.wiring)])


def _shares(patterns: Float[Tensor, "head t s"]) -> Float[Tensor, "head t s"]:
    """What of the sizes of a row each position has: a softmax's very weights."""
    sizes = patterns.abs().sum(-1, keepdim=True)
    return torch.where(sizes > 0, patterns / sizes, patterns)


def _copying(ov: Factored) -> float:
    values = ov.eigenvalues
    size = float(values.abs().sum())
    return float(values.real.sum()) / size if size else 0.0


def _stripe(
    patterns: Float[Tensor, "text head t s"], back: int, start: int
) -> Float[Tensor, " head"]:
    """Mean attention from t to t − ``back`` over t ≥ ``start``."""
    found = patterns.diagonal(-back, dim1=-2, dim2=-1)  # its entry n is t = n + back
    return found[..., start - back :].double().mean((0, 2)).cpu()


def _said_twice(vocabulary: int, block: int, texts: int, seed: int) -> Int[Tensor, "text t"]:
    generator = seeded(seed)
    rounds = -(-block // vocabulary)
    drawn = [
        torch.cat(
            [torch.randperm(vocabulary, generator=generator, device="cpu") for _ in range(rounds)]
        )[:block]
        for _ in range(texts)
    ]
    return torch.stack(drawn).repeat(1, 2)
