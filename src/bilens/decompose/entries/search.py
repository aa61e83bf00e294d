"""The search behind ``top_entries``: which rows and columns of a reading to multiply, and which
entries to look at again.

A reading (``readings``) gives every entry as a product of a row and a column vector, T̃_oij = z_oi
· b_j in float32, within a slack s_o of the true one. So |T_oij| ≤ ‖z_oi‖ ‖b_j‖ + s_o, and outputs,
rows and columns go largest first until no bound is above the k-th largest entry so far. Only
entries with |T̃| > threshold − s_o can be among the largest: these are computed anew from the
factors in float64. Where they are too many (ties; large terms that cancel) their rows are, as a
whole.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.numerics import restored, scaled
from bilens.decompose.entries import readings

ROWS = 64  # at a time, at least, and
# that many entries: few, so that the k-th best rises early, and enough for fast products
ENTRIES = 2**18
OUTPUTS = 32  # whose rows are made at a time
Places = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
SPARE = 1024  # candidates beyond 4 k that are still cheaper one by one
AGAIN = 128  # outputs before ways are compared again
CACHED = 2**19  # numbers of rows at a time, where all are multiplied
PASS = 16  # multiply-adds in the time of one pass over a number in memory, about
# of the threshold: with more slack than that, a guess, most rows are computed in float64 too
TRUSTED = 0.25


class Search:
    """Branch and bound over entries, or over unordered pairs where ``symmetric``: then ``tensor``
    is T + its swap.

    ``skipped`` is the largest bound of what was not computed, ``looked_at`` the entries that were.
    """

    def __init__(
        self, tensor: CP, k: int, symmetric: bool, budget: int | None, max_bytes: int
    ) -> None:
        self.k, self.symmetric, self.max_bytes = k, symmetric, max_bytes
        self.tensor, self.power = tensor.near_one()  # float32 has room for numbers near one
        self.rows, self.columns = (
            self.tensor.left.mT.contiguous(),
            self.tensor.right.mT.contiguous(),
        )
        o, i, j = tensor.shape
        self.size = o * i * (i + 1) // 2 if symmetric else o * i * j
        self.left_of_budget = self.size if budget is None else budget
        self.looked_at, self.bound = 0, 0.0
        self.values = tensor.out.new_zeros(0)
        self.keys = torch.zeros(0, dtype=torch.int64, device=tensor.device)  # (o I + i) J + j

    @property
    def threshold(self) -> float:
        """What an entry must be above to be listed; bounds at or below it are skipped."""
        return float(self.values[-1].abs()) if len(self.values) == self.k else -1.0

    @property
    def skipped(self) -> float:
        """The largest bound of what was not computed; never less than that for falling below
        float64's range.
        """
        found = float(scaled(torch.tensor(self.bound, dtype=torch.float64), self.power))
        return found if found or not self.bound else torch.finfo(torch.float64).smallest_normal

    def found(self) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
        """The entries, largest first, and their values."""
        return torch.stack(self._places(self.keys), 1), restored(
            "top_entries", self.values, self.power, torch.float64
        )

    def run(self) -> None:
        """Outputs by bound, a few at a time, in the way that costs least at the present threshold."""
        o, i, j = self.tensor.shape
        plain = readings.plain(self.tensor)
        short = readings.short(self.tensor, i * j * self.tensor.rank, self.max_bytes)
        ways = [(plain, False), (plain, True)] + ([] if short is None else [(short, True)])
        bounds = plain.bounds if short is None else torch.minimum(plain.bounds, short.bounds)
        order = bounds.argsort(descending=True)
        (reading, bounded), start, several, until = ways[0], 0, 1, 0
        while start < o:
            bound = float(bounds[order[start]])
            if bound <= self.threshold or self.left_of_budget <= 0:
                self.skip(bound)
                return
            if start >= until:  # after 1, 2, 4, … outputs
                reading, bounded = min(
                    ways, key=lambda way: self.expected(*way, order[start : start + 1])
                )
                until = start + min(max(1, start), AGAIN)
            fit = self.max_bytes // (8 * i * (reading.columns.shape[1] + 1))
            outputs = order[start : start + max(1, min(several, fit))]
            if bounded:
                self.search(reading, outputs)
            else:
                self.multiply(reading, outputs, bound)
            start, several = start + len(outputs), min(2 * several, OUTPUTS)

    def expected(self, reading: readings.Reading, bounded: bool, output: Int[Tensor, "1"]) -> int:
        """The multiply-adds of one output, or what takes as long: its rows, and the products that
        their bounds leave.
        """
        i, (j, r) = len(self.rows), reading.columns.shape
        slack, passes, pairs = float(reading.slack[output]), 1, i * j
        if bounded:
            norms = readings.norms_of(reading.rows(output))
            passes, pairs = (
                5,
                pairs
                - int(
                    torch.searchsorted(
                        reading.norms.flip(0), (self.threshold - slack) / norms
                    ).sum()
                ),
            )
        twice = 3 if slack > TRUSTED * self.threshold >= 0 else 1
        return reading.cost + passes * PASS * i * r + twice * pairs * r

    def multiply(self, reading: readings.Reading, outputs: Int[Tensor, " n"], bound: float) -> None:
        """All rows of some outputs against all columns."""
        i, (j, r) = len(self.rows), reading.columns.shape
        for group in outputs.split(max(1, CACHED // (i * r + 1))):
            z, slack = reading.rows(group), float(reading.slack[group].max())
            start = 0
            while start < len(z):
                if self.left_of_budget <= 0:
                    self.skip(bound)
                    return
                row = torch.arange(start, min(len(z), start + self.several(j)), device=z.device)
                block = z[start : start + len(row)] @ reading.columns.mT
                self.take(block, group[row // i], row % i, reading.order, slack)
                start += len(row)

    def search(self, reading: readings.Reading, outputs: Int[Tensor, " n"]) -> None:
        """The rows of some outputs, largest first, each against the columns that its bound does not
        exclude.
        """
        slack = float(reading.slack[outputs].max())
        z = reading.rows(outputs)
        norms = readings.norms_of(z)
        largest = float(reading.norms[0])
        live = norms * largest > self.threshold - slack
        if not live.all():
            self.skip(float(norms[~live].max()) * largest + slack)
        row = live.nonzero()[:, 0]
        row = row[norms[row].argsort(descending=True)]
        z, norms = z[row], norms[row]
        o, i = outputs[row // len(self.rows)], row % len(self.rows)
        start = 0
        while start < len(row):
            bounds = norms[start] * reading.norms + slack
            wide = int((bounds > self.threshold).sum())
            if wide == 0 or self.left_of_budget <= 0:
                self.skip(float(bounds[0]))
                return
            if wide < len(bounds):
                self.skip(float(bounds[wide]))
            some = slice(start, start + self.several(wide))
            self.take(
                z[some] @ reading.columns[:wide].mT, o[some], i[some], reading.order[:wide], slack
            )
            start = some.stop

    def several(self, wide: int) -> int:
        """How many rows of ``wide`` entries to compute at a time."""
        return max(
            1,
            min(
                max(ROWS, ENTRIES // wide),
                self.max_bytes // (16 * wide),
                -(-self.left_of_budget // wide),
            ),
        )

    def take(
        self,
        block: Float[Tensor, "a b"],
        o: Int[Tensor, " a"],
        i: Int[Tensor, " a"],
        j: Int[Tensor, " b"],
        slack: float,
    ) -> None:
        """Keep what of a block is among the k largest so far."""
        computed = int((i[:, None] <= j).sum()) if self.symmetric else block.numel()
        self.looked_at += computed
        self.left_of_budget -= computed
        least, most = torch.aminmax(block)
        if max(float(most), -float(least)) <= self.threshold - slack:
            return
        sizes = self.sizes(block, i, j)
        many = 4 * self.k + SPARE
        hits = sizes > self.threshold - slack
        if int(hits.sum()) > many:
            self.keep(_largest(sizes, self.k), o, i, j)
            hits = sizes > self.threshold - slack
        if int(hits.sum()) > many:
            row = hits.any(1).nonzero()[:, 0]
            o, i = o[row], i[row]
            block = (self.rows[i] * self.tensor.out[o]) @ self.tensor.right[:, j]
            sizes = self.sizes(block, i, j)
            sizes = sizes.masked_fill(sizes <= self.threshold, -torch.inf)
            self.keep(_largest(sizes, self.k), o, i, j)
        else:
            a, b = hits.nonzero(as_tuple=True)
            self.keep((a, b), o, i, j)

    def sizes(
        self, block: Float[Tensor, "a b"], i: Int[Tensor, " a"], j: Int[Tensor, " b"]
    ) -> Float[Tensor, "a b"]:
        """Absolute values, −∞ for what is not to be listed."""
        return (
            block.abs().where(i[:, None] <= j, -torch.inf) * self.times(i[:, None], j)
            if self.symmetric
            else block.abs()
        )

    def times(self, i: Int[Tensor, "*#n"], j: Int[Tensor, "*#n"]) -> Float[Tensor, "*n"]:
        """What an entry counts. Of unordered pairs the tensor holds both orders' sum, and so a
        square twice.
        """
        return (
            torch.where(i == j, 0.5, 1.0)
            if self.symmetric
            else torch.ones_like(i, dtype=torch.float32)
        )

    def keep(
        self, places: Places, o: Int[Tensor, " a"], i: Int[Tensor, " a"], j: Int[Tensor, " b"]
    ) -> None:
        """List these rows and columns of a block at their values, from the factors, if they are
        large enough.
        """
        a, b = places
        keys = (o[a] * len(self.rows) + i[a]) * len(self.columns) + j[b]
        keys = keys[~torch.isin(keys, self.keys)]
        values, keys = torch.cat([self.values, self.exactly(keys)]), torch.cat([self.keys, keys])
        order = values.abs().argsort(descending=True, stable=True)[: self.k]
        self.values, self.keys = values[order], keys[order]

    def exactly(self, keys: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        several = max(1, self.max_bytes // (24 * self.tensor.rank + 1))
        found = [self.values[:0]]
        for some in keys.split(several):
            o, i, j = self._places(some)
            found.append(
                (self.tensor.out[o] * self.rows[i] * self.columns[j]).sum(1) * self.times(i, j)
            )
        return torch.cat(found)

    def skip(self, bound: float) -> None:
        self.bound = max(self.bound, bound)

    def _places(self, keys: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        o, rest = (
            keys // (len(self.rows) * len(self.columns)),
            keys % (len(self.rows) * len(self.columns)),
        )
        return o, rest // len(self.columns), rest % len(self.columns)


def _largest(sizes: Float[Tensor, "a b"], k: int) -> Places:
    """Row and column of the k largest that are to be listed."""
    best = sizes.flatten().topk(min(k, sizes.numel()))
    places = best.indices[best.values >= 0]
    return places // sizes.shape[1], places % sizes.shape[1]
