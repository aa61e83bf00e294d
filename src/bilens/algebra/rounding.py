"""CP rounding: the same tensor from fewer units, or nearly the same from far fewer.

Exact first: units that are zero go, and units that share two of their three vectors become one
(``units``).

Then alternating least squares. With left and right of T̂ held fixed, T̂ is linear in its out, and
its best out solves

    out̂ [(L̂ L̂ᵀ)∘(R̂ R̂ᵀ)] = out [(L L̂ᵀ)∘(R R̂ᵀ)]              O(h r d + r³), and no cube

and so for the other two in turn; ‖T − T̂‖ never grows. Where it ends depends on the start: two are
tried.

    pivots     the units that explain most of T one after another: pivoted Cholesky of their Gram
               matrix, O(h² d + h r²)
    pencil     two mixtures of outputs are X diag(u) Yᵀ and X diag(v) Yᵀ in the leading r directions
               of left and right, so X holds the eigenvectors of one times the inverse of the other:
               the answer where T has rank r ≤ i, j exactly
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra.units import Units, inner, joined, reduced
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import (
    nonnegative,
    require_count,
    require_finite,
    require_seed,
    require_share,
    restored_float,
)
from bilens.base.results import Result

SWEEPS = 200
TRIAL = 10  # sweeps from each start, of which the better goes on
STALLED = 1e-7  # of the error: a sweep that takes off less is the last
# in eps of the dtype that was given: how far two unit vectors that are one may lie apart
PARALLEL = 64
CANCELS = 1e-8  # of ‖T‖²: a square below that is computed from the difference
INDEPENDENT = 1e-6  # of the largest pivot of a Gram matrix's Cholesky factor: the least one
TINY = 1e-300
EPS = torch.finfo(torch.float64).eps
SLICES = 2**24  # numbers in a slice, and
# multiply-adds in all, up to which the error is computed from T − T̂ and not from inner products
WORK = 10**10


@dataclass(frozen=True, repr=False, eq=False)
class Rounded(Result):
    """A CP of lower rank and how far it is from the one that was given. The ranks tried are
    heuristics' best, no proofs.

    Fields:
        cp: T̂, a CP in float64. Where ``symmetric`` was asked, only its symmetric part is meant.
        error: ‖T − T̂‖ / ‖T‖, 0 for a zero tensor.  floor: an error below this is rounding.  norm:
        ‖T‖. exact: whether only units that were zero or parallel were joined.  reduced: the rank
        after that. ranks, errors, sweeps: of each rank that was tried, in order.  converged:
        whether the last sweep of the one kept changed as good as nothing; a lower error from
        another start is possible even then. asked: the ``cutoff``, or nothing.
    """

    cp: Any  # a CP, which stands above this file
    error: float
    floor: float
    norm: float
    exact: bool
    reduced: int
    ranks: Int[Tensor, " n"]
    errors: Float[Tensor, " n"]
    sweeps: Int[Tensor, " n"]
    converged: bool
    symmetric: bool
    asked: float | None

    @property
    def rank(self) -> int:
        """The units of ``cp``."""
        return self.cp.rank

    @property
    def reached(self) -> bool:
        """Whether the error is within the cutoff that was asked for."""
        return self.asked is None or self.error <= max(self.asked, self.floor)

    def summary(self) -> str:
        how = (
            "exact"
            if self.exact
            else "by alternating least squares" + ("" if self.converged else ", not converged")
        )
        missed = "" if self.reached else f"; {self.asked:.3g} was not reached"
        part = " of the symmetric part" if self.symmetric else ""
        return f"rank {self.rank} (of {self.reduced} units that differ), relative error {self.error:.3g}{part}, {how}{missed}"

    def columns(self) -> tuple[str, ...]:
        return "rank", "relative error", "sweeps", "kept"

    def rows(self) -> list[dict[str, Any]]:
        tried = zip(self.ranks.tolist(), self.errors.tolist(), self.sweeps.tolist(), strict=True)
        return [
            {"rank": r, "relative error": error, "sweeps": n, "kept": r == self.rank}
            for r, error, n in tried
        ]

    def figure(self) -> dict[str, Any]:
        order = self.ranks.argsort()
        points = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": self.ranks[order].tolist(),
            "y": self.errors[order].tolist(),
        }
        axis = {"title": {"text": "relative error"}, "type": "log", "exponentformat": "power"}
        return {"data": [points], "layout": {"xaxis": {"title": {"text": "rank"}}, "yaxis": axis}}


class _Fit(NamedTuple):
    units: Units
    error: float  # ‖T − T̂‖ / ‖T‖
    sweeps: int
    converged: bool


@torch.no_grad()
def rounded(
    tensor: Any,
    max_rank: int | None = None,
    cutoff: float | None = None,
    *,
    symmetric: bool = False,
    seed: int = 0,
) -> Rounded:
    """What ``CP.round`` does."""
    if max_rank is None and cutoff is None:
        raise ArgumentError("round", must="be given a max_rank or a cutoff", got="neither")
    if max_rank is not None:
        require_count("max_rank", max_rank)
    if cutoff is not None:
        require_share("cutoff", cutoff, "in [0, 1), relative to ‖T‖")
    require_seed("seed", seed)
    if symmetric and tensor.shape[1] != tensor.shape[2]:
        raise ShapeError(
            "round(symmetric=True)", must="be of one space, left and right", got=tensor.shape
        )
    require_finite("round", **vars(tensor))
    work, power = tensor.to(torch.float64).detach().near_one()
    least = reduced(
        Units(work.out.mT, work.left, work.right),
        PARALLEL * torch.finfo(tensor.dtype).eps,
        symmetric,
    )
    search = _Search(work, least, symmetric, seed)
    most = len(least.out) if max_rank is None else min(max_rank, len(least.out))
    kept = search.within(cutoff, most) if cutoff is not None else search.fit(most)
    return Rounded(
        cp=_put_back(
            type(work)(kept.units.out.mT.contiguous(), kept.units.left, kept.units.right), power
        ),
        error=kept.error,
        floor=search.floor,
        norm=restored_float("round's norm", search.norm, power),
        exact=len(kept.units.out) == len(least.out),
        reduced=len(least.out),
        ranks=torch.tensor([len(fit.units.out) for fit in search.tried]),
        errors=torch.tensor([fit.error for fit in search.tried], dtype=torch.float64),
        sweeps=torch.tensor([fit.sweeps for fit in search.tried]),
        converged=kept.converged,
        symmetric=symmetric,
        asked=cutoff,
    )


def _put_back(tensor: Any, power: int) -> Any:
    return tensor.scaled(power) if power else tensor


class _Search:
    """Fits of several ranks to one tensor, each from the best start that is known."""

    def __init__(self, given: Any, least: Units, symmetric: bool, seed: int) -> None:
        self.given, self.least, self.symmetric = (
            Units(given.out.mT, given.left, given.right),
            least,
            symmetric,
        )
        self.tensor = given
        self.generator = torch.Generator(given.device).manual_seed(seed)
        self.tried: list[_Fit] = []
        self.squares = {part: nonnegative(inner(least, least, part)) for part in {False, symmetric}}
        self.norm = self.squares[symmetric] ** 0.5
        self.direct = _affordable(self.given, 2 * (len(self.given.out) + len(least.out)))
        terms = float(torch.stack([factor.norm(dim=1) for factor in self.given]).prod(0).sum())
        self.floor = (
            8 * terms / self.norm * EPS ** (1.0 if self.direct else 0.5) if self.norm else 0.0
        )

    def within(self, cutoff: float, most: int) -> _Fit:
        """The smallest rank found to be within ``cutoff``: doubled until one is, then halved in
        between.
        """
        fails, rank, enough = 0, min(1, most), max(cutoff, self.floor)
        best = self.fit(rank, enough=enough)
        while best.error > enough and rank < most:
            fails, rank = rank, min(2 * rank, most)
            best = self.fit(rank, best.units, enough)
        while best.error <= enough and rank - fails > 1:
            middle = (fails + rank) // 2
            fit = self.fit(middle, best.units, enough)
            if fit.error <= enough:
                best, rank = fit, middle
            else:
                fails = middle
        return best

    def fit(self, rank: int, start: Units | None = None, enough: float | None = None) -> _Fit:
        """The best of ``rank`` units, from both starts and from another rank's fit, or the first
        with error ``enough``.
        """
        if rank == len(self.least.out):
            best = _Fit(self.least, self.error(self.least, self.symmetric), 0, True)
        else:
            starts = [self.least.some(_pivots(self.least, rank)), *self.pencil(rank)]
            trials = [
                self.sweep(units, TRIAL)
                for units in starts + ([] if start is None else [self.resized(start, rank)])
            ]
            best = min(trials, key=lambda fit: fit.error)
            best = (
                best
                if best.converged or (enough is not None and best.error <= enough)
                else self.sweep(best.units, SWEEPS, enough)
            )
            if self.symmetric:
                best = self.refitted(best)
        self.tried.append(best)
        return best

    def sweep(self, units: Units, sweeps: int, enough: float | None = None) -> _Fit:
        """Alternating least squares from ``units``, until a sweep takes off next to nothing.

        Where only ``enough`` is asked for: until that is reached, or so far off that all sweeps
        would not take it off.
        """
        best = _Fit(units, torch.inf, 0, False)
        for n in range(1, sweeps + 1):
            for mode in MODES:
                units = _solved(self.least, units, mode)
            error = self.error(units, False)
            gain = best.error - error
            done = gain <= STALLED * error or error < EPS
            over = enough is not None and (error <= enough or error - SWEEPS * gain > enough)
            best = (
                _Fit(units, error, n, done)
                if error < best.error
                else best._replace(sweeps=n, converged=done)
            )
            if done or over:
                break
        return best

    def pencil(self, rank: int) -> list[Units]:
        """The start from two mixtures of outputs, where there are that many directions and the
        mixtures come apart.
        """
        o, i, j = self.tensor.shape
        if rank > min(i, j) or o < 2:
            return []
        left, right = (
            torch.linalg.eigh(
                self.tensor.gram_near_one(mode, symmetric=False, dtype=torch.float64)
            ).eigenvectors[:, -rank:]
            for mode in ("left", "right")
        )
        mixed = self.least.out @ torch.randn(
            o, 2, generator=self.generator, dtype=left.dtype, device=left.device
        )
        a, b = (
            ((self.least.left @ left) * mix[:, None]).mT @ (self.least.right @ right)
            for mix in mixed.mT
        )
        try:
            values, vectors = torch.linalg.eig(torch.linalg.solve(b, a, left=False))
            # of a complex pair, both parts: real, and the same span
            x = vectors.real.where(values.imag >= 0, vectors.imag)
            y = torch.linalg.solve(x, a)
        except RuntimeError:  # singular
            return []
        return [Units(self.least.out.new_zeros(rank, o), (left @ x).mT, y @ right.mT)]

    def resized(self, units: Units, rank: int) -> Units:
        """Some of the ``units``, or all of them and more of the tensor's own: those that explain
        most of what is left.
        """
        if rank <= len(units.out):
            return units.some(_pivots(units, rank))
        both = joined(units, self.least)
        return both.some(_pivots(both, rank, first=len(units.out)))

    def refitted(self, fit: _Fit) -> _Fit:
        """Its out solved once more, for the symmetric part."""
        out = _solved(self.least, fit.units, "out", symmetric=True)
        return fit._replace(units=out, error=self.error(out, True))

    def error(self, units: Units, symmetric: bool) -> float:
        """‖T − T̂‖ / ‖T‖, from T − T̂ itself where it is small and that is affordable: inner
        products cancel.
        """
        total = self.squares[symmetric]
        if not total:
            return 0.0
        square = total - 2 * inner(self.least, units, symmetric) + inner(units, units, symmetric)
        if square < CANCELS * total and self.direct:
            square = _direct(joined(self.given, units._replace(out=-units.out)), symmetric)
        return (nonnegative(square) / total) ** 0.5


def _solved(tensor: Units, units: Units, mode: Mode, symmetric: bool = False) -> Units:
    """``units`` with the best of one factor, the other two held fixed at length one."""
    others = {
        name: factor / factor.norm(dim=1, keepdim=True).clamp(min=TINY)
        for name, factor in units._asdict().items()
    }
    one, two = (name for name in MODES if name != mode)
    a, b, p, q = others[one], others[two], getattr(tensor, one), getattr(tensor, two)
    within, across = (a @ a.mT) * (b @ b.mT), (a @ p.mT) * (b @ q.mT)
    if symmetric:  # of out alone
        within, across = within + (a @ b.mT) * (b @ a.mT), across + (a @ q.mT) * (b @ p.mT)
    return Units(**others | {mode: _divided(within, across @ getattr(tensor, mode))})


def _divided(within: Float[Tensor, "r r"], target: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
    """within⁻¹ target for a Gram matrix; the pseudo-inverse where units are not independent."""
    corner, fails = torch.linalg.cholesky_ex(within)
    if int(fails) or float(corner.diagonal().min()) < INDEPENDENT * float(corner.diagonal().max()):
        return torch.linalg.pinv(within, rtol=len(within) * EPS, hermitian=True) @ target
    return torch.cholesky_solve(target, corner)


def _pivots(units: Units, rank: int, first: int = 0) -> Int[Tensor, " r"]:
    """``rank`` units that explain most one after another, the ``first`` ones before all others:
    pivoted Cholesky.

    Of the Gram matrix of the units only its diagonal and the chosen columns are made.
    """
    left_over = torch.stack([factor.square().sum(1) for factor in units]).prod(0)
    chosen, columns = [], left_over.new_zeros(rank, len(left_over))
    for n in range(rank):
        pivot = n if n < first else int(left_over.argmax())
        column = (
            torch.stack([factor @ factor[pivot] for factor in units]).prod(0)
            - columns[:n, pivot] @ columns[:n]
        )
        columns[n] = column / left_over[pivot].clamp(min=TINY).sqrt()
        left_over = (left_over - columns[n].square()).clamp(min=0)
        chosen.append(pivot)
        left_over[pivot] = -1.0
    return torch.tensor(chosen, device=left_over.device)


def _affordable(units: Units, rank: int) -> bool:
    o, i, j = (min(factor.shape[1], rank) for factor in units)
    return i * j <= SLICES and rank * o * i * j <= WORK


def _direct(units: Units, symmetric: bool) -> float:
    """‖T‖² as a sum of squares, slice by slice: what cancels between units does so before it is
    squared.
    """
    if symmetric:
        units = Units(
            *(
                torch.cat(pair)
                for pair in zip(units, (units.out, units.right, units.left), strict=True)
            )
        )
    out, left, right = (
        torch.linalg.qr(f.mT, mode="r").R.mT if f.shape[1] > f.shape[0] else f for f in units
    )
    slices = ((left * row[:, None]).mT @ right for row in out.mT)
    return sum(float(part.square().sum()) for part in slices) / (4 if symmetric else 1)
