"""The largest entries of a tensor over a vocabulary or a dictionary: exact, without the cube, with
a certificate.

Entries are products of a row vector and a column vector, |T_oij| = |z_oi · b_j| ≤ ‖z_oi‖ ‖b_j‖.
Outputs, rows and columns go by these bounds, largest first, until no bound is above the k-th
largest entry so far. What was skipped is then at most as large as the largest bound among it: the
certificate. ``readings`` makes the vectors and says what rounding does to them,
``outputs`` and ``search`` go through them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP, Dense, Factored
from bilens.base.axes import MODES
from bilens.base.charts import DRAWN, ranked
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import (
    GIB,
    as_given,
    require_count,
    require_finite,
    standard_normal,
    working_dtype,
)
from bilens.base.results import Result
from bilens.decompose.entries.outputs import Outputs

MATRIX = ("row", "column")
# of the terms: what rounding may set T and its swap apart by
SAME = {torch.float64: 1e-12, torch.float32: 1e-5}
Names = Mapping[str, Sequence[str]] | Sequence[str] | None


@dataclass(frozen=True, repr=False, eq=False)
class TopEntries(Result):
    """The ``len(values)`` largest entries by absolute value, largest first.

    indices: (entry, mode), one column for each of ``modes``. values: entries, or, where
    ``symmetric``, what each unordered pair of inputs, left ≤ right, adds to the output: T_oij +
    T_oji, the coefficient of x_i x_j. names: what the modes' indices stand for, or nothing.
    certificate: no entry that was not computed is larger than this, 0 where all were. looked_at:
    how many of ``size`` were computed. ``complete``: nothing that was not computed can be larger
    than the last one listed, and all that were ``asked`` for are there.

    Columns: a name or number for each mode (``out``, ``left`` and ``right`` of a tensor, ``row``
    and ``column`` of a matrix), and ``value``: the entry; or ``value of both orders``: of a pair of
    inputs, listed once.

    >>> found = bilens.decompose.top_entries(T, k=3)
    >>> found.indices.shape, found.complete
    (torch.Size([3, 3]), True)
    """

    modes: tuple[str, ...]
    indices: Int[Tensor, "n mode"]
    values: Float[Tensor, " n"]
    names: dict[str, tuple[str, ...]]
    certificate: float
    asked: int
    looked_at: int
    size: int
    symmetric: bool

    @property
    def measured(self) -> str:
        """The column that values stand in."""
        return "value of both orders" if self.symmetric else "value"

    @property
    def complete(self) -> bool:
        """Whether these are the largest entries there are."""
        least = float(self.values[-1].abs()) if len(self.values) else 0.0
        return len(self.values) == self.asked and self.certificate <= least

    def summary(self) -> str:
        largest = f", the largest {float(self.values[0]):.4g}" if len(self.values) else ""
        what = "pairs, both orders summed" if self.symmetric else "entries"
        listed = f"{len(self.values)} of {self.size:,} {what}{largest}"
        return f"{listed}; {self._exactness} ({self.looked_at:,} computed)"

    def columns(self) -> tuple[str, ...]:
        return (*self.modes, self.measured)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {mode: self._name(mode, n) for mode, n in zip(self.modes, row, strict=True)}
            | {self.measured: value}
            for row, value in zip(self.indices.tolist(), self.values.tolist(), strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        """A bar for each of the largest entries."""
        rows = self.rows()[:DRAWN]
        labels = [self._told(row) for row in rows]
        values = [row[self.measured] for row in rows]
        listed = f"the {len(rows)} largest of {self.size:,}"
        title = f"{' · '.join(self.modes)}: {listed}, {self._exactness}"
        return ranked(labels, values, self.measured, title)

    def _told(self, row: dict[str, Any]) -> str:
        """The entry in words: the two inputs and what they make, or row and column."""
        names = [str(row[mode]) for mode in self.modes]
        return " · ".join(names) if len(names) < 3 else f"{names[1]}, {names[2]} → {names[0]}"

    @property
    def _exactness(self) -> str:
        if self.complete:
            return "exact"
        return f"not all searched, others may reach {self.certificate:.4g}"

    def _name(self, mode: str, n: int) -> str | int:
        return self.names[mode][n] if mode in self.names else n


@torch.no_grad()
def top_entries(
    T: CP | Factored,
    k: int = 20,
    rows: Sequence[int] | Int[Tensor, " n"] | None = None,
    names: Names = None,
    *,
    symmetric: bool | None = None,
    budget: int | None = None,
    max_bytes: int = GIB,
) -> TopEntries:
    """The ``k`` largest entries of a CP, or of a Factored, exactly; the cube is never made.

    ``symmetric``: both inputs are the same x, so that only both orders of a pair together act: each
    unordered pair i ≤ j is listed once, with T_oij + T_oji (T_oii for a square), what x_i x_j is
    multiplied by. False: the inputs are two, and each |T_oij| is an entry of its own. None: True
    for a T that is the same with its inputs swapped, as ``symmetrise`` and
    ``virtual("… mlp0(embed, embed)")`` make it, so that no pair is listed twice.
    ``rows``: search these outputs (of a Factored: rows) alone. ``names``: of the entries of every
    mode, or by mode: "out", "left", "right" ("row", "column").
    ``budget``: stop after about so many entries were computed; ``certificate`` then says how large
    what is missing may be.
    ``max_bytes`` bounds a block of a slice. Equal entries that tie for the last place are listed in
    no special order.

    Bounds are in float32 with their rounding added, values in float64 from the factors. Cost: where
    the factors span r < i, j dimensions, O(h (o + i + j) r + h r³) before the search (r⁴ where the
    outputs span no more), O(i r²) for each output that a bound does not exclude and r for each
    entry computed; where bounds exclude nothing, and where the spans are no smaller than the
    factors, about that of all slices, h an entry, in float32. Memory O(h (o + i + j)),
    ``max_bytes`` and one output's rows. Errors: ArgumentError for ``k``, ``rows``, ``names`` or
    ``budget`` that cannot be; ShapeError for a symmetric part where left and right differ, or an
    empty mode; NotFiniteError; RangeError where float64 does not hold the largest.

    >>> found = bilens.decompose.top_entries(bilens.circuits.ov_circuit(model, 0, 1), k=5)
    >>> found.values.shape
    torch.Size([5])
    """
    for name, value in (
        ("k", k),
        ("budget", 1 if budget is None else budget),
        ("max_bytes", max_bytes),
    ):
        require_count(name, value)
    if not isinstance(T, CP | Factored):
        todo = "Of a cube: .array.abs().flatten().topk(k)." if isinstance(T, Dense) else ""
        raise ArgumentError(
            "top_entries", must="be given a CP or a Factored", got=type(T).__name__, todo=todo
        )
    if 0 in T.shape:
        raise ShapeError("top_entries", must="be given a tensor with no empty mode", got=T.shape)
    if len(T.shape) != (3 if isinstance(T, CP) else 2):
        raise ShapeError("top_entries", must="be given one matrix", got=T.shape)
    if symmetric not in (None, True, False):
        raise ArgumentError("symmetric", must="be True, False or None", got=repr(symmetric))
    require_finite("top_entries", **T.factors())
    work = T.to(torch.float64).detach()
    cubic = isinstance(work, CP)
    modes = MODES if cubic else MATRIX
    labels = _names(names, modes, work.shape)
    wanted = _wanted(rows, modes[0], work.shape[0]).to(work.device)
    if isinstance(work, CP):
        symmetric = _same_swapped(work, T.dtype) if symmetric is None else symmetric
        work = work.symmetrise() if symmetric and not _symmetrised(work) else work
        tensor = CP(work.out[wanted], work.left, work.right) * (2.0 if symmetric else 1.0)
    else:
        if symmetric:
            raise ArgumentError(
                "symmetric", must="be asked of a CP", got=f"a Factored {work.shape}"
            )
        # a matrix is a tensor of one output
        tensor = CP(torch.ones_like(work.a[:1]), work.a[wanted].mT, work.b)
    outputs = Outputs(tensor, k, bool(symmetric), budget, max_bytes)
    outputs.run()
    search, (entries, values) = outputs.search, outputs.largest()
    entries = entries if cubic else entries[:, 1:]
    entries[:, 0] = wanted[entries[:, 0]]
    return TopEntries(
        modes=modes,
        indices=entries.cpu(),
        values=values.cpu(),
        names=labels,
        certificate=outputs.skipped,
        asked=min(k, search.size),
        looked_at=search.looked_at,
        size=search.size,
        symmetric=bool(symmetric),
    )


def _same_swapped(tensor: CP, given: torch.dtype) -> bool:
    """Whether T(x, y) = T(y, x) to rounding of the dtype ``given``: tried on two random pairs,
    where no other T passes.
    """
    if tensor.shape[1] != tensor.shape[2] or tensor.rank == 0:
        return False
    if _symmetrised(tensor):
        return True
    near, _ = tensor.near_one()
    generator = torch.Generator().manual_seed(0)
    x, y = standard_normal(2, 2, tensor.shape[1], generator=generator).to(tensor.device)
    # as large as the terms where left and right are not alike
    apart = (near(x, y) - near(y, x)).abs()
    return bool((apart <= SAME[working_dtype(given)] * near.terms_by_output()).all())


def _symmetrised(tensor: CP) -> bool:
    """Whether it is a tensor and its swap, unit by unit, already: once more would only double the
    units.
    """
    half = tensor.rank // 2
    return (
        torch.equal(tensor.out[:, :half], tensor.out[:, half:])
        and torch.equal(tensor.left[:half], tensor.right[half:])
        and torch.equal(tensor.left[half:], tensor.right[:half])
    )


def _wanted(
    rows: Sequence[int] | Int[Tensor, " n"] | None, mode: str, size: int
) -> Int[Tensor, " n"]:
    if rows is None:
        return torch.arange(size, device="cpu")
    try:
        wanted = as_given(rows)
    except (TypeError, ValueError, RuntimeError):  # texts, ragged lists
        wanted = torch.empty(0, device="cpu")
    whole = (
        wanted.ndim == 1
        and len(wanted) > 0
        and not wanted.is_floating_point()
        and wanted.dtype != torch.bool
    )
    if (
        not whole
        or int(wanted.min()) < 0
        or int(wanted.max()) >= size
        or len(wanted.unique()) < len(wanted)
    ):
        raise ArgumentError(
            "rows", must=f"be different indices 0 … {size - 1} of {mode}, at least one", got=rows
        )
    return wanted.to(torch.int64)


def _names(names: Names, modes: Sequence[str], shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    if names is None:
        return {}
    named = names if isinstance(names, Mapping) else dict.fromkeys(modes, names)
    if not all(isinstance(given, Sequence) for given in named.values()):
        raise ArgumentError(
            "names", must="be sequences of names, one or by mode", got=type(names).__name__
        )
    if unknown := set(named) - set(modes):
        raise ArgumentError("names", must=f"be by mode: {', '.join(modes)}", got=min(unknown))
    for mode, size in zip(modes, shape, strict=True):
        if mode in named and len(named[mode]) != size:
            raise ShapeError(
                f"names of {mode}", must=f"name all {size} entries", got=len(named[mode])
            )
    return {mode: tuple(given) for mode, given in named.items()}
