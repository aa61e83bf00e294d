"""What changed between two checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import BAR, BELOW, FRAME, MARKER, PALETTE, curve, ticks, titled
from bilens.base.results import Result
from bilens.base.words import isolated
from bilens.changes.items import Items
from bilens.changes.losses import Losses
from bilens.changes.reads import EPSILONS
from bilens.decompose import Angles

PARTED = 0.1  # how far similarities under two measures may lie apart without a word
TOP = 3  # that are named in one line
DRAWN = 40  # places in a figure
MEASURES = ("by weights", *(f"on data, ε = {eps:g}" for eps in EPSILONS))
SYMBOLS = ("diamond-open", "circle", "circle-open", "line-ns-open")
COLOURS = (PALETTE[1], *PALETTE[:1] * 2, PALETTE[5])


@dataclass(frozen=True, repr=False, eq=False)
class Diff(Result):
    """What changed between two checkpoints A and B, place by place, largest change first.

    Fields:
        checkpoints: the names of the two.
        loss: of both and their difference, where there were data.
        places, kinds: what was compared, and what each is. sampled: whether it is no tensor, so
            that its figures are averages over samples.
        change, similarity, errors: of each place by measure: of the weights alone, then on data at
            ε = 0, 0.01 and 1. ``errors`` are standard errors of the similarity, 0 where it is no
            estimate. growth: the size ‖B‖ / ‖A‖, by weights.
        turned: how far the leading eigenvectors of a layer turned, in degrees: the mean over those
            whose angle can be trusted, each by λ²; NaN where there are none.
        angles: block by block, of each layer that has them.
        items: which classes or tokens changed most, and which features of each dictionary.
        unseen: in words, in what the two configurations differ, which no place shows; and which
            sizes norms divide out again.

    Columns:
        change: ‖A − B‖ over the root mean square of ‖A‖ and ‖B‖: 0 is the same; 1.41 nothing in
            common, or one far larger than the other; 2 the opposite. On data at ε = 0 where there
            were data, else by weights.
        similarity: the cosine of the two, by the same measure.  ±: its standard error, of a place
            that is no tensor.
        by weights: the cosine by weights alone; at ε = 0.01, at ε = 1: on data, with ε times the
            mean variance added in every direction.
        growth, turned (°), kind: as the fields.

    >>> tiny = bilens.Transformer(bilens.TransformerConfig(vocab_size=50, hidden_size=16))
    >>> change = bilens.diff(tiny, tiny)
    >>> change.places[:3]
    ('embed', 'L0H0 OV', 'L0H0 QK')
    >>> bool((change.change < 1e-3).all())
    True
    """

    checkpoints: tuple[str, str]
    loss: Losses | None
    places: tuple[str, ...]
    kinds: tuple[str, ...]
    sampled: tuple[bool, ...]
    change: Float[Tensor, "n m"]
    similarity: Float[Tensor, "n m"]
    errors: Float[Tensor, "n m"]
    growth: Float[Tensor, " n"]
    turned: Float[Tensor, " n"]
    angles: dict[str, Angles]
    items: tuple[Items, ...]
    unseen: tuple[str, ...] = ()

    @property
    def order(self) -> list[int]:
        """The places by number, those that changed most first."""
        return self.change[:, self._measure].argsort(descending=True, stable=True).tolist()

    @property
    def warnings(self) -> tuple[str, ...]:
        """In words: what no place shows, where the measures part, and what could not be compared
        as a tensor.
        """
        lines = [*self.unseen, *(self._parted(n) for n in self.order)]
        none = [name for name, one in zip(self.places, self.sampled, strict=True) if one]
        if none:
            named = ", ".join(none) if len(none) <= TOP else f"{none[0]} … {none[-1]}"
            how = "compared by what is written for samples of what is read, as no tensors are there"
            lines.append(f"{named}: {how}; of these no eigenvectors and no angles")
        return tuple(filter(None, lines))

    def summary(self) -> str:
        loss = f"loss {self.loss.told}; " if self.loss is not None else ""
        changes = [(self.places[n], float(self.change[n, self._measure])) for n in self.order]
        most = [f"{name} {change:.3g}" for name, change in changes if change][:TOP]
        none = "no change of places" if self.unseen else "no change"
        told = f"changed most {self._how}: {', '.join(most)}" if most else f"{none} {self._how}"
        return f"{' → '.join(self.checkpoints)}: {loss}{told}"

    def __repr__(self) -> str:
        """The places that changed most and the loss, then what else changed, and warnings."""
        more = [*(one.summary() for one in self.items), *_warnings(self.warnings)]
        return "\n".join([super().__repr__(), *more])

    def _repr_html_(self) -> str:
        more = [one._repr_html_() for one in self.items]
        warned = [f"<p>{isolated(line)}</p>" for line in _warnings(self.warnings)]
        return "".join([super()._repr_html_(), *more, *warned])

    def columns(self) -> tuple[str, ...]:
        return tuple(self._row(0))

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(n) for n in self.order]

    def figure(self) -> dict[str, Any]:
        """A row for each place, and on it its similarity by each measure: 1, at the right, is no
        change.
        """
        order = self.order[:DRAWN]
        names = [self.places[n] for n in order]
        rows = [self._row(n) for n in order]
        hover = {"": names} | {key: [row[key] for row in rows] for key in rows[0]}
        traces = []
        for m, alike in enumerate(self.similarity[order].mT.tolist()):
            marks = curve(MEASURES[m], alike, range(len(order)), hover=hover, mode="markers")
            marker = {"size": MARKER + 2 * m, "symbol": SYMBOLS[m], "color": COLOURS[m]}
            marks["marker"] = marker | {"line": {"width": 2, "color": COLOURS[m]}}
            traces.append(marks)
        some = f", {DRAWN} of {len(self.places)} places" if len(self.places) > DRAWN else ""
        title = f"{' → '.join(self.checkpoints)}: what changed most{some}"
        axis = ticks(names) | {"autorange": "reversed", "showgrid": True}
        layout = titled(title, "similarity (cosine; 1 is no change)", "", yaxis=axis)
        layout |= BELOW | {"height": FRAME + BAR * max(len(order), 4) + 60}
        if self.loss is not None:
            layout["title"]["subtitle"] = {"text": f"loss {self.loss.told}"}
        return {"data": traces, "layout": layout}

    @property
    def _measure(self) -> int:
        """By which of the measures places are ranked: on data, where there were some."""
        return min(1, self.change.shape[1] - 1)

    @property
    def _how(self) -> str:
        return "on data" if self._measure else "by weights"

    def _row(self, n: int) -> dict[str, Any]:
        at = self._measure
        row: dict[str, Any] = {"place": self.places[n], "change": float(self.change[n, at])}
        row |= {"similarity": float(self.similarity[n, at])}
        if any(self.sampled):
            row |= {"±": float(self.errors[n, at]) if self.sampled[n] else None}
        if at:
            weights, _, *ridges = self.similarity[n].tolist()
            others = ("by weights", *(f"at ε = {eps:g}" for eps in EPSILONS[1:]))
            row |= dict(zip(others, (weights, *ridges), strict=True))
        row |= {"growth": float(self.growth[n])}
        if self.angles:
            angle = float(self.turned[n])
            row |= {"turned (°)": None if math.isnan(angle) else angle}
        return row | {"kind": self.kinds[n]}

    def _parted(self, n: int) -> str:
        """What to say of a place that is alike under one measure and not under another."""
        if not self._measure:
            return ""
        here, *others = self.similarity[n, 1:].tolist()
        apart = [
            f"{value:.2f} at ε = {eps:g}"
            for eps, value in zip(EPSILONS[1:], others, strict=True)
            if abs(value - here) > PARTED
        ]
        if not apart:
            return ""
        seen = f"{self.places[n]}: similarity {here:.2f} on the data, but {', '.join(apart)}"
        return f"{seen}: the two differ off the data otherwise than on them"


def _warnings(lines: Sequence[str]) -> list[str]:
    said = [f"warning: {line}" for line in lines[:TOP]]
    return [*said, f"… and {len(lines) - TOP} more in .warnings"] if len(lines) > TOP else said
