"""What an expansion explains: an output, a difference of outputs, any direction, inside the model
or at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import LARGEST, is_number, require_finite
from bilens.circuits.paths import Node, Write
from bilens.circuits.recording import Pass, Recording
from bilens.wiring import Expandable, find_place, hear


@dataclass(frozen=True, eq=False)
class At:
    """A direction inside the model: of what ``place`` reads ("mlp1.input", "attn0.input": after the
    norm), or of what a layer writes ("mlp1.output"). For example an encoder row of a dictionary, or
    a row of gate_proj.

    >>> at = bilens.circuits.At(T.out[:, 0], "mlp0.output", "unit 0")
    >>> bilens.expand(model, prompt, at).target
    'unit 0 at mlp0.output'
    """

    direction: Float[Tensor, " d"]
    place: str
    name: str = "direction"


LOGITS = "logits"
Target = Any  # None | str | int | (name, versus) | {name: weight} | Tensor over the outputs | At


@dataclass(frozen=True, eq=False)
class Goal:
    """A target resolved at one position: value = q · (what ``roots`` write) + constant =
    ``forward`` of the model.

    ``as_run``: the same value where a half-precision model runs as it is; None in full precision.
    ``u``: the direction over the outputs; of what is read or written, for a target inside.
    ``unit``: of the value, "" where that is not known.
    """

    name: str
    q: Float[Tensor, " d"]
    roots: tuple[Node, ...]
    constant: float
    forward: float
    part: int  # what reads the roots; −1 where a layer's own write is explained
    position: int
    as_run: float | None
    u: Tensor
    unit: str


@torch.no_grad()
def resolve(
    model: Expandable, record: Recording, target: Target, position: int, measured: bool = True
) -> Goal:
    """``target`` at ``position`` (negative: from the end); None: the largest output there. Unless
    it is ``measured``, by the model's own forward pass, ``forward`` is NaN. A half-precision model
    is measured in float32 and as it is.

    Errors: ArgumentError for a target or position that is not there; NotFiniteError for one that is
    not finite.
    """
    position = record.position(position)
    if isinstance(target, At):
        return _inside(record, target, position, measured)
    if target is None:
        target = int(record.outputs(position).argmax())
    name, u = direction(model, record, target)
    part = len(record.wiring.parts)
    bias, given = record.wiring.readout_bias, u * record.cap_gate(position)
    direct = given @ record.wiring.readout
    constant = _constant(record, part, direct) + (0.0 if bias is None else float(given @ bias))
    q = record.pull(part, direct, position)
    require_finite("the readout", target=q, constant=q.new_tensor(constant))
    forward, as_run = _measured(record, lambda run: u @ run.outputs[position].to(u), measured)
    roots = _roots(record, part, position)
    return Goal(name, q, roots, constant, forward, part, position, as_run, u, unit_of(target))


def unit_of(target: Target) -> str:
    """The unit of a target's value: logits, of outputs by name; of a direction it is not known."""
    return "" if isinstance(target, Tensor | At) else LOGITS


def _measured(
    record: Recording, value: Callable[[Pass], Tensor], asked: bool
) -> tuple[float, float | None]:
    """``value`` of the pass that is explained, and of the half-precision one where that is another;
    NaN if not asked.
    """
    if not asked:
        return float("nan"), None
    return float(value(record.run)), None if record.as_run is None else float(value(record.as_run))


def direction(
    model: Expandable, record: Recording, target: Target
) -> tuple[str, Float[Tensor, " out"]]:
    """A target over the outputs, as a name and a vector."""
    readout = record.wiring.readout
    if isinstance(target, Tensor):
        must = f"have one weight for each of {len(readout)} outputs"
        return "direction", _vector("target", must, target, readout[:, 0])
    u, names = torch.zeros_like(readout[:, 0]), []
    for output, weight in _weights(target):
        index = model.output_index(output)
        u[index] += weight
        sign = "− " if weight < 0 else "+ " if names else ""
        size = "" if abs(weight) == 1 else f"{abs(weight):g} "
        names.append(f"{sign}{size}'{model.output_names([index])[0]}'")
    return " ".join(names), u


def _weights(target: Target) -> list[tuple[Any, float]]:
    """A target by name, pair or weights, as outputs and their weights; an output may come twice."""
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ArgumentError(
                "target", must="be a pair, the one less the other", got=f"{len(target)} of them"
            )
        return [(target[0], 1.0), (target[1], -1.0)]
    if not isinstance(target, Mapping):
        return [(target, 1.0)]
    if not target:
        raise ArgumentError("target", must="name at least one output", got="none")
    for output, weight in target.items():
        if not is_number(weight) or not abs(weight) <= LARGEST:
            raise ArgumentError(
                f"target's weight of {output!r}", must="be a finite number", got=repr(weight)
            )
    return [(output, float(weight)) for output, weight in target.items()]


def _vector(who: str, must: str, given: Any, like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """``given`` as a direction in the dtype and on the device of ``like``."""
    if not isinstance(given, Tensor) or tuple(given.shape) != tuple(like.shape):
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ShapeError(who, must=must, got=got)
    dense = given.layout == torch.strided and not given.is_meta
    if given.is_complex() or given.dtype == torch.bool or not dense:
        got = f"{given.dtype}, {given.layout}, on {given.device}"
        raise ShapeError(who, must="be dense and hold real numbers", got=got)
    made = given.detach().to(like)
    require_finite("", **{who: made})
    return made


def _inside(record: Recording, target: At, position: int, measured: bool) -> Goal:
    n, side, place = find_place(target.place, record.wiring.parts)
    like = record.writes[0, 0]
    u = _vector("At.direction", f"be ({len(like)},)", target.direction, like)
    forward, as_run = _measured(
        record, lambda run: u @ _heard(run, n, side)[position].to(u), measured
    )
    name = f"{target.name} at {place}"
    if side == "output":
        roots: tuple[Node, ...] = tuple(
            Write(source.name, position)
            for source, there in zip(record.sources, record.present[:, position], strict=True)
            if source.part == n and there
        )
        q = u / record.wiring.parts[n].multiple
        return Goal(name, q, roots, 0.0, forward, -1, position, as_run, u, "")
    q, constant = record.pull(n, u, position), _constant(record, n, u)
    roots = _roots(record, n, position)
    return Goal(name, q, roots, constant, forward, n, position, as_run, u, "")


def _roots(record: Recording, part: int, position: int) -> tuple[Node, ...]:
    return tuple(Write(record.sources[n].name, position) for n in record.written(part, position)[1])


def _constant(record: Recording, part: int, u: Tensor) -> float:
    shift = record.norm(part).shift
    return 0.0 if shift is None else float(u @ shift)


def _heard(run: Pass, part: int, side: str) -> Float[Tensor, "t d"]:
    """What the model's own forward pass gives a part to read, or what that part writes."""
    module = run.model.wiring().parts[part].passes(side)
    heard = hear(module, side, lambda: run.model.outputs(run.inputs))
    return heard.reshape(-1, heard.shape[-1])
