"""Branch and bound for the largest entries of matrices that are products of rows and columns.

An entry is z_a · b_j within a slack of the true one, so |entry| ≤ ‖z_a‖ ‖b_j‖ + slack. Rows go
largest first, each against the columns that its bound does not exclude, until no bound is above the
k-th largest entry so far. What was skipped is then at most as large as the largest bound among it.

An entry that may be among the largest is listed at its exact value, where there is a way to compute
one. Where there is none, it is listed as computed, and ``margin`` says how far below the k-th
others stay listed too, for their exact values to decide afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.base.numerics import scaled

ROWS = 64  # at a time, at least, and
# that many entries: few, so that the k-th best rises early, and enough for fast products
ENTRIES = 2**18
MANY, SPARE = 4, 1024  # so many times k, and more, are still cheaper one by one
NEAR = 32  # entries a row that are computed one by one after a coarse look; else the whole block is
# What bfloat16 takes of an entry, over ‖z‖ ‖b‖: with u = 2⁻⁸, rounding both vectors moves a product
# by no more than (2 u + u²) ‖z‖ ‖b‖, and rounding the product by u |z·b|; summing included.
COARSE = 2**-7 + 2**-12
Places = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]


class Exact(NamedTuple):
    """Exact values: of entries by their keys, and of whole rows against some columns."""

    entries: Callable[[Tensor], Tensor]
    block: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """Rows by norm, largest first, and the columns that they meet.

    vectors (n, r) and norms; keys: of each row's entry in column 0, so that an entry's key is its
    row's and its column's added.
    columns (m, r), column_norms (what is beyond a column is no larger), column_keys.
    slack: how far a product may be from the true entry.
    triangle: columns are those of the rows themselves, in the rows' order, and each unordered pair
    is met once, the later with the earlier; its rows are taken ``triangle`` at a time. 0: none.
    coarse: both sides in bfloat16, for a first look, or None.
    """

    vectors: Float[Tensor, "n r"]
    norms: Float[Tensor, " n"]
    keys: Int[Tensor, " n"]
    columns: Float[Tensor, "m r"]
    column_norms: Float[Tensor, " m"]
    column_keys: Int[Tensor, " m"]
    slack: float = 0.0
    triangle: int = 0
    coarse: tuple[Tensor, Tensor] | None = None

    def bounds(self, row: int) -> Float[Tensor, " m"]:
        """The largest that the entries of a row, and of all rows after it, can be."""
        return self.norms[row] * self.column_norms + self.slack


class Search:
    """The ``k`` largest entries by absolute value; keys are (o I + i) J + j.

    unordered: entries (i, j) and (j, i) are one, listed where i ≤ j, a square at half its value.
    squares: whether i = j is listed then.
    skipped: the largest bound of what was not computed; given_up: the largest of what was computed
    and is not listed, as far as there is a ``margin``; −∞ where there is none.
    looked_at: how many entries were computed.
    """

    def __init__(
        self,
        k: int,
        shape: tuple[int, int, int],
        exact: Exact | None = None,
        *,
        unordered: bool = False,
        squares: bool = True,
        margin: float = 0.0,
        max_bytes: int,
    ) -> None:
        self.k, self.exact, self.margin, self.max_bytes = k, exact, margin, max_bytes
        self.unordered, self.squares = unordered, squares
        o, self.i, self.j = shape
        each = self.i * (self.i + (1 if squares else -1)) // 2 if unordered else self.i * self.j
        self.size = o * each
        self.budget = self.size
        self.looked_at, self.skipped, self.given_up = 0, -torch.inf, -torch.inf
        self.threshold = -1.0  # what an entry must be above; bounds at or below it are skipped
        self.values, self.keys = (
            torch.zeros(0, device="cpu"),
            torch.zeros(0, dtype=torch.int64, device="cpu"),
        )

    def walk(self, rows: Rows) -> None:
        """Rows, largest first, each against the columns that its bound does not exclude."""
        start, room = 0, rows.vectors.new_empty(rows.triangle * len(rows.columns))
        while start < len(rows.vectors):
            bounds = rows.bounds(start)
            wide = int((bounds > self.threshold).sum())
            if wide == 0 or self.budget <= 0:
                self.skip(float(bounds[0]))
                return
            if rows.triangle:
                some = slice(start, min(start + rows.triangle, len(rows.vectors)))
                wide = some.stop
            else:
                some = slice(start, start + self.several(wide))
            if wide < len(bounds) and not rows.triangle:
                self.skip(float(bounds[wide]))
            if not self.glance(rows, some, wide, room):
                block = _product(rows.vectors[some], rows.columns[:wide], room)
                self.take(block, rows.keys[some], rows.column_keys[:wide], rows.slack)
            start = some.stop

    def several(self, wide: int) -> int:
        """How many rows of ``wide`` entries to compute at a time."""
        fit, left = self.max_bytes // (16 * wide), -(-self.budget // wide)
        return max(1, min(max(ROWS, ENTRIES // wide), fit, left))

    def take(
        self,
        block: Float[Tensor, "a b"],
        row_keys: Int[Tensor, " a"],
        column_keys: Int[Tensor, " b"],
        slack: float,
    ) -> None:
        """Keep what of a block is among the largest so far. The block is used up."""
        self.count(row_keys, column_keys)
        self.give_up(self.threshold)
        least, most = torch.aminmax(block)
        if max(float(most), -float(least)) <= self.threshold - slack:
            return
        sizes = block.abs_()
        hits = sizes > self.threshold - slack
        if int(hits.count_nonzero()) > MANY * self.k + SPARE:
            ranked = self.ranked(sizes, row_keys, column_keys)
            self.keep(_largest(ranked, self.k), sizes, row_keys, column_keys)
            self.give_up(self.threshold)
            hits = ranked > self.threshold - slack
            if int(hits.count_nonzero()) > MANY * self.k + SPARE:
                self.crowded(hits, ranked, row_keys, column_keys)
                return
        at = hits.flatten().nonzero()[:, 0]
        places = at // len(column_keys), at % len(column_keys)
        self.keep(places, sizes, row_keys, column_keys)

    def crowded(
        self,
        hits: Bool[Tensor, "a b"],
        ranked: Float[Tensor, "a b"],
        row_keys: Int[Tensor, " a"],
        column_keys: Int[Tensor, " b"],
    ) -> None:
        """Where too many may be among the largest (ties; large terms that cancel): their rows as a
        whole, exactly; or, without exact values, the largest, and a bound for the rest.
        """
        if self.exact is None:
            best = ranked.flatten().topk(MANY * self.k + SPARE + 1)
            self.give_up(float(best.values[-1]))
            at = best.indices[:-1]
            keys = row_keys[at // len(column_keys)] + column_keys[at % len(column_keys)]
            self.enlist(keys, best.values[:-1])
            return
        row_keys = row_keys[hits.any(1)]
        sizes = self.exact.block(row_keys, column_keys).abs()
        ranked = self.ranked(sizes, row_keys, column_keys)
        ranked = ranked.masked_fill(ranked <= self.threshold, -torch.inf)
        self.keep(_largest(ranked, self.k), sizes, row_keys, column_keys)

    def count(self, row_keys: Int[Tensor, " a"], column_keys: Int[Tensor, " b"]) -> None:
        """Count the entries of a block as computed."""
        computed = len(row_keys) * len(column_keys)
        if self.unordered:
            rows = row_keys // self.j % self.i + (0 if self.squares else 1)
            above = torch.searchsorted(column_keys.sort().values, rows)
            computed -= int(above.sum())
        self.looked_at += computed
        self.budget -= computed

    def ranked(
        self,
        sizes: Float[Tensor, "a b"],
        row_keys: Int[Tensor, " a"],
        column_keys: Int[Tensor, " b"],
    ) -> Float[Tensor, "a b"]:
        """Sizes as they count, −∞ for what is not to be listed."""
        if not self.unordered:
            return sizes
        i, j = (row_keys // self.j % self.i)[:, None], column_keys
        ranked = sizes.masked_fill(i > j, -torch.inf)
        halved = 0.5 * sizes if self.squares else torch.full_like(sizes, -torch.inf)
        return torch.where(i == j, halved, ranked)

    def keep(
        self,
        places: Places,
        sizes: Float[Tensor, "a b"],
        row_keys: Int[Tensor, " a"],
        column_keys: Int[Tensor, " b"],
    ) -> None:
        """List these places of a block, those that are to be listed."""
        a, b = places
        self.admit(row_keys[a] + column_keys[b], sizes[a, b])

    def admit(self, keys: Int[Tensor, " n"], sizes: Float[Tensor, " n"]) -> None:
        """List entries of whole ``sizes``, where they are to be listed."""
        if self.unordered:
            i, j = keys // self.j % self.i, keys % self.j
            listed = i <= j if self.squares else i < j
            keys, sizes = keys[listed], sizes[listed] * self.times(keys[listed]).to(sizes)
        self.enlist(keys, sizes)

    def times(self, keys: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What an entry counts: half for a square of unordered pairs."""
        if not self.unordered:
            return torch.ones_like(keys, dtype=torch.float32)
        return torch.where(keys // self.j % self.i == keys % self.j, 0.5, 1.0)

    def enlist(self, keys: Int[Tensor, " n"], sizes: Float[Tensor, " n"]) -> None:
        """List entries by their keys: at exact values, or at those computed."""
        if len(self.keys):
            new = ~torch.isin(keys, self.keys)
            keys, sizes = keys[new], sizes[new]
        values = sizes if self.exact is None else self.exact.entries(keys) * self.times(keys)
        values = torch.cat([self.values.to(values), values])
        keys = torch.cat([self.keys.to(keys), keys])
        absolute = values.abs()
        order = absolute.argsort(descending=True, stable=True)
        stay = self.k
        if self.margin and len(order) > self.k:
            within = absolute >= absolute[order[self.k - 1]] - self.margin
            stay = min(int(within.sum()), MANY * self.k + SPARE)
        if stay < len(order):
            self.give_up(float(absolute[order[stay]]))
        self.values, self.keys = values[order[:stay]], keys[order[:stay]]
        if len(self.values) >= self.k:
            self.threshold = float(self.values[self.k - 1].abs()) - self.margin

    def skip(self, bound: float) -> None:
        """Note the bound of something that is not computed."""
        self.skipped = max(self.skipped, bound)

    def give_up(self, size: float) -> None:
        """Note the size of something computed that is not listed."""
        self.given_up = max(self.given_up, size)

    def glance(self, rows: Rows, some: slice, wide: int, room: Tensor) -> bool:
        """Look at a block in bfloat16, and compute one by one what may be large; False where that
        was not possible, or where it would be too many.
        """
        if rows.coarse is None or self.threshold <= 0:
            return False
        lost = COARSE * float(rows.norms[some.start]) * float(rows.column_norms[0])
        cut = (self.threshold - lost) * (1 - COARSE)
        if cut <= 0:
            return False
        vectors, columns = rows.coarse
        block = _product(vectors[some], columns[:wide], room.view(vectors.dtype))
        # one pass; few rows are left
        near = (torch.maximum(block.amax(1), -block.amin(1)) >= cut).nonzero()[:, 0]
        a, b = (block[near].abs_() >= cut).nonzero(as_tuple=True)
        if len(a) > NEAR * len(block):
            return False
        self.count(rows.keys[some], rows.column_keys[:wide])
        self.give_up(self.threshold)
        a = near[a] + some.start
        sizes = (rows.vectors[a] * rows.columns[b]).sum(1).abs()
        self.admit(rows.keys[a] + rows.column_keys[b], sizes)
        return True


def bound_at(bound: float, power: int) -> float:
    """A bound (0 where it is less) times 2^power; never less than that for falling below float64's
    range.
    """
    bound = max(0.0, bound)
    value = float(scaled(torch.tensor(bound, dtype=torch.float64, device="cpu"), power))
    return value if value or not bound else torch.finfo(torch.float64).smallest_normal


def _product(rows: Tensor, columns: Tensor, room: Tensor) -> Float[Tensor, "a b"]:
    """All rows times all columns, in the ``room`` there is."""
    if not len(room):
        return rows @ columns.mT
    out = room[: len(rows) * len(columns)].view(len(rows), len(columns))
    return torch.mm(rows, columns.mT, out=out)


def _largest(sizes: Float[Tensor, "a b"], k: int) -> Places:
    """Row and column of the k largest that are to be listed."""
    best = sizes.flatten().topk(min(k, sizes.numel()))
    places = best.indices[best.values >= 0]
    return places // sizes.shape[1], places % sizes.shape[1]
