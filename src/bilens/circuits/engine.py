"""The engine of expansions: the value of every way to take one node of a path one step further
apart.

Two verbs. ``pull``: a functional on what a node writes goes down to one on what an input of it is,
through a head, given its pattern, by the transpose of its weights; through a product by all that
its other inputs give. ``split``: a node as children whose values add up to its own:

    a head at t          q · Σ_s A_ts W_O W_V x̂_s            over positions s and all that x̂_s is
    a bilinear layer     q · T(x̂, x̂) = Σ_a Q_aa + Σ_a<b 2 Q_ab    over unordered pairs of its
                         inputs
    a longer product     leg by leg: first over which leg reads the stream and which its constant

Two equal inputs of a bilinear layer are taken apart together, into unordered pairs, so that no path
is met twice. A layer that reads through a dictionary has its latents, base and error in place of
what the stream is a sum of; they are ends.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.circuits.paths import Apply, Latent, Node, One, Stream, Write, position
from bilens.circuits.recording import Recording
from bilens.wiring import Mix, Multilinear

BLOCK = 1024  # rows of a matrix of pairs at a time
KEPT = 4096  # hidden features of subtrees kept for reuse


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

    def _write(self, product: Multilinear, t: int, q: Tensor) -> Children:
        match product.degree:
            case 1:
                return self._by_source(product, t, q)
            case 2:
                half, read = self._half(product, t, q)
                return _unordered(_numpy(half), _pair(product, t, read))
        parts = self._legs(product, t)
        return Children(_numpy(parts.vectors @ q), parts.node)

    def _by_source(self, product: Multilinear, t: int, q: Tensor) -> Children:
        """Degree 1 at t, over all that is read and its constant. O(sources · positions · d)."""
        name, mix = product.source.name, product.mix(0)
        hidden = product.down(q, t)
        down = hidden @ product.form.legs[0].weight
        if mix is None:
            vectors, nodes = self.recording.inputs_of(product.source, t)
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
        record, name, part = self.recording, product.source.name, product.source.part
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

    def _half(self, product: Multilinear, t: int, q: Tensor) -> tuple[Tensor, Read]:
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
            a, b = self._legs_of(product, parts.vectors, node.t, s)
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
        s = position(node.inputs[n], t)
        hidden = product.down(q, t)
        pulled = (
            product.weight(leg, t, s) * ((hidden * others) @ product.form.legs[leg].weight)
            for leg, others in self._beside(node, n)
        )
        return self.recording.pull(product.source.part, _sum(pulled), s)

    def _beside(self, node: Apply, n: int) -> list[tuple[int, Tensor | float]]:
        """The legs that input n stands on, and what the other inputs give beside it there: of two
        inputs, each stands on either leg.
        """
        product, t = self.recording.products[node.source], node.t
        if product.degree == 2:
            left, right = self.features(product, t, node.inputs[1 - n])
            return [(0, right), (1, left)]
        others = [
            self.features(product, t, child)[m] for m, child in enumerate(node.inputs) if m != n
        ]
        return [(n, math.prod(others))] if others else [(n, 1.0)]

    # What paths write.

    def vector(self, node: Node) -> Float[Tensor, " d"]:
        """What a path writes where it stands."""
        match node:
            case Write(source, t):
                return self.recording.writes[self.recording.index[source], t]
            case Stream(reader, s):
                return self.recording.streams[self.recording.source(reader).part][s]
            case Apply(source, t, inputs):
                product = self.recording.products[source]
                return product.up(self._product(product, t, inputs), t)
        raise AssertionError(node)

    def by_unit(self, node: Write | Apply, q: Float[Tensor, " d"]) -> Float[Tensor, " k"]:
        """What each hidden feature of a product writes in ``node`` towards ``q``: they add up to
        q · its vector. The product reads its own position alone.
        """
        product, t = self.recording.products[node.source], node.t
        if isinstance(node, Apply):
            return product.down(q, t) * self._product(product, t, node.inputs)
        return product.down(q, t) * self.sides(product, t).prod(0)

    def sides(self, product: Multilinear, t: int) -> Float[Tensor, "n k"]:
        """The features that a product multiplies at t, a row for each leg, of all that it reads."""
        part = product.source.part
        read = self.recording.norm(part)(self.recording.streams[part][t])
        return torch.stack([leg(read) for leg in product.form.legs])

    def _product(self, product: Multilinear, t: int, inputs: Sequence[Node]) -> Tensor:
        """The hidden features of a product of ``inputs``; of two, both orders where they differ."""
        features = [self.features(product, t, child) for child in inputs]
        if product.degree == 2:
            (a, b), (c, d) = features
            return a * b if inputs[0] == inputs[1] else a * d + c * b
        return functools.reduce(torch.mul, (side[leg] for leg, side in enumerate(features)))

    def features(self, product: Multilinear, t: int, node: Node) -> tuple[Tensor, ...]:
        """Hidden features, (k) for each leg, of what a path gives to a product at t."""
        key = (product.source.name, t, node)
        if key not in self._features:
            if len(self._features) >= KEPT:
                self._features.clear()
            self._features[key] = self._made_features(product, t, node)
        return self._features[key]

    def _made_features(self, product: Multilinear, t: int, node: Node) -> tuple[Tensor, ...]:
        match node:
            case One():
                constants = self._constants[product.source.name]
                zero = self.recording.writes.new_zeros(product.form.out.shape[1])
                return tuple(
                    zero if constant is None else product.mass(leg, t) * constant
                    for leg, constant in enumerate(constants)
                )
            case Latent():
                read = self._reads(product, t)
                n = read.nodes.index(node)
                return tuple(side[n] for side in read.features)
        s = position(node, t)
        return tuple(side[0] for side in self._legs_of(product, self.vector(node)[None], t, s))

    def _legs_of(
        self, product: Multilinear, vectors: Float[Tensor, "n d"], t: int, s: int
    ) -> tuple[Float[Tensor, "n k"], ...]:
        """Hidden features at t, by leg, of what was written at s."""
        read = self.recording.linear(product.source.part, vectors, s)
        features = (read @ leg.weight.mT for leg in product.form.legs)
        if not product.looks:
            return tuple(features)
        return tuple(product.weight(leg, t, s) * side for leg, side in enumerate(features))

    def _reads(self, product: Multilinear, t: int) -> Read:
        """All that a product reads at t by leg, the constant first where there is one."""
        key = (product.source.name, t)
        if key not in self._read:
            self._read[key] = self._made_reads(product, t)
        return self._read[key]

    def _made_reads(self, product: Multilinear, t: int) -> Read:
        legs = range(product.degree)
        nodes: list[Node] = []
        at: list[int] = []
        sides: list[list[Tensor]] = [[] for _ in legs]
        if any(constant is not None for constant in self._constants[product.source.name]):
            nodes, at = [One()], [t]
            for leg, side in enumerate(self._made_features(product, t, One())):
                sides[leg].append(side[None])
        for s in sorted(set().union(*(product.seen(leg, t) for leg in legs))):
            vectors, named = self.recording.inputs_of(product.source, s)
            nodes, at = nodes + named, at + [s] * len(named)
            for leg in legs:
                features = vectors @ product.form.legs[leg].weight.mT
                weight = product.weight(leg, t, s)
                sides[leg].append(features if not product.looks else weight * features)
        return Read(nodes, at, tuple(torch.cat(side) for side in sides))

    # Children as vectors, where they are to be multiplied with one another.

    def _parts(self, node: Node) -> Parts:
        match node:
            case Write(source, t):
                product = self.recording.products[source]
                match product.degree:
                    case 1:
                        return self._write_parts(product, t)
                    case 2:
                        return self._pair_parts(product, t)
                return self._legs(product, t)
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
            vectors, nodes = self.recording.inputs_of(product.source, t)
            hidden, at = vectors @ weight.mT, [()] * len(nodes)
        else:
            part, seen = product.source.part, mix.seen(t)
            stream = self.recording.streams[part][: seen.stop]
            read = self.recording.linear(part, stream, slice(0, seen.stop))
            hidden = mix.values[t, : seen.stop, None] * (read @ weight.mT)
            nodes, at = [Stream(name, s) for s in seen], [(s,) for s in seen]
        if constant is not None:
            hidden = torch.cat([hidden, (product.mass(0, t) * constant)[None]])
            nodes, at = [*nodes, One()], [*at, (t,) if product.looks else ()]
        return Parts(product.up(hidden, t), lambda n: Apply(name, t, (nodes[n],), at[n]))

    def _pair_parts(self, product: Multilinear, t: int) -> Parts:
        """A layer's write as the vectors of all its unordered pairs."""
        read = self._reads(product, t)
        return _all_pairs(product, t, read.features, _pair(product, t, read))

    def _legs(self, product: Multilinear, t: int) -> Parts:
        """Any degree: each leg on the stream at one position, or on its constant."""
        name = product.source.name
        choices = []
        for leg, constant in enumerate(self._constants[name]):
            choice = [(Stream(name, s), s) for s in product.seen(leg, t)]
            choices.append(choice if constant is None else [*choice, (One(), t)])
        nodes = [
            Apply(name, t, tuple(node for node, _ in chosen), self._at(product, chosen))
            for chosen in itertools.product(*choices)
        ]
        return Parts(torch.stack([self.vector(node) for node in nodes]), lambda n: nodes[n])

    def _at(self, product: Multilinear, chosen: Sequence[tuple[Node, int]]) -> tuple[int, ...]:
        return tuple(s for _, s in chosen) if product.looks else ()

    def _apply_parts(self, node: Apply) -> Parts:
        """The children of what comes apart inside a product, as what the product makes of them."""
        product, t = self.recording.products[node.source], node.t
        if _twice(node):
            inner = self._parts(node.inputs[0])
            sides = self._legs_of(product, inner.vectors, t, position(node.inputs[0], t))
            return _all_pairs(product, t, sides, _paired(node, inner))
        n = self._first(node)
        inner, s = self._parts(node.inputs[n]), position(node.inputs[n], t)
        moved = self._legs_of(product, inner.vectors, t, s)
        hidden = _sum(moved[leg] * others for leg, others in self._beside(node, n))
        return Parts(product.up(hidden, t), lambda m: _with(node, n, inner.node(m)))

    def _first(self, node: Apply) -> int:
        """The first input that comes further apart."""
        return next(n for n, child in enumerate(node.inputs) if self.expandable(child))


def _twice(node: Apply) -> bool:
    """Whether it is a layer fed twice with the same: these come apart together."""
    return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]


def _with(node: Apply, n: int, child: Node) -> Apply:
    """The same product with another n-th input."""
    inputs = (*node.inputs[:n], child, *node.inputs[n + 1 :])
    return Apply(node.source, node.t, inputs, node.at)


def _paired(node: Apply, parts: Parts) -> Callable[[int, int], Node]:
    return lambda i, j: Apply(node.source, node.t, (parts.node(i), parts.node(j)), node.at)


def _pair(product: Multilinear, t: int, read: Read) -> Callable[[int, int], Node]:
    """The node of two things that a product reads at t, by number."""
    return lambda a, b: Apply(
        product.source.name,
        t,
        (read.nodes[a], read.nodes[b]),
        (read.at[a], read.at[b]) if product.looks else (),
    )


def _all_pairs(
    product: Multilinear,
    t: int,
    sides: Sequence[Float[Tensor, "n k"]],
    node: Callable[[int, int], Node],
) -> Parts:
    """All unordered pairs of n things on the two legs, both orders of each together."""
    left, right = sides
    rows, columns = torch.triu_indices(len(left), len(left))
    other = (left[columns] * right[rows]) * (rows != columns)[:, None]
    hidden = left[rows] * right[columns] + other
    return Parts(product.up(hidden, t), lambda n: node(int(rows[n]), int(columns[n])))


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
