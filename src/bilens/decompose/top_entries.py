"""The largest entries of a tensor over a vocabulary or a dictionary: exact, without the cube, with a certificate.

One output at a time, T_o = Lᵀ diag(D_o) R. With orthonormal bases of what left and right entries span, L = X Yᵀ and
R = X' Y'ᵀ, the slice is Y C_o Y'ᵀ with a core C_o = Xᵀ diag(D_o) X' as small as the span, and its SVD U S Vᵀ bounds entries:

    |T_oij| = |(S^½ Uᵀ y_i) · (S^½ Vᵀ y'_j)| ≤ p_i r_j      p_i = ‖S^½ Uᵀ y_i‖, r_j = ‖S^½ Vᵀ y'_j‖
    |T_oij| ≤ ‖C_o‖ max ‖y_i‖ max ‖y'_j‖                    from Grams alone, for all outputs at once

Outputs go by the second bound, rows and columns of a slice by the first, largest first, until no bound is above the k-th
largest entry so far. What was skipped is then at most as large as the largest bound among it: the certificate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP, Factored
from bilens.algebra.third import GIB
from bilens.base.axes import MODES
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import is_whole, require_finite
from bilens.base.results import Result

ROWS = 256  # of a slice at a time: few, so that the k-th best rises early
MATRIX = ("row", "column")
Names = Mapping[str, Sequence[str]] | Sequence[str] | None


@dataclass(frozen=True, repr=False, eq=False)
class TopEntries(Result):
    """The ``len(values)`` largest entries by absolute value, largest first.

    indices: (entry, mode), one column for each of ``modes``. names: what the modes' indices stand for, or nothing.
    certificate: no entry that was not computed is larger than this, 0 where all were. looked_at: how many of ``size`` were
    computed. ``complete``: nothing that was not computed can be larger than the last one listed, and all that were ``asked``
    for are there.
    """

    modes: tuple[str, ...]
    indices: Int[Tensor, "n mode"]
    values: Float[Tensor, " n"]
    names: dict[str, tuple[str, ...]]
    certificate: float
    asked: int
    looked_at: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether these are the largest entries there are."""
        return len(self.values) == self.asked and self.certificate <= float(self.values[-1].abs())

    def summary(self) -> str:
        how = "exact" if self.complete else f"not all searched, others may reach {self.certificate:.4g}"
        largest = f", the largest {float(self.values[0]):.4g}" if len(self.values) else ""
        return f"{len(self.values)} of {self.size:,} entries{largest}; {how} ({self.looked_at:,} computed)"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {mode: self._name(mode, n) for mode, n in zip(self.modes, row, strict=True)} | {"value": value}
            for row, value in zip(self.indices.tolist(), self.values.tolist(), strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        labels = [" · ".join(str(row[mode]) for mode in self.modes) for row in self.rows()]
        bars = {"type": "bar", "orientation": "h", "x": self.values.tolist(), "y": list(range(len(labels)))}
        ticks = {"tickvals": list(range(len(labels))), "ticktext": labels, "autorange": "reversed", "automargin": True}
        title = {"text": " · ".join(self.modes)}
        return {"data": [bars], "layout": {"title": title, "xaxis": {"title": {"text": "value"}}, "yaxis": ticks}}

    def _name(self, mode: str, n: int) -> str | int:
        return self.names[mode][n] if mode in self.names else n


@torch.no_grad()
def top_entries(
    T: CP | Factored,
    k: int = 20,
    rows: Sequence[int] | Int[Tensor, " n"] | None = None,
    names: Names = None,
    *,
    symmetric: bool = False,
    budget: int | None = None,
    max_bytes: int = GIB,
) -> TopEntries:
    """The ``k`` largest |T_oij| of a CP, or |F_ij| of a Factored, exactly; the cube is never made.

    ``rows``: search these outputs (of a Factored: rows) alone. ``names``: of the entries of every mode, or by mode: "out",
    "left", "right" ("row", "column"). ``symmetric``: take the symmetric part S_oij and list unordered pairs, i ≤ j.
    ``budget``: stop after about so many entries were computed; ``certificate`` then says how large what is missing may be.
    ``max_bytes`` bounds a block of a slice. Equal entries that tie for the last place are listed in no special order.

    Work is in float64. Cost: O(h² (i + j) + o h²) before the search; for each output that a bound does not exclude O(h r² +
    r³ + r² (i + j)) with r the rank of what the entries span, and r for each entry computed. Memory O(h (o + i + j)) and
    a block.
    Errors: ArgumentError for ``k``, ``rows``, ``names`` or ``budget`` that cannot be; ShapeError for a symmetric part
    where left and right differ; NotFiniteError.
    """
    for name, value in (("k", k), ("budget", 1 if budget is None else budget)):
        if not is_whole(value) or value < 1:
            raise ArgumentError(name, must="be a whole number ≥ 1", got=value)
    work = T.to(torch.float64).detach()
    require_finite("top_entries", **vars(work))
    cubic = isinstance(work, CP)
    modes = MODES if cubic else MATRIX
    labels = _names(names, modes, work.shape)
    wanted = _wanted(rows, modes[0], work.shape[0]).to(work.device)
    if isinstance(work, CP):
        work = work.symmetrise() if symmetric else work
        tensor = CP(work.out[wanted], work.left, work.right)
    else:
        if symmetric:
            raise ArgumentError("symmetric", must="be asked of a CP", got=f"a Factored {work.shape}")
        tensor = CP(torch.ones_like(work.a[:1]), work.a[wanted].mT, work.b)  # a matrix is a tensor of one output
    search = _Search(tensor, k, symmetric, budget, max_bytes)
    search.run()
    entries, values = search.found()
    entries = entries if cubic else entries[:, 1:]
    entries[:, 0] = wanted[entries[:, 0]]
    return TopEntries(
        modes=modes,
        indices=entries.cpu(),
        values=values.cpu(),
        names=labels,
        certificate=search.skipped,
        asked=min(k, search.size),
        looked_at=search.looked_at,
        size=search.size,
    )


class _Search:
    """Branch and bound over outputs, rows and columns. ``skipped`` is the largest bound of what was not computed."""

    def __init__(self, tensor: CP, k: int, symmetric: bool, budget: int | None, max_bytes: int) -> None:
        self.tensor, self.k, self.symmetric, self.max_bytes = tensor, k, symmetric, max_bytes
        self.left, self.right = _spanned(tensor.left), _spanned(tensor.right)
        o, i, j = tensor.shape
        self.size = o * i * (i + 1) // 2 if symmetric else o * i * j
        self.left_of_budget = self.size if budget is None else budget
        self.looked_at, self.skipped = 0, 0.0
        self.values = tensor.out.new_zeros(0)
        self.entries = torch.zeros(0, 3, dtype=torch.int64, device=tensor.device)
        # What a computed value may be off by, and a bound with it, from rounding and from directions dropped by _spanned.
        unit = torch.finfo(torch.float64).eps * max(i, j, tensor.rank) * self.left.size * self.right.size
        self.rounding = unit * tensor.out.abs().sum(1)

    @property
    def threshold(self) -> float:
        """What an entry must be above to be listed; bounds at or below it are skipped."""
        return float(self.values[-1]) if len(self.values) == self.k else -1.0

    def run(self) -> None:
        x, y = self.left, self.right
        gram = (x.mixing @ x.mixing.mT) * (y.mixing @ y.mixing.mT)
        norms = ((self.tensor.out @ gram) * self.tensor.out).sum(1).clamp(min=0).sqrt()
        bounds = norms * x.basis.norm(dim=1).max() * y.basis.norm(dim=1).max() + self.rounding
        order = bounds.argsort(descending=True)
        for o, bound in zip(order.tolist(), bounds[order].tolist(), strict=True):
            if bound <= self.threshold or self.left_of_budget <= 0:
                self.skip(bound)
                return
            self.slice(o)

    def slice(self, o: int) -> None:
        """One output: rows and columns by what their norms in the core's metric allow."""
        core = (self.left.mixing * self.tensor.out[o][:, None]).mT @ self.right.mixing
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        rows, row_bounds, row_order = _by_norm(self.left.basis @ (u * s.sqrt()))
        columns, column_bounds, column_order = _by_norm(self.right.basis @ (vh.mT * s.sqrt()))
        slack, start = float(self.rounding[o]), 0
        while start < len(rows):
            bounds = row_bounds[start] * column_bounds + slack
            wide = int((bounds > self.threshold).sum())
            if wide == 0 or self.left_of_budget <= 0:
                self.skip(float(bounds[0]))
                return
            if wide < len(columns):
                self.skip(float(bounds[wide]))
            stop = start + max(1, min(ROWS, self.max_bytes // (8 * wide), -(-self.left_of_budget // wide)))
            self.take(o, rows[start:stop] @ columns[:wide].mT, row_order[start:stop], column_order[:wide])
            start = stop

    def take(self, o: int, block: Float[Tensor, "a b"], i: Int[Tensor, " a"], j: Int[Tensor, " b"]) -> None:
        """Keep what of a block is among the k largest so far."""
        sizes = block.abs()
        if self.symmetric:
            sizes = sizes.where(i[:, None] <= j, -1.0)
        computed = int((sizes >= 0).sum())
        self.looked_at += computed
        self.left_of_budget -= computed
        a, b = (sizes > self.threshold).nonzero(as_tuple=True)
        if not len(a):
            return
        best = sizes[a, b].topk(min(self.k, len(a))).indices
        a, b = a[best], b[best]
        entries = torch.stack([torch.full_like(a, o), i[a], j[b]], 1)
        values, entries = torch.cat([self.values, sizes[a, b]]), torch.cat([self.entries, entries])
        order = values.argsort(descending=True, stable=True)[: self.k]
        self.values, self.entries = values[order], entries[order]

    def skip(self, bound: float) -> None:
        self.skipped = max(self.skipped, bound)

    def found(self) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
        """The entries and their values, from the factors themselves."""
        o, i, j = self.entries.mT
        values = (self.tensor.out[o] * self.tensor.left[:, i].mT * self.tensor.right[:, j].mT).sum(1)
        order = values.abs().argsort(descending=True, stable=True)
        return self.entries[order], values[order]


class _Span(NamedTuple):
    """A factor as ``mixing`` @ ``basis``ᵀ with orthonormal columns of the basis; ``size`` is its largest singular value."""

    mixing: Float[Tensor, "h r"]
    basis: Float[Tensor, "i r"]
    size: float


def _spanned(factor: Float[Tensor, "h i"]) -> _Span:
    u, s, vh = torch.linalg.svd(factor, full_matrices=False)
    size = float(s.max()) if len(s) else 0.0
    rank = int((s > size * torch.finfo(s.dtype).eps * max(factor.shape)).sum())
    return _Span(u[:, :rank] * s[:rank], vh[:rank].mT, size)


def _by_norm(rows: Float[Tensor, "n r"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows by norm, largest first; the norms; and where each row was."""
    norms, order = rows.norm(dim=1).sort(descending=True)
    return rows[order], norms, order


def _wanted(rows: Sequence[int] | Int[Tensor, " n"] | None, mode: str, size: int) -> Int[Tensor, " n"]:
    if rows is None:
        return torch.arange(size)
    wanted = torch.as_tensor(rows)
    whole = wanted.ndim == 1 and len(wanted) > 0 and not wanted.is_floating_point() and wanted.dtype != torch.bool
    if not whole or int(wanted.min()) < 0 or int(wanted.max()) >= size or len(wanted.unique()) < len(wanted):
        raise ArgumentError("rows", must=f"be different indices 0 … {size - 1} of {mode}, at least one", got=rows)
    return wanted.to(torch.int64)


def _names(names: Names, modes: Sequence[str], shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    if names is None:
        return {}
    named = names if isinstance(names, Mapping) else dict.fromkeys(modes, names)
    if unknown := set(named) - set(modes):
        raise ArgumentError("names", must=f"be by mode: {', '.join(modes)}", got=min(unknown))
    for mode, size in zip(modes, shape, strict=True):
        if mode in named and len(named[mode]) != size:
            raise ShapeError(f"names of {mode}", must=f"name all {size} entries", got=len(named[mode]))
    return {mode: tuple(given) for mode, given in named.items()}
