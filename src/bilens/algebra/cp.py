"""The CP form: a bilinear layer's tensor as its own three weight matrices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra.balance import balanced
from bilens.algebra.factored import Factored
from bilens.algebra.quadratic import QuadraticForm
from bilens.algebra.rounding import PARALLEL, require_rounding, rounded
from bilens.algebra.symmetric import unit_products
from bilens.algebra.third import (
    REACH,
    ThirdOrder,
    keeps_constant,
    require_affine,
    require_factors,
    require_maps,
    shared_out,
)
from bilens.algebra.units import strongest_units
from bilens.base.axes import MODES, Mode
from bilens.base.charts import DRAWN, MARKER, curve, logarithmic, ranked, titled
from bilens.base.errors import ShapeError
from bilens.base.numerics import (
    dtype_name,
    peak,
    powers,
    require_finite,
    restored_float,
    scalar,
    scaled,
    within,
    working_dtype,
)
from bilens.base.records import Record
from bilens.base.results import Drawn, Result, Tabled
from bilens.base.tables import Columns

BLOCK = 512  # hidden units at a time: enough for fast products, while h × h is never held


@dataclass(frozen=True, repr=False, eq=False)
class CP(ThirdOrder, Tabled, Drawn):
    """T[o, i, j] = Σ_h out[o, h] left[h, i] right[h, j]: three factors, never the cube.

    For an MLP D[(L x) ⊙ (R x)] these are down_proj, gate_proj and up_proj as they lie in the
    checkpoint. CP is closed under every verb here, so it is the one form that layers, feature bases
    and paths need.

    ``affine``: whether it is over (1, x), as ``algebra.affine`` makes it of a layer with biases.

    Square weights fit in any order, so nothing can tell where two have changed places: name them,
    CP(out=, left=, right=).

    >>> T = bilens.CP(mlp.down_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight)
    >>> torch.testing.assert_close(T(x), mlp(x))

    Columns of ``to_frame()``, a row for each hidden unit, the strongest first: ``unit``: its
    number; ``strength``: ‖D_h‖ ‖L_h‖ ‖R_h‖, which no rescaling of the unit changes; ``share``: of
    the sum of the squares of all strengths (units overlap, so it is none of ‖T‖²); ``cosine`` of
    what its two sides read, ±1 for a square, empty where they read different spaces; ``out``,
    ``left``, ``right``: where each of its three vectors is largest.
    """

    out: Float[Tensor, "o h"]
    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h j"]
    affine: bool = False

    def __post_init__(self) -> None:
        given = self.out, self.left, self.right
        hidden = self.out.shape[-1] if isinstance(self.out, Tensor) and self.out.ndim else None
        require_factors(
            "CP", _other_order(given), out=(self.out, (None, None)),
            left=(self.left, (hidden, None)), right=(self.right, (hidden, None)),
        )  # fmt: skip
        require_affine("CP", self)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.out.shape[0], self.left.shape[1], self.right.shape[1]

    @property
    def rank(self) -> int:
        """The number of terms h: an upper bound on the tensor's rank."""
        return self.out.shape[1]

    @property
    def inputs(self) -> tuple[Float[Tensor, "h i"], Float[Tensor, "h j"]]:
        """(left, right): what each unit reads."""
        return self.left, self.right

    def _any(self) -> Tensor:
        return self.out

    def _apply(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ self.left.mT) * (y @ self.right.mT)) @ self.out.mT

    def _contract(self, mode: Mode, u: Tensor) -> Factored:
        match mode:
            case "out":
                return Factored(self.left.mT * (u @ self.out)[..., None, :], self.right)
            case "left":
                return Factored(self.out * (u @ self.left.mT)[..., None, :], self.right)
            case "right":
                return Factored(self.out * (u @ self.right.mT)[..., None, :], self.left)

    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        self.require_one_space("interaction")
        self.require_fits("interaction", u, self.shape[0])
        return QuadraticForm(u @ self.out, self.left, self.right)

    def map(
        self, *, out: Tensor | None = None, left: Tensor | None = None, right: Tensor | None = None
    ) -> "CP":
        require_maps(self, out=out, left=left, right=right)
        return CP(
            self.out if out is None else out @ self.out,
            self.left if left is None else self.left @ left.mT,
            self.right if right is None else self.right @ right.mT,
            self.affine and keeps_constant(left, right),
        )

    def swap(self) -> "CP":
        return replace(self, left=self.right, right=self.left)

    def split(self) -> "Parts":
        """T((1, x)) as constant + linear + quadratic in x, exactly: the blocks (0, 0),
        (0, j) + (j, 0) and (i, j) of T. Cost O(o h i). Errors: ShapeError where T is not over
        (1, x).
        """
        if not self.affine:
            todo = "CP(..., affine=True) is; so is the tensor of a layer with biases."
            raise ShapeError("split", must="be asked of a CP over (1, x)", got=self, todo=todo)
        self.require_one_space("split")
        quadratic, left0, right0 = self.quadratic(), self.left[:, 0], self.right[:, 0]
        slope = left0[:, None] * quadratic.right + right0[:, None] * quadratic.left
        return Parts(self.out @ (left0 * right0), self.out @ slope, quadratic)

    def quadratic(self) -> "CP":
        return CP(self.out, self.left[:, 1:], self.right[:, 1:]) if self.affine else self

    def traces(self) -> Float[Tensor, " o"]:
        return self.out @ (self.left * self.right).sum(1)

    def round(
        self,
        max_rank: int | None = None,
        cutoff: float | None = None,
        *,
        symmetric: bool = False,
        seed: int = 0,
    ) -> "Rounded":
        """Nearly the same tensor from fewer units: of ``max_rank``, or of the smallest rank found
        with error ≤ ``cutoff``.

        With both, ``cutoff`` where ``max_rank`` allows it. ``symmetric``: only the symmetric part
        is to be kept. Units that are zero or share two of their three vectors are joined exactly
        before anything is given up. The error ‖T − T̂‖ / ‖T‖ is exact; the rank is not: the
        smallest CP rank is NP-hard to find, and what is found here, by alternating least squares
        from a few starts, is no proof that less would not do. In float64, without gradients.

        Cost: O(h r (o + i + j) + r³) a sweep, ten to some hundred sweeps a rank; O(h² (o + i + j))
        before that. Memory O(h block + h r) over the factors. Errors: ArgumentError for neither, a
        ``max_rank`` below 1 or a ``cutoff`` outside [0, 1); ShapeError for
        ``symmetric`` where left and right are different spaces; NotFiniteError. Source: Carroll &
        Chang 1970, Harshman 1970 (alternating least squares); Leurgans et al. 1993 (the pencil);
        Håstad 1990 (the rank is NP-hard).
        """
        require_rounding(max_rank, cutoff, seed)
        if symmetric and self.shape[1] != self.shape[2]:
            must = "be of one space, left and right"
            raise ShapeError("round(symmetric=True)", must=must, got=self.shape)
        require_finite("round", **self.factors())
        work, power = self.to(torch.float64).detach().near_one()
        factors = work.out.mT, work.left, work.right
        apart = PARALLEL * torch.finfo(self.dtype).eps
        modes: tuple[Mode, ...] = "left", "right"
        grams = partial(work.grams_near_one, modes, symmetric=False, dtype=torch.float64)
        made = rounded(factors, apart, grams, max_rank, cutoff, symmetric, seed)
        cp = CP(made.out.mT.contiguous(), made.left, made.right, self.affine)
        return Rounded(
            cp=cp.scaled(power) if power else cp,
            error=made.error,
            floor=made.floor,
            norm=restored_float("round's norm", made.norm, power),
            exact=made.exact,
            reduced=made.reduced,
            ranks=made.ranks,
            errors=made.errors,
            sweeps=made.sweeps,
            converged=made.converged,
            symmetric=symmetric,
            asked=cutoff,
        )

    def inner_near_one(self, other: ThirdOrder, *, symmetric: bool = False) -> Float[Tensor, ""]:
        """⟨T, T'⟩ = Σ_hh' (DᵀD')∘K, with K the products of the units' inputs, a tile of h × h' at a
        time.

        Where T' is T or T swapped, the tiles (a, b) and (b, a) have the same sum.
        """
        if not isinstance(other, CP):
            return other.inner_near_one(self, symmetric=symmetric)
        pairs = (self.left, self.right), (self.right, self.left)
        mirrored = other.out is self.out and any(
            other.left is left and other.right is right for left, right in pairs
        )
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for a, rows in self.units(torch.float64):
            for b, columns in other.units(torch.float64, a if mirrored else 0):
                same = mirrored and b == a and other.left is self.left
                inputs = unit_products(rows.inputs, (rows if same else columns).inputs, symmetric)
                tile = (rows.out.mT @ columns.out) * inputs
                total = total + tile.sum() * (2 if mirrored and b > a else 1)
        return total

    def near_one(self, dtype: torch.dtype | None = None) -> "tuple[CP, int]":
        """Each unit's vectors near one, its size in ``out``, and the largest size taken out: no
        unit is lost in another.
        """
        if dtype is not None and self._in_reach(REACH[dtype]):
            return self, 0
        work = self.to(working_dtype(self.dtype))
        out, left, right, powers = balanced(work.out, work.left, work.right)
        power = int(powers[out.detach().ne(0).any(1)].max()) if out.detach().any() else 0
        out = scaled(out, (powers - power).clamp(max=0)[:, None])
        return replace(self, out=out, left=left, right=right), power

    def _in_reach(self, reach: int) -> bool:
        sizes = peak(self.out, 0), peak(self.left, 1), peak(self.right, 1)
        return all(within(size, reach) for size in sizes)

    def scaled(self, power: int) -> "CP":
        out, left, right = shared_out(power)
        return replace(
            self,
            out=scaled(self.out, out),
            left=scaled(self.left, left),
            right=scaled(self.right, right),
        )

    def terms_by_output(self) -> Float[Tensor, " o"]:
        """√(Σ_h d_oh² ‖l_h‖² ‖r_h‖²)."""
        out, left, right = (factor.detach() for factor in (self.out, self.left, self.right))
        lengths = (
            torch.linalg.vector_norm(side, dim=1, dtype=torch.float64) for side in (left, right)
        )
        one, two = lengths
        return torch.cat([(rows.double() * (one * two)).norm(dim=1) for rows in out.split(BLOCK)])

    def outputs_near_one(self) -> "CP":
        sizes = peak(self.out, 1)
        if within(sizes, REACH[torch.float64]):
            return self
        return replace(self, out=scaled(self.out, -powers(sizes)[:, None]))

    def grams_near_one(
        self, modes: Sequence[Mode], *, symmetric: bool, dtype: torch.dtype
    ) -> list[Float[Tensor, "_ _"]]:
        """Fᵀ K F of each mode, with F the mode's factor and K = (one oneᵀ)∘(two twoᵀ) of the other
        two, a tile of K at a time.

        K is symmetric, so tiles (a, b) with a ≤ b are enough: with the diagonal ones halved, Fᵀ K F
        = M + Mᵀ.
        """
        sizes = (self.shape[MODES.index(mode)] for mode in modes)
        halves = [torch.zeros(size, size, dtype=dtype, device=self.device) for size in sizes]
        for a, rows in self.units(dtype):
            images: list[Tensor | float] = [0.0] * len(modes)
            for b, columns in self.units(dtype, a):
                tile = _Tile(rows, columns, symmetric)
                for n, mode in enumerate(modes):
                    images[n] = images[n] + (0.5 if a == b else 1.0) * tile.times(mode)
            for n, mode in enumerate(modes):
                halves[n] = halves[n] + _factor(rows, mode, symmetric).mT @ images[n]
        return [half + half.mT for half in halves]

    def units(self, dtype: torch.dtype, start: int = 0) -> "Iterator[tuple[int, CP]]":
        """The hidden units from ``start`` on, a block at a time and in ``dtype``, each with its
        first unit's number.
        """
        for first in range(start, self.rank, BLOCK):
            block = slice(first, first + BLOCK)
            yield (
                first,
                CP(
                    self.out[:, block].to(dtype),
                    self.left[block].to(dtype),
                    self.right[block].to(dtype),
                    self.affine,
                ),
            )

    def _cube(self) -> Tensor:
        slices = [(self.left * row[:, None]).mT @ self.right for row in self.out]
        return torch.stack(slices) if slices else self.out.new_zeros(self.shape)

    def _plus(self, other: Any) -> "CP":
        return CP(
            torch.cat([self.out, other.out], dim=1),
            torch.cat([self.left, other.left]),
            torch.cat([self.right, other.right]),
            self.affine,
        )

    def __mul__(self, factor: float | int | Tensor) -> "CP":
        return replace(self, out=self.out * scalar("CP", factor, self._any()))

    def summary(self) -> str:
        o, i, j = self.shape
        over = " over (1, x)" if self.affine else ""
        return f"{self.rank} units, {o} × {i} × {j}{over}, {dtype_name(self.dtype)}"

    def _table(self) -> Columns:
        return strongest_units(self.out.mT, self.left, self.right)

    def figure(self) -> dict[str, Any]:
        """A bar for each of the strongest units."""
        rows = self._table().rows[:DRAWN]
        labels, values = [f"unit {row['unit']}" for row in rows], [row["strength"] for row in rows]
        told = ("cosine", "out", "left", "right")
        hover = {name: [row[name] for row in rows] for name in told}
        title = f"The {len(rows)} strongest of {self.rank} hidden units"
        return ranked(labels, values, "strength ‖D_h‖ ‖L_h‖ ‖R_h‖", title, hover=hover)

    def __repr__(self) -> str:
        return super().__repr__().replace(", dtype", f", rank={self.rank}, dtype", 1)


@dataclass(frozen=True, repr=False, eq=False)
class Rounded(Result):
    """A CP of lower rank and how far it is from the one that was given. The ranks tried are
    heuristics' best, no proofs.

    Fields:
        cp: T̂, a CP in float64. Where ``symmetric`` was asked, only its symmetric part is meant.
        error: ‖T − T̂‖ / ‖T‖, 0 for a zero tensor.  floor: how far rounding may set ``error`` off,
            that of units which are parallel but for it among the rest.
        norm: ‖T‖.  exact: whether only units that were zero or parallel were joined.
        reduced: the rank after that.  ranks, errors, sweeps: of each rank that was tried, in order.
        converged: whether the last sweep of the one chosen changed as good as nothing; a lower
        error from another start is possible even then.  asked: the ``cutoff``, or nothing.

    Columns, a row for each rank that was tried: ``rank``, the ``relative error`` that it reached,
    the ``sweeps`` that took, and whether it is the one ``kept``.

    >>> A = bilens.CP(torch.eye(3), torch.eye(3), torch.eye(3))
    >>> rounded = (A + A).round(cutoff=1e-6)
    >>> rounded.cp.rank, rounded.exact
    (3, True)
    """

    cp: CP
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
        how = "exact"
        if not self.exact:
            how = "by alternating least squares" + ("" if self.converged else ", not converged")
        part = " of the symmetric part" if self.symmetric else ""
        error = f"relative error {self.error:.3g}{part}"
        missed = "" if self.reached else f"; {self.asked:.3g} was not reached"
        return f"rank {self.rank} (of {self.reduced} units that differ), {error}, {how}{missed}"

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
        ranks, errors = self.ranks[order].tolist(), self.errors[order].tolist()
        points = curve("", ranks, errors, hover={"rank": ranks, "relative error": errors})
        points["marker"] = {"size": [MARKER * (1 + (r == self.rank)) for r in ranks]}
        title = f"Rank tried: rank {self.rank} kept, relative error {self.error:.3g}"
        layout = titled(title, "rank", "relative error", yaxis=logarithmic("relative error"))
        return {"data": [points], "layout": layout}


@dataclass(frozen=True, repr=False, eq=False)
class Parts(Record):
    """T((1, x)) = constant + linear @ x + quadratic(x), exactly; made by ``T.split()``.

    >>> layer = bilens.nn.BilinearMLP(4, 8, bias=True)
    >>> parts = layer.tensor().split()
    >>> parts.constant.shape, parts.linear.shape, parts.quadratic.shape
    (torch.Size([4]), torch.Size([4, 4]), (4, 4, 4))
    """

    constant: Float[Tensor, " o"]
    linear: Float[Tensor, "o i"]
    quadratic: CP

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.constant + x @ self.linear.mT + self.quadratic(x)


def _other_order(given: tuple[Any, ...]) -> str:
    """What to say of factors that do not fit: in which order they would, where there is one."""
    names = "first", "second", "third"
    if not all(isinstance(factor, Tensor) and factor.ndim == 2 for factor in given):
        return ""
    for out, left, right in ((1, 0, 2), (2, 0, 1)):
        if given[out].shape[1] == given[left].shape[0] == given[right].shape[0]:
            return f"They fit as CP(out={names[out]}, left={names[left]}, right={names[right]})."
    if given[0].shape[1] == given[1].shape[1] == given[2].shape[1]:
        return "left and right are (h, i), as the weights of linear layers lie: pass their .mT."
    if given[0].shape[0] == given[1].shape[0] == given[2].shape[0]:
        return "out is (o, h), as the weight of a linear layer lies: pass its .mT."
    return ""


# Tiles of the Grams (maths: norms, similarity, HOSVD without the cube), for two blocks a, b of
# hidden units:
#   Gram_out(S) = ½ D [ (L Lᵀ)∘(R Rᵀ) + (L Rᵀ)∘(R Lᵀ) ] Dᵀ
#   Gram_in(S)  = ¼ [R; L]ᵀ ( [G G; G G] ∘ [L; R][L; R]ᵀ ) [R; L],   G = DᵀD


class _Tile:
    """What the Grams of all modes need of two blocks of hidden units, each product made once."""

    def __init__(self, a: CP, b: CP, symmetric: bool) -> None:
        self.a, self.b, self.symmetric = a, b, symmetric

    def times(self, mode: Mode) -> Float[Tensor, "_ s"]:
        """K F of the mode; of an input mode of the symmetric part, for a's left and then its right
        vectors.
        """
        left, right = self.b.inputs
        if mode == "out":
            return self._inputs() @ self.b.out.mT
        if self.symmetric:
            weights = 0.25 * self._outs
            by_left = (weights * self._left_left) @ right + (weights * self._left_right) @ left
            by_right = (weights * self._right_left) @ right + (weights * self._right_right) @ left
            return torch.cat([by_left, by_right])
        if mode == "left":
            return (self._outs * self._right_right) @ left
        return (self._outs * self._left_left) @ right

    def _inputs(self) -> Float[Tensor, "a b"]:
        straight = self._left_left * self._right_right
        if not self.symmetric:
            return straight
        return 0.5 * (straight + self._left_right * self._right_left)

    @cached_property
    def _outs(self) -> Float[Tensor, "a b"]:
        return self.a.out.mT @ self.b.out

    @cached_property
    def _left_left(self) -> Float[Tensor, "a b"]:
        return self.a.left @ self.b.left.mT

    @cached_property
    def _left_right(self) -> Float[Tensor, "a b"]:
        return self.a.left @ self.b.right.mT

    @cached_property
    def _right_left(self) -> Float[Tensor, "a b"]:
        return self.a.right @ self.b.left.mT

    @cached_property
    def _right_right(self) -> Float[Tensor, "a b"]:
        return self.a.right @ self.b.right.mT


def _factor(block: CP, mode: Mode, symmetric: bool) -> Float[Tensor, "_ s"]:
    """The vectors that a mode's unfolding multiplies. Of the symmetric part, those that stand
    beside the block's left vectors and then those beside its right ones.
    """
    if mode == "out":
        return block.out.mT
    if symmetric:
        return torch.cat([block.right, block.left])
    return block.left if mode == "left" else block.right
