"""Passes of one recorded input with something taken out, many at once.

A pass goes part by part through the model's own modules. One with something taken out is the
recorded pass up to there, so it begins where it first differs, and all that have begun go on
together, as one batch. What is downstream reacts: patterns, gates, norms, soft-caps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import tolerance
from bilens.circuits.altered import OTHER, Altering, Met, Recorded, in_place, sum_of, valued
from bilens.circuits.cuts import Component, Cut
from bilens.circuits.recording import Recording
from bilens.circuits.targets import Goal
from bilens.wiring import Part

TOKENS = 4096  # of all passes of a batch together


@dataclass(frozen=True)
class Changes:
    """What is taken out of one pass, and what stands in its place: "zero", its "mean" over the
    positions, or what it is in the "other" input's pass.
    """

    cuts: tuple[Cut, ...]
    way: str

    @cached_property
    def first(self) -> int:
        """The part at which the pass first differs; 0 where what is written first does."""
        return max(min(cut.part for cut in self.cuts), 0)

    def at(self, part: int) -> list[Cut]:
        return [cut for cut in self.cuts if cut.part == part]

    @cached_property
    def named(self) -> set[str]:
        """The sources whose writes are asked for on the way."""
        carried = (cut.sources for cut in self.cuts if not isinstance(cut, Component))
        return {name for sources in carried for name in sources}

    def asked_of(self, recording: Recording) -> set[int]:
        """The parts that are looked into: where something is taken out, or a write is asked for."""
        return {*self.asked(recording).values(), *(cut.part for cut in self.cuts)}

    def asked(self, recording: Recording) -> dict[str, int]:
        """The sources whose writes are asked for, each with the part that it is of."""
        index, sources = recording.index, recording.sources
        return {name: sources[index[name]].part for name in self.named if name in index}


class Outcome(NamedTuple):
    """What became of the target: ``after``; ``direct``, what it loses where nothing reacts;
    ``through``: what it loses by how each part reacts.
    """

    after: float
    direct: float
    through: dict[str, float]


class Rerun:
    """Passes of ``recording`` with changes, and what they do to the target ``goal``, which is over
    the outputs. ``other``: the pass whose activations may stand in the place of its own.
    """

    def __init__(
        self,
        recording: Recording,
        goal: Goal,
        other: Recording | None = None,
    ) -> None:
        self.recording, self.goal = recording, goal
        self.parts = recording.wiring.parts
        self.clean = Recorded(recording, other)
        self.other = None if other is None else Recorded(other)
        self.heard = {recording.sources[n].part for n in recording.reads[-1]}  # by the readout
        self.depth = 1 + max((max(self.back(n)) for n in range(len(self.parts))), default=0)

    def site(self, n: int) -> int | None:
        """The part whose reading part ``n`` shares, where it does."""
        shares = self.parts[n].shares
        return self.recording.wiring.places[shares] if shares else None

    def back(self, n: int) -> tuple[int, ...]:
        """How many parts before part ``n`` the stream stands that it reads, and the one of the
        reading that it shares.
        """
        own, site = self.parts[n].beside, self.site(n)
        return (own,) if site is None else (own, n - site + self.parts[site].beside)

    def run(self, passes: Sequence[Changes]) -> list[Outcome]:
        """What becomes of the target in each. Cost: of each pass the parts from where it differs.
        Memory: that of 4,096 tokens at once, or of one pass.
        """
        order = sorted(range(len(passes)), key=lambda n: passes[n].first)
        at_once = max(1, TOKENS // self.recording.length)
        found: dict[int, Outcome] = {}
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            made = _Batch(self, [passes[n] for n in some]).run()
            found |= dict(zip(some, made, strict=True))
        return [found[n] for n in range(len(passes))]

    @cached_property
    def rounding(self) -> float:
        """What of the target may be rounding, by the sizes that it is the sum of."""
        values = self.recording.writes[:, self.goal.position] @ self.goal.q
        return tolerance(values.dtype) * (float(values.abs().sum()) + abs(self.goal.constant))

    def altering(self, changes: Changes, n: int) -> Altering:
        """What takes the cuts of part ``n`` out; of the readout, for the number of parts."""
        other = None if self.other is None or changes.way != OTHER else self.other.met(n)
        return Altering(changes.at(n), changes.way, other)

    def leaves(self, changes: Changes) -> dict[str, Float[Tensor, "t d"]]:
        """What is written first, where it is taken out."""
        other = self.other if changes.way == OTHER else None
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for cut in changes.at(-1) for name in cut.sources):
            there = None if other is None else other.source(name)
            where = {n for cut in changes.at(-1) if name in cut.sources for n in cut.where}
            own = self.clean.source(name)
            found[name] = in_place(own, changes.way, sorted(where), there)
        return found

    def said(self, stream: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """What the target is of the outputs that the readout makes of a stream."""
        return self.recording.wiring.outputs(stream) @ self.goal.u


@dataclass
class _Row:
    """One pass on its way: what sources wrote in it whose writes are asked for."""

    changes: Changes
    wrote: dict[str, Tensor] = field(default_factory=dict)
    direct: float = 0.0
    through: dict[str, float] = field(default_factory=dict)


class _Batch:
    """Some passes at once, in the order in which they begin."""

    def __init__(self, rerun: Rerun, passes: Sequence[Changes]) -> None:
        self.rerun, self.rows = rerun, [_Row(changes) for changes in passes]
        self.asked = [changes.asked_of(rerun.recording) for changes in passes]
        self.begun = 0
        like = rerun.recording.totals[0]
        # the stream before the next part, and before those ahead of it as far as any looks back
        self.history = [like.new_zeros(0, *like.shape)] * rerun.depth

    def run(self) -> list[Outcome]:
        for n, part in enumerate(self.rerun.parts):
            self._begin(n)
            if self.begun:
                written = self._written(n, part)
                accumulates = self.rerun.recording.wiring.accumulates
                after = self.history[-1] + written if accumulates else written
                self.history = [*self.history[1:], after]
        self._begin(len(self.rerun.parts))
        ends = self.history[-1][:, self.rerun.goal.position]
        read = torch.stack([end + self._end(row) for end, row in zip(ends, self.rows, strict=True)])
        said = self.rerun.said(read).tolist()
        return [
            Outcome(after, row.direct, row.through)
            for after, row in zip(said, self.rows, strict=True)
        ]

    def _end(self, row: _Row) -> Float[Tensor, " d"]:
        """What taking edges to the readout out adds to what it reads."""
        rerun = self.rerun
        n, at = len(rerun.parts), rerun.goal.position
        if not row.changes.at(n):
            return torch.zeros_like(rerun.goal.q)
        met = replace(rerun.clean.met(n), source=self._source(row))
        moved = rerun.altering(row.changes, n).moved(met)[at]
        row.direct -= float(moved @ rerun.goal.q)
        return moved

    def _begin(self, n: int) -> None:
        """Let the passes join that first differ at part ``n``."""
        new = [row for row in self.rows[self.begun :] if row.changes.first == n]
        if not new:
            return
        totals = self.rerun.recording.totals
        for back in range(self.rerun.depth):
            clean = totals[max(n - back, 0)].expand(len(new), -1, -1)
            place = -1 - back
            self.history[place] = torch.cat([self.history[place], clean])
        for i, row in enumerate(new, self.begun):
            self._lead(i, row)
        self.begun += len(new)

    def _lead(self, i: int, row: _Row) -> None:
        """Take out what the model writes first."""
        rerun = self.rerun
        for name, value in rerun.leaves(row.changes).items():
            less = value - rerun.clean.source(name)
            row.wrote[name] = value
            for stream in self.history:
                stream[i] += less
            if -1 in rerun.heard:
                row.direct -= float(less[rerun.goal.position] @ rerun.goal.q)

    def _written(self, n: int, part: Part) -> Float[Tensor, "b t d"]:
        """What part ``n`` writes in each pass that has begun, and what that does to the target."""
        rerun, at = self.rerun, self.rerun.goal.position
        streams = tuple(self.history[-1 - back] for back in rerun.back(n))
        stream = streams[0]
        written = torch.empty_like(stream)
        apart = {i for i in range(self.begun) if n in self.asked[i]}
        plain = [i for i in range(self.begun) if i not in apart]
        if plain:
            written[plain] = self._ran(n, part, [each[plain] for each in streams])
        held = torch.zeros(self.begun, dtype=stream.dtype, device=stream.device)
        for i in apart:
            written[i], less = self._apart(n, self.rows[i], [each[i] for each in streams])
            held[i] = less[at] @ rerun.goal.q
        if n in rerun.heard:
            clean = rerun.recording.written_by[n + 1][at]
            lost = ((clean - written[:, at]) @ rerun.goal.q).tolist()
            for row, whole, direct in zip(self.rows, lost, held.tolist(), strict=False):
                row.direct += direct
                row.through[part.name] = whole - direct
        return written

    def _ran(self, n: int, part: Part, streams: Sequence[Tensor]) -> Float[Tensor, "b t d"]:
        """What a part writes in passes that are not looked into."""
        places = (n, self.rerun.site(n))
        norms = (self.rerun.recording.norm(m) for m in places if m is not None)
        read, *told = (norm(stream) for norm, stream in zip(norms, streams, strict=True))
        if part.batched:
            return part.sharing(*told).run(read) if told else part.run(read)
        each = zip(read, *told, strict=True)
        return torch.stack([(part.sharing(*of) if of else part).run(one) for one, *of in each])

    def _apart(
        self, n: int, row: _Row, streams: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t d"]]:
        """What a part writes with its cuts taken out, and what of it these are where nothing
        reacts.
        """
        rerun, part, changes = self.rerun, self.rerun.parts[n], row.changes
        altering, clean = rerun.altering(changes, n), rerun.clean.met(n)
        begins = changes.first == n and not changes.at(-1)
        met = clean if begins else self._met(n, row, streams)
        touched = altering.writes(part, met, react=True)
        total = met.total - _less(met, touched)
        for name, own in changes.asked(rerun.recording).items():
            if own == n:  # nothing, of a latent that is no more active
                row.wrote[name] = part.finished(touched.get(name, met.made(name)), total)
        held = (
            touched
            if begins and not altering.rereads
            else altering.writes(part, clean, react=False)
        )
        return part.finished(total, total), part.finished(_less(clean, held), clean.total)

    def _met(self, n: int, row: _Row, streams: Sequence[Tensor]) -> Met:
        """What part ``n`` meets in a pass that has begun before it."""
        clean, source = self.rerun.clean.met(n), self._source(row)
        shared = clean.shared
        if shared is not None:
            shared = replace(shared, stream=streams[-1], source=source)
        met = replace(clean, stream=streams[0], source=source, shared=shared)
        return replace(met, writes=valued(self.rerun.parts[n], met))

    def _source(self, row: _Row) -> Callable[[str], Float[Tensor, "t d"]]:
        """What a source wrote in that pass."""
        return lambda name: row.wrote[name] if name in row.wrote else self.rerun.clean.source(name)


def _less(met: Met, touched: Mapping[str, Float[Tensor, "t d"]]) -> Float[Tensor, "t d"]:
    """How much less a part writes where some of its sources write ``touched``."""
    less = [met.made(name) - value for name, value in touched.items()]
    return sum_of(less) if less else torch.zeros_like(met.stream)
