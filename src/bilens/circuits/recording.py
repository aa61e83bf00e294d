"""One forward pass taken apart: what every source wrote, and what was held fixed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import is_whole, require_finite
from bilens.base.results import Tabled
from bilens.base.tables import Columns
from bilens.circuits.paths import RESERVED, Node
from bilens.circuits.paths import Write as Whole
from bilens.circuits.replaced import Replaced, placed, require_short, take_apart
from bilens.circuits.replacements import Replacement, with_replacements
from bilens.circuits.understood import patterns_of, require_norm, require_plain, require_writes
from bilens.nn import Norm, normalises, soft_cap_gate
from bilens.wiring import (
    BIAS,
    EMBEDDING,
    MISSED,
    POSITION,
    SCORE_NAMES,
    SCORES,
    Constant,
    Expandable,
    Form,
    Part,
    Product,
    Source,
    Sparse,
    Wiring,
    Worded,
    Write,
    eager,
    explained,
    explains,
    held_in_half,
    is_half,
    require_expandable,
)

GIVEN = (SCORES, *SCORE_NAMES)


@dataclass(frozen=True, eq=False)
class Pass:
    """A model, and what it reads."""

    model: Expandable
    inputs: Tensor

    @cached_property
    def outputs(self) -> Float[Tensor, "t out"]:
        """What the model's own forward pass gives at every position. It is run once, for all that
        is asked of a recording.
        """
        with torch.no_grad():
            return self.model.outputs(self.inputs)


@dataclass(frozen=True, repr=False, eq=False)
class Recording(Tabled):
    """A pass over one input: ``writes`` (source, t, d), each part's norm scale (t, 1) and attention
    patterns (head, t, s).

    ``reads[p]`` says which sources part p reads; the last entry is the readout's. Memory: sources ×
    t × d.

    ``run`` is the pass that was recorded, whose modules the wiring names: a half-precision model is
    recorded in float32, where its weights are exact, and ``as_run`` is then the pass as people run
    it (None in full precision).

    Columns, a row for each source in the order of the pass: ``source`` and its ``kind`` and
    ``layer`` (−1 before all layers); ``norm``: of what it wrote at the last position; ``mean
    norm``: over all positions; ``along the stream``: the cosine, at the last position, of what it
    wrote with all that the readout reads; ``opaque``: whether it reads and is not taken apart.

    >>> run = bilens.circuits.record(model, prompt)
    >>> run.writes.shape  # source, position, d
    torch.Size([11, 8, 128])
    >>> run.scales[0].shape
    torch.Size([8, 1])
    """

    run: Pass
    as_run: Pass | None
    wiring: Wiring
    inputs: Tensor
    text: str  # what was read, as a person wrote it
    names: tuple[str, ...]  # of the positions, special tokens among them
    sources: tuple[Source, ...]
    writes: Float[Tensor, "n t d"]
    products: dict[str, Product]  # what comes further apart, by source
    reads: tuple[range, ...]
    scales: tuple[Float[Tensor, "t 1"], ...]
    streams: tuple[Float[Tensor, "t d"], ...]  # what each part reads, before its norm
    replaced: dict[int, Replaced]  # of the parts that read through a dictionary
    present: Bool[Tensor, "n t"]  # where each source writes; experts not where nothing is routed

    def summary(self) -> str:
        read = " ".join(self.names)
        return f"what {len(self.sources)} sources wrote at {self.length} positions: {read}"

    def _table(self) -> Columns:
        norms = self.writes.norm(dim=-1)
        stream, last = self.streams[-1][-1], self.writes[:, -1]
        lengths = norms[:, -1] * stream.norm()
        cosines = torch.where(lengths > 0, last @ stream / lengths, torch.zeros_like(lengths))
        columns = zip(
            self.sources,
            norms[:, -1].tolist(),
            norms.mean(-1).tolist(),
            cosines.tolist(),
            strict=True,
        )
        rows = [
            {
                "source": source.name,
                "kind": source.kind,
                "layer": source.layer,
                "norm": norm,
                "mean norm": mean,
                "along the stream": cosine,
                "opaque": source.name in self.opaque,
            }
            for source, norm, mean, cosine in columns
        ]
        return Columns(tuple(rows[0]), rows)

    def _answer(self, count: int) -> Columns:
        """What wrote most at the last position, first."""
        table = self._table()
        rows = sorted(table.rows, key=lambda row: -row["norm"])
        return table._replace(rows=rows[:count])

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.writes.shape[1]

    @cached_property
    def index(self) -> dict[str, int]:
        """Sources by name."""
        return {source.name: n for n, source in enumerate(self.sources)}

    @cached_property
    def written_by(self) -> tuple[Float[Tensor, "t d"], ...]:
        """What is written first, and then by each part: all of its sources together."""
        parts = range(-1, len(self.wiring.parts))
        own = ([n for n, source in enumerate(self.sources) if source.part == m] for m in parts)
        return tuple(self.writes[rows].sum(0) for rows in own)

    @cached_property
    def totals(self) -> tuple[Float[Tensor, "t d"], ...]:
        """The stream before each part, and after the last."""
        found = [self.written_by[0]]
        for written in self.written_by[1:]:
            found.append(found[-1] + written if self.wiring.accumulates else written)
        return tuple(found)

    def position(self, n: int, who: str = "position", must: str = "be") -> int:
        """The n-th position, negative ones counted from the end. Errors: ArgumentError where there
        is none.
        """
        if not is_whole(n) or not -self.length <= n < self.length:
            raise ArgumentError(who, must=f"{must} {-self.length} … {self.length - 1}", got=n)
        return n % self.length

    def outputs(self, position: int) -> Float[Tensor, " out"]:
        """The outputs at ``position``, from this pass."""
        return self.wiring.outputs(self.streams[-1][position])

    def cap_gate(self, position: int) -> Float[Tensor, " out"] | float:
        """What the soft-cap leaves of each output at ``position``; 1 where there is none."""
        cap = self.wiring.soft_cap
        if cap is None:
            return 1.0
        return soft_cap_gate(self.wiring.before_cap(self.streams[-1][position]), cap)

    def norm(self, part: int) -> Norm:
        """The norm that part ``part`` reads through; the readout's for the last."""
        parts = self.wiring.parts
        return parts[part].norm if part < len(parts) else self.wiring.norm

    def scale_held(self, part: int, position: int) -> tuple[str, ...]:
        """What reading there holds fixed, by name: the scale of the norm, and at the end the
        soft-cap, where there are such.
        """
        last = part == len(self.wiring.parts)
        name = "final" if last else self.wiring.parts[part].name
        scale = (f"σ {name}@{position}",) if normalises(self.norm(part)) else ()
        capped = last and self.wiring.soft_cap is not None
        return (*scale, f"soft-cap@{position}") if capped else scale

    @cached_property
    def opaque(self) -> tuple[str, ...]:
        """The sources that are not taken apart, though they read."""
        ends = (EMBEDDING, POSITION, BIAS)
        return tuple(
            source.name
            for source in self.sources
            if source.kind not in ends and source.name not in self.products
        )

    def source(self, name: str) -> Source:
        return self.sources[self.index[name]]

    def site(self, product: Product, leg: int) -> int:
        """The part whose reading a leg of a product has: mostly its own."""
        return self.wiring.reader(product.source.part, product.form.legs[leg])

    def reader(self, product: Product, leg: int) -> Source:
        """The source that reads there: its own, or the first of that part."""
        n = self.site(product, leg)
        own = n == product.source.part
        return product.source if own else next(s for s in self.sources if s.part == n)

    def linear(
        self, part: int, x: Float[Tensor, "*b d"], position: int | slice
    ) -> Float[Tensor, "*b d"]:
        """What of ``x``, written at ``position``, part ``part`` reads: the norm given its scale,
        its constant apart.
        """
        return self.scales[part][position] * self.norm(part).linear(x)

    def pull(self, part: int, q: Float[Tensor, "*b d"], position: int) -> Float[Tensor, "*b d"]:
        """The transpose of ``linear``: from a functional on what is read to one on the stream."""
        return self.scales[part][position] * self.norm(part).transposed(q)

    def patterns(self, part: int) -> Float[Tensor, "head t s"]:
        """The patterns by which the sources of ``part`` are mixed."""
        return patterns_of(p for p in self.products.values() if p.source.part == part)

    def written(self, part: int, position: int) -> tuple[Float[Tensor, "n d"], Sequence[int]]:
        """What of the stream at ``position`` the part of that number reads, and the sources that
        wrote it: those that write there at all.
        """
        reads = self.reads[part]
        vectors = self.writes[reads.start : reads.stop, position]
        there = self.present[reads.start : reads.stop, position]
        if bool(there.all()):
            return vectors, reads
        rows = there.nonzero()[:, 0]
        return vectors[rows], (rows + reads.start).tolist()

    def inputs_of(self, reader: Source, position: int) -> tuple[Float[Tensor, "n d"], list[Node]]:
        """All that ``reader`` reads at ``position`` but the constant, after the norm, by name."""
        if reader.part in self.replaced:
            return self.replaced[reader.part].at(reader.name, position)
        vectors, reads = self.written(reader.part, position)
        nodes: list[Node] = [Whole(self.sources[n].name, position) for n in reads]
        return self.linear(reader.part, vectors, position), nodes

    def constants(self, product: Product) -> tuple[Float[Tensor, " k"] | None, ...]:
        """What each leg reads whatever the sources wrote: its bias, and the norm's shift.

        A dictionary takes apart what is read after the norm, whose shift is then in its sources.
        """
        moved = [
            None if shift is None else leg.weight @ shift
            for n, leg in enumerate(product.form.legs)
            for shift in [self._shift(self.site(product, n))]
        ]
        return tuple(
            more if leg.bias is None else leg.bias if more is None else leg.bias + more
            for leg, more in zip(product.form.legs, moved, strict=True)
        )

    def _shift(self, part: int) -> Float[Tensor, " d"] | None:
        return None if part in self.replaced else self.norm(part).shift


@explains
@torch.no_grad()
def record(
    model: Expandable,
    inputs: Any,
    dictionaries: Mapping[str, Sparse] | None = None,
    replacements: Mapping[str, Replacement] | None = None,
    given: str | None = None,
) -> Recording:
    """Run ``model`` part by part on one input. Cost: two forward passes, and each head's write
    apart.

    A half-precision model is run in float32, part by part over its half weights (see
    ``wiring.explained``). ``inputs`` may be a recording of this very model, which is then given
    back: so several questions share one.
    ``dictionaries`` by place ("mlp1.input") take apart what layers read there; ``replacements`` by
    layer ("mlp1") what they write. ``given``: which scores of heads without softmax are held as
    this pass has them, as in ``expand``. Errors:
    ArgumentError where inputs, model or dictionaries are not what they must be, and for a part
    whose weights do not add up to its own forward pass (``circuits.understood``); NotFiniteError
    for a write that is not finite.

    >>> run = bilens.circuits.record(model, prompt)
    >>> run.names[0], run.sources[0].name
    ('Once', 'embed')
    """
    require_expandable(model)
    if isinstance(inputs, Recording):
        return _again(model, inputs, bool(dictionaries or replacements or given))
    require_plain(model.wiring())
    run = _pass(explained(model), inputs)
    as_run = _pass(eager(model), inputs) if is_half(model) else None
    wiring = _holding(with_replacements(run.model.wiring(), replacements), given)
    return _recorded(
        run, as_run, wiring, placed(dictionaries, wiring.parts, wiring.readout.shape[1])
    )


def record_alike(recording: Recording, inputs: Any) -> Recording:
    """Another input's pass whose layers come apart as in ``recording``; what they read, by what was
    written. Errors: as ``record``.
    """
    run, as_run = recording.run, recording.as_run
    plain = not any(source.kind == MISSED for source in recording.sources)
    if isinstance(inputs, Recording):
        found = _again((as_run or run).model, inputs, False)
        if plain and not any(source.kind == MISSED for source in found.sources):
            return found
        inputs = found.inputs
    half = None if as_run is None else _pass(as_run.model, inputs)
    return _recorded(_pass(run.model, inputs), half, recording.wiring, {})


def _recorded(
    run: Pass, as_run: Pass | None, wiring: Wiring, by_part: Mapping[int, Sparse]
) -> Recording:
    """A pass, taken apart as ``wiring`` says."""
    found = _Found(run, wiring)
    for n, part in enumerate(wiring.parts):
        with held_in_half(run.model) as narrow:
            found.part(n, part, by_part.get(n), narrow)
    found.readout()
    names = tuple(run.model.input_names(run.inputs))
    return Recording(
        run=run,
        as_run=as_run,
        wiring=wiring,
        inputs=run.inputs,
        text=run.model.text(run.inputs) if isinstance(run.model, Worded) else " ".join(names),
        names=names,
        sources=tuple(found.sources),
        writes=found.stacked(),
        products=found.products,
        reads=tuple(found.reads),
        scales=tuple(found.scales),
        streams=tuple(found.streams),
        replaced=found.replaced,
        present=found.present,
    )


def _again(model: Expandable, recording: Recording, otherwise: bool) -> Recording:
    """A recording in the place of inputs. Errors: ArgumentError for one of another model, or where
    it is to be taken apart ``otherwise``.
    """
    if (recording.as_run or recording.run).model is not eager(model):
        raise ArgumentError("inputs", must="be a recording of this very model", got="another's")
    if otherwise:
        todo = "Record the inputs with them, and pass that recording alone."
        must = "be left out where a recording is given"
        raise ArgumentError("dictionaries, replacements, given", must=must, got="some", todo=todo)
    return recording


def _holding(wiring: Wiring, given: str | None) -> Wiring:
    """The wiring with these scores held. Errors: ArgumentError for other words."""
    if given is None:
        return wiring
    require("given", given, OneOf(GIVEN), ArgumentError)
    parts = tuple(part.holding(given) for part in wiring.parts)
    if all(one is two for one, two in zip(parts, wiring.parts, strict=True)):
        must, got = "be left out of a model whose heads have a softmax", repr(given)
        raise ArgumentError("given", must=must, got=got, todo="Nothing reads it there.")
    return replace(wiring, parts=parts)


def _pass(model: Expandable, inputs: Any) -> Pass:
    return Pass(model, model.read(inputs))


class _Found:
    """A recording in the making: the stream, part by part."""

    def __init__(self, run: Pass, wiring: Wiring) -> None:
        self.wiring = wiring
        leaves = run.model.leaves(run.inputs)
        self.sources = list(self.wiring.leaves)
        self.writes = [leaves[source.name] for source in self.sources]
        # the stream before any part and after each, and how many sources had written by then
        self.totals = [(_sum(self.writes), len(self.sources))]
        self.streams: list[Tensor] = []
        self.products: dict[str, Product] = {}
        self.reads: list[range] = []
        self.scales: list[Tensor] = []
        self.replaced: dict[int, Replaced] = {}
        self.rows: dict[int, Tensor] = {}  # of the sources that write at some positions alone

    def part(
        self, n: int, part: Part, dictionary: Sparse | None, narrow: Callable[[Form], Form]
    ) -> None:
        """What one part reads and writes, of which ``narrow`` says what form is kept."""
        read = self.read(n, f"the norm of {part.name}", part.norm, part.beside)
        part = part.sharing(self.shared(part.shares))
        written = part.writes(read)
        values = require_writes(part, read, written)
        if dictionary is not None:
            require_short(part, written)
            self.replaced[n] = take_apart(part.name, dictionary, read)
        for write, value in zip(written, values, strict=True):
            held = isinstance(write, Product)
            self.write(n, replace(write, form=narrow(write.form)) if held else write, value)
        total, (before, _) = _sum(values), self.totals[-1]
        after = before + total if self.wiring.accumulates else total
        self.totals.append((after, len(self.sources)))

    def write(self, n: int, write: Write, value: Tensor) -> None:
        source = replace(write.source, part=n)
        if RESERVED.fullmatch(source.name) or source.name in {one.name for one in self.sources}:
            raise ArgumentError(
                "a source's name", must="be its own and none of a path's words", got=source.name
            )
        if not isinstance(write, Constant) and write.rows is not None:
            self.rows[len(self.sources)] = write.rows
        self.sources.append(source)
        self.writes.append(value)
        if isinstance(write, Product):
            _require_one_reading(write)
            self.products[source.name] = replace(write, source=source)

    def read(self, n: int, who: str, norm: Norm, beside: int = 0) -> Tensor:
        """What is read through ``norm`` of the stream so far, the last parts' writes apart."""
        stream, written = self.totals[-1 - beside]
        self.streams.append(stream)
        self.reads.append(self.read_by(n, written))
        self.scales.append(norm.scale(stream))
        require_norm(who, norm, stream)
        return norm(stream)

    def shared(self, name: str) -> Tensor | None:
        """What the part of that name read."""
        if not name:
            return None
        n = self.wiring.places[name]
        return self.wiring.parts[n].norm(self.streams[n])

    def readout(self) -> None:
        self.read(len(self.wiring.parts), "the final norm", self.wiring.norm)

    def read_by(self, n: int, written: int) -> range:
        """Which of the first ``written`` sources part ``n`` reads."""
        if self.wiring.accumulates or n == 0:
            return range(written)
        first = next(i for i, source in enumerate(self.sources) if source.part == n - 1)
        return range(first, written)

    @property
    def present(self) -> Bool[Tensor, "n t"]:
        """Where each source writes."""
        length, device = len(self.streams[0]), self.streams[0].device
        there = torch.ones(len(self.sources), length, dtype=torch.bool, device=device)
        for n, rows in self.rows.items():
            there[n] = False
            there[n, rows] = True
        return there

    def stacked(self) -> Float[Tensor, "n t d"]:
        stacked = torch.stack(self.writes).detach()
        require_finite("the forward pass", writes=stacked)
        return stacked


def _require_one_reading(write: Product) -> None:
    """Raise ArgumentError where two legs, whose inputs stand on either, read different things."""
    of = {leg.of for leg in write.form.legs}
    if write.degree == 2 and len(of) > 1:
        must, got = "have two legs of one reading", " and ".join(sorted(of)).strip()
        raise ArgumentError(write.source.name, must=must, got=f"its own {got}")


def _sum(writes: list[Tensor]) -> Tensor:
    """The stream, added up in the order in which the model adds."""
    total = writes[0]
    for write in writes[1:]:
        total = total + write
    return total
