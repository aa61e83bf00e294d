"""What a part writes in a pass with something taken out."""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial, reduce

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.circuits import cuts
from bilens.circuits.cuts import Component, Cut, Edge
from bilens.circuits.paths import ONE
from bilens.circuits.recording import Recording
from bilens.nn import Norm
from bilens.wiring import BIAS, Constant, Leg, Part, Product, Source, Write

ZERO, MEAN, OTHER = "zero", "mean", "other"
Valued = tuple[Write, Float[Tensor, "t d"]]
Carried = tuple[tuple[str, tuple[int, ...]], ...]  # sources, and the positions of each
Products = tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]
Legs = tuple[Carried, ...]  # of each leg of a part; empty where all is read


@dataclass(frozen=True, eq=False)
class Met:
    """What a part meets in a pass: the stream, what each source wrote to it, and its own writes
    where it reads that stream, before a norm over them. ``shared``: what the part met whose reading
    it shares; ``heard``: the sources that the stream is made of.
    """

    norm: Norm
    stream: Float[Tensor, "t d"]
    source: Callable[[str], Float[Tensor, "t d"]]
    writes: Sequence[Valued]
    heard: Container[str] = ()
    shared: "Met | None" = None

    @cached_property
    def scale(self) -> Float[Tensor, "t 1"]:
        """That of the norm."""
        return self.norm.scale(self.stream)

    @cached_property
    def total(self) -> Float[Tensor, "t d"]:
        """All that the part writes."""
        return sum_of(value for _, value in self.writes)

    def read(self, moved: Float[Tensor, "t d"] | None = None) -> Float[Tensor, "t d"]:
        """What is read, where the stream is ``moved`` too."""
        return self.norm(self.stream if moved is None else self.stream + moved)

    def made(self, name: str) -> Float[Tensor, "t d"]:
        """What a source of the part wrote: nothing, where none of that name does, as a latent that
        is not active.
        """
        wrote = (value for write, value in self.writes if write.source.name == name)
        return next(wrote, torch.zeros_like(self.stream))

    def linear(self, written: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """What is read of something in the stream."""
        return self.scale * self.norm.linear(written)

    @cached_property
    def product(self) -> Callable[[str, tuple[str, ...]], Float[Tensor, "t d"]]:
        """What a layer writes of one product of its inputs, both orders together."""
        return cache(self._product)

    @cached_property
    def features(self) -> Callable[[str, str], list[Float[Tensor, "t k"]]]:
        """What each leg of a source's write makes of another, or of the constant."""
        return cache(self._features)

    def _product(self, reader: str, sources: tuple[str, ...]) -> Float[Tensor, "t d"]:
        write = self._product_of(reader)
        sides = [self.features(reader, name) for name in sources]
        if write.degree == 2 and sources[0] != sources[1]:
            (a, b), (c, d) = sides
            return write.product([a, d]) + write.product([c, b])
        return write.product([side[leg] for leg, side in enumerate(sides)])

    def _features(self, reader: str, name: str) -> list[Float[Tensor, "t k"]]:
        legs = self._product_of(reader).form.legs
        if name != ONE:
            return [self.of(leg).linear(self.source(name)) @ leg.weight.mT for leg in legs]
        return [leg(self.of(leg).constant) for leg in legs]

    def of(self, leg: Leg) -> "Met":
        """What is met where a leg reads."""
        return self.shared if leg.of and self.shared is not None else self

    @property
    def constant(self) -> Float[Tensor, "t d"]:
        """What is read whatever the stream is."""
        shift = torch.zeros_like(self.stream)
        return shift if self.norm.shift is None else shift + self.norm.shift

    def _product_of(self, reader: str) -> Product:
        write = next(write for write, _ in self.writes if write.source.name == reader)
        assert isinstance(write, Product)  # as it was when the product was named
        return write


class Recorded:
    """A recording as passes begin from it, and where what ``other`` has may stand. ``met(n)``: what
    part n met; the readout, for the number of parts.
    """

    def __init__(self, recording: Recording, other: Recording | None = None) -> None:
        self.recording, self.other = recording, other
        self.met = cache(self._met)

    def source(self, name: str) -> Float[Tensor, "t d"]:
        """What a source wrote: nothing, where the pass has none of that name."""
        n = self.recording.index.get(name)
        return torch.zeros_like(self.recording.totals[0]) if n is None else self.recording.writes[n]

    def _met(self, n: int) -> Met:
        record, parts = self.recording, self.recording.wiring.parts
        shares = parts[n].shares if n < len(parts) else ""
        shared = self.met(record.wiring.places[shares]) if shares else None
        both = (record,) if self.other is None else (record, self.other)
        heard = {one.sources[m].name for one in both for m in one.reads[n]}
        met = Met(record.norm(n), record.streams[n], self.source, (), heard, shared)
        if n < len(parts) and parts[n].inner is not parts[n]:
            return replace(met, writes=valued(parts[n], met))
        writes: list[Valued] = []
        for source in record.sources:
            if source.part == n:
                value = self.source(source.name)
                writes.append((record.products.get(source.name, Constant(source, value)), value))
        return replace(met, writes=writes)


def valued(part: Part, met: Met) -> list[Valued]:
    """A part's writes, before a norm over them, where it reads what it meets, and what each is."""
    told = part.sharing(None if met.shared is None else met.shared.read()).inner
    read = met.read()
    made = told.writes(read)
    return [(write, told.run(read) if write.value is None else write.value) for write in made]


@dataclass(frozen=True)
class Altering:
    """Takes ``cuts`` of one part out, ``way``: zero, the mean over positions, or what is met in
    ``other``'s pass in their place. What several of them name is taken out once.
    """

    cuts: Sequence[Cut]
    way: str
    other: Met | None

    def writes(self, part: Part, met: Met, react: bool) -> dict[str, Float[Tensor, "t d"]]:
        """What the sources of ``part`` write that the cuts touch. Patterns, gates and the norm's
        scale ``react``, or are held as they were met.
        """
        found: dict[str, Tensor] = {}
        reread: dict[Legs, Met] = {(): met}
        for write, value in met.writes:
            name, legs = write.source.name, self._legs(part, write)
            if legs not in reread:
                reread[legs] = self._reread(part, met, legs, react)
            now = reread[legs].made(name) if legs else value
            for sources, where in self._products(write):
                product = partial(_product_at, name, sources)
                now = now + self._less(product, reread[legs], where)
            if where := self._gone(write.source):
                there = None if self.other is None else self.other.made(name)
                now = in_place(now, self.way, where, there)
            if now is not value:
                found[name] = now
        return self._appearing(met) | found

    def _appearing(self, met: Met) -> dict[str, Float[Tensor, "t d"]]:
        """What stands in the place of sources that the other pass alone has."""
        if self.other is None:
            return {}
        own = {write.source.name for write, _ in met.writes}
        new = [(write.source, v) for write, v in self.other.writes if write.source.name not in own]
        gone = [(source.name, v, self._gone(source)) for source, v in new]
        nothing = torch.zeros_like(met.stream)
        return {name: in_place(nothing, self.way, at, v) for name, v, at in gone if at}

    def moved(self, met: Met) -> Float[Tensor, "t d"]:
        """What edges taken out add to what the readout reads of the stream."""
        return self._moved(self._carried("", ""), met)

    @property
    def rereads(self) -> bool:
        """Whether a source reads something else, and may react to it."""
        return any(isinstance(cut, Edge) for cut in self.cuts)

    def _reread(self, part: Part, met: Met, legs: Legs, react: bool) -> Met:
        """What is met where queries, keys and values read without what edges carry."""
        if react and len(set(legs)) > 1:
            heads, shared = part.attention, met.shared
            assert heads is not None  # only an attention layer's edges have legs
            reads = [met.read(self._moved(carried, met)) for carried in legs]
            told = None if shared is None else shared.read(self._moved(legs[-1], shared))
            by_head = heads.by_head(reads, told)
            return replace(met, writes=[(w, by_head.get(w.source.name, v)) for w, v in met.writes])
        now = self._without(met, legs[-1])
        if react:
            return replace(now, writes=valued(part, now))
        reads = self._held(met, legs)
        told = () if met.shared is None else self._held(met.shared, legs)
        said = [(w, w.reading(reads, told) if isinstance(w, Product) else v) for w, v in met.writes]
        return replace(met, source=now.source, writes=said)

    def _without(self, met: Met, carried: Carried) -> Met:
        """What is met in a stream without some of what it carries."""
        less = dict(carried)

        def source(name: str) -> Tensor:
            own = met.source(name)
            if name not in less:
                return own
            return own + self._less(lambda at: at.source(name), met, less[name])

        stream = met.stream + self._moved(carried, met)
        shared = None if met.shared is None else self._without(met.shared, carried)
        return replace(met, stream=stream, source=source, shared=shared)

    def _held(self, met: Met, legs: Legs) -> list[Float[Tensor, "t d"]]:
        """What each leg reads without what edges carry, the norm's scale held."""
        return [met.read() + met.linear(self._moved(carried, met)) for carried in legs]

    def _moved(self, carried: Carried, met: Met) -> Float[Tensor, "t d"]:
        """What is added to the stream where it is read without some sources."""
        moved = torch.zeros_like(met.stream)
        for name, where in carried:
            if name in met.heard:
                moved = moved + self._less(lambda at, name=name: at.source(name), met, where)
        return moved

    def _less(
        self, of: Callable[[Met], Tensor], met: Met, where: Sequence[int]
    ) -> Float[Tensor, "t d"]:
        """What is added where ``of`` what is met is taken out."""
        own = of(met)
        there = None if self.other is None else of(self.other)
        return in_place(own, self.way, where, there) - own

    # What the cuts say of one write, each thing once.

    def _legs(self, part: Part, write: Write) -> Legs:
        """What each leg of its part does not read."""
        if not self.rereads or isinstance(write, Constant):
            return ()
        legs = tuple(self._carried(write.source.name, leg) for leg in part.legs)
        return legs if any(legs) else ()

    def _carried(self, reader: str, leg: str) -> Carried:
        found: dict[str, set[int]] = defaultdict(set)
        for cut in self.cuts:
            if isinstance(cut, Edge) and cut.reader in ("", reader) and leg.startswith(cut.leg):
                for name in cut.sources:
                    found[name].update(cut.where)
        return tuple((name, tuple(sorted(where))) for name, where in sorted(found.items()))

    def _products(self, write: Write) -> Products:
        found: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for cut in self.cuts:
            if isinstance(cut, cuts.Product) and cut.reader == write.source.name:
                both = isinstance(write, Product) and write.degree == 2
                found[tuple(sorted(cut.sources)) if both else cut.sources].update(cut.where)
        return tuple((sources, tuple(sorted(where))) for sources, where in found.items())

    def _gone(self, source: Source) -> tuple[int, ...]:
        whole = source.kind != BIAS
        taken = (cut for cut in self.cuts if isinstance(cut, Component))
        named = (cut for cut in taken if source.name in cut.sources or (cut.whole and whole))
        return tuple(sorted({n for cut in named for n in cut.where}))


def _product_at(reader: str, sources: tuple[str, ...], met: Met) -> Float[Tensor, "t d"]:
    return met.product(reader, sources)


def sum_of(tensors: Iterable[Float[Tensor, "t d"]]) -> Float[Tensor, "t d"]:
    """All of them together; of one, itself."""
    return reduce(torch.add, tensors)


def in_place(
    own: Float[Tensor, "t d"], way: str, where: Sequence[int], other: Float[Tensor, "t d"] | None
) -> Float[Tensor, "t d"]:
    """``own`` with zero, its mean over the positions or ``other`` at the positions ``where``."""
    at, made = list(where), own.clone()
    if other is not None:
        made[at] = other[at].to(own)
    else:
        made[at] = own.mean(0) if way == MEAN else own.new_zeros(())
    return made
