"""What a target loses when components and pairs are really taken out: all of them, ranked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bilens.base.charts import DRAWN, NEUTRAL, in_unit, ranked
from bilens.base.numerics import require_count
from bilens.base.results import Result
from bilens.circuits.cuts import Component, Cut, Product, read_each
from bilens.circuits.engine import Engine
from bilens.circuits.knockout import (
    Knockout,
    by_source,
    outer_goal,
    read_ways,
    removal,
)
from bilens.circuits.paths import Write, text
from bilens.circuits.recording import Recording, record
from bilens.circuits.rerun import Changes, Rerun
from bilens.circuits.targets import Goal, Target
from bilens.wiring import BIAS, Expandable, explains

PAIRS = 50


@dataclass(frozen=True, repr=False, eq=False)
class Effects(Result):
    """Components and pairs by what the target loses without them: the largest effect first, beside
    what the terms of an expansion say of the same.

    Columns of ``to_frame()``: ``what`` was taken out, alone; its ``kind``; ``effect``, by how much
    the target falls (where zero stands in its place) when all downstream reacts;
    ``direct``, what it writes to the target itself; ``the attribution``, whether the effect
    confirms the direct terms; then ``effect, mean``, ``direct, mean`` and ``the attribution,
    mean``, the same where the mean stands there, or so named where another input's activations do.
    Effects do not add up to the target: one part makes up for another. ``unit``: of all values,
    logits, or "" for a direction.

    >>> found = bilens.circuits.effects(model, prompt, target, what=["L0H1", "mlp1"])
    >>> [row["what"] for row in found.rows()]
    ['mlp1', 'L0H1']
    """

    target: str
    position: int
    before: float
    kinds: tuple[str, ...]
    knockouts: tuple[Knockout, ...]
    unit: str = ""

    @property
    def ways(self) -> tuple[str, ...]:
        """What stands in the place of what is taken out."""
        first = self.knockouts[:1]
        return tuple(one.replaced_by for knockout in first for one in knockout.removals)

    def summary(self) -> str:
        counts = [f"{self.kinds.count(kind)} of kind {kind}" for kind in dict.fromkeys(self.kinds)]
        if not self.knockouts:
            return f"{self.target} at {self.position}, {self.before:.6g}; nothing was taken out"
        said = [knockout.verdict for knockout in self.knockouts]
        verdicts = ", ".join(f"{said.count(one)} {one}" for one in dict.fromkeys(said))
        return (
            f"{self.target} at {self.position}, {self.before:.6g} before, without each of "
            f"{len(self.knockouts)} in turn ({', '.join(counts)}), {self.ways[0]} in its place; "
            f"direct terms: {verdicts}"
        )

    def columns(self) -> tuple[str, ...]:
        of_each = "effect", "direct", "the attribution"
        more = [f"{name}, {way}" for way in self.ways[1:] for name in of_each]
        return "what", "kind", *of_each, *more

    def rows(self) -> list[dict[str, Any]]:
        return [
            dict(zip(self.columns(), self._row(kind, knockout), strict=True))
            for kind, knockout in zip(self.kinds, self.knockouts, strict=True)
        ]

    def _row(self, kind: str, knockout: Knockout) -> Iterator[Any]:
        yield from (", ".join(knockout.what), kind)
        for one in knockout.removals:
            yield from (one.effect, one.direct, one.verdict)

    def figure(self) -> dict[str, Any]:
        shown = self.rows()[:DRAWN]
        names, effects, direct, verdicts = (
            [row[column] for row in shown]
            for column in ("what", "effect", "direct", "the attribution")
        )
        why = [knockout.removals[0].why for knockout in self.knockouts[:DRAWN]]
        axis = ", ".join(
            [in_unit(f"loss of {self.target}", self.unit)]
            + [f"{way} in its place" for way in self.ways[:1]]
        )
        title = f"Effects on {self.target} at {self.position}; ◇ what the direct terms say"
        hover = {"direct": direct, "the attribution": verdicts, "why": why}
        made = ranked(names, effects, axis, title, hover=hover)
        look = {"symbol": "diamond", "size": 10, "color": NEUTRAL, "line": {"width": 1.5}}
        marks = {"type": "scatter", "mode": "markers", "x": direct, "y": list(range(len(names)))}
        marks |= {"marker": look, "hoverinfo": "skip"}
        layout = made["layout"] | {"showlegend": False}
        return {"data": [*made["data"], marks], "layout": layout}

    def top(self, k: int) -> "Effects":
        """The ``k`` largest. Errors: ArgumentError."""
        require_count("k", k, 0)
        return replace(self, kinds=self.kinds[:k], knockouts=self.knockouts[:k])


@explains
@torch.no_grad()
def effects(
    model: Expandable,
    inputs: Any,
    target: Target = None,
    position: int = -1,
    *,
    what: Sequence[str | int] | None = None,
    pairs: int = PAIRS,
    with_: Any = None,
) -> Effects:
    """Take every head, every layer and the largest pairs out of ``model``, one at a time, and rank
    them by what ``target`` loses.

    ``what``: names of what to take out instead, as ``knockout`` takes them. ``pairs``: how many
    pairs of what layers read are tried, those of the largest direct value at the target's position;
    each is then taken out at all positions. ``target``, ``position`` and ``with_``: as in
    ``knockout``; the order is by the first way.

    An effect is what happens; the direct terms (what an expansion says of the same) are what
    happens where nothing reacts. They part where what is downstream reads what was taken out, or
    makes up for it: ``effects(...).knockouts[0].removals[0].why`` says which parts do.

    Cost: two forward passes in parts, and for each thing and way those parts of a pass that are
    downstream of it, in batches of 4,096 tokens. Errors: as ``knockout``.

    >>> import bilens
    >>> model = bilens.load("tinystories-2l")
    >>> prompt = "Once upon a time there was a little"
    >>> found = bilens.circuits.effects(model, prompt, (" girl", " boy"))
    >>> [row["what"] for row in found.rows() if row["kind"] != "pair"][:3]
    ['attn1', 'mlp1', 'L0H1']
    """
    require_count("pairs", pairs, 0)
    recording = by_source(record(model, inputs))
    goal = outer_goal(model, recording, target, position)
    ways, other = read_ways(recording, with_)
    if what is None:
        cuts = _every_source(recording) + _largest_pairs(recording, goal, pairs)
    else:
        cuts = read_each(recording, what, other=other)
    rerun = Rerun(recording, goal, other)
    outcomes = rerun.run([Changes(cut, way) for cut in cuts for way in ways])
    found = []
    for n, cut in enumerate(cuts):
        own = outcomes[n * len(ways) : (n + 1) * len(ways)]
        removals = tuple(removal(rerun, *item) for item in zip(ways, own, strict=True))
        names = tuple(one.text for one in cut)
        one = Knockout(goal.name, goal.position, names, removals, goal.unit)
        found.append((_kind(recording, cut), one))
    found.sort(key=lambda item: -abs(item[1].effect))
    kinds, knockouts = tuple(zip(*found, strict=True)) or ((), ())
    return Effects(goal.name, goal.position, goal.forward, kinds, knockouts, goal.unit)


def _every_source(recording: Recording) -> list[tuple[Cut, ...]]:
    """Every source and whole layer."""
    found: list[str] = []
    for n, part in enumerate(recording.wiring.parts):
        own = [s.name for s in recording.sources if s.part == n and s.kind != BIAS]
        found += own if len(own) < 2 or part.name in own else [*own, part.name]
    return read_each(recording, found)


def _largest_pairs(recording: Recording, goal: Goal, k: int) -> list[tuple[Cut, ...]]:
    """The pairs of the largest direct value, over all layers that write to the target."""
    engine, everywhere = Engine(recording), tuple(range(recording.length))
    found: list[tuple[float, Product]] = []
    for name, product in recording.products.items():
        n = product.source.part
        writes = Write(name, goal.position) in goal.roots
        if product.degree != 2 or product.looks or recording.wiring.parts[n].experts or not writes:
            continue
        values, nodes = engine.pair_matrix(name, goal.position, goal.q)
        sizes, names = values.abs().flatten(), list(map(text, nodes))
        largest = sizes.topk(min(k, len(names) * (len(names) + 1) // 2))
        for size, place in zip(largest.values.tolist(), largest.indices.tolist(), strict=True):
            pair = (names[place // len(names)], names[place % len(names)])
            found.append((size, Product(f"{name}({', '.join(pair)})", n, everywhere, pair, name)))
    found.sort(key=lambda item: -item[0])
    return [(pair,) for _, pair in found[:k]]


def _kind(recording: Recording, cuts: Sequence[Cut]) -> str:
    """What kind of thing is taken out."""
    if len(cuts) > 1:
        return "several"
    (cut,) = cuts
    if not isinstance(cut, Component):
        return "pair" if isinstance(cut, Product) else "edge"
    if cut.part < 0:
        return "embedding"
    part = recording.wiring.parts[cut.part]
    if cut.whole or cut.sources == (part.name,):
        return "layer"
    return "expert" if part.experts else "head"
