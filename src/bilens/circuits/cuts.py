"""What is taken out of a pass, by name: components, edges, products, positions.

    what   := position | item ["@" position]
    item   := source                          all that it writes: "L0H3", "mlp1", "embed"
            | part                            all of an attention layer's heads: "attn0"
            | source "→" reader ["." leg]     what one part reads of another: "L0H2→L1H0.K"
            | source "(" source, … ")"        one product of what a layer reads: "mlp1(mlp0, L1H3)"

A head that mixes in values of the first layer is two sources, "L1H0" by its own values and
"L1H0.first" by those: both together are the head.

A leg is Q, K or V; of a head of two scores also Q1, K1, Q2 or K2. A reader is a part, one of its
sources, or "logits", what the readout reads. "->" is an arrow too. A product in such a head names
its legs: "L1H0(q1: embed, k1: L0H1, q2: embed, k2: embed, v: embed)".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bilens.base.errors import ArgumentError
from bilens.base.numerics import holds_several, is_whole
from bilens.circuits.paths import ONE, Apply, One, Write, parse
from bilens.circuits.recording import Recording
from bilens.wiring import BIAS, EMBEDDING, POSITION, Source

LOGITS = "logits"
LEAVES = (EMBEDDING, POSITION)
ARROW = re.compile(r"\s*(?:→|->)\s*")
SUFFIX = re.compile(r"(?P<item>.*[^\s@])\s*@\s*(?P<position>-?\d+)\s*", re.DOTALL)
LOOK = re.compile(r"@\s*\d+(?:\s*,\s*\d+)*\s*(?:→|->)\s*\d+")
LEG = re.compile(r"(?P<reader>.+)\.(?P<leg>[QK][12]?|V)")


@dataclass(frozen=True)
class Cut:
    """What is taken out: ``part`` is where the pass changes first, −1 for what the model writes
    first and the number of parts for the readout; ``where``: at which positions.
    """

    text: str
    part: int
    where: tuple[int, ...]
    sources: tuple[str, ...]

    def placed(self) -> str:
        """Its text with its positions, "mlp0@1,2", where it does not name its own."""
        if _parted(self.text)[1] or self.text.startswith("@"):
            return self.text
        return f"{self.text}@{','.join(map(str, self.where))}"


@dataclass(frozen=True)
class Component(Cut):
    """All that ``sources`` of one part write; where it is ``whole``, whatever else it
    writes but constants: latents too that other passes have.
    """

    whole: bool = False


@dataclass(frozen=True)
class Edge(Cut):
    """What ``reader`` reads of ``sources``: a source of the part or, where it is empty, all of
    them; ``leg``: its queries, keys or values alone.
    """

    reader: str = ""
    leg: str = ""


@dataclass(frozen=True)
class Product(Cut):
    """The product of ``sources`` in what ``reader`` writes, in both orders."""

    reader: str = ""


def read_cuts(
    recording: Recording, what: object, at: object = None, other: Recording | None = None
) -> tuple[Cut, ...]:
    """``what`` is taken out, one thing or several, at the positions ``at`` where it names none.
    ``other``: the pass whose activations may stand in its place.

    Errors: ArgumentError for what names nothing of the model, and for parts that do not follow one
    another.
    """
    several = what if holds_several(what) else (what,)
    found = [cut for cuts in read_each(recording, several, at, other) for cut in cuts]
    return tuple(dict.fromkeys(found))


def read_each(
    recording: Recording,
    what: object,
    at: object = None,
    other: Recording | None = None,
) -> list[tuple[Cut, ...]]:
    """Each of several things, to be taken out alone. Errors as ``read_cuts``."""
    read = _Reader(recording, _positions(recording, at), other)
    if not holds_several(what):
        must = "be a list of what to take out, each alone"
        raise ArgumentError("what", must=must, got=repr(what))
    named = list(what)
    found = [tuple(read.cuts(one)) for one in named]
    if not found:
        raise ArgumentError("what", must="name at least one component", got="none")
    if at is not None and all(is_whole(one) or _parted(str(one))[1] for one in named):
        must = "be left out where all that is taken out names its own position"
        raise ArgumentError("at", must=must, got=f"{at} for {', '.join(map(str, named))}")
    return found


def _positions(recording: Recording, at: object) -> tuple[int, ...]:
    """The positions that ``at`` says: all, one, or several."""
    if at is None:
        return tuple(range(recording.length))
    if not is_whole(at) and not holds_several(at):
        raise ArgumentError("at", must="be positions, or one", got=repr(at))
    given: list[Any] = list(at) if holds_several(at) else [at]
    if not given:
        raise ArgumentError("at", must="name at least one position", got="none")
    return tuple(sorted({recording.position(n, "at", "hold positions") for n in given}))


def _parted(text: str) -> tuple[str, str]:
    """What is taken out, and the position that it names itself, or ""."""
    suffix = SUFFIX.fullmatch(text)
    return (suffix["item"], suffix["position"]) if suffix else (text, "")


class _Reader:
    """From texts to what they name in one recording."""

    def __init__(
        self, recording: Recording, where: tuple[int, ...], other: Recording | None
    ) -> None:
        self.recording, self.where, self.other = recording, where, other
        single = [source for source in recording.sources if source.kind != BIAS]
        self.named: dict[str, tuple[Source, ...]] = {s.name: (s,) for s in single}
        self.readers = {source.name: source.part for source in single if source.part >= 0}
        for n, part in enumerate(recording.wiring.parts):
            # all of a layer, what it writes always too; all of a part that looks are its heads
            among = single if part.looks else recording.sources
            own = tuple(source for source in among if source.part == n)
            self.named.setdefault(part.name, own)
            self.readers.setdefault(part.name, n)

    def cuts(self, one: object) -> list[Cut]:
        """What one name, or one position, means."""
        if is_whole(one):
            return [self.position(one, f"@{one}")]  # type: ignore[arg-type]
        if not isinstance(one, str):
            must = 'name components, "L0H3" or "mlp1(mlp0, L0H3)" say, or be positions'
            raise ArgumentError("what", must=must, got=repr(one))
        return [self.item(one.strip())]

    def position(self, n: object, text: str) -> Cut:
        """All that is written first at one position."""
        where = (self.recording.position(n, "what", "be a position"),)  # type: ignore[arg-type]
        leaves = tuple(s.name for s in self.recording.sources if s.kind in LEAVES)
        return Component(text, -1, where, leaves)

    def item(self, text: str) -> Cut:
        if LOOK.search(text):
            todo = 'Name an edge and where it is read: "mlp0→L1H0.V", at=[5].'
            must = "name one step, without where a head looks"
            raise ArgumentError(f"{text!r}", must=must, got="a path", todo=todo)
        where, (item, position) = self.where, _parted(text)
        if position:
            where = (self.recording.position(int(position), f"the position of {text!r}"),)
        if ARROW.search(item):
            return self.edge(text, item, where)
        if "(" in item:
            return self.product(text, item, where)
        sources = self.sources(item, "what")
        whole = item not in self.recording.index
        return Component(text, sources[0].part, where, tuple(s.name for s in sources), whole)

    def sources(self, name: str, who: str) -> tuple[Source, ...]:
        """The sources that a name means: one, or all of a part that come apart from it."""
        if not self.named.get(name):
            listed = ", ".join(name for name, sources in self.named.items() if sources)
            raise ArgumentError(who, must=f"be among {listed}", got=repr(name))
        return self.named[name]

    def edge(self, text: str, item: str, where: tuple[int, ...]) -> Cut:
        ends = ARROW.split(item)
        if len(ends) != 2:
            must = "have one arrow, from what is read to what reads it"
            raise ArgumentError(f"the edge {text!r}", must=must, got=f"{len(ends) - 1}")
        name, reader = ends
        sources = self.sources(name, f"where the edge {text!r} begins")
        if reader == LOGITS:
            part, own, leg = len(self.recording.wiring.parts), "", ""
        else:
            part, own, leg = self.reader(text, reader)
        at = self.site(part, own, leg)
        self.require_read(text, at, reader, [source.name for source in sources])
        carried = (*sources, *self.appearing(name, sources[0].part))
        return Edge(text, part, where, tuple(s.name for s in carried), own, leg)

    def appearing(self, name: str, part: int) -> tuple[Source, ...]:
        """Of a whole part, what the other pass alone has of it: latents active there."""
        if self.other is None or name in self.recording.index:
            return ()
        there = (source for source in self.other.sources if source.part == part)
        return tuple(source for source in there if source.name not in self.recording.index)

    def reader(self, text: str, name: str) -> tuple[int, str, str]:
        """The part that reads, which of its sources alone, and by which leg."""
        leg = ""
        if name not in self.readers and (found := LEG.fullmatch(name)):
            name, leg = found["reader"], found["leg"]
        if name not in self.readers:
            listed = ", ".join((*self.readers, LOGITS))
            must = f"be among {listed}"
            raise ArgumentError(f"where the edge {text!r} ends", must=must, got=repr(name))
        n = self.readers[name]
        part = self.recording.wiring.parts[n]
        own = name if name != part.name else ""
        if own and part.experts:
            self.refuse_expert(text, own)
        if leg and part.attention is None:
            must = "be an attention layer's or head's, to have queries, keys and values"
            raise ArgumentError(f"where the edge {text!r} ends", must=must, got=name)
        if not any(one.startswith(leg) for one in part.legs):
            must = f"read by one of its legs: {', '.join(part.legs)}"
            raise ArgumentError(f"where the edge {text!r} ends", must=must, got=leg)
        self.require_understood(text, n, own)
        return n, own, leg

    def site(self, part: int, own: str, leg: str) -> int:
        """The part whose reading the values of a source have, where they alone are asked."""
        product = self.recording.products.get(own)
        values = (
            product is not None and bool(leg) and leg == self.recording.wiring.parts[part].legs[-1]
        )
        return self.recording.site(product, -1) if product is not None and values else part

    def refuse_expert(self, text: str, name: str) -> NoReturn:
        """An expert is routed by what the whole mixture reads."""
        must = "be a whole layer, or a head"
        todo = "The router reads what experts read: name the mixture, or the expert's write."
        raise ArgumentError(f"where the edge {text!r} ends", must=must, got=name, todo=todo)

    def require_understood(self, text: str, part: int, own: str) -> None:
        """Raise ArgumentError for a reader that says nothing of its write."""
        sources = [s.name for s in self.recording.sources if s.part == part]
        opaque = set(sources if not own else [own]) & set(self.recording.opaque)
        if opaque:
            must = "come apart, to be read without one of its inputs"
            todo = "It is opaque: take it out whole."
            raise ArgumentError(f"{text!r}: {min(opaque)}", must=must, got="no", todo=todo)

    def product(self, text: str, item: str, where: tuple[int, ...]) -> Cut:
        node = parse(item)
        if not isinstance(node, Apply):
            must = 'be a layer and what it multiplies, "mlp1(mlp0, L0H3)" say'
            raise ArgumentError(f"{text!r}", must=must, got="no product")
        reader = node.source
        if reader not in self.recording.products:
            listed = ", ".join(self.recording.products)
            raise ArgumentError(f"{text!r}: what reads", must=f"be among {listed}", got=reader)
        written = self.recording.products[reader]
        if node.legs != written.names:
            must = f"name its legs: {reader}({', '.join(f'{leg}: …' for leg in written.names)})"
            must = must if written.names else f"name no legs of {reader}"
            raise ArgumentError(f"{text!r}", must=must, got=", ".join(node.legs) or "none")
        inputs = [self.input(text, child) for child in node.inputs]
        if len(inputs) != written.degree:
            must = f"have {written.degree} inputs, as {reader} multiplies so many"
            raise ArgumentError(f"{text!r}", must=must, got=len(inputs))
        part = written.source.part
        for leg, name in enumerate(inputs):
            at = self.recording.site(written, leg)
            self.require_read(text, at, reader, [name] if name != ONE else [])
        if self.recording.wiring.parts[part].experts:
            self.refuse_expert(text, reader)
        if ONE in inputs and not any(c is not None for c in self.recording.constants(written)):
            must = "be read, where there is a bias"
            raise ArgumentError(f"{text!r}: the constant 1", must=must, got=f"none in {reader}")
        return Product(text, part, where, tuple(inputs), reader)

    def input(self, text: str, node: object) -> str:
        """What one input of a product is called."""
        if isinstance(node, One):
            return ONE
        if not isinstance(node, Write):
            must = "be sources, or 1"
            todo = "A path of several steps is a term of expand; ablate takes it out of the sum."
            raise ArgumentError(f"{text!r}: what is multiplied", must=must, got="a path", todo=todo)
        who = f"{text!r}: what is multiplied"
        first, *others = (source.name for source in self.sources(node.source, who))
        if others:
            todo = "Name a product for each of them, several together."
            got = f"{node.source}, which is {first}, {', '.join(others)}"
            raise ArgumentError(who, must="be one source", got=got, todo=todo)
        return first

    def require_read(self, text: str, part: int, reader: str, names: Sequence[str]) -> None:
        """Raise ArgumentError unless a part reads all of ``names``."""
        read = [self.recording.sources[n].name for n in self.recording.reads[part]]
        for name in names:
            if name not in read:
                listed = ", ".join(read)
                must = f"be among what {reader} reads: {listed}"
                raise ArgumentError(f"{text!r}: {name}", must=must, got="what it does not read")
