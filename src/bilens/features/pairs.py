"""The largest terms of one output feature over pairs of input features, as a result with names."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.charts import DRAWN, ranked
from bilens.base.results import ANSWER_ROWS, Result
from bilens.decompose import TopEntries


@dataclass(frozen=True, repr=False, eq=False)
class FeaturePairs(Result):
    """The largest terms of one output feature over pairs of input features, by |coefficient|,
    largest first.

    Pairs are unordered: f ≤ g. ``values`` are entries Q_fg of the symmetric matrix, in float64;
    what acts are the ``coefficients``: Q_fg + Q_gf = 2 Q_fg of a_f a_g, and Q_ff of a
    self-interaction a_f². ``kind``: pairs of both kinds, or one alone. ``certificate``: no pair of
    this kind that is not listed has a larger |coefficient|; ``searched`` of ``size`` pairs were
    computed; ``asked`` is how many could be listed of those asked for.

    Columns: the features ``f`` and ``g``; ``kind``: "self" for a square, else "cross"; ``Q_fg``:
    the entry of the symmetric matrix; ``coefficient``: what multiplies a_f a_g, both orders
    together.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> pairs = made.of(17).top(3)
    >>> pairs.indices.shape, pairs.searched == pairs.size
    (torch.Size([3, 2]), True)
    """

    of: str
    kind: str
    indices: Int[Tensor, "n 2"]
    values: Float[Tensor, " n"]
    names: tuple[str, ...]
    certificate: float
    asked: int
    searched: int
    size: int

    @property
    def coefficients(self) -> Float[Tensor, " n"]:
        """What multiplies a_f a_g: Q_ff, and 2 Q_fg where f ≠ g."""
        return self.values * _orders(self.indices).to(self.values)

    @property
    def complete(self) -> bool:
        """Whether these are the largest there are."""
        smallest = float(self.coefficients[-1].abs()) if len(self.values) else math.inf
        return len(self.values) == self.asked and self.certificate <= smallest

    def summary(self) -> str:
        kind = "pairs" if self.kind == "all" else f"{self.kind} pairs"
        how = "exact" if self.complete else f"others may reach {self.certificate:.4g}"
        what = f"{len(self.values)} of {self.size:,} {kind} of input features"
        return f"{self.of}: {what}; {how} ({self.searched:,} computed)"

    def columns(self) -> tuple[str, ...]:
        return "f", "g", "kind", "Q_fg", "coefficient"

    def rows(self) -> list[dict[str, Any]]:
        columns = (self.indices.tolist(), self.values.tolist(), self.coefficients.tolist())
        return [
            {
                "f": self._name(f),
                "g": self._name(g),
                "kind": "self" if f == g else "cross",
                "Q_fg": value,
                "coefficient": c,
            }
            for (f, g), value, c in zip(*columns, strict=True)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The largest pairs, each once, by what multiplies a_f a_g."""
        told = ("coefficient", "f", "g", "kind")
        return [{key: row[key] for key in told} for row in self.rows()[:count]]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()[:DRAWN]
        labels = [self._told(f, g) for f, g in self.indices[:DRAWN].tolist()]
        values = [row["coefficient"] for row in rows]
        how = "exact" if self.complete else f"others may reach {self.certificate:.4g}"
        title = f"{self.of}: the {len(rows)} largest pairs of {self.size:,}, {how}"
        hover = {"Q_fg": [row["Q_fg"] for row in rows]}
        return ranked(labels, values, "coefficient of a_f a_g", title, hover=hover)

    def _told(self, f: int, g: int) -> str:
        one, two = (told_as(self.names, n) for n in (f, g))
        return f"{one}²" if f == g else f"{one} · {two}"

    def _name(self, f: int) -> str:
        return feature_name(self.names, f)


def feature_name(names: tuple[str, ...], f: int) -> str:
    """What feature ``f`` is called: its name, or its number."""
    return names[f] if names else str(f)


def told_as(names: tuple[str, ...], f: int) -> str:
    """Feature ``f`` inside a line: its name, or "f17" as in paths, which is no coefficient."""
    return names[f] if names else f"f{f}"


def feature_pairs(found: TopEntries, of: str, kind: str, names: tuple[str, ...]) -> FeaturePairs:
    """Pairs of rows (``decompose.top_pairs``) as pairs of features."""
    return FeaturePairs(
        of=of,
        kind=kind,
        indices=found.indices,
        values=found.values / _orders(found.indices).to(found.values),
        names=names,
        certificate=found.certificate,
        asked=found.asked,
        searched=found.looked_at,
        size=found.size,
    )


def _orders(pairs: Int[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """In how many orders a pair stands in the matrix: a square in one, all others in two."""
    return torch.where(pairs[:, 0] == pairs[:, 1], 1, 2)
