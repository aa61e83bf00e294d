"""What changed over a series of checkpoints: a curve, and its phases."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import BELOW, LINES, MARKER, REFERENCE, Line, curve, titled
from bilens.base.results import Result
from bilens.changes.comparison import Diff
from bilens.changes.losses import Losses

NAMED = LINES[1:6]  # of places drawn by name
SHADE = "rgba(86,180,233,0.18)"
LIKENESS, LOSS = "similarity to the last", "loss"


class Phase(NamedTuple):
    """A run of checkpoints between which a curve moves faster than it does on average over the
    series: from and to, by number; the share of all its movement; and of all steps.

    >>> tiny = bilens.Transformer(bilens.TransformerConfig(vocab_size=50, hidden_size=16))
    >>> series = bilens.diff(tiny, tiny, tiny)
    >>> series.phases
    ()
    """

    curve: str
    first: int
    last: int
    share: float
    steps: float


@dataclass(frozen=True, repr=False, eq=False)
class Series(Result):
    """What changed over n checkpoints of one run, step by step.

    Fields:
        checkpoints: their names. steps: of training; their numbers where ``numbered`` is false.
        loss: of each, and the differences from each to the next, where there were data.
        places: what was compared. to_last: the similarity of each place in each checkpoint to the
            same place in the last; moved: its change from each checkpoint to the next. Both on
            data at ε = 0 where there were data (``on_data``), else by weights.
        whole: the difference between the first checkpoint and the last.

    A *phase* is a longest run of steps between checkpoints in each of which a curve moves faster,
    per step of training, than it does on average over the whole series (its total movement, ups and
    downs all counted, over all steps). There are two curves: the mean over places of ``to_last``,
    and the loss.

    Columns, a row for each step from one checkpoint to the next: ``from``, ``to``; ``change``: the
    mean over places of ‖A − B‖ over the root mean square of both sizes; ``similarity to the last``:
    the mean over places, after the step; ``loss`` after the step, and ``loss change``, ``±``;
    ``phase``: which curves are in a phase; ``most``: the place that changed most.

    >>> tiny = bilens.Transformer(bilens.TransformerConfig(vocab_size=50, hidden_size=16))
    >>> series = bilens.diff(tiny, tiny, tiny)
    >>> series.checkpoints
    ('A', 'B', 'C')
    """

    checkpoints: tuple[str, ...]
    steps: tuple[int, ...]
    numbered: bool
    loss: Losses | None
    places: tuple[str, ...]
    to_last: Float[Tensor, "p n"]
    moved: Float[Tensor, "p s"]
    on_data: bool
    whole: Diff

    @property
    def curve(self) -> Float[Tensor, " n"]:
        """The mean similarity to the last checkpoint, over places that have one."""
        return self.to_last.nanmean(0)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Where the curves move fast."""
        losses = () if self.loss is None else _phases(LOSS, self.loss.means, self.steps)
        return (*_phases(LIKENESS, self.curve, self.steps), *losses)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the difference between the first and the last."""
        return self.whole.warnings

    def summary(self) -> str:
        told = "; ".join(self._told(phase) for phase in self.phases)
        return f"{len(self.checkpoints)} checkpoints; {told or 'no phases'}"

    def __repr__(self) -> str:
        """The steps, and the difference between the first and the last."""
        return "\n".join([super().__repr__(), repr(self.whole)])

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.whole._repr_html_()

    def columns(self) -> tuple[str, ...]:
        return tuple(self._row(0))

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(n) for n in range(len(self.checkpoints) - 1)]

    def figure(self) -> dict[str, Any]:
        """The similarity of places to the last checkpoint, their mean, and the loss; phases of the
        similarity are shaded.
        """
        lines = [
            self._line(self.places[n], LIKENESS, self.to_last[n], color=colour, width=2)
            for n, colour in zip(self.whole.order, NAMED, strict=False)
        ]
        mean = {"color": LINES[0], "width": 3}
        lines.append(self._line("mean of all places", LIKENESS, self.curve, **mean))
        how = "on data" if self.on_data else "by weights"
        title = f"{self.checkpoints[0]} → {self.checkpoints[-1]}: what changed when"
        axis = "training step" if self.numbered else "checkpoint"
        layout = titled(title, axis, f"similarity to the last, {how} (cosine)", height=520)
        layout |= BELOW
        layout["shapes"] = [self._shade(one) for one in self.phases if one.curve == LIKENESS]
        layout["title"]["subtitle"] = {"text": "shaded: where the mean moves faster than average"}
        if self.loss is not None:
            loss = self._line("loss", LOSS, self.loss.means, color=REFERENCE, dash="dot")
            lines.append(loss | {"yaxis": "y2"})
            unit = {"title": {"text": f"loss, nats per {self.loss.unit}"}}
            layout["yaxis2"] = unit | {"overlaying": "y", "side": "right", "showgrid": False}
        return {"data": lines, "layout": layout}

    def _row(self, n: int) -> dict[str, Any]:
        row: dict[str, Any] = {"from": self.checkpoints[n], "to": self.checkpoints[n + 1]}
        row |= {"change": float(self.moved[:, n].mean()), LIKENESS: float(self.curve[n + 1])}
        if self.loss is not None:
            row |= {"loss": float(self.loss.means[n + 1])}
            row |= {"loss change": float(self.loss.differences[n])}
            row |= {"±": float(self.loss.difference_errors[n])}
        inside = (phase.curve for phase in self.phases if phase.first <= n < phase.last)
        row |= {"phase": ", ".join(inside)}
        return row | {"most": self.places[int(self.moved[:, n].argmax())]}

    def _told(self, phase: Phase) -> str:
        first, last = (self.checkpoints[n] for n in (phase.first, phase.last))
        share = f"{phase.share:.0%} of its movement in {phase.steps:.0%} of the steps"
        return f"{phase.curve} moves fast from {first} to {last} ({share})"

    def _line(
        self, name: str, unit: str, y: Float[Tensor, " n"], **line: Unpack[Line]
    ) -> dict[str, Any]:
        values = y.tolist()
        hover = {"checkpoint": self.checkpoints, unit: values}
        trace = curve(name, self.steps, values, hover=hover, **line)
        return trace | {"marker": {"size": MARKER - 3}}

    def _shade(self, phase: Phase) -> dict[str, Any]:
        ends = {"x0": self.steps[phase.first], "x1": self.steps[phase.last]}
        place = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        return ends | place | {"fillcolor": SHADE, "line": {"width": 0}}


def _phases(name: str, curve: Float[Tensor, " n"], steps: tuple[int, ...]) -> tuple[Phase, ...]:
    """Runs of steps that are faster than the average."""
    moved = curve.diff().abs().double()
    lengths = torch.tensor(steps, dtype=torch.float64, device="cpu").diff()
    total, whole = float(moved.sum()), float(lengths.sum())
    fast = (moved / lengths > total / whole).tolist()
    runs = [list(run) for now, run in groupby(range(len(fast)), fast.__getitem__) if now]
    return tuple(
        Phase(
            name,
            first=run[0],
            last=run[-1] + 1,
            share=float(moved[run].sum()) / total,
            steps=float(lengths[run].sum()) / whole,
        )
        for run in runs
    )
