"""Taking components out of the model itself, to test what an expansion claims."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole, tolerance
from bilens.base.records import Record
from bilens.base.results import Result
from bilens.circuits.recording import Recording, record
from bilens.circuits.targets import Goal, Target, resolve
from bilens.wiring import (
    BIAS,
    EMBEDDING,
    POSITION,
    Expandable,
    Hook,
    Outlet,
    Source,
    explains,
    hooked,
)

Replacement = Literal["zero", "mean"]
Verdict = Literal["confirms", "contradicts in sign", "differs in size"]
NEAR = 2.0  # effect and direct terms within this factor of one another are the same claim
NOTHING = 0.01  # below this share of the larger of the two, the smaller has no sign to speak of


@dataclass(frozen=True, eq=False)
class Removal(Record):
    """A target ``before`` and ``after`` components were replaced in the forward pass, by zero or by
    their mean.

    ``direct``: what an expansion's terms (``detail="writes"``) say of the same removal, patterns
    and norms as they were.
    ``rounding``: what of these numbers may be rounding alone.
    """

    replaced_by: str
    before: float
    after: float
    direct: float
    rounding: float

    @property
    def effect(self) -> float:
        """before − after: what the target loses when everything downstream reacts."""
        return self.before - self.after

    @property
    def verdict(self) -> Verdict:
        """Whether the intervention bears out what the direct terms say:

        "confirms"              the same sign, and within a factor of 2 of one another; or both no
                                more than rounding
        "contradicts in sign"   opposite signs, the smaller at least 1 % of the larger
        "differs in size"       anything else: the component acts mostly through what reads it, or
                                is made up for
        """
        smaller, larger = sorted((abs(self.effect), abs(self.direct)))
        if larger <= self.rounding:
            return "confirms"
        if self.effect * self.direct > 0 and larger <= NEAR * smaller:
            return "confirms"
        opposite = self.effect * self.direct < 0 and smaller > self.rounding
        return (
            "contradicts in sign" if opposite and smaller >= NOTHING * larger else "differs in size"
        )


@dataclass(frozen=True, repr=False, eq=False)
class Knockout(Result):
    """What became of a target when components (``writes``) were taken out of the forward pass: a
    removal for each way.

    ``after``, ``effect``, ``direct`` and ``verdict`` are those of the first removal. Each removal
    says in words whether it bears out the attribution (see ``Removal.verdict``): neither way of
    taking out is the truth, so both are shown.
    """

    target: str
    position: int
    writes: tuple[str, ...]
    removals: tuple[Removal, ...]

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
        without = f"without {', '.join(self.writes)}, {self.before:.6g} before"
        return f"{self.target} at {self.position} {without}: {tried}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "without": ", ".join(self.writes),
                "replaced by": removal.replaced_by,
                "before": removal.before,
                "after": removal.after,
                "effect": removal.effect,
                "direct terms": removal.direct,
                "the attribution": removal.verdict,
            }
            for removal in self.removals
        ]

    def figure(self) -> dict[str, Any]:
        ways = [removal.replaced_by for removal in self.removals]
        sides = {
            "effect of taking out": [removal.effect for removal in self.removals],
            "direct terms": [removal.direct for removal in self.removals],
        }
        bars = [
            {"type": "bar", "name": name, "x": ways, "y": values} for name, values in sides.items()
        ]
        axes = {
            "xaxis": {"title": {"text": "replaced by"}},
            "yaxis": {"title": {"text": f"of {self.target}"}},
        }
        title = f"{self.target} at {self.position} without {', '.join(self.writes)}"
        return {"data": bars, "layout": {"title": {"text": title}, "barmode": "group", **axes}}


def _told(removal: Removal) -> str:
    figures = f"effect {removal.effect:.4g}, direct terms {removal.direct:.4g}"
    return f"{removal.after:.6g} with {removal.replaced_by} in place, {figures}: {removal.verdict}"


@explains
@torch.no_grad()
def knockout(
    model: Expandable,
    inputs: Any,
    writes: str | Sequence[str],
    target: Target = None,
    position: int = -1,
    *,
    with_: Replacement | None = None,
    at: int | Sequence[int] | None = None,
) -> Knockout:
    """Run ``model`` with components really taken out, and see what becomes of ``target``.

    ``writes``: heads ("L0H3"), whole attention layers ("attn0"), layers ("mlp1") or experts
    ("mlp1.expert3"; the router's weights of the others stay as they are); ``at``: the positions
    where, by default all. ``with_``: "zero" writes nothing there; "mean" writes the
    component's mean over the positions of this input; by default both are tried, side by side (an
    input of one position, whose mean is itself, only with zero).

    Downstream, patterns and norm scales react, which the terms of an expansion hold fixed: the two
    agree to rounding where nothing downstream reads the component but the readout, in a model
    without a final norm, and may differ elsewhere. Each removal says whether it bears out the terms
    or not.

    Cost: two forward passes in parts, and a forward pass for each way. Errors: ArgumentError for a
    component, target or position that is not there, a mean over one position, and a model whose
    forward pass does not go through the component.
    """
    names = _named(writes)
    if with_ is not None and with_ not in get_args(Replacement):
        raise ArgumentError(
            "with_", must=f"be one of {', '.join(get_args(Replacement))}", got=repr(with_)
        )
    recording = record(model, inputs)
    goal = resolve(model, recording, target, position)
    if goal.part < len(recording.wiring.parts):
        raise ArgumentError("target", must="be over the outputs", got=goal.name)
    where = sorted(
        {recording.position(n, "at", "hold positions") for n in _asked(at, recording.length)}
    )
    taken = _Taken(recording, goal, tuple(_sources(recording, names)), tuple(where))
    target = target if target is not None else int(recording.outputs(goal.position).argmax())
    removals = []
    for way in _ways(with_, recording.length):
        with taken.out(way) as hooks:
            after = resolve(model, recording, target, position).forward
        removals.append(taken.removal(way, after, hooks))
    return Knockout(goal.name, goal.position, names, tuple(removals))


def _named(writes: object) -> tuple[str, ...]:
    """The names of components. Errors: ArgumentError where they are no texts."""
    given = writes if isinstance(writes, Iterable) and not isinstance(writes, str) else (writes,)
    names: list[str] = []
    for name in given:
        if not isinstance(name, str):
            raise ArgumentError(
                "writes", must='name components, "L0H3" or "mlp1" say', got=repr(name)
            )
        names.append(name)
    return tuple(names)


def _asked(at: object, length: int) -> list[Any]:
    """The positions that ``at`` says, unchecked: all, one, or several. Errors: ArgumentError where
    it is none of these.
    """
    if at is None:
        return list(range(length))
    if is_whole(at):
        return [at]
    if not isinstance(at, Iterable):
        raise ArgumentError("at", must="be positions, or one", got=repr(at))
    return list(at)


def _ways(with_: Replacement | None, length: int) -> tuple[Replacement, ...]:
    if with_ == "mean" and length == 1:
        todo = "The mean over one position is what stands there: nothing would be taken out."
        raise ArgumentError(
            'with_="mean"', must="have positions to take a mean over", got="one", todo=todo
        )
    if with_ is not None:
        return (with_,)
    return ("zero", "mean") if length > 1 else ("zero",)


@dataclass(frozen=True)
class _Taken:
    """What is taken out, of which pass, and where."""

    recording: Recording
    goal: Goal
    sources: tuple[Source, ...]
    where: tuple[int, ...]

    @contextmanager
    def out(self, way: Replacement) -> Iterator[list[Hook]]:
        """While it lasts the sources write nothing, or their mean. Yields a hook for each, which
        counts its calls.
        """
        parts = self.recording.wiring.parts
        with ExitStack() as hooks:
            yield [
                hooks.enter_context(
                    _removed(parts[source.part].outlet(source.name), way, self.where)
                )
                for source in self.sources
            ]

    def removal(self, way: Replacement, after: float, hooks: Sequence[Hook]) -> Removal:
        """What the pass without them says. Errors: ArgumentError for one that the model did not
        call or did not use.
        """
        found = Removal(way, self.goal.forward, after, self.direct(way), self.rounding)
        silent = [
            source.name for source, hook in zip(self.sources, hooks, strict=True) if not hook.calls
        ]
        unused = found.effect == 0 and abs(found.direct) > found.rounding
        if silent or unused:
            names = ", ".join(silent or [source.name for source in self.sources])
            got = (
                "no call of it"
                if silent
                else f"the same outputs to the bit, where it writes {found.direct:.3g} of them"
            )
            todo = "The model's own forward pass goes another way than its wiring says."
            raise ArgumentError(
                f"the forward pass without {names}", must="change", got=got, todo=todo
            )
        return found

    def direct(self, way: Replacement) -> float:
        """What of the target the sources wrote at its position, less what is put in their place."""
        record, position = self.recording, self.goal.position
        read = [
            record.index[source.name]
            for source in self.sources
            if record.index[source.name] in record.reads[-1]
        ]
        if position not in self.where:
            return 0.0
        writes = record.writes[read]
        gone = writes[:, position] - writes.mean(1) if way == "mean" else writes[:, position]
        return float((gone @ self.goal.q).sum())

    @property
    def rounding(self) -> float:
        """What of the target may be rounding, by the sizes that it is the sum of."""
        values = self.recording.writes[:, self.goal.position] @ self.goal.q
        size = float(values.abs().sum()) + abs(self.goal.constant)
        return tolerance(values.dtype) * size


def _sources(recording: Recording, names: Sequence[str]) -> list[Source]:
    """The sources that ``names`` mean: one each, or all of a part that come apart from it."""
    ends = (EMBEDDING, POSITION, BIAS)
    single = [source for source in recording.sources if source.kind not in ends]
    known = {source.name: [source] for source in single}
    for n, part in enumerate(recording.wiring.parts):
        known.setdefault(part.name, [source for source in single if source.part == n])
    found = []
    for name in names:
        if not known.get(name):
            listed = ", ".join(source.name for source in single)
            raise ArgumentError("writes", must=f"be among {listed}", got=repr(name))
        found += known[name]
    if not found:
        raise ArgumentError("writes", must="name at least one component", got="none")
    return list(dict.fromkeys(found))


@contextmanager
def _removed(outlet: Outlet, way: Replacement, where: Sequence[int]) -> Iterator[Hook]:
    """While it lasts zero or the mean passes at the positions ``where``."""
    take = partial(_without, columns=outlet.columns, way=way, where=where)
    with ExitStack() as hooks:
        if outlet.share is not None:
            read: list[Tensor] = []
            hooks.enter_context(hooked(outlet.module, "input", read.append))
            take = partial(_less, share=outlet.share, read=read, way=way, where=where)
        yield hooks.enter_context(hooked(outlet.module, outlet.side, take))


def _less(
    y: Tensor,
    share: Callable[[Tensor], Tensor],
    read: list[Tensor],
    way: Replacement,
    where: Sequence[int],
) -> Tensor:
    """``y`` with zero or the mean in place of what ``share`` gives of it."""
    own = share(read.pop())
    return y - own + _replaced(own, way, where)


def _without(z: Tensor, columns: slice, way: Replacement, where: Sequence[int]) -> Tensor:
    z = z.clone()
    z[..., columns] = _replaced(z[..., columns], way, where)
    return z


def _replaced(
    x: Float[Tensor, "*b t d"], way: Replacement, where: Sequence[int]
) -> Float[Tensor, "*b t d"]:
    x = x.clone()
    x[..., list(where), :] = x.mean(-2, keepdim=True) if way == "mean" else 0.0
    return x
