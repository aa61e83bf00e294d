"""What an expansion explains: an output, a difference of outputs, any direction, inside the model or at its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError, ShapeError
from bilens.circuits.paths import Tree
from bilens.circuits.recording import Recording
from bilens.nn.expandable import Expandable
from bilens.nn.hooks import find_place, hooked


@dataclass(frozen=True, eq=False)
class At:
    """A direction inside the model: of what ``place`` reads ("mlp1.input", "attn0.input": after the norm), or of what a
    layer writes ("mlp1.output"). For example an encoder row of a dictionary, or a row of gate_proj."""

    direction: Float[Tensor, " d"]
    place: str
    name: str = "direction"


Target = Any  # None | str | int | (name, versus) | {name: weight} | Tensor over the outputs | At


@dataclass(frozen=True, eq=False)
class Goal:
    """A target resolved at one position: value = q · (what ``roots`` write) + constant = ``forward`` of the model."""

    name: str
    q: Float[Tensor, " d"]
    roots: tuple[Tree, ...]
    constant: float
    forward: float
    part: int  # what reads the roots; −1 where a layer's own write is explained
    position: int


@torch.no_grad()
def resolve(model: Expandable, record: Recording, target: Target, position: int, measured: bool = True) -> Goal:
    """``target`` at ``position`` (negative: from the end); None: the largest output there. Unless it is ``measured``, by
    the model's own forward pass, ``forward`` is NaN.

    Errors: ArgumentError for a target or position that is not there.
    """
    position = record.position(position)
    if isinstance(target, At):
        return _inside(model, record, target, position, measured)
    if target is None:
        target = int(record.outputs(position).argmax())
    name, u = direction(model, record, target)
    part = len(record.wiring.parts)
    bias = record.wiring.readout_bias
    constant = _constant(record, part, u @ record.wiring.readout) + (0.0 if bias is None else float(u @ bias))
    q = record.pull(part, u @ record.wiring.readout, position)
    forward = float(u @ model.outputs(record.inputs)[position]) if measured else float("nan")
    return Goal(name, q, _roots(record, part, position), constant, forward, part, position)


def direction(model: Expandable, record: Recording, target: Target) -> tuple[str, Float[Tensor, " out"]]:
    """A target over the outputs, as a name and a vector."""
    readout = record.wiring.readout
    if isinstance(target, Tensor):
        if tuple(target.shape) != (len(readout),):
            raise ShapeError("target", must=f"have one weight for each of {len(readout)} outputs", got=tuple(target.shape))
        return "direction", target.to(readout)
    weights: Mapping[Any, float] = target if isinstance(target, Mapping) else {target: 1.0}
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ArgumentError("target", must="be a pair, the one less the other", got=f"{len(target)} of them")
        weights = {target[0]: 1.0, target[1]: -1.0}
    u = torch.zeros_like(readout[:, 0])
    names = []
    for output, weight in weights.items():
        index = model.output_index(output)
        u[index] += weight
        sign = "− " if weight < 0 else "+ " if names else ""
        names.append(f"{sign}{'' if abs(weight) == 1 else f'{abs(weight):g} '}{model.output_names([index])[0]!r}")
    if not names:
        raise ArgumentError("target", must="name at least one output", got="none")
    return " ".join(names), u


def _inside(model: Expandable, record: Recording, target: At, position: int, measured: bool) -> Goal:
    n, side, place = find_place(target.place, record.wiring.parts)
    u = target.direction.to(record.writes)
    if tuple(u.shape) != (record.writes.shape[-1],):
        raise ShapeError("At.direction", must=f"be ({record.writes.shape[-1]},)", got=tuple(u.shape))
    forward = float(u @ _heard(model, record, n, side)[position]) if measured else float("nan")
    name = f"{target.name} at {place}"
    if side == "output":
        return Goal(name, u, (("write", record.wiring.parts[n].name, position),), 0.0, forward, -1, position)
    constant = _constant(record, n, u)
    return Goal(name, record.pull(n, u, position), _roots(record, n, position), constant, forward, n, position)


def _roots(record: Recording, part: int, position: int) -> tuple[Tree, ...]:
    return tuple(("write", record.sources[n].name, position) for n in record.reads[part])


def _constant(record: Recording, part: int, u: Tensor) -> float:
    shift = record.norm(part).shift
    return 0.0 if shift is None else float(u @ shift)


def _heard(model: Expandable, record: Recording, part: int, side: str) -> Float[Tensor, "t d"]:
    """What the model's own forward pass gives a part to read, or what that part writes."""
    heard: list[Tensor] = []
    with hooked(record.wiring.parts[part].module, side, lambda x: heard.append(x)):
        model.outputs(record.inputs)
    return heard[0].reshape(-1, heard[0].shape[-1])
