"""The engine of expansions: the value of every way to take one node of a path one step further
apart.

Two verbs. ``pull``: a functional on what a node writes goes down to one on what an input of it is,
through a head, given its pattern, by the transpose of its weights; through a product by all that
its other inputs give. ``split``: a node as children whose values add up to its own:

    a head at t          q · Σ_s A_ts W_O W_V x̂_s            over positions s and all that x̂_s is
    a bilinear layer     q · T(x̂, x̂) = Σ_a Q_aa + Σ_a<b 2 Q_ab    over unordered pairs of its
                         inputs
    a longer product     leg by leg: first over where each leg stands, and which reads the stream
                         and which its constant; a head without softmax among them

Two equal inputs of a bilinear layer are taken apart together, into unordered pairs, so that no path
is met twice. A layer that reads through a dictionary has its latents, base and error in place of
what the stream is a sum of; they are ends.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.circuits.paths import Apply, Latent, Node, One, Stream, Write, position, stands
from bilens.circuits.recording import Recording
from bilens.wiring import Mix, Multilinear, Product

BLOCK = 1024  # rows of a matrix of pairs at a time
KEPT = 4096  # hidden features of subtrees kept for reuse


K = TypeVar("K")
V = TypeVar("V")


class Children(NamedTuple):
    """The children's values; their nodes, made when asked for; the value of those too small to be
    kept, and their number.
    """

    values: Float[np.ndarray, " n"]
    node: Callable[[int], Node]
    rest: float = 0.0
    dropped: int = 0


class Parts(NamedTuple):
    """The children of a node as vectors, not yet as values."""

    vectors: Float[Tensor, "n d"]
    node: Callable[[int], Node]


class Read(NamedTuple):
    """All that a product reads at one position: a node, where it stands, and its features
    by leg.
    """

    nodes: list[Node]
    at: list[int]
    features: tuple[Float[Tensor, "n k"], ...]


class Engine:
    """Takes the paths of one recorded pass apart."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._constants = {
            name: recording.constants(product) for name, product in recording.products.items()
        }
        self._read: dict[tuple[str, int], Read] = {}
        self._features: dict[tuple[str, int, Node], tuple[Tensor, ...]] = {}
        self._sides: dict[tuple[str, int, int, int, Node], Tensor] = {}
        self._leaf = functools.cache(Write)  # one of each: they stand in very many paths

    def expandable(self, node: Node) -> bool:
        """Whether anything in ``node`` can be taken further apart."""
        if isinstance(node, Apply):
            return any(map(self.expandable, node.inputs))
        if isinstance(node, Write):
            return node.source in self.recording.products
        return isinstance(node, Stream)

    # Split: one step further apart.

    def split(self, node: Node, q: Float[Tensor, " d"], room: int) -> Children:
        """The children of ``node``, valued by ``q`` on what it writes.

        Where equal inputs of a layer come apart, the ``room`` largest are kept.
        """
        match node:
            case Write(source, t):
                return self._write(self.recording.products[source], t, q)
            case Stream(reader, s):
                return self._stream(reader, s, q)
            case Apply():
                return self._inside(node, q, room)
        raise AssertionError(node)

    def _write(self, product: Product, t: int, q: Tensor) -> Children:
        match product:
            case Multilinear(degree=1):
                return self._by_source(product, t, q)
            case Multilinear(degree=2):
                half, read = self._half(product, t, q)
                return _unordered(_numpy(half), _pair(product, t, read))
        hidden, node = self._legs(product, t)
        return Children(_numpy(hidden @ product.down(q, t)), node)

    def _by_source(self, product: Multilinear, t: int, q: Tensor) -> Children:
        """Degree 1 at t, over all that is read and its constant. O(sources · positions · d)."""
        name, mix = product.source.name, product.mix(0)
        hidden = product.down(q, t)
        down = hidden @ product.form.legs[0].weight
        if mix is None:
            vectors, nodes = self.recording.inputs_of(self.recording.reader(product, 0), t)
            values, node = vectors @ down, lambda n: Apply(name, t, (nodes[n],))
        else:
            values, node = self._over_positions(product, mix, t, down)
        constant = self._constants[name][0]
        if constant is None:
            return Children(_numpy(values), node)
        values = torch.cat([values, (product.mass(0, t) * (constant @ hidden))[None]])
        last = Apply(name, t, (One(),), () if mix is None else (t,))
        end = len(values) - 1
        return Children(_numpy(values), lambda n: last if n == end else node(n))

    def _over_positions(
        self, product: Multilinear, mix: Mix, t: int, down: Tensor
    ) -> tuple[Tensor, Callable[[int], Node]]:
        """What each source gives from each position where a head looks, and its node."""
        record, name, part = self.recording, product.source.name, self.recording.site(product, 0)
        reads, stop = record.reads[part], mix.seen(t).stop
        weights = mix.values[t, :stop] * record.scales[part][:stop, 0]
        writes = record.writes[reads.start : reads.stop, :stop]
        values = (writes @ record.norm(part).transposed(down)) * weights
        names, write = [record.sources[row].name for row in reads], self._leaf

        def node(n: int) -> Apply:
            return Apply(name, t, (write(names[n // stop], n % stop),), (n % stop,))

        there = record.present[reads.start : reads.stop, :stop].flatten()
        if bool(there.all()):
            return values.flatten(), node
        at = there.nonzero()[:, 0].tolist()
        return values.flatten()[there], lambda n: node(at[n])

    def _stream(self, reader: str, s: int, q: Tensor) -> Children:
        """All that a source reads at s, by what wrote it."""
        parts = self._stream_parts(reader, s)
        return Children(_numpy(parts.vectors @ q), parts.node)

    def pair_matrix(
        self, name: str, t: int, q: Float[Tensor, " d"]
    ) -> tuple[Float[Tensor, "n n"], list[Node]]:
        """A layer's unordered pairs at t in the upper triangle, both orders together, and what its
        rows stand for.
        """
        half, read = self._half(self.recording.products[name], t, q)
        return half.triu() + half.mT.triu(1), read.nodes

    def _half(self, product: Product, t: int, q: Tensor) -> tuple[Tensor, Read]:
        """(L X)ᵀ Λ (R X) over all that the layer reads at t. O(h n²) for n sources."""
        read = self._reads(product, t)
        left, right = read.features
        return (left * product.down(q, t)) @ right.mT, read

    def _inside(self, node: Apply, q: Tensor, room: int) -> Children:
        """Inside a product: the first input that comes apart, or both of a layer that are equal."""
        product = self.recording.products[node.source]
        if _twice(node):
            parts = self._parts(node.inputs[0])
            s = position(node.inputs[0], node.t)
            a, b = self._both(product, parts.vectors, node.t, s)
            hidden = product.down(q, node.t)
            return _largest_pairs(a * hidden, b, _paired(node, parts), room)
        n = self._first(node)
        inner = self.split(node.inputs[n], self.pull(node, n, q), room)
        return inner._replace(node=lambda m: _with(node, n, inner.node(m)))

    # Pull: a functional down one step.

    def pull(self, node: Apply, n: int, q: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """From a functional on what ``node`` writes to one on the stream that input n is
        part of.
        """
        product, t = self.recording.products[node.source], node.t
        s, hidden = stands(node)[n], product.down(q, t)
        pulled = (
            product.partial(leg, sides, hidden, t, at) for leg, sides, at in self._on(node, n)
        )
        return self.recording.pull(self.recording.site(product, n), _sum(pulled), s)

    def _on(self, node: Apply, n: int) -> list[tuple[int, Sequence[Tensor], tuple[range, ...]]]:
        """The legs that input n stands on, with what each leg makes of the other inputs then
        (nothing, of n itself), and where all stand: of two inputs, each stands on either leg.
        """
        product, t = self.recording.products[node.source], node.t
        if product.degree == 2:
            s, sides = stands(node)[n], self.features(product, t, node.inputs[1 - n])
            return [(leg, sides, (range(s, s + 1),) * 2) for leg in range(2)]
        nothing = product.form.out.new_empty(0)
        sides = [
            nothing if leg == n else self._side(product, t, leg, child, s)
            for leg, (child, s) in enumerate(zip(node.inputs, stands(node), strict=True))
        ]
        return [(n, sides, _ranges(node))]

    # What paths write.

    def vector(self, node: Node) -> Float[Tensor, " d"]:
        """What a path writes where it stands."""
        match node:
            case Write(source, t):
                return self.recording.writes[self.recording.index[source], t]
            case Stream(reader, s):
                return self.recording.streams[self.recording.source(reader).part][s]
            case Apply(source, t):
                product = self.recording.products[source]
                return product.up(self._product(product, node), t)
        raise AssertionError(node)

    def by_unit(self, node: Write | Apply, q: Float[Tensor, " d"]) -> Float[Tensor, " k"]:
        """What each hidden feature of a product writes in ``node`` towards ``q``: they add up to
        q · its vector. The product reads its own position alone.
        """
        product, t = self.recording.products[node.source], node.t
        if isinstance(node, Apply):
            return product.down(q, t) * self._product(product, node)
        return product.down(q, t) * self.sides(product, t).prod(0)

    def sides(self, product: Product, t: int) -> Float[Tensor, "n k"]:
        """The features that a product multiplies at t, a row for each leg, of all that it reads."""
        sites = [self.recording.site(product, n) for n in range(product.degree)]
        reads = [self.recording.norm(n)(self.recording.streams[n][t]) for n in sites]
        return torch.stack([leg(x) for leg, x in zip(product.form.legs, reads, strict=True)])

    def _product(self, product: Product, node: Apply) -> Tensor:
        """The hidden features of a product of inputs; of two, both orders where they differ."""
        if product.degree != 2:
            sides = [
                self._side(product, node.t, leg, child, s)
                for leg, (child, s) in enumerate(zip(node.inputs, stands(node), strict=True))
            ]
            return product.joined(sides, node.t, _ranges(node)).flatten()
        (a, b), (c, d) = (self.features(product, node.t, child) for child in node.inputs)
        return a * b if node.inputs[0] == node.inputs[1] else a * d + c * b

    def features(self, product: Product, t: int, node: Node) -> tuple[Tensor, ...]:
        """Hidden features, (k) for each leg, of what a path gives to a product at t: of one whose
        inputs stand on either leg.
        """
        key = (product.source.name, t, node)
        return _kept(self._features, key, lambda: self._made_features(product, t, node))

    def _made_features(self, product: Product, t: int, node: Node) -> tuple[Tensor, ...]:
        if isinstance(node, Latent):
            read = self._reads(product, t)
            n = read.nodes.index(node)
            return tuple(side[n] for side in read.features)
        s, legs = position(node, t), range(product.degree)
        if isinstance(node, One):
            return tuple(self._made_side(product, t, leg, node, s) for leg in legs)
        sides = self._both(product, self.vector(node)[None], t, s)
        return tuple(side[0] for side in sides)

    def _side(self, product: Product, t: int, leg: int, node: Node, s: int) -> Float[Tensor, " k"]:
        """What one leg, which stands at s, makes of a path for a product at t."""
        key = (product.source.name, t, leg, s, node)
        return _kept(self._sides, key, lambda: self._made_side(product, t, leg, node, s))

    def _made_side(self, product: Product, t: int, leg: int, node: Node, s: int) -> Tensor:
        match node:
            case One():
                constant = self._constants[product.source.name][leg]
                if constant is None:
                    constant = product.form.legs[leg].weight.new_zeros(
                        len(product.form.legs[leg].weight)
                    )
                return product.constant(leg, constant, t, range(s, s + 1))[0]
            case Latent():
                return self.features(product, t, node)[leg]
        return self._on_leg(product, self.vector(node)[None], t, leg, s)[0]

    def _on_leg(
        self, product: Product, vectors: Float[Tensor, "n d"], t: int, leg: int, s: int
    ) -> Float[Tensor, "n k"]:
        """What one leg, which stands at s, makes for a product at t of what was written there."""
        read = self.recording.linear(self.recording.site(product, leg), vectors, s)
        return product.feature(leg, read, t, range(s, s + 1))

    def _both(
        self, product: Product, vectors: Float[Tensor, "n d"], t: int, s: int
    ) -> list[Float[Tensor, "n k"]]:
        """What each leg of a layer, all of which stand at s, makes of what was written there."""
        read, at = (
            self.recording.linear(self.recording.site(product, 0), vectors, s),
            range(s, s + 1),
        )
        return [product.feature(leg, read, t, at) for leg in range(product.degree)]

    def _reads(self, product: Product, t: int) -> Read:
        """All that a product reads at t by leg, the constant first where there is one."""
        key = (product.source.name, t)
        if key not in self._read:
            self._read[key] = self._made_reads(product, t)
        return self._read[key]

    def _made_reads(self, product: Product, t: int) -> Read:
        legs = range(product.degree)
        nodes: list[Node] = []
        at: list[int] = []
        sides: list[list[Tensor]] = [[] for _ in legs]
        if any(constant is not None for constant in self._constants[product.source.name]):
            nodes, at = [One()], [t]
            for leg, side in enumerate(self._made_features(product, t, One())):
                sides[leg].append(side[None])
        for s in sorted(self._read_at(product, t)):
            vectors, named = self.recording.inputs_of(self.recording.reader(product, 0), s)
            nodes, at = nodes + named, at + [s] * len(named)
            for leg in legs:
                sides[leg].append(product.feature(leg, vectors, t, range(s, s + 1)))
        return Read(nodes, at, tuple(torch.cat(side) for side in sides))

    def _read_at(self, product: Product, t: int) -> set[int]:
        """The positions that a product reads at t."""
        reads = [True] * product.degree
        return {s for at in product.stands(t, reads) for there in at for s in there}

    # Children as vectors, where they are to be multiplied with one another.

    def _parts(self, node: Node) -> Parts:
        match node:
            case Write(source, t):
                product = self.recording.products[source]
                match product:
                    case Multilinear(degree=1):
                        return self._write_parts(product, t)
                    case Multilinear(degree=2):
                        return self._pair_parts(product, t)
                hidden, made = self._legs(product, t)
                return Parts(product.up(hidden, t), made)
            case Stream(reader, s):
                return self._stream_parts(reader, s)
            case Apply():
                return self._apply_parts(node)
        raise AssertionError(node)

    def _stream_parts(self, reader: str, s: int) -> Parts:
        record = self.recording
        vectors, reads = record.written(record.source(reader).part, s)
        return Parts(vectors, lambda n: self._leaf(record.sources[reads[n]].name, s))

    def _write_parts(self, product: Multilinear, t: int) -> Parts:
        """Of degree 1, by position alone where it looks, as pairs of its sources would be many."""
        name, constant = product.source.name, self._constants[product.source.name][0]
        mix, weight = product.mix(0), product.form.legs[0].weight
        if mix is None:
            vectors, nodes = self.recording.inputs_of(self.recording.reader(product, 0), t)
            hidden, at = vectors @ weight.mT, [()] * len(nodes)
        else:
            part, seen = self.recording.site(product, 0), mix.seen(t)
            reader = self.recording.reader(product, 0).name
            stream = self.recording.streams[part][: seen.stop]
            read = self.recording.linear(part, stream, slice(0, seen.stop))
            hidden = mix.values[t, : seen.stop, None] * (read @ weight.mT)
            nodes, at = [Stream(reader, s) for s in seen], [(s,) for s in seen]
        if constant is not None:
            hidden = torch.cat([hidden, (product.mass(0, t) * constant)[None]])
            nodes, at = [*nodes, One()], [*at, (t,) if product.looks else ()]
        return Parts(product.up(hidden, t), lambda n: Apply(name, t, (nodes[n],), at[n]))

    def _pair_parts(self, product: Product, t: int) -> Parts:
        """A layer's write as the vectors of all its unordered pairs."""
        read = self._reads(product, t)
        return _all_pairs(product, t, read.features, _pair(product, t, read))

    def _legs(
        self, product: Product, t: int
    ) -> tuple[Float[Tensor, "n k"], Callable[[int], Apply]]:
        """Any product: each leg on the stream where it stands, or on its constant, as hidden
        features.
        """
        made, named = [], []
        legs = range(product.degree)
        for on in itertools.product(*(self._choices(product, leg) for leg in legs)):
            for at in product.stands(t, [one != One() for one in on]):
                sides = [self._side_of(product, t, leg, on[leg], at[leg]) for leg in legs]
                made.append(product.joined(sides, t, at))
                named += [(on, at, n) for n in range(max(map(len, at)))]
        name, looks, names = product.source.name, product.looks, product.names
        streams = [self._whole(product, leg) for leg in legs]

        def node(m: int) -> Apply:
            on, at, n = named[m]
            where = tuple(there[min(n, len(there) - 1)] for there in at)
            inputs = (
                one if one == One() else stream(s)
                for one, stream, s in zip(on, streams, where, strict=True)
            )
            return Apply(name, t, tuple(inputs), where if looks else (), names)

        return torch.cat(made), node

    def _whole(self, product: Product, leg: int) -> Callable[[int], Node]:
        """All that a leg reads at a position: the stream, or the source that is all of it."""
        reads = self.recording.reads[self.recording.site(product, leg)]
        if len(reads) == 1 and bool(self.recording.present[reads[0]].all()):
            return functools.partial(self._leaf, self.recording.sources[reads[0]].name)
        return functools.partial(Stream, self.recording.reader(product, leg).name)

    def _choices(self, product: Product, leg: int) -> tuple[Node, ...]:
        """What a leg may stand on: the stream, and its constant where it has one."""
        constant = self._constants[product.source.name][leg]
        stream = Stream(product.source.name)
        return (stream,) if constant is None else (stream, One())

    def _side_of(
        self, product: Product, t: int, leg: int, on: Node, at: range
    ) -> Float[Tensor, "n k"]:
        """What a leg makes of the whole stream, or of its constant, at each place of ``at``."""
        if on == One():
            constant = self._constants[product.source.name][leg]
            assert constant is not None  # as it was chosen
            return product.constant(leg, constant, t, at)
        part, where = self.recording.site(product, leg), slice(at.start, at.stop)
        read = self.recording.linear(part, self.recording.streams[part][where], where)
        return product.feature(leg, read, t, at)

    def _apply_parts(self, node: Apply) -> Parts:
        """The children of what comes apart inside a product, as what the product makes of them."""
        product, t = self.recording.products[node.source], node.t
        if _twice(node):
            inner = self._parts(node.inputs[0])
            sides = self._both(product, inner.vectors, t, position(node.inputs[0], t))
            return _all_pairs(product, t, sides, _paired(node, inner))
        n = self._first(node)
        inner, s = self._parts(node.inputs[n]), stands(node)[n]
        joined = []
        for leg, sides, at in self._on(node, n):
            moved = self._on_leg(product, inner.vectors, t, leg, s)
            joined.append(product.joined([*sides[:leg], moved, *sides[leg + 1 :]], t, at))
        return Parts(product.up(_sum(joined), t), lambda m: _with(node, n, inner.node(m)))

    def _first(self, node: Apply) -> int:
        """The first input that comes further apart."""
        return next(n for n, child in enumerate(node.inputs) if self.expandable(child))


def _kept(found: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is known under ``key``, made where it is not; beyond ``KEPT`` all is forgotten."""
    if key not in found:
        if len(found) >= KEPT:
            found.clear()
        found[key] = make()
    return found[key]


def _twice(node: Apply) -> bool:
    """Whether it is a layer fed twice with the same: these come apart together."""
    return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]


def _with(node: Apply, n: int, child: Node) -> Apply:
    """The same product with another n-th input."""
    inputs = (*node.inputs[:n], child, *node.inputs[n + 1 :])
    return replace(node, inputs=inputs)


def _ranges(node: Apply) -> tuple[range, ...]:
    """Where its inputs stand."""
    return tuple(range(s, s + 1) for s in stands(node))


def _paired(node: Apply, parts: Parts) -> Callable[[int, int], Node]:
    return lambda i, j: Apply(node.source, node.t, (parts.node(i), parts.node(j)), node.at)


def _pair(product: Product, t: int, read: Read) -> Callable[[int, int], Node]:
    """The node of two things that a product reads at t, by number."""
    return lambda a, b: Apply(
        product.source.name,
        t,
        (read.nodes[a], read.nodes[b]),
        (read.at[a], read.at[b]) if product.looks else (),
    )


def _all_pairs(
    product: Product,
    t: int,
    sides: Sequence[Float[Tensor, "n k"]],
    node: Callable[[int, int], Node],
) -> Parts:
    """All unordered pairs of n things on the two legs, both orders of each together."""
    left, right = sides
    rows, columns = torch.triu_indices(len(left), len(left), device=left.device)
    other = (left[columns] * right[rows]) * (rows != columns)[:, None]
    hidden = left[rows] * right[columns] + other
    first, second = rows.cpu(), columns.cpu()
    return Parts(product.up(hidden, t), lambda n: node(int(first[n]), int(second[n])))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Of one tensor or several."""
    return functools.reduce(torch.add, terms)


def _unordered(half: np.ndarray, node: Callable[[int, int], Node]) -> Children:
    """Σ_ab half_ab over unordered pairs."""
    rows, columns = np.triu_indices(len(half))
    both = half[rows, columns] + half[columns, rows]
    values = np.where(rows == columns, half[rows, columns], both)
    return Children(values, lambda n: node(int(rows[n]), int(columns[n])))


def _largest_pairs(
    left: Tensor, right: Tensor, node: Callable[[int, int], Node], room: int
) -> Children:
    """The ``room`` largest unordered pairs of left · right, and the sum of the others; a block of
    rows at a time.
    """
    values, rows, columns = np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    rest, dropped = 0.0, 0
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        block = _numpy(left[start:stop] @ right[start:].mT)
        block[:, : stop - start] = np.triu(block[:, : stop - start])
        mirrored = _numpy(left[start:] @ right[start:stop].mT).T.copy()
        mirrored[:, : stop - start] = np.triu(mirrored[:, : stop - start], 1)
        a, b = np.nonzero(np.arange(len(left) - start)[None] >= np.arange(stop - start)[:, None])
        values = np.concatenate([values, (block + mirrored)[a, b]])
        rows = np.concatenate([rows, a + start])
        columns = np.concatenate([columns, b + start])
        if len(values) > room:
            by_size = np.argpartition(-np.abs(values), room - 1)
            rest += float(values[by_size[room:]].sum())
            dropped += len(values) - room
            values, rows, columns = (kept[by_size[:room]] for kept in (values, rows, columns))
    return Children(values, lambda n: node(int(rows[n]), int(columns[n])), rest, dropped)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
