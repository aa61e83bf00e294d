"""The engine of expansions: the value of every way to take one node of a path one step further
apart.

A functional q on what a node writes goes down the path: through a head, given its pattern, by the
transpose of its weights; through a bilinear layer by S(·, x), with x what the other input gets. A
node has children whose values add up to its own:

    a head at t          q · Σ_s A_ts W_O W_V x̂_s            over the positions s and all that x̂_s
                         is a sum of
    a bilinear layer     q · T(x̂, x̂) = Σ_a Q_aa + Σ_a<b 2 Q_ab    over unordered pairs of all that
                         x̂ is a sum of

Two equal inputs of a layer are taken apart together, into unordered pairs, so that no path is met
twice. A layer that reads through a dictionary has its latents, base and error in place of what the
stream is a sum of; they are ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.circuits.paths import CONSTANT, Tree
from bilens.circuits.recording import Recording, Source

BLOCK = 1024  # rows of a matrix of pairs at a time
KEPT = 4096  # hidden features of subtrees kept for reuse


class Children(NamedTuple):
    """The children's values; their trees, made when asked for; the value of those too small to be
    kept, and their number.
    """

    values: Float[np.ndarray, " n"]
    tree: Callable[[int], Tree]
    rest: float = 0.0
    dropped: int = 0


class Parts(NamedTuple):
    """The children of a node as vectors, not yet as values."""

    vectors: Float[Tensor, "n d"]
    tree: Callable[[int], Tree]


class Engine:
    """Takes the paths of one recorded pass apart."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._inputs: dict[tuple[int, int], tuple[Tensor, Tensor, list[Tree]]] = {}
        self._features: dict[tuple[int, int, Tree], tuple[Tensor, Tensor]] = {}

    def expandable(self, tree: Tree) -> bool:
        """Whether anything in ``tree`` can be taken further apart."""
        match tree:
            case ("write", name, _):
                return self._source(name).kind in ("head", "layer")
            case ("look", _, _, _, child):
                return self.expandable(child)
            case ("pair", _, _, left, right):
                return self.expandable(left) or self.expandable(right)
        return tree[0] == "stream"

    def children(self, tree: Tree, q: Float[Tensor, " d"], room: int) -> Children:
        """One step further apart; where equal inputs of a layer come apart, the ``room`` largest
        are kept.
        """
        match tree:
            case ("write", name, t):
                source = self._source(name)
                return self._looks(name, t, q) if source.kind == "head" else self._pairs(name, t, q)
            case ("stream", part, s):
                return self._reads(part, s, q)
            case ("look", name, t, s, child):
                inner = self.children(child, self._through_head(name, t, s, q), room)
                return inner._replace(tree=lambda n: ("look", name, t, s, inner.tree(n)))
            case ("pair", name, t, left, right):
                return self._inside(name, t, left, right, q, room)
        raise AssertionError(tree)

    def vector(self, tree: Tree, t: int) -> Float[Tensor, " d"]:
        """What a path writes at position ``t``."""
        match tree:
            case ("write", name, at):
                return self.recording.writes[self.recording.index[name], at]
            case ("stream", part, s):
                return self.recording.streams[part][s]
            case ("look", name, at, s, child):
                return self._looked(name, at, s, child)
            case ("pair", name, at, left, right):
                part = self._source(name).part
                (a, b), (c, d) = self._hidden(part, at, left), self._hidden(part, at, right)
                return self.recording.tensors[part].out @ (
                    a * b if left == right else a * d + c * b
                )
        raise AssertionError(tree)

    # Heads: linear, given the pattern.

    def _looks(self, name: str, t: int, q: Tensor) -> Children:
        """A head at t, over (source, position) and its constant. O(sources · t · d)."""
        record, source, head = self.recording, self._source(name), self.recording.heads[name]
        reads = record.reads[source.part]
        pulled = record.norm(source.part).transposed(head.w_v @ (head.w_o @ q))
        weights = head.pattern[t, : t + 1] * record.scales[source.part][: t + 1, 0]
        values = ((record.writes[reads.start : reads.stop, : t + 1] @ pulled) * weights).flatten()
        if head.constant is not None:
            constant = head.pattern[t].sum() * (head.constant @ (head.w_o @ q))
            values = torch.cat([values, constant[None]])

        def tree(n: int) -> Tree:
            row, s = divmod(n, t + 1)
            child = ("write", record.sources[reads[row]].name, s) if row < len(reads) else CONSTANT
            return ("look", name, t, s if row < len(reads) else t, child)

        return Children(_numpy(values), tree)

    def _through_head(self, name: str, t: int, s: int, q: Tensor) -> Tensor:
        head = self.recording.heads[name]
        return head.pattern[t, s] * self.recording.pull(
            self._source(name).part, head.w_v @ (head.w_o @ q), s
        )

    def _looked(self, name: str, t: int, s: int, child: Tree) -> Tensor:
        head = self.recording.heads[name]
        if child == CONSTANT:
            assert head.constant is not None
            return head.pattern[t].sum() * (head.constant @ head.w_o)
        read = self.recording.linear(self._source(name).part, self.vector(child, s), s)
        return head.pattern[t, s] * (read @ head.w_v @ head.w_o)

    def _reads(self, part: int, s: int, q: Tensor) -> Children:
        """All that a part reads at s, by source."""
        record = self.recording
        reads = record.reads[part]
        values = record.writes[reads.start : reads.stop, s] @ q
        return Children(_numpy(values), lambda n: ("write", record.sources[reads[n]].name, s))

    # Bilinear layers: quadratic.

    def _pairs(self, name: str, t: int, q: Tensor) -> Children:
        """A layer at t, over unordered pairs of what it reads, and its output bias. O(h n²) for n
        sources.
        """
        half, nodes = self._half(name, t, q)
        return _unordered(_numpy(half), lambda a, b: ("pair", name, t, nodes[a], nodes[b]))

    def pair_matrix(
        self, name: str, t: int, q: Float[Tensor, " d"]
    ) -> tuple[Float[Tensor, "n n"], list[Tree]]:
        """A layer's unordered pairs at t in the upper triangle, both orders together, and what its
        rows stand for.
        """
        half, nodes = self._half(name, t, q)
        return half.triu() + half.mT.triu(1), nodes

    def _half(self, name: str, t: int, q: Tensor) -> tuple[Tensor, list[Tree]]:
        """(L X)ᵀ Λ (R X) over all that the layer reads at t."""
        part = self._source(name).part
        left, right, nodes = self._layer_inputs(part, t)
        return (left * (self.recording.tensors[part].out.mT @ q)) @ right.mT, nodes

    def _inside(self, name: str, t: int, left: Tree, right: Tree, q: Tensor, room: int) -> Children:
        """Inside a layer fed with two things: the first that comes apart, or both where they are
        equal.
        """
        record, part = self.recording, self._source(name).part
        weights = record.tensors[part].out.mT @ q
        if left == right:
            found = self._parts(left, t)
            a, b = record.hidden(part, record.linear(part, found.vectors, t))
            return _largest_pairs(
                a * weights, b, lambda i, j: ("pair", name, t, found.tree(i), found.tree(j)), room
            )
        first = self.expandable(left)
        moved, fixed = (left, right) if first else (right, left)
        a, b = self._hidden(part, t, fixed)
        tensor = record.tensors[part]
        own = tensor.shape[1] - len(q)
        down = (weights * b) @ tensor.left[:, own:] + (weights * a) @ tensor.right[:, own:]
        inner = self.children(moved, record.pull(part, down, t), room)
        if first:
            return inner._replace(tree=lambda n: ("pair", name, t, inner.tree(n), right))
        return inner._replace(tree=lambda n: ("pair", name, t, left, inner.tree(n)))

    def _parts(self, tree: Tree, t: int) -> Parts:
        """The children of ``tree`` as vectors at ``t``, where they are to be paired with one
        another.
        """
        record = self.recording
        match tree:
            # by position alone: pairs of them are many
            case ("write", name, at) if self._source(name).kind == "head":
                head, part = record.heads[name], self._source(name).part
                read = record.linear(part, record.streams[part][: at + 1], slice(0, at + 1))
                vectors = head.pattern[at, : at + 1, None] * (read @ head.w_v @ head.w_o)
                if head.constant is not None:
                    vectors = torch.cat(
                        [vectors, (head.pattern[at].sum() * (head.constant @ head.w_o))[None]]
                    )
                return Parts(vectors, lambda n: _position(name, part, at, n))
            case ("write", name, at):
                return self._pair_vectors(name, at)
            case ("stream", part, s):
                reads = record.reads[part]
                vectors = record.writes[reads.start : reads.stop, s]
                return Parts(vectors, lambda n: ("write", record.sources[reads[n]].name, s))
            case ("look", name, at, s, child):
                inner = self._parts(child, s)
                head, part = record.heads[name], self._source(name).part
                vectors = head.pattern[at, s] * (
                    record.linear(part, inner.vectors, s) @ head.w_v @ head.w_o
                )
                return Parts(vectors, lambda n: ("look", name, at, s, inner.tree(n)))
            case ("pair", name, at, left, right):
                return self._parts_of_pair(name, at, left, right)
        raise AssertionError(tree)

    def _pair_vectors(self, name: str, t: int) -> Parts:
        part = self._source(name).part
        left, right, nodes = self._layer_inputs(part, t)
        rows, columns = torch.triu_indices(len(nodes), len(nodes))
        mixed = (
            left[rows] * right[columns] + (left[columns] * right[rows]) * (rows != columns)[:, None]
        )
        vectors = mixed @ self.recording.tensors[part].out.mT
        return Parts(
            vectors, lambda n: ("pair", name, t, nodes[int(rows[n])], nodes[int(columns[n])])
        )

    def _parts_of_pair(self, name: str, t: int, left: Tree, right: Tree) -> Parts:
        record, part = self.recording, self._source(name).part
        out = record.tensors[part].out.mT
        if left == right:
            found = self._parts(left, t)
            a, b = record.hidden(part, record.linear(part, found.vectors, t))
            rows, columns = torch.triu_indices(len(a), len(a))
            mixed = a[rows] * b[columns] + (a[columns] * b[rows]) * (rows != columns)[:, None]
            return Parts(
                mixed @ out,
                lambda n: ("pair", name, t, found.tree(int(rows[n])), found.tree(int(columns[n]))),
            )
        first = self.expandable(left)
        found = self._parts(left if first else right, t)
        c, d = self._hidden(part, t, right if first else left)
        a, b = record.hidden(part, record.linear(part, found.vectors, t))
        vectors = (a * d + c * b) @ out
        if first:
            return Parts(vectors, lambda n: ("pair", name, t, found.tree(n), right))
        return Parts(vectors, lambda n: ("pair", name, t, left, found.tree(n)))

    def _layer_inputs(self, part: int, t: int) -> tuple[Tensor, Tensor, list[Tree]]:
        """Hidden features, left and right, of all that a layer reads at t, the constant first where
        there is one.
        """
        if (part, t) not in self._inputs:
            record = self.recording
            vectors, nodes = record.inputs_of(part, t)
            left, right = record.hidden(part, vectors)
            constant = record.hidden_constant(part)
            if constant is not None:
                left, right, nodes = (
                    torch.cat([constant[0], left]),
                    torch.cat([constant[1], right]),
                    [CONSTANT, *nodes],
                )
            self._inputs[part, t] = left, right, nodes
        return self._inputs[part, t]

    def _hidden(self, part: int, t: int, tree: Tree) -> tuple[Tensor, Tensor]:
        """Hidden features, (h) each, of what a subtree gives to a layer at t."""
        if tree[0] == "latent":
            left, right, nodes = self._layer_inputs(part, t)
            n = nodes.index(tree)
            return left[n], right[n]
        key = (part, t, tree)
        if key not in self._features:
            if len(self._features) >= KEPT:
                self._features.clear()
            record = self.recording
            if tree == CONSTANT:
                constant = record.hidden_constant(part)
                assert constant is not None
                left, right = constant
            else:
                left, right = record.hidden(
                    part, record.linear(part, self.vector(tree, t)[None], t)
                )
            self._features[key] = left[0], right[0]
        return self._features[key]

    def _source(self, name: str) -> Source:
        return self.recording.sources[self.recording.index[name]]


def _position(name: str, part: int, t: int, n: int) -> Tree:
    return ("look", name, t, n, ("stream", part, n)) if n <= t else ("look", name, t, t, CONSTANT)


def _unordered(half: np.ndarray, tree: Callable[[int, int], Tree]) -> Children:
    """Σ_ab half_ab over unordered pairs."""
    rows, columns = np.triu_indices(len(half))
    values = np.where(
        rows == columns, half[rows, columns], half[rows, columns] + half[columns, rows]
    )
    return Children(values, lambda n: tree(int(rows[n]), int(columns[n])))


def _largest_pairs(
    left: Tensor, right: Tensor, tree: Callable[[int, int], Tree], room: int
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
        rows, columns = np.concatenate([rows, a + start]), np.concatenate([columns, b + start])
        if len(values) > room:
            order = np.argpartition(-np.abs(values), room - 1)
            rest, dropped = rest + float(values[order[room:]].sum()), dropped + len(values) - room
            values, rows, columns = (column[order[:room]] for column in (values, rows, columns))
    return Children(values, lambda n: tree(int(rows[n]), int(columns[n])), rest, dropped)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
