"""CP rounding: the same tensor from fewer units, or nearly the same from far fewer.

Exact first: terms that are zero go, and terms that share two of their three vectors become one:

    a ⊗ b ⊗ c + a' ⊗ βb ⊗ γc = (a + βγ a') ⊗ b ⊗ c    and so for the other two pairs of modes

Then alternating least squares. With left and right of T̂ held fixed, T̂ is linear in its out, and
its best out solves

    out̂ [(L̂ L̂ᵀ)∘(R̂ R̂ᵀ)] = out [(L L̂ᵀ)∘(R R̂ᵀ)]              O(h r d + r³), and no cube

and so for the other two in turn; ‖T − T̂‖ never grows. Where it ends depends on the start: two are
tried.

    pivots     the terms that explain most of T one after another: pivoted Cholesky of their Gram
               matrix, O(h² d + h r²)
    pencil     two mixtures of outputs are X diag(u) Yᵀ and X diag(v) Yᵀ in the leading r directions
               of left and right, so X holds the eigenvectors of one times the inverse of the other:
               the answer where T has rank r ≤ i, j exactly
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra.symmetric import unit_products
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError
from bilens.base.numerics import (
    eigh,
    nonnegative,
    require_count,
    require_seed,
    require_share,
    seeded,
    standard_normal,
)

SWEEPS = 200
TRIAL = 10  # sweeps from each start, of which the better goes on
STALLED = 1e-7  # of the error: a sweep that takes off less is the last
BLOCK = 512  # terms at a time
NEARLY = 1e-9  # of a cosine from one: terms closer than that are compared entry by entry
# In eps of the dtype that was given: how far two unit vectors that are one may lie apart.
PARALLEL = 64
CANCELS = 1e-8  # of ‖T‖²: a square below that is computed from the difference
# Of the squares that are added up: one below that is, in the end, as eps over twice that is the
# error's own rounding.
TOLD = 1e-5
INDEPENDENT = 1e-6  # of the largest pivot of a Gram matrix's Cholesky factor: the least one
TINY = 1e-300
EPS = torch.finfo(torch.float64).eps
SLICES = 2**24  # numbers in a slice, and
# multiply-adds in all, up to which the error is computed from T − T̂ and not from inner products
WORK = 10**10


class _Terms(NamedTuple):
    """The terms of a CP, a row each: out (h, o), left (h, i), right (h, j)."""

    out: Float[Tensor, "h o"]
    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h j"]

    def some(self, rows: Tensor) -> "_Terms":
        return _Terms(*(factor[rows] for factor in self))


class _Fit(NamedTuple):
    terms: _Terms
    error: float  # ‖T − T̂‖ / ‖T‖
    sweeps: int
    converged: bool


class Rounding(NamedTuple):
    """Fewer terms, a row each, and what ``Rounded`` says of them."""

    out: Float[Tensor, "r o"]
    left: Float[Tensor, "r i"]
    right: Float[Tensor, "r j"]
    error: float
    floor: float
    norm: float
    exact: bool
    reduced: int
    ranks: Int[Tensor, " n"]
    errors: Float[Tensor, " n"]
    sweeps: Int[Tensor, " n"]
    converged: bool


def require_rounding(max_rank: int | None, cutoff: float | None, seed: int) -> None:
    """Raise ArgumentError for neither of ``max_rank`` and ``cutoff``, or for one that cannot be."""
    if max_rank is None and cutoff is None:
        raise ArgumentError("round", must="be given a max_rank or a cutoff", got="neither")
    if max_rank is not None:
        require_count("max_rank", max_rank)
    if cutoff is not None:
        require_share("cutoff", cutoff, "in [0, 1), relative to ‖T‖")
    require_seed("seed", seed)


@torch.no_grad()
def rounded(
    factors: tuple[Float[Tensor, "h o"], Float[Tensor, "h i"], Float[Tensor, "h j"]],
    apart: float,
    grams: Callable[[], list[Tensor]],
    max_rank: int | None,
    cutoff: float | None,
    symmetric: bool,
    seed: int,
) -> Rounding:
    """What ``CP.round`` does to ``factors`` of a scale near one, in float64, a row each term.

    ``apart``: how far two unit vectors that are one may lie apart. ``grams``: of the CP's two
    inputs.
    """
    given = _Terms(*factors)
    least, moved = _reduced(given, apart, symmetric)
    search = _Search(given, least, moved, grams, symmetric, seed)
    most = len(least.out) if max_rank is None else min(max_rank, len(least.out))
    best = search.fit(most) if cutoff is None else search.within(cutoff, most)
    return Rounding(
        *best.terms,
        error=best.error,
        floor=search.floor,
        norm=search.norm,
        exact=len(best.terms.out) == len(least.out),
        reduced=len(least.out),
        ranks=torch.tensor([len(fit.terms.out) for fit in search.tried], device="cpu"),
        errors=torch.tensor([fit.error for fit in search.tried], dtype=torch.float64, device="cpu"),
        sweeps=torch.tensor([fit.sweeps for fit in search.tried], device="cpu"),
        converged=best.converged,
    )


class _Search:
    """Fits of several ranks to one tensor, each from the best start that is known."""

    def __init__(
        self,
        given: _Terms,
        least: _Terms,
        moved: float,
        grams: Callable[[], list[Tensor]],
        symmetric: bool,
        seed: int,
    ) -> None:
        self.given, self.least, self.grams, self.symmetric = given, least, grams, symmetric
        self.generator = seeded(seed, given.out.device)
        self.tried: list[_Fit] = []
        self.squares = {
            part: nonnegative(_inner(least, least, part)) for part in {False, symmetric}
        }
        self.norm = self.squares[symmetric] ** 0.5
        self.direct = _affordable(self.given, 2 * (len(self.given.out) + len(least.out)))
        rounds = 8 * float(_lengths(self.given).sum()) * EPS ** (1.0 if self.direct else 0.5)
        self.floor = (rounds + moved) / self.norm if self.norm else float(moved > 0)

    def within(self, cutoff: float, most: int) -> _Fit:
        """The smallest rank found to be within ``cutoff``: doubled until one is, then halved in
        between.
        """
        fails, rank, enough = 0, min(1, most), max(cutoff, self.floor)
        best = self.fit(rank, enough=enough)
        while best.error > enough and rank < most:
            fails, rank = rank, min(2 * rank, most)
            best = self.fit(rank, best.terms, enough)
        while best.error <= enough and rank - fails > 1:
            middle = (fails + rank) // 2
            fit = self.fit(middle, best.terms, enough)
            if fit.error <= enough:
                best, rank = fit, middle
            else:
                fails = middle
        return best

    def fit(self, rank: int, start: _Terms | None = None, enough: float | None = None) -> _Fit:
        """The best of ``rank`` terms, from both starts and from another rank's fit, or the first
        with error ``enough``.
        """
        if rank == len(self.least.out):
            best = _Fit(self.least, 0.0, 0, True)
        else:
            starts = [self.least.some(_pivots(self.least, rank)), *self.pencil(rank)]
            trials = [
                self.sweep(terms, TRIAL)
                for terms in starts + ([] if start is None else [self.resized(start, rank)])
            ]
            best = min(trials, key=lambda fit: fit.error)
            best = (
                best
                if best.converged or (enough is not None and best.error <= enough)
                else self.sweep(best.terms, SWEEPS, enough)
            )
            if self.symmetric:
                best = self.refitted(best)
        best = best._replace(error=self.error(best.terms, self.symmetric, last=True))
        self.tried.append(best)
        return best

    def sweep(self, terms: _Terms, sweeps: int, enough: float | None = None) -> _Fit:
        """Alternating least squares from ``terms``, until a sweep takes off next to nothing.

        Where only ``enough`` is asked for: until that is reached, or so far off that all sweeps
        would not take it off.
        """
        best = _Fit(terms, torch.inf, 0, False)
        for n in range(1, sweeps + 1):
            for mode in MODES:
                terms = _solved(self.least, terms, mode)
            error = self.error(terms, False)
            gain = best.error - error
            done = gain <= STALLED * error or error < EPS
            over = enough is not None and (error <= enough or error - SWEEPS * gain > enough)
            best = (
                _Fit(terms, error, n, done)
                if error < best.error
                else best._replace(sweeps=n, converged=done)
            )
            if done or over:
                break
        return best

    def pencil(self, rank: int) -> list[_Terms]:
        """The start from two mixtures of outputs, where there are that many directions and the
        mixtures come apart.
        """
        o, i, j = (factor.shape[1] for factor in self.given)
        if rank > min(i, j) or o < 2:
            return []
        left, right = (eigh(gram)[1][:, -rank:] for gram in self.grams())
        mixed = self.least.out @ standard_normal(o, 2, generator=self.generator, dtype=left.dtype)
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
        return [_Terms(self.least.out.new_zeros(rank, o), (left @ x).mT, y @ right.mT)]

    def resized(self, terms: _Terms, rank: int) -> _Terms:
        """Some of the ``terms``, or all of them and more of the tensor's own: those that explain
        most of what is left.
        """
        if rank <= len(terms.out):
            return terms.some(_pivots(terms, rank))
        both = _joined(terms, self.least)
        return both.some(_pivots(both, rank, first=len(terms.out)))

    def refitted(self, fit: _Fit) -> _Fit:
        """Its out solved once more, for the symmetric part."""
        out = _solved(self.least, fit.terms, "out", symmetric=True)
        return fit._replace(terms=out, error=self.error(out, True))

    def error(self, terms: _Terms, symmetric: bool, last: bool = False) -> float:
        """‖T − T̂‖ / ‖T‖, from T − T̂ itself where it is small and that is affordable: inner
        products cancel. The ``last`` of a rank is what is told: beside large terms that take each
        other away it is held to more digits than a sweep needs.
        """
        total = self.squares[symmetric]
        if not total:
            return 0.0
        square = total - 2 * _inner(self.least, terms, symmetric) + _inner(terms, terms, symmetric)
        limit = TOLD * (total + _lengths(terms).square().sum()) if last else CANCELS * total
        if square < limit and self.direct:
            square = _direct(_joined(self.given, terms._replace(out=-terms.out)), symmetric)
        return (nonnegative(square) / total) ** 0.5


def _solved(tensor: _Terms, terms: _Terms, mode: Mode, symmetric: bool = False) -> _Terms:
    """``terms`` with the best of one factor, the other two held fixed at length one."""
    others = {
        name: factor / factor.norm(dim=1, keepdim=True).clamp(min=TINY)
        for name, factor in terms._asdict().items()
    }
    one, two = (name for name in MODES if name != mode)
    a, b, p, q = others[one], others[two], getattr(tensor, one), getattr(tensor, two)
    within, across = (a @ a.mT) * (b @ b.mT), (a @ p.mT) * (b @ q.mT)
    if symmetric:  # of out alone
        within, across = within + (a @ b.mT) * (b @ a.mT), across + (a @ q.mT) * (b @ p.mT)
    return _Terms(**others | {mode: _divided(within, across @ getattr(tensor, mode))})


def _divided(within: Float[Tensor, "r r"], target: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
    """within⁻¹ target for a Gram matrix; the pseudo-inverse where terms are not independent."""
    corner, fails = torch.linalg.cholesky_ex(within)
    if int(fails) or float(corner.diagonal().min()) < INDEPENDENT * float(corner.diagonal().max()):
        return torch.linalg.pinv(within, rtol=len(within) * EPS, hermitian=True) @ target
    return torch.cholesky_solve(target, corner)


def _pivots(terms: _Terms, rank: int, first: int = 0) -> Int[Tensor, " r"]:
    """``rank`` terms that explain most one after another, the ``first`` ones before all others:
    pivoted Cholesky.

    Of the Gram matrix of the terms only its diagonal and the chosen columns are made.
    """
    left_over = torch.stack([factor.square().sum(1) for factor in terms]).prod(0)
    chosen, columns = [], left_over.new_zeros(rank, len(left_over))
    for n in range(rank):
        pivot = n if n < first else int(left_over.argmax())
        column = (
            torch.stack([factor @ factor[pivot] for factor in terms]).prod(0)
            - columns[:n, pivot] @ columns[:n]
        )
        columns[n] = column / left_over[pivot].clamp(min=TINY).sqrt()
        left_over = (left_over - columns[n].square()).clamp(min=0)
        chosen.append(pivot)
        left_over[pivot] = -1.0
    return torch.tensor(chosen, device=left_over.device)


def _affordable(terms: _Terms, rank: int) -> bool:
    o, i, j = (min(factor.shape[1], rank) for factor in terms)
    return i * j <= SLICES and rank * o * i * j <= WORK


def _direct(terms: _Terms, symmetric: bool) -> float:
    """‖T‖² as a sum of squares, slice by slice: what cancels between terms does so before it is
    squared.
    """
    if symmetric:
        terms = _Terms(
            *(
                torch.cat(pair)
                for pair in zip(terms, (terms.out, terms.right, terms.left), strict=True)
            )
        )
    out, left, right = (
        torch.linalg.qr(f.mT, mode="r").R.mT if f.shape[1] > f.shape[0] else f for f in terms
    )
    slices = ((left * row[:, None]).mT @ right for row in out.mT)
    return sum(float(part.square().sum()) for part in slices) / (4 if symmetric else 1)


def _lengths(terms: _Terms) -> Float[Tensor, " h"]:
    """The norm of each term."""
    return torch.stack([factor.norm(dim=1) for factor in terms]).prod(0)


def _joined(one: _Terms, two: _Terms) -> _Terms:
    return _Terms(*(torch.cat(pair) for pair in zip(one, two, strict=True)))


def _inner(one: _Terms, two: _Terms, symmetric: bool) -> float:
    """⟨T, T'⟩, or that of the symmetric parts, ½ (⟨T, T'⟩ + ⟨T, swap T'⟩); a block of terms at a
    time.
    """
    total = 0.0
    for rows in torch.arange(len(one.out), device=one.out.device).split(BLOCK):
        some = one.some(rows)
        inputs = unit_products(some[1:], two[1:], symmetric)
        total += float(((some.out @ two.out.mT) * inputs).sum())
    return total


def _reduced(terms: _Terms, apart: float, symmetric: bool) -> tuple[_Terms, float]:
    """The same tensor, of terms none of which is zero or shares two vectors with another, up to
    ``apart``; and by how much that moved it, at most.
    """
    before, moved = len(terms.out) + 1, 0.0
    terms = terms.some((torch.stack([factor.norm(dim=1) for factor in terms]) > 0).all(0))
    if symmetric:
        terms = _turned(terms)
    while len(terms.out) < before:
        before = len(terms.out)
        for mode in MODES:
            terms, more = _merged(terms, mode, apart)
            moved += more
    return terms, moved


def _merged(terms: _Terms, mode: Mode, apart: float) -> tuple[_Terms, float]:
    """_Terms that share their vectors in the other two modes as one, and how far that moved their
    sum, at most.
    """
    if not len(terms.out):
        return terms, 0.0
    factors = terms._asdict()
    lengths = {
        name: factor.norm(dim=1, keepdim=True) for name, factor in factors.items() if name != mode
    }
    (one, a), (two, b) = ((name, factors[name] / length) for name, length in lengths.items())
    first, sign, off = _first_like(a, b, apart)
    heads = first.unique()
    scaled = factors[mode] * lengths[one] * lengths[two] * sign[:, None]
    moved = float((scaled.norm(dim=1) * off).sum())
    summed = torch.zeros_like(scaled).index_add(0, first, scaled)[heads]
    kept = _Terms(**{one: a[heads], two: b[heads], mode: summed})
    return kept.some(summed.norm(dim=1) > 0), moved


def _first_like(
    a: Float[Tensor, "h p"], b: Float[Tensor, "h q"], apart: float
) -> tuple[Int[Tensor, " h"], Float[Tensor, " h"], Float[Tensor, " h"]]:
    """For each unit the first one with the same two vectors up to sign, itself at the latest; the
    signs' product; and how far apart the two pairs are, ‖a ⊗ b − a' ⊗ b'‖ at most.
    """
    found, signs, off = [], [], []
    every = torch.arange(len(a), device=a.device)
    for rows in every.split(BLOCK):
        cosines = a[rows] @ a.mT, b[rows] @ b.mT
        first = (
            torch.stack([cosine.abs() > 1 - NEARLY for cosine in cosines]).all(0).int().argmax(1)
        )
        one, two = (cosine.gather(1, first[:, None]).sign() for cosine in cosines)
        by_a = (a[rows] - one * a[first]).norm(dim=1)
        by_b = (b[rows] - two * b[first]).norm(dim=1)
        same = (by_a <= apart) & (by_b <= apart)
        found.append(first.where(same, rows))
        signs.append((one * two)[:, 0].where(same, 1.0))
        off.append((by_a + by_b).where(same, 0.0))
    return torch.cat(found), torch.cat(signs), torch.cat(off)


def _turned(terms: _Terms) -> _Terms:
    """Left and right of each unit in an order of their own, which the symmetric part does not see:
    swapped twins meet.
    """
    probe = torch.linspace(
        1, 2, terms.left.shape[1], dtype=terms.left.dtype, device=terms.left.device
    )
    left, right = (
        (factor @ probe).abs() / factor.norm(dim=1) for factor in (terms.left, terms.right)
    )
    swap = (left < right)[:, None]
    return _Terms(
        terms.out, terms.right.where(swap, terms.left), terms.left.where(swap, terms.right)
    )
