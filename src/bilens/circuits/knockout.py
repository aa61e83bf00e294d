"""Taking components, edges and products out of the model itself, to test what an expansion
claims.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from bilens.base.charts import in_unit, ranked
from bilens.base.errors import ArgumentError
from bilens.base.records import Record
from bilens.base.results import Result
from bilens.circuits.altered import MEAN, OTHER, ZERO
from bilens.circuits.cuts import read_cuts
from bilens.circuits.recording import Recording, record, record_alike
from bilens.circuits.rerun import Changes, Outcome, Rerun
from bilens.circuits.targets import Goal, Target, resolve
from bilens.circuits.understood import require_sum
from bilens.wiring import Expandable, explains

Verdict = Literal["confirmed", "reversed", "not confirmed", "nothing either way"]
NEAR = 2.0  # effect and direct terms within this factor of one another are the same claim
NOTHING = 0.01  # below this share of the larger of the two, the smaller has no sign to speak of
SAID = 3  # parts that ``Removal.why`` names
OTHERS, BACK = "the other input's", "the first input's, in the other"


@dataclass(frozen=True, eq=False)
class Removal(Record):
    """A target ``before`` and ``after`` something was replaced in the forward pass: by zero, by its
    mean over the positions, or by what it is in another input's pass.

    ``direct``: what an expansion's terms say of the same removal, patterns, gates and norms as they
    were. ``through``: what the target loses by how each of ``parts`` reacts, so that effect =
    direct + Σ through + what the final norm (and a soft-cap) does. ``rounding``: what of these
    numbers may be rounding alone.

    >>> removal = bilens.circuits.knockout(model, prompt, "L0H1", target).removals[0]
    >>> removal.replaced_by, round(removal.effect, 2)
    ('zero', 0.39)
    """

    replaced_by: str
    before: float
    after: float
    direct: float
    rounding: float
    parts: tuple[str, ...] = ()
    through: tuple[float, ...] = ()

    @property
    def effect(self) -> float:
        """before − after: what the target loses when everything downstream reacts."""
        return self.before - self.after

    @property
    def at_the_end(self) -> float:
        """What of the effect the final norm and a soft-cap make: effect − direct − Σ through."""
        return self.effect - self.direct - sum(self.through)

    @property
    def verdict(self) -> Verdict:
        """Whether the intervention bears out what the direct terms say:

        "confirmed"           the same sign, and within a factor of 2 of one another
        "reversed"            opposite signs, the smaller at least 1 % of the larger
        "nothing either way"  both no more than rounding: there was nothing to bear out
        "not confirmed"       anything else: it acts mostly through what reads it, or is made up for
        """
        smaller, larger = sorted((abs(self.effect), abs(self.direct)))
        if larger <= self.rounding:
            return "nothing either way"
        if self.effect * self.direct > 0 and larger <= NEAR * smaller:
            return "confirmed"
        opposite = self.effect * self.direct < 0 and smaller > self.rounding
        return "reversed" if opposite and smaller >= NOTHING * larger else "not confirmed"

    @property
    def why(self) -> str:
        """Why effect and direct terms part, in words: what reacts, the largest first."""
        reacts = [*zip(self.parts, self.through, strict=True), ("the final norm", self.at_the_end)]
        told = [f"{name} {value:+.3g}" for name, value in _largest(reacts, self.rounding)]
        if not told:
            return "nothing reacts: the effect is the direct terms"
        direct = f"effect {self.effect:.4g} = direct {self.direct:.4g}"
        return f"{direct}, and by reacting {', '.join(told)}"


def _largest(reacts: list[tuple[str, float]], floor: float) -> list[tuple[str, float]]:
    """The largest of them, and the rest together."""
    felt = [(name, value) for name, value in reacts if abs(value) > floor]
    felt.sort(key=lambda item: -abs(item[1]))
    rest = sum(value for _, value in felt[SAID:])
    return [*felt[:SAID], *([("all else", rest)] if len(felt) > SAID else [])]


@dataclass(frozen=True, repr=False, eq=False)
class Knockout(Result):
    """What became of a target when ``what`` was taken out of the forward pass: a removal for each
    way. Where ``at`` was given the names of what is taken out say it too: "mlp0@1,2".

    ``after``, ``effect``, ``direct`` and ``verdict`` are those of the first removal. Each removal
    says in words whether it bears out the attribution (see ``Removal.verdict``), and why it may not
    (``Removal.why``): no way of taking out is the truth, so they stand side by side.

    Columns of ``to_frame()``: ``without``, what was taken out; ``replaced by``; ``before`` and
    ``after``, the target; ``effect``, before − after; ``direct terms``, what an expansion says of
    it; ``the attribution``, whether it is confirmed; ``why``, what reacts. ``unit``: of all values,
    logits, or "" for a direction.

    >>> found = bilens.circuits.knockout(model, prompt, "L0H1", target)
    >>> [removal.replaced_by for removal in found.removals]
    ['zero', 'mean']
    """

    target: str
    position: int
    what: tuple[str, ...]
    removals: tuple[Removal, ...]
    unit: str = ""

    @property
    def before(self) -> float:
        """The target as the model gives it."""
        return self.removals[0].before

    @property
    def after(self) -> float:
        """The target without the components."""
        return self.removals[0].after

    @property
    def effect(self) -> float:
        """before − after: what the target loses when everything downstream reacts."""
        return self.removals[0].effect

    @property
    def direct(self) -> float:
        """What the terms of an expansion say of the same removal."""
        return self.removals[0].direct

    @property
    def verdict(self) -> Verdict:
        """Whether the effect bears out the direct terms."""
        return self.removals[0].verdict

    def summary(self) -> str:
        tried = "; ".join(_told(removal) for removal in self.removals)
        without = f"without {', '.join(self.what)}, {self.before:.6g} before"
        return f"{self.target} at {self.position} {without}: {tried}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "without": ", ".join(self.what),
                "replaced by": removal.replaced_by,
                "before": removal.before,
                "after": removal.after,
                "effect": removal.effect,
                "direct terms": removal.direct,
                "the attribution": removal.verdict,
                "why": removal.why,
            }
            for removal in self.removals
        ]

    def figure(self) -> dict[str, Any]:
        """What the target loses, beside what the direct terms say, for each way."""
        names, values, verdicts, why = [], [], [], []
        for removal in self.removals:
            for side, value in (("effect", removal.effect), ("direct terms", removal.direct)):
                names.append(f"{side}, {removal.replaced_by} in place")
                values.append(value)
                verdicts.append(removal.verdict)
                why.append(removal.why)
        title = f"{self.target} at {self.position} without {', '.join(self.what)}"
        hover = {"the attribution": verdicts, "why": why}
        axis = in_unit(f"loss of {self.target}", self.unit)
        return ranked(names, values, axis, title, hover=hover)


def _told(removal: Removal) -> str:
    figures = f"effect {removal.effect:.4g}, direct terms {removal.direct:.4g}"
    return f"{removal.after:.6g} with {removal.replaced_by} in place, {figures}: {removal.verdict}"


@explains
@torch.no_grad()
def knockout(
    model: Expandable,
    inputs: Any,
    what: str | int | Sequence[str | int],
    target: Target = None,
    position: int = -1,
    *,
    with_: Any = None,
    at: int | Sequence[int] | None = None,
) -> Knockout:
    """Run ``model`` with something really taken out, and see what becomes of ``target``.

    ``what``, one or several of:
        "L0H3", "mlp1", "embed"   all that a source writes; "attn0": all heads of a layer, and not
                                  its bias; of a layer with a transcoder, its base too;
                                  "mlp1.expert3" (the router's weights of the others stay)
        "L0H2→mlp1"               an edge: what mlp1 reads of L0H2. Into a head all that it reads,
        "L0H2→L1H0.K"             or its queries, keys or values alone; "→logits": the readout
        "mlp1(mlp0, L1H3)"        a product: mlp1's write without the product of these two
        "L0H3@5", 5               any of them at one position; a number: what is written there first
    ``at``: the positions where, by default all, for what names none. Of an edge they are those of
    what is read.

    ``with_``: "zero" writes nothing there; "mean" writes the mean over the positions of this input;
    another input of as many positions: what is there in its pass. By default zero and mean are
    tried, side by side (of one position, whose mean is itself, only zero). With another input it is
    tried first, then the other way round (this input's activations in the other's pass, same
    target), then zero and mean.

    Downstream, patterns, gates and norm scales react, which the terms of an expansion hold fixed:
    the two agree to rounding where nothing downstream reads what was taken out but the readout, in
    a model without a final norm, and may differ elsewhere. An edge's reader norms what is left of
    the stream; a product is taken out of what its layer writes, under the stream's own scale. Where
    a norm stands over what a part writes (Gemma 2, OLMo 2), what is taken out is missing before it.

    Cost: two forward passes in parts, and for each way the parts from where it differs. Errors:
    ArgumentError for a name, target or position that is not there, parts that do not follow one
    another, a mean over one position, another input of another length, and a model whose parts do
    not add up to its forward pass. Source of patching both ways: Heimersheim and Nanda,
    arXiv:2404.15255.

    >>> import bilens
    >>> model = bilens.load("tinystories-2l")
    >>> prompt = "Once upon a time there was a little"
    >>> found = bilens.circuits.knockout(model, prompt, "L1H3", (" girl", " boy"))
    >>> found.verdict
    'reversed'
    """
    recording = by_source(record(model, inputs))
    goal = outer_goal(model, recording, target, position)
    ways, other = read_ways(recording, with_)
    cuts = read_cuts(recording, what, at, other)
    rerun = Rerun(recording, goal, other)
    outcomes = rerun.run([Changes(cuts, way) for way in ways])
    removals = [removal(rerun, *item) for item in zip(ways, outcomes, strict=True)]
    if other is not None:
        back = Rerun(other, resolve(model, other, goal.u, position), recording)
        (outcome,) = back.run([Changes(cuts, OTHER)])
        removals.insert(1, replace(removal(back, OTHER, outcome), replaced_by=BACK))
    names = tuple(cut.text if at is None else cut.placed() for cut in cuts)
    return Knockout(goal.name, goal.position, names, tuple(removals), goal.unit)


def by_source(recording: Recording) -> Recording:
    """A pass whose layers read what sources wrote, whatever dictionary takes that apart too."""
    return replace(recording, replaced={}) if recording.replaced else recording


def outer_goal(model: Expandable, recording: Recording, target: Target, position: int) -> Goal:
    """The target, which must be over the outputs, and be what the parts add up to."""
    goal = resolve(model, recording, target, position)
    if goal.part < len(recording.wiring.parts):
        raise ArgumentError("target", must="be over the outputs", got=goal.name)
    values = recording.writes[list(recording.reads[-1]), goal.position] @ goal.q
    size = float(values.abs().sum()) + abs(goal.constant)
    require_sum(float(values.sum()) + goal.constant, goal.forward, size, values.dtype)
    return goal


def read_ways(recording: Recording, with_: Any) -> tuple[tuple[str, ...], Recording | None]:
    """What stands in the place of what is taken out, and the other input's pass where it is
    that's.
    """
    both = (ZERO, MEAN) if recording.length > 1 else (ZERO,)
    if with_ is None:
        return both, None
    if isinstance(with_, str) and with_ in (ZERO, MEAN):
        if with_ == MEAN and recording.length == 1:
            todo = "The mean over one position is what stands there: nothing would be taken out."
            must = "have positions to take a mean over"
            raise ArgumentError('with_="mean"', must=must, got="one", todo=todo)
        return (with_,), None
    other = by_source(record_alike(recording, with_))
    if other.length != recording.length:
        must = f'be "zero", "mean", or an input of {recording.length} positions, as the first has'
        got = f"an input of {other.length}"
        raise ArgumentError("with_", must=must, got=got, todo="Pad or shorten one of them.")
    return (OTHER, *both), other


def removal(rerun: Rerun, way: str, outcome: Outcome) -> Removal:
    """What one pass says beside the recorded one."""
    name = OTHERS if way == OTHER else way
    parts, through = tuple(outcome.through), tuple(outcome.through.values())
    before, after = rerun.goal.forward, outcome.after
    return Removal(name, before, after, outcome.direct, rerun.rounding, parts, through)
