"""What a part writes in a pass with something taken out."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.circuits.cuts import Component, Cut, Edge, Product
from bilens.circuits.paths import ONE
from bilens.circuits.recording import Recording
from bilens.nn import Norm
from bilens.wiring import Constant, Multilinear, Part, Write

ZERO, MEAN, OTHER = "zero", "mean", "other"
Valued = tuple[Write, Float[Tensor, "t d"]]
Edges = tuple[Edge, ...]


@dataclass(frozen=True, eq=False)
class Met:
    """What a part meets in a pass: the stream, what each source wrote to it, and its own writes
    where it reads that stream, before a norm over them.
    """

    norm: Norm
    stream: Float[Tensor, "t d"]
    source: Callable[[str], Float[Tensor, "t d"]]
    writes: Sequence[Valued]

    @cached_property
    def scale(self) -> Float[Tensor, "t 1"]:
        """That of the norm."""
        return self.norm.scale(self.stream)

    @cached_property
    def total(self) -> Float[Tensor, "t d"]:
        """All that the part writes."""
        return sum_of(value for _, value in self.writes)

    def read(self, moved: Float[Tensor, "t d"] | None = None, react: bool = True) -> Tensor:
        """What is read where the stream is ``moved``; unless it reacts the norm's scale stays."""
        if moved is None or react:
            return self.norm(self.stream if moved is None else self.stream + moved)
        return self.norm(self.stream) + self.linear(moved)

    def made(self, name: str) -> Float[Tensor, "t d"]:
        """What a source of the part wrote."""
        return next(value for write, value in self.writes if write.source.name == name)

    def linear(self, written: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """What is read of something in the stream."""
        return self.scale * self.norm.linear(written)

    def product(self, cut: Product) -> Float[Tensor, "t d"]:
        """What a layer writes of one product of its inputs, both orders together."""
        key = (cut.reader, cut.sources)
        if key not in self._products:
            self._products[key] = self._made_product(cut)
        return self._products[key]

    def features(self, write: Multilinear, name: str) -> list[Float[Tensor, "t k"]]:
        """What each leg of a write makes of a source, or of the constant."""
        key = (write.source.name, name)
        if key not in self._features:
            self._features[key] = self._made_features(write, name)
        return self._features[key]

    @cached_property
    def _products(self) -> dict[tuple[str, tuple[str, ...]], Float[Tensor, "t d"]]:
        return {}

    @cached_property
    def _features(self) -> dict[tuple[str, str], list[Float[Tensor, "t k"]]]:
        return {}

    def _made_product(self, cut: Product) -> Float[Tensor, "t d"]:
        write = next(write for write, _ in self.writes if write.source.name == cut.reader)
        assert isinstance(write, Multilinear)  # as it was when the product was named
        sides = [self.features(write, name) for name in cut.sources]
        if write.degree == 2 and cut.sources[0] != cut.sources[1]:
            (a, b), (c, d) = sides
            return write.product([a, d]) + write.product([c, b])
        return write.product([side[leg] for leg, side in enumerate(sides)])

    def _made_features(self, write: Multilinear, name: str) -> list[Float[Tensor, "t k"]]:
        if name != ONE:
            read = self.linear(self.source(name))
            return [read @ leg.weight.mT for leg in write.form.legs]
        shift = torch.zeros_like(self.stream)
        shift = shift if self.norm.shift is None else shift + self.norm.shift
        return [leg(shift) for leg in write.form.legs]


@dataclass(frozen=True)
class Recorded:
    """A recording as passes begin from it."""

    recording: Recording

    def source(self, name: str) -> Float[Tensor, "t d"]:
        """What a source wrote."""
        return self.recording.writes[self.recording.index[name]]

    def met(self, n: int) -> Met:
        """What part ``n`` met; the readout, for the number of parts."""
        return self._met[n]

    @cached_property
    def _met(self) -> "_Lazily":
        return _Lazily(self._made_met)

    def _made_met(self, n: int) -> Met:
        record, parts = self.recording, self.recording.wiring.parts
        norm, stream = record.norm(n), record.streams[n]
        if n < len(parts) and parts[n].inner is not parts[n]:
            return Met(norm, stream, self.source, valued(parts[n].inner, norm(stream)))
        writes: list[Valued] = []
        for source in record.sources:
            if source.part == n:
                value = self.source(source.name)
                writes.append((record.products.get(source.name, Constant(source, value)), value))
        return Met(norm, stream, self.source, writes)


class _Lazily(dict[int, Met]):
    """What is made when it is first asked for."""

    def __init__(self, make: Callable[[int], Met]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, n: int) -> Met:
        self[n] = self.make(n)
        return self[n]


def valued(part: Part, read: Float[Tensor, "t d"]) -> list[Valued]:
    """A part's writes where it reads ``read``, and what each is."""
    made = part.writes(read)
    return [(write, part.run(read) if write.value is None else write.value) for write in made]


@dataclass(frozen=True)
class Altering:
    """Takes ``cuts`` of one part out, ``way``: zero, the mean over positions, or what is met in
    ``other``'s pass in their place.
    """

    cuts: Sequence[Cut]
    way: str
    other: Met | None

    def moved(self, met: Met) -> Float[Tensor, "t d"]:
        """What edges taken out add to the stream that is read."""
        return sum_of(self._less(edge, partial(_carried, edge), met) for edge in self._edges)

    def writes(self, part: Part, met: Met, react: bool) -> dict[str, Float[Tensor, "t d"]]:
        """What the sources of ``part`` write that the cuts touch. Patterns, gates and the norm's
        scale ``react``, or are held as they were met.
        """
        values = {write.source.name: value for write, value in met.writes}
        touched = self._unread(part, met, react) if self._edges else {}
        for cut in self.cuts:
            if isinstance(cut, Product):
                less = self._less(cut, partial(Met.product, cut=cut), met)
                touched[cut.reader] = touched.get(cut.reader, values[cut.reader]) + less
        for cut in self.cuts:
            if isinstance(cut, Component):
                for name in cut.sources:
                    own = touched.get(name, values[name])
                    there = None if self.other is None else self.other.made(name)
                    touched[name] = in_place(own, self.way, cut.where, there)
        return touched

    @property
    def held(self) -> bool:
        """Whether nothing of the part reacts to what is taken out: it reads what it read before."""
        return not self._edges

    @property
    def _edges(self) -> list[Edge]:
        return [cut for cut in self.cuts if isinstance(cut, Edge)]

    def _less(self, cut: Cut, of: Callable[[Met], Tensor], met: Met) -> Float[Tensor, "t d"]:
        """What is added where ``of`` what is met is taken out."""
        own = of(met)
        there = None if self.other is None else of(self.other)
        return in_place(own, self.way, cut.where, there) - own

    def _unread(self, part: Part, met: Met, react: bool) -> dict[str, Float[Tensor, "t d"]]:
        """What sources write that read the stream without what edges carry."""
        less = {edge: self._less(edge, partial(_carried, edge), met) for edge in self._edges}

        def read(some: Edges) -> Tensor:
            return met.read(sum_of(less[edge] for edge in some) if some else None, react)

        found: dict[str, Tensor] = {}
        for (q, k, v), writes in _grouped(self._edges, met.writes).items():
            names = [write.source.name for write in writes]
            if not react:
                held = (write for write in writes if isinstance(write, Multilinear))
                made = {write.source.name: write.says(read(v))[0] for write in held}
            elif q == k == v:
                made = {w.source.name: value for w, value in valued(part.inner, read(q))}
            else:
                made = _by_head(part, read(q), read(k), read(v))
            found |= {name: made[name] for name in names}
        return found


def _by_head(part: Part, queries: Tensor, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
    """What each head writes where its queries, keys and values read something else."""
    heads = part.attention
    assert heads is not None  # only an attention layer's edges have legs
    return dict(zip(heads.heads, heads.by_head(queries, keys, values), strict=True))


def sum_of(tensors: Iterable[Float[Tensor, "t d"]]) -> Float[Tensor, "t d"]:
    """All of them together; of one, itself."""
    return torch.stack(list(tensors)).sum(0)


def _grouped(
    edges: Sequence[Edge], writes: Iterable[Valued]
) -> dict[tuple[Edges, Edges, Edges], list[Write]]:
    """Writes by the edges into their queries, keys and values; those with none left out."""
    found: dict[tuple[Edges, Edges, Edges], list[Write]] = defaultdict(list)
    for write, _ in writes:
        mine = [edge for edge in edges if edge.reader in ("", write.source.name)]
        if mine and not isinstance(write, Constant):
            q, k, v = (tuple(edge for edge in mine if edge.leg in ("", leg)) for leg in "QKV")
            found[q, k, v].append(write)
    return found


def _carried(edge: Edge, met: Met) -> Float[Tensor, "t d"]:
    """What an edge's sources wrote."""
    return sum_of(map(met.source, edge.sources))


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
