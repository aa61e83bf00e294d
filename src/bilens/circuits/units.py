"""One path by the hidden units of the layers that it goes through.

A path is linear in what a layer writes in it: its value is q · y, with y that write and q the
target pulled down to it through all above. So with y = out (gate ∘ hidden), each unit carries

    value_k = (qᵀ out)_k gate_k hidden_k        Σ_k value_k = the path's value

hidden being what the path gives to the layer: of a pair both orders, as everywhere. Where a path
goes through a layer m times it is of degree m in its writes: each time carries 1 / m of it (Euler).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import DRAWN, in_unit, ranked
from bilens.base.errors import ArgumentError
from bilens.base.results import Result
from bilens.circuits import paths
from bilens.circuits.engine import Engine
from bilens.circuits.expansion import Term, Units
from bilens.circuits.paths import Apply, Latent, Node, One, Stream, Write
from bilens.circuits.recording import Recording, record
from bilens.circuits.replacements import Replacement
from bilens.circuits.targets import Goal, Target, resolve
from bilens.wiring import Expandable, Source, Sparse, explains


@dataclass(frozen=True, repr=False, eq=False)
class PathUnits(Result):
    """A path of value ``value`` by the hidden units of each layer on it: ``units`` has a record for
    each layer and position, the last layer first, "mlp1@7". The records of one layer add up to the
    path.

    Columns, of the units of the last layer: ``unit``, with its layer, its position and the signs of
    its sides; ``value``: what of the path it carries, in ``unit``: logits, or "" for a direction;
    ``share``: of the path's value.

    >>> ex = bilens.expand(model, prompt, target)
    >>> found = bilens.circuits.units(model, prompt, ex.terms[0], target)
    >>> found.path
    'mlp0(embed, embed)'
    """

    path: str
    target: str
    position: int
    value: float
    units: tuple[Units, ...]
    unit: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the path goes through, the last first."""
        return tuple(dict.fromkeys(_layer(units) for units in self.units))

    def of(self, layer: str) -> "PathUnits":
        """The same path by the units of ``layer`` alone. Errors: ArgumentError where it does not
        go through that.
        """
        if layer not in self.layers:
            must = f"be one of {', '.join(self.layers)}"
            raise ArgumentError("layer", must=must, got=repr(layer))
        kept = tuple(units for units in self.units if _layer(units) == layer)
        return replace(self, units=kept)

    def summary(self) -> str:
        return (
            f"{self.path} = {self.value:.6g} of {self.target} at {self.position}, "
            f"by the units of {', '.join(self.layers)}"
        )

    def columns(self) -> tuple[str, ...]:
        return "unit", "value", "share"

    def rows(self) -> list[dict[str, Any]]:
        """The units of the last layer, with the signs of their sides in the pass (the gated one
        first, before the gate), largest first.
        """
        last = self.layers[0]
        named = [pair for units in self.units if _layer(units) == last for pair in units.named()]
        named.sort(key=lambda pair: -abs(pair[1]))
        return [
            {"unit": name, "value": value, "share": value / self.value if self.value else 0.0}
            for name, value in named
        ]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        shown, others = rows[:DRAWN], rows[DRAWN:]
        names, values = [row["unit"] for row in shown], [row["value"] for row in shown]
        rest = {f"{len(others):,} smaller": float(sum(row["value"] for row in others))}
        share = {"share": [f"{row['share']:.2%}" for row in shown]}
        title = f"{self.path} = {self.value:.4g} of {self.target}, by unit of {self.layers[0]}"
        axis = in_unit("what it adds", self.unit)
        return ranked(names, values, axis, title, hover=share, rest=rest if others else None)


def _layer(units: Units) -> str:
    return units.layer.rpartition("@")[0]


@explains
@torch.no_grad()
def units(
    model: Expandable,
    inputs: Any,
    path: Term | str,
    target: Target = None,
    position: int = -1,
    *,
    dictionaries: Mapping[str, Sparse] | None = None,
    replacements: Mapping[str, Replacement] | None = None,
    given: str | None = None,
) -> PathUnits:
    """Which hidden units of the layers on ``path`` carry it: of each layer they add up to the value
    that the path has in ``expand`` of the same arguments.

    ``path``: a term of that expansion, or the text of one, "L1H3@3→4(mlp0(embed, embed))"; it may
    end at a layer's whole write. A path that goes through a layer several times is shared out
    evenly among these. Gates, patterns and norm scales are held as in ``expand``; the signs of a
    unit are those of the pass. A layer's bias, where it has one, and its act(0) are units of their
    own after the others.

    Cost: a forward pass in parts, then O(h d) for each step of the path. Errors: ArgumentError for
    what is no path, for one that this pass does not have or that goes through no layer.

    >>> found = bilens.circuits.units(model, prompt, "mlp0", target)
    >>> found.path, round(found.value, 2)
    ('mlp0', 0.61)
    """
    recording = record(model, inputs, dictionaries, replacements, given)
    goal = resolve(model, recording, target, position, measured=False)
    tree = _read(path, goal)
    _Checked(recording, paths.text(tree)).root(tree, goal)
    engine = Engine(recording)
    found: dict[tuple[str, int], list[Tensor]] = {}
    for node, carried in _carried(engine, tree, goal.q):
        found.setdefault((node.source, node.t), []).append(carried)
    if not found:
        must, got = "go through a layer with hidden units", repr(paths.text(tree))
        raise ArgumentError("the path", must=must, got=got)
    value, shared = float(goal.q @ engine.vector(tree)), tuple(_shared(engine, found))
    return PathUnits(paths.text(tree), goal.name, goal.position, value, shared, goal.unit)


def _read(path: object, goal: Goal) -> Node:
    if isinstance(path, Term):
        return path.tree
    if not isinstance(path, str):
        must = "be a term of an expansion, or its path"
        raise ArgumentError("the path", must=must, got=type(path).__name__)
    node = paths.parse(path, goal.position)
    ends = isinstance(node, Apply) and node.source == paths.READOUT
    return paths.children(node)[0] if ends else node


def _carried(
    engine: Engine, node: Node, q: Float[Tensor, " d"]
) -> Iterator[tuple[Write | Apply, Float[Tensor, " k"]]]:
    """Every place where a path goes through a layer, and what its units carry of q · the path."""
    product = isinstance(node, Write | Apply) and engine.recording.products.get(node.source)
    if not product:
        return
    assert isinstance(node, Write | Apply)
    if not product.looks:
        yield node, engine.by_unit(node, q)
    if isinstance(node, Apply):
        equal = len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]
        for n, child in enumerate(node.inputs):
            # of T(a, a) each side has half: pulled through one side it is 2 T(·, a)
            if isinstance(child, Write | Apply):
                pulled = engine.pull(node, n, q)
                yield from _carried(engine, child, pulled / 2 if equal else pulled)


def _shared(engine: Engine, found: Mapping[tuple[str, int], list[Tensor]]) -> Iterator[Units]:
    """The units by layer and position, each of a layer's times its part of the whole."""
    record = engine.recording
    times: dict[str, int] = {}
    for (source, _), carried in found.items():
        times[source] = times.get(source, 0) + len(carried)
    for source, t in sorted(found, key=lambda at: (-record.index[at[0]], at[1])):
        values = torch.stack(found[source, t]).sum(0) / times[source]
        sides = engine.sides(record.products[source], t)
        yield Units(f"{source}@{t}", values, sides)


@dataclass(frozen=True)
class _Checked:
    """That a path is one of this pass: each part reads what it reads there."""

    recording: Recording
    path: str

    def root(self, node: Node, goal: Goal) -> None:
        constant = isinstance(node, One) and bool(goal.constant)
        if (
            not constant
            and node not in goal.roots
            and not (isinstance(node, Apply) and Write(node.source, node.t) in goal.roots)
        ):
            known = ", ".join(dict.fromkeys(paths.text(root) for root in goal.roots))
            self.require(False, f"reach the target, as {known} do", paths.text(node))
        self.inside(node)

    def inside(self, node: Node) -> None:
        if not isinstance(node, Apply):
            return None
        record = self.recording
        product = record.products.get(node.source)
        if product is None:
            return self.require(False, "go through what comes apart", node.source)
        self.require(
            len(node.inputs) == product.degree,
            f"say what {node.source} reads, {product.degree} of them",
            paths.text(node),
        )
        stands = paths.stands(node)
        named = node.legs == product.names
        looks = named and product.may_stand(node.t, stands)
        self.require(looks, f"let {node.source} look where it does", paths.text(node))
        for leg, (child, s) in enumerate(zip(node.inputs, stands, strict=True)):
            self.child(record.reader(product, leg), child, s)
            self.inside(child)
        return None

    def child(self, by: Source, child: Node, s: int) -> None:
        record, reader, part = self.recording, by.name, by.part
        match child:
            case Write(source, t) | Apply(source, t):
                names = [record.sources[n].name for n in record.written(part, s)[1]]
                there = source in names and t == s and part not in record.replaced
            case Latent(read, t, _) if part in record.replaced:
                there = read == reader and child in record.replaced[part].at(reader, t)[1]
            case Latent():
                there = False
            case Stream(read, t):
                there = read == reader and t == s
            case _:
                there = True
        self.require(there, f"let {reader} read what it reads at {s}", paths.text(child))

    def require(self, holds: bool, must: str, got: str) -> None:
        if not holds:
            raise ArgumentError(paths.who(self.path), must=must, got=repr(got))
