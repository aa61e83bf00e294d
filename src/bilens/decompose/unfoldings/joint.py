"""How many input directions a whole layer uses: one basis for the interaction matrices of all
outputs at once.

The left and right unfoldings of the symmetric part S have one Gram, Gram_in = Σ_o Q_o². Its
eigenvectors are the basis whose first r directions hold most of all Q_o together, by

    share of the Gram    Σ_{k≤r} σ_k² / ‖S‖²  = ‖P S‖² / ‖S‖²    one input of the two within them
    share held           ‖P S P‖² / ‖S‖²                         both of them

and 2·(share of the Gram) − 1 ≤ share held ≤ share of the Gram. The second is what is left of the
layer when its inputs are projected on the r directions. It has no spectrum of its own, and is
computed for chosen r: the corners of one kernel grow by a few columns of the turned factors from
one r to the next, so a pass over many r costs about one norm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CANCELLED, CP, Dense, Tucker, signs
from bilens.base.charts import curve, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import (
    dtype_name,
    is_number,
    near_one,
    nonnegative,
    require_share,
    restored_float,
    scaled,
)
from bilens.base.results import ANSWER_ROWS, Result
from bilens.decompose.unfoldings.unfolding import (
    ALL,
    Form,
    Precision,
    at_most,
    box,
    box_norm,
    in_basis,
    left_out,
    missed,
    norm_of,
    require_rank,
    require_tensor,
    rescaled,
    unfolding,
)

# that a bracket of r is cut into at a pass: two passes up to r = 256, three up to 4096
SECTIONS = 16


@dataclass(frozen=True, repr=False, eq=False)
class Joint(Result):
    """One orthonormal basis of input directions for all outputs of a layer, most used first.

    Fields:
        spectrum: all singular values σ of the input unfolding of S.
        directions: row k is the k-th direction, those kept, its largest entry positive.
        shares: of ‖S‖², as asked.  held_by, gram_by: how many directions each share needs with both
            inputs within them, and with one.
        sizes, held: ‖P S P‖² / ‖S‖² for the first ``sizes`` directions, exact; a row for each r
            that was looked at.
        captured: per output, ‖P Q_o P‖² / ‖Q_o‖² within the kept directions, exact; 0 for an output
            that is zero, or nothing but the rounding of terms that cancel.
        error: ‖S − P S P‖ / ‖S‖ for the kept directions.  discarded: the root of the summed squares
            of σ left out.
        noise: the singular value below which this precision leaves only rounding.
        norm: ‖S‖; 0, as all shares, where S is zero as far as can be told.  labels: names of the
            outputs, or none.
        precision, computed_in: how the spectrum was found, and the dtype of the work.

    Columns: ``directions``: the first 1, 2, … of them; ``singular value``: of the last of these;
    ``share of the Gram``: what of ‖S‖² they hold with one input within them; ``share held``: with
    both, empty where it was not computed; whether the last is ``kept``, and ``above noise``.

    >>> found = bilens.decompose.joint(T, max_rank=16)
    >>> found.directions.shape
    torch.Size([16, 128])
    """

    spectrum: Float[Tensor, " i"]
    directions: Float[Tensor, "k i"]
    shares: tuple[float, ...]
    held_by: tuple[int, ...]
    gram_by: tuple[int, ...]
    sizes: tuple[int, ...]
    held: Float[Tensor, " r"]
    captured: Float[Tensor, " o"]
    error: float
    discarded: float
    noise: float
    norm: float
    labels: tuple[str, ...]
    precision: str
    computed_in: str

    @property
    def effective_rank(self) -> float:
        """(Σσ²)² / Σσ⁴ of the σ above noise: 1 for a layer that reads one direction, n for n that
        it reads alike.

        0 where none is above noise, as for a zero layer.
        """
        heard = self.spectrum[self.spectrum > self.noise]
        if not len(heard):
            return 0.0
        squares = (heard / heard[0]).square()
        return float(squares.sum() ** 2 / squares.square().sum())

    @property
    def gram_share(self) -> Float[Tensor, " i"]:
        """The share of the Gram in the first 1, 2, … directions."""
        return _gram_share(self.spectrum)

    def needed(self, share: float, both: bool = True) -> int:
        """How many directions hold ``share`` of ‖S‖²: with both inputs within them (‖P S P‖²), or
        with one (the Gram's).

        Errors: ArgumentError for both inputs and a share that was not among those asked for, and
        for one outside [0, 1).
        """
        if not both:
            require_share("share", share)
            return _reach(self.gram_share, share) if self.norm else 0
        if share not in self.shares:
            raise ArgumentError(
                "share", must=f"be one of {self.shares}", got=share, todo="Pass shares= to joint."
            )
        return self.held_by[self.shares.index(share)]

    def summary(self) -> str:
        needs = ", ".join(
            f"{share:.4g} in {count}"
            for share, count in zip(self.shares, self.held_by, strict=True)
        )
        if not self.norm:
            none = f"none is read, or none above the noise of {self.noise:.3g}"
            return f"of {len(self.spectrum)} input directions {none}"
        count = f"of {len(self.spectrum)} input directions {len(self.directions)} kept"
        return (
            f"{count}, relative error {self.error:.3g}; "
            f"effective rank {self.effective_rank:.3g}; share of ‖S‖² held: {needs}"
        )

    def columns(self) -> tuple[str, ...]:
        return (
            "directions",
            "singular value",
            "share of the Gram",
            "share held",
            "kept",
            "above noise",
        )

    def rows(self) -> list[dict[str, Any]]:
        held = dict(zip(self.sizes, self.held.tolist(), strict=True))
        columns = zip(self.spectrum.tolist(), self.gram_share.tolist(), strict=True)
        return [
            {
                "directions": r,
                "singular value": value,
                "share of the Gram": share,
                "share held": held.get(r),
                "kept": r <= len(self.directions),
                "above noise": value > self.noise,
            }
            for r, (value, share) in enumerate(columns, 1)
        ]

    def output_rows(self) -> list[dict[str, Any]]:
        """Per output, the share of its interaction matrix within the kept directions."""
        name = self.labels or range(len(self.captured))
        return [
            {"output": one, "share held": share}
            for one, share in zip(name, self.captured.tolist(), strict=True)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """How many directions hold each share that was asked for, then the first directions."""
        held = [
            {"directions": n, "share held": share, "share of the Gram": None}
            for share, n in zip(self.shares, self.held_by, strict=True)
        ]
        told = ("directions", "share held", "share of the Gram")
        first = [{key: row[key] for key in told} for row in self.rows()]
        reached = {row["directions"] for row in held}
        rest = [row for row in first if row["directions"] not in reached]
        return [*held, *rest][:count] if self.norm else first[:count]

    def figure(self) -> dict[str, Any]:
        counts, gram = list(range(1, len(self.spectrum) + 1)), self.gram_share.tolist()
        sizes, held = list(self.sizes), self.held.tolist()
        one = "share of the Gram: one input within them"
        both = "share held: both inputs within them"
        lines = [
            curve(one, counts, gram, hover={"directions": counts, "share": gram}, mode="lines"),
            curve(both, sizes, held, hover={"directions": sizes, "share": held}),
        ]
        kept = f"{len(self.directions)} of {len(self.spectrum)} kept"
        title = f"What the first input directions hold: {kept}, relative error {self.error:.3g}"
        return {"data": lines, "layout": titled(title, "input directions", "share of ‖S‖²")}


@torch.no_grad()
def joint(
    tensor: CP | Dense | Tucker,
    max_rank: int | None = None,
    *,
    shares: Sequence[float] = (0.9, 0.99, 0.999),
    labels: Sequence[str] = (),
    precision: Precision = "float64",
) -> Joint:
    """The input directions that the whole layer uses, over all outputs at once; always of the
    symmetric part.

    Keeps ``max_rank`` directions, by default as many as hold the first of ``shares`` of ‖S‖² with
    both inputs within them; for these the share of every output is computed. ``labels`` names the
    outputs. ``precision``: as for ``hosvd``.

    Cost for a CP: O(h² (o + i) + i³), a few times over; memory h (o + i) and i².
    Errors: as ``hosvd``; ArgumentError for shares outside (0, 1) or labels of another number.

    >>> found = bilens.decompose.joint(T)
    >>> found.shares, len(found.held_by)
    ((0.9, 0.99, 0.999), 3)
    """
    require_rank(max_rank)
    shares = _shares(shares)
    require_tensor("joint", tensor, True, precision)
    listed = isinstance(labels, Sequence) and not isinstance(labels, str)
    if not listed or len(labels) not in (0, tensor.shape[0]):
        got = len(labels) if listed else repr(labels)
        raise ArgumentError("labels", must=f"name all {tensor.shape[0]} outputs", got=got)
    tensor, power = rescaled(tensor, precision)
    found = unfolding(tensor, "left", True, precision)
    whole = in_basis(tensor, {"left": found, "right": found})
    norm = norm_of(tensor, found, True, precision)
    held = _Held(whole, norm, _gram_share(found.values))
    needs = held.needed(shares)
    rank = min(max_rank or max(needs[0], 1), len(found.values))
    directions = found.vectors[:, :rank].mT
    rest = missed(whole, (tensor.shape[0], rank, rank), True, precision)
    size = restored_float("‖S‖", norm, power)
    return Joint(
        spectrum=scaled(found.values.double(), power),
        directions=directions * signs(directions),
        shares=shares,
        held_by=needs,
        gram_by=tuple(_reach(held.gram_share, share) if norm else 0 for share in shares),
        sizes=tuple(sorted(held.known)),
        held=torch.tensor(
            [held.known[size] for size in sorted(held.known)], dtype=torch.float64, device="cpu"
        ),
        captured=_captured(whole, rank)
        if norm
        else torch.zeros(tensor.shape[0], dtype=torch.float64, device="cpu"),
        error=min(1.0, rest / norm, 2**0.5 * at_most(found, rank) / norm) if norm else 0.0,
        discarded=math.ldexp(left_out(found, rank), power),
        noise=math.ldexp(found.noise, power),
        norm=size,
        labels=tuple(labels),
        precision=precision,
        computed_in=dtype_name(found.vectors.dtype),
    )


def _captured(whole: Form, rank: int) -> Float[Tensor, " o"]:
    """The share of each output's ‖Q_o‖² with both inputs in the first ``rank`` directions, each
    output at its own scale.
    """
    near = whole.outputs_near_one()
    squares, inside = (
        _output_squares(part) for part in (near, box(near, ALL, slice(rank), slice(rank)))
    )
    there = squares.sqrt() > CANCELLED * near.terms_by_output()
    return torch.where(there, inside / torch.where(there, squares, 1.0), 0.0).clamp(max=1).cpu()


def _shares(shares: object) -> tuple[float, ...]:
    given = tuple(shares) if isinstance(shares, Sequence) and not isinstance(shares, str) else ()
    if not given or not all(is_number(share) and 0 < share < 1 for share in given):
        raise ArgumentError("shares", must="be at least one number in (0, 1)", got=shares)
    return tuple(float(share) for share in given)


class _Held:
    """The share held by the first r directions, for the r that were looked at: ``known``."""

    def __init__(self, whole: Form, norm: float, gram_share: Float[Tensor, " i"]) -> None:
        self.whole, self.norm, self.gram_share = whole, norm, gram_share
        self.known = {len(gram_share): 1.0 if norm else 0.0}

    def needed(self, shares: Sequence[float]) -> tuple[int, ...]:
        """The smallest r that holds each share, by cutting all brackets at once in ``SECTIONS``."""
        if not self.norm:
            return (0,) * len(shares)
        self.look_at(
            {
                _reach(self.gram_share, bound)
                for share in shares
                for bound in (share, (1 + share) / 2)
            }
        )
        while cuts := {r for share in shares for r in _cuts(*self.bracket(share))}:
            self.look_at(cuts)
        return tuple(self.bracket(share)[1] for share in shares)

    def bracket(self, share: float) -> tuple[int, int]:
        """The largest r known to hold less, the smallest known to hold as much."""
        enough = min(r for r, held in self.known.items() if held >= share)
        return max((r for r in self.known if r < enough), default=0), enough

    def look_at(self, sizes: set[int]) -> None:
        fresh = sorted(sizes - set(self.known))
        shares = (
            min(1.0, nonnegative(square) / self.norm**2) for square in corners(self.whole, fresh)
        )
        self.known |= dict(zip(fresh, shares, strict=True))


def corners(whole: Form, sizes: Sequence[int]) -> list[float]:
    """‖S[:, :r, :r]‖² of T's symmetric part for each r of ``sizes``, which ascend. O(h² (o + i))
    for all of a CP's.

    ⟨S, S⟩ = ½ Σ (DᵀD)∘[(L Lᵀ)∘(R Rᵀ) + (L Rᵀ)∘(R Lᵀ)], every product growing by the columns between
    one r and the next.
    """
    if not isinstance(whole, CP):
        return [box_norm(whole, ALL, slice(r), slice(r), True, "float64") ** 2 for r in sizes]
    totals = torch.zeros(len(sizes), dtype=torch.float64, device=whole.device)
    for a, one in whole.units(torch.float64) if sizes else ():
        for b, two in whole.units(torch.float64, a):  # tiles (a, b) and (b, a) have one sum
            weight = (1.0 if b > a else 0.5) * (one.out.mT @ two.out)
            ll, rr, lr, rl = (torch.zeros_like(weight) for _ in range(4))
            for n, (low, high) in enumerate(zip((0, *sizes[:-1]), sizes, strict=True)):
                (l1, r1), (l2, r2) = (
                    (side.left[:, low:high], side.right[:, low:high]) for side in (one, two)
                )
                for product, x, y in ((ll, l1, l2), (rr, r1, r2), (lr, l1, r2), (rl, r1, l2)):
                    product.addmm_(x, y.mT)
                totals[n] += (weight * (ll * rr + lr * rl)).sum()
    return totals.tolist()


def _cuts(low: int, high: int) -> set[int]:
    width = -(-(high - low) // SECTIONS)
    return set(range(low + width, high, width))


def _gram_share(spectrum: Float[Tensor, " i"]) -> Float[Tensor, " i"]:
    squares = near_one(spectrum.double())[0].square()
    total = squares.sum()
    return squares.cumsum(0) / torch.where(total > 0, total, 1.0)


def _reach(shares: Float[Tensor, " i"], share: float) -> int:
    """How many first directions reach ``share``; all, where rounding keeps even them below it."""
    return min(int((shares < share).sum()) + 1, len(shares))


def _output_squares(tensor: Form) -> Float[Tensor, " o"]:
    """‖Q_o‖² of each output."""
    (gram,) = tensor.grams_near_one(("out",), symmetric=True, dtype=torch.float64)
    return gram.diagonal().clamp(min=0)
