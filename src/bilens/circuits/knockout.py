"""Taking components out of the model itself, to test what an expansion claims."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError
from bilens.base.results import Result
from bilens.circuits.recording import Recording, Source, record
from bilens.circuits.targets import Target, resolve
from bilens.nn.expandable import Expandable, Heads, Layer
from bilens.nn.hooks import Hook, hooked

Replacement = Literal["zero", "mean"]


@dataclass(frozen=True, repr=False, eq=False)
class Knockout(Result):
    """A target ``before`` and ``after`` components were taken out of the forward pass.

    ``direct``: what an expansion's terms (``detail="writes"``) say of the same removal, patterns and norms as they were.
    """

    target: str
    position: int
    writes: tuple[str, ...]
    replaced_by: str
    before: float
    after: float
    direct: float

    @property
    def effect(self) -> float:
        """before − after: what the target loses when everything downstream reacts."""
        return self.before - self.after

    def summary(self) -> str:
        return f"{self.target} at {self.position} without {', '.join(self.writes)}: {self.before:.6g} → {self.after:.6g}"

    def rows(self) -> list[dict[str, Any]]:
        row = {"without": ", ".join(self.writes), "replaced by": self.replaced_by}
        figures = {"before": self.before, "after": self.after, "effect": self.effect, "direct terms": self.direct}
        return [row | figures]

    def figure(self) -> dict[str, Any]:
        bars = {"type": "bar", "x": ["effect of taking out", "direct terms"], "y": [self.effect, self.direct]}
        return {"data": [bars], "layout": {"title": {"text": self.summary()}}}


@torch.no_grad()
def knockout(
    model: Expandable,
    inputs: Any,
    writes: str | Sequence[str],
    target: Target = None,
    position: int = -1,
    *,
    with_: Replacement = "zero",
    at: Sequence[int] | None = None,
) -> Knockout:
    """Run ``model`` with components really taken out, and see what becomes of ``target``.

    ``writes``: heads ("L0H3"), whole attention layers ("attn0") or layers ("mlp1"); ``at``: the positions where, by default
    all. "zero" writes nothing there; "mean" writes the component's mean over the positions of this input. Downstream,
    patterns and norm scales react, which the terms of an expansion hold fixed: the two agree to rounding where nothing
    downstream reads the component but the readout, in a model without a final norm, and may differ elsewhere.

    Cost: three forward passes. Errors: ArgumentError for a component, target or position that is not there.
    """
    names = (writes,) if isinstance(writes, str) else tuple(writes)
    if with_ not in get_args(Replacement):
        raise ArgumentError("with_", must=f"be one of {', '.join(get_args(Replacement))}", got=repr(with_))
    recording = record(model, inputs)
    goal = resolve(model, recording, target, position)
    if goal.part < len(recording.wiring.parts):
        raise ArgumentError("target", must="be over the outputs", got=goal.name)
    where = sorted({recording.position(n, "at", "hold positions") for n in (range(recording.length) if at is None else at)})
    sources = _sources(recording, names)
    target = target if target is not None else int(recording.outputs(goal.position).argmax())
    with ExitStack() as hooks:
        for source in sources:
            hooks.enter_context(_removed(recording.wiring.parts[source.part], source, with_, where))
        after = resolve(model, recording, target, position).forward
    direct = 0.0
    for source in sources if goal.position in where else ():
        write = recording.writes[recording.index[source.name]]
        if recording.index[source.name] in recording.reads[-1]:
            direct += float(goal.q @ (write[goal.position] - (write.mean(0) if with_ == "mean" else 0)))
    return Knockout(goal.name, goal.position, names, with_, goal.forward, after, direct)


def _sources(recording: Recording, names: Sequence[str]) -> list[Source]:
    """The heads and layers that ``names`` mean."""
    parts = {part.name: part for part in recording.wiring.parts}
    found = []
    for name in names:
        part = parts.get(name)
        for single in part.heads if isinstance(part, Heads) else (name,):
            source = recording.sources[recording.index[single]] if single in recording.index else None
            if source is None or source.kind not in ("head", "layer", "opaque"):
                known = [source.name for source in recording.sources if source.kind in ("head", "layer", "opaque")]
                raise ArgumentError("writes", must=f"be among {', '.join(known)}", got=repr(name))
            found.append(source)
    if not found:
        raise ArgumentError("writes", must="name at least one component", got="none")
    return list(dict.fromkeys(found))


def _removed(part: Heads | Layer, source: Source, with_: Replacement, where: Sequence[int]) -> AbstractContextManager[Hook]:
    """While it lasts the model's own module writes nothing, or its mean, at the positions ``where``."""
    if isinstance(part, Layer):
        return hooked(part.module, "output", lambda out: _replaced(out, with_, where))
    width = part.module.d_head
    own = slice(source.head * width, (source.head + 1) * width)

    def without_head(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., own] = _replaced(z[..., own], with_, where)
        return z

    return hooked(part.module.o_proj, "input", without_head)


def _replaced(x: Float[Tensor, "*b t d"], with_: Replacement, where: Sequence[int]) -> Float[Tensor, "*b t d"]:
    x = x.clone()
    x[..., list(where), :] = x.mean(-2, keepdim=True) if with_ == "mean" else 0.0
    return x
