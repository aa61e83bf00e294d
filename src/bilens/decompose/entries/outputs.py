"""The entries of a tensor, output by output: in which way each is searched.

A reading (``entries.readings``) gives every entry as a product of a row and a column vector,
T̃_oij = z_oi · b_j in float32, within a slack s_o of the true one. Outputs go by the bounds on their
entries, largest first. Only entries with |T̃| > threshold − s_o can be among the largest: these are
computed anew from the factors in float64 (``entries.search``). Where they are too many (ties; large
terms that cancel) their rows are, as a whole.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.numerics import restored
from bilens.decompose.entries import readings
from bilens.decompose.entries.readings import Reading
from bilens.decompose.entries.search import Exact, Rows, Search, bound_at

OUTPUTS = 32  # whose rows are made at a time
AGAIN = 128  # outputs before ways are compared again
CACHED = 2**19  # numbers of rows at a time, where all are multiplied
PASS = 16  # multiply-adds in the time of one pass over a number in memory, about
# Of the threshold: with more slack than that, a guess, most rows are computed in float64 too.
TRUSTED = 0.25


class Outputs:
    """The ``k`` largest entries of ``tensor``; where ``unordered``, it is T + its swap."""

    def __init__(
        self, tensor: CP, k: int, unordered: bool, budget: int | None, max_bytes: int
    ) -> None:
        self.tensor, self.power = tensor.near_one()  # float32 has room for numbers near one
        self.max_bytes = max_bytes
        self.rows, self.columns = (
            factor.mT.contiguous() for factor in (self.tensor.left, self.tensor.right)
        )
        exact = Exact(self.exactly, self.whole_rows)
        self.search = Search(k, tensor.shape, exact, unordered=unordered, max_bytes=max_bytes)
        if budget is not None:
            self.search.budget = budget

    @property
    def skipped(self) -> float:
        """The largest bound of what was not computed."""
        return bound_at(self.search.skipped, self.power)

    def largest(self) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
        """The entries, largest first, and their values."""
        search = self.search
        values = restored("top_entries", search.values, self.power, torch.float64)
        return torch.stack(self._places(search.keys), 1), values

    def run(self) -> None:
        """Outputs by bound, a few at a time, in the way that costs least at this threshold."""
        o, i, j = self.tensor.shape
        plain = readings.plain(self.tensor)
        short = readings.short(self.tensor, i * j * self.tensor.rank, self.max_bytes)
        ways = [(plain, False), (plain, True)] + ([] if short is None else [(short, True)])
        bounds = plain.bounds if short is None else torch.minimum(plain.bounds, short.bounds)
        order = bounds.argsort(descending=True)
        (reading, bounded), start, several, until = ways[0], 0, 1, 0
        while start < o:
            bound = float(bounds[order[start]])
            if bound <= self.search.threshold or self.search.budget <= 0:
                self.search.skip(bound)
                return
            if start >= until:  # after 1, 2, 4, … outputs
                first = order[start : start + 1]
                reading, bounded = min(ways, key=lambda way: self.expected(*way, first))
                until = start + min(max(1, start), AGAIN)
            fit = self.max_bytes // (8 * i * (reading.columns.shape[1] + 1))
            outputs = order[start : start + max(1, min(several, fit))]
            if bounded:
                self.walk(reading, outputs)
            else:
                self.multiply(reading, outputs, bound)
            start, several = start + len(outputs), min(2 * several, OUTPUTS)

    def expected(self, reading: Reading, bounded: bool, output: Int[Tensor, "1"]) -> int:
        """The multiply-adds of one output, or what takes as long: its rows, and the products that
        their bounds leave.
        """
        i, (j, r) = len(self.rows), reading.columns.shape
        threshold, slack = self.search.threshold, float(reading.slack[output])
        passes, pairs = 1, i * j
        if bounded:
            least = (threshold - slack) / readings.norms_of(reading.rows(output))
            excluded = torch.searchsorted(reading.norms.flip(0), least)
            passes, pairs = 5, pairs - int(excluded.sum())
        twice = 3 if slack > TRUSTED * threshold >= 0 else 1
        return reading.cost + passes * PASS * i * r + twice * pairs * r

    def multiply(self, reading: Reading, outputs: Int[Tensor, " n"], bound: float) -> None:
        """All rows of some outputs against all columns."""
        i, (j, r) = len(self.rows), reading.columns.shape
        for group in outputs.split(max(1, CACHED // (i * r + 1))):
            z, slack = reading.rows(group), float(reading.slack[group].max())
            start = 0
            while start < len(z):
                if self.search.budget <= 0:
                    self.search.skip(bound)
                    return
                row = torch.arange(
                    start, min(len(z), start + self.search.several(j)), device=z.device
                )
                block = z[start : start + len(row)] @ reading.columns.mT
                keys = self.row_keys(group[row // i], row % i)
                self.search.take(block, keys, reading.order, slack)
                start += len(row)

    def walk(self, reading: Reading, outputs: Int[Tensor, " n"]) -> None:
        """The rows of some outputs, largest first, with the columns that their bounds leave."""
        search, slack = self.search, float(reading.slack[outputs].max())
        z = reading.rows(outputs)
        norms = readings.norms_of(z)
        largest = float(reading.norms[0])
        live = norms * largest > search.threshold - slack
        if not live.all():
            search.skip(float(norms[~live].max()) * largest + slack)
        row = live.nonzero()[:, 0]
        row = row[norms[row].argsort(descending=True)]
        keys = self.row_keys(outputs[row // len(self.rows)], row % len(self.rows))
        search.walk(
            Rows(z[row], norms[row], keys, reading.columns, reading.norms, reading.order, slack)
        )

    def row_keys(self, o: Int[Tensor, " n"], i: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        return (o * len(self.rows) + i) * len(self.columns)

    def exactly(self, keys: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Entries from the factors, in float64."""
        several = max(1, self.max_bytes // (24 * self.tensor.rank + 1))
        values = [self.tensor.out.new_zeros(0)]
        for some in keys.split(several):
            o, i, j = self._places(some)
            values.append((self.tensor.out[o] * self.rows[i] * self.columns[j]).sum(1))
        return torch.cat(values)

    def whole_rows(
        self, row_keys: Int[Tensor, " a"], columns: Int[Tensor, " b"]
    ) -> Float[Tensor, "a b"]:
        """Rows as a whole from the factors, in float64."""
        o, i, _ = self._places(row_keys)
        return (self.rows[i] * self.tensor.out[o]) @ self.tensor.right[:, columns]

    def _places(self, keys: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        per_output = len(self.rows) * len(self.columns)
        o, rest = keys // per_output, keys % per_output
        return o, rest // len(self.columns), rest % len(self.columns)
