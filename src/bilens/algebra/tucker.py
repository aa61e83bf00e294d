"""The Tucker form: a small core in three bases. And the dense cube, the truth for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.algebra.cp import CP
from bilens.algebra.factored import Factored
from bilens.algebra.quadratic import QuadraticForm
from bilens.algebra.third import (
    REACH,
    ThirdOrder,
    keeps_constant,
    require_affine,
    require_factors,
    require_maps,
    shared_out,
)
from bilens.base.axes import MODES, Mode
from bilens.base.numerics import (
    dtype_name,
    near_one,
    peak,
    powers,
    require_finite,
    require_values,
    scalar,
    scaled,
    square_shares,
    within,
    working_dtype,
)
from bilens.base.results import Tabled
from bilens.base.tables import Columns

LISTED = 1000  # entries of a core in a table


@dataclass(frozen=True, repr=False, eq=False)
class Dense(ThirdOrder):
    """T[o, i, j] as one array: what every other form is tested against. Verbs cost what the cube
    costs.

    >>> D = bilens.Dense(torch.eye(3).expand(2, 3, 3))
    >>> D(torch.ones(3))
    tensor([3., 3.])
    >>> D.cp().rank
    3
    """

    array: Float[Tensor, "o i j"]
    affine: bool = False

    def __post_init__(self) -> None:
        require_factors("Dense", array=(self.array, (None, None, None)))
        require_affine("Dense", self)

    @property
    def shape(self) -> tuple[int, int, int]:
        o, i, j = self.array.shape
        return o, i, j

    def _any(self) -> Tensor:
        return self.array

    def _apply(self, x: Tensor, y: Tensor) -> Tensor:
        return (self._matrices(x) @ y[..., None])[..., 0]

    def _matrices(self, x: Tensor) -> Tensor:
        """Σ_i T_oij x_i, (..., o, j)."""
        return torch.einsum("oij,...i->...oj", self.array, x)

    def _contract(self, mode: Mode, u: Tensor) -> Factored:
        array = self.array.movedim(MODES.index(mode), 0)
        matrix = torch.einsum("suv,...s->...uv", array, u)
        return Factored(matrix, torch.eye(matrix.shape[-1], dtype=self.dtype, device=self.device))

    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        return _form(self, u)

    def map(
        self, *, out: Tensor | None = None, left: Tensor | None = None, right: Tensor | None = None
    ) -> "Dense":
        require_maps(self, out=out, left=left, right=right)
        array = self.array
        for axis, matrix in enumerate((out, left, right)):
            if matrix is not None:
                array = (array.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
        return Dense(array, self.affine and keeps_constant(left, right))

    @torch.no_grad()
    def cp(self) -> CP:
        """T as a CP, to rounding: the singular vectors of the slices of one mode, that which needs
        fewest. The way in for who comes with a cube, as ``nn.Bilinear`` has one.

        Its ``rank`` is the sum of the slices' ranks, at most the product of T's two smallest sizes:
        more than the least there is, which no algorithm finds for sure; ``.cp().round(max_rank)``
        looks for fewer units and says the error. With each output over its own scale, a singular
        value counts where it is above max(p, q) · eps of the largest of its p × q slice: each
        output is exact to that. Half types give float32; no gradients.

        Cost: O(o i j (i + j)) for square slices, twice; memory that of the cube, twice. Errors:
        NotFiniteError. Source: Kolda and Bader 2009, SIAM Review 51, section 3.1 (bounds of rank).

        >>> layer = torch.nn.Bilinear(6, 6, 3, bias=False)
        >>> T = Dense(layer.weight.detach()).cp()
        >>> T.rank, torch.allclose(T(x := torch.randn(5, 6)), layer(x, x), atol=1e-5)
        (18, True)
        """
        require_finite("cp", array=self.array)
        powers_of_out = powers(peak(self.array.flatten(1), 1))[:, None]
        array = self.outputs_near_one().array.to(working_dtype(self.dtype))
        sizes = [int(_counts(slices, torch.linalg.svdvals(slices)).sum()) for slices in _by(array)]
        axis = sizes.index(min(sizes))
        slices = _by(array)[axis]
        u, s, vh = torch.linalg.svd(slices, full_matrices=False)
        place, unit = _counts(slices, s).nonzero().T
        first = torch.eye(len(slices), dtype=array.dtype, device=array.device)[place]
        vectors = [u[place, :, unit] * s[place, unit, None], vh[place, unit]]
        out, left, right = (*vectors[:axis], first, *vectors[axis:])
        # rounding goes by a slice's largest entry; an output of zeros has no scale of its own
        out = out * array.flatten(1).any(1)
        return CP(scaled(out.mT, powers_of_out), left, right, self.affine)

    def swap(self) -> "Dense":
        return replace(self, array=self.array.mT)

    def quadratic(self) -> "Dense":
        return Dense(self.array[:, 1:, 1:]) if self.affine else self

    def traces(self) -> Float[Tensor, " o"]:
        return self.array.diagonal(dim1=1, dim2=2).sum(1)

    def inner_near_one(self, other: ThirdOrder, *, symmetric: bool = False) -> Float[Tensor, ""]:
        if isinstance(other, Tucker):
            return other.inner_near_one(self, symmetric=symmetric)
        # no larger than the cube that is already here
        cube = other.to(torch.float64)._cube()
        array = self.array.to(torch.float64)
        return (_symmetrised(array) if symmetric else array).mul(cube).sum()

    def near_one(self, dtype: torch.dtype | None = None) -> "tuple[Dense, int]":
        if dtype is not None and _in_reach(REACH[dtype], self.array):
            return self, 0
        array, power = near_one(self.array.to(working_dtype(self.dtype)))
        return replace(self, array=array), power

    def scaled(self, power: int) -> "Dense":
        return replace(self, array=scaled(self.array, power))

    def terms_by_output(self) -> Float[Tensor, " o"]:
        """‖slice‖: no terms are added."""
        return torch.linalg.vector_norm(self.array.detach(), dim=(1, 2), dtype=torch.float64)

    def outputs_near_one(self) -> "Dense":
        sizes = powers(peak(self.array.flatten(1), 1))
        return replace(self, array=scaled(self.array, -sizes[:, None, None]))

    def grams_near_one(
        self, modes: Sequence[Mode], *, symmetric: bool, dtype: torch.dtype
    ) -> list[Float[Tensor, "_ _"]]:
        work = (self.symmetrise() if symmetric else self).to(dtype)
        unfolded = (work.array.movedim(MODES.index(mode), 0).flatten(1) for mode in modes)
        return [rows @ rows.mT for rows in unfolded]

    def _cube(self) -> Tensor:
        return self.array

    def _plus(self, other: Any) -> "Dense":
        return replace(self, array=self.array + other.array)

    def __mul__(self, factor: float | int | Tensor) -> "Dense":
        return replace(self, array=self.array * scalar("Dense", factor, self._any()))


@dataclass(frozen=True, repr=False, eq=False)
class Tucker(ThirdOrder, Tabled):
    """T[o, i, j] = Σ_abc core[a, b, c] out[o, a] left[i, b] right[j, c]: what a truncated HOSVD
    gives.

    Columns of ``to_frame()``, a row for each of the ``LISTED`` largest entries of the core:
    ``out``, ``left``, ``right``: the directions of each basis that it multiplies; ``value``; and
    ``share``: its square over the sum of the squares.

    >>> found = bilens.decompose.hosvd(T, max_rank=8)
    >>> found.tucker.core.shape
    torch.Size([8, 8, 8])
    """

    core: Float[Tensor, "a b c"]
    out: Float[Tensor, "o a"]
    left: Float[Tensor, "i b"]
    right: Float[Tensor, "j c"]
    affine: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.core, Tensor) and self.core.ndim == 3
        a, b, c = self.core.shape if whole else (None, None, None)
        require_factors(
            "Tucker", core=(self.core, (None, None, None)),
            out=(self.out, (None, a)), left=(self.left, (None, b)), right=(self.right, (None, c)),
        )  # fmt: skip
        require_affine("Tucker", self)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.out.shape[0], self.left.shape[0], self.right.shape[0]

    @property
    def ranks(self) -> tuple[int, int, int]:
        """(a, b, c): the sizes of the core."""
        return Dense(self.core).shape

    def summary(self) -> str:
        (o, i, j), (a, b, c) = self.shape, self.ranks
        core = f"a core {a} × {b} × {c}"
        return f"{o} × {i} × {j} by {core}, {dtype_name(self.core.dtype)}"

    def _table(self) -> Columns:
        require_values("Tucker.core", self.core)
        values = self.core.detach().double().flatten()
        shares = square_shares(values)
        order = values.abs().argsort(descending=True, stable=True)[:LISTED]
        places = torch.stack(torch.unravel_index(order, self.core.shape), 1).tolist()
        rows = [
            {"out": a, "left": b, "right": c, "value": value, "share": share}
            for (a, b, c), value, share in zip(
                places, values[order].tolist(), shares[order].tolist(), strict=True
            )
        ]
        return Columns(("out", "left", "right", "value", "share"), rows)

    def _any(self) -> Tensor:
        return self.core

    def _apply(self, x: Tensor, y: Tensor) -> Tensor:
        return Dense(self.core)._apply(x @ self.left, y @ self.right) @ self.out.mT

    def _contract(self, mode: Mode, u: Tensor) -> Factored:
        bases = {"out": self.out, "left": self.left, "right": self.right}
        first, second = (bases[other] for other in MODES if other != mode)
        small = Dense(self.core)._contract(mode, u @ bases[mode])
        return Factored(first @ small.a, small.b @ second.mT)

    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        return _form(self, u)

    def map(
        self, *, out: Tensor | None = None, left: Tensor | None = None, right: Tensor | None = None
    ) -> "Tucker":
        require_maps(self, out=out, left=left, right=right)
        return Tucker(
            self.core,
            self.out if out is None else out @ self.out,
            self.left if left is None else left @ self.left,
            self.right if right is None else right @ self.right,
            self.affine and keeps_constant(left, right),
        )

    def swap(self) -> "Tucker":
        return Tucker(self.core.mT, self.out, self.right, self.left, self.affine)

    def quadratic(self) -> "Tucker":
        if not self.affine:
            return self
        return Tucker(self.core, self.out, self.left[1:], self.right[1:])

    def traces(self) -> Float[Tensor, " o"]:
        return self.out @ (self.core * (self.left.mT @ self.right)).sum((1, 2))

    def inner_near_one(self, other: ThirdOrder, *, symmetric: bool = False) -> Float[Tensor, ""]:
        work, other = self.to(torch.float64), other.to(torch.float64)
        onto = {"out": work.out.mT, "left": work.left.mT, "right": work.right.mT}
        found = (work.core * other.map(**onto)._cube()).sum()
        if not symmetric:
            return found
        return 0.5 * (found + (work.core * other.swap().map(**onto)._cube()).sum())

    def near_one(self, dtype: torch.dtype | None = None) -> "tuple[Tucker, int]":
        """Each column of a basis near one, its size in the core, and the largest size there taken
        out.
        """
        bases = self.out, self.left, self.right
        if dtype is not None and _in_reach(REACH[dtype], self.core, *bases):
            return self, 0
        work = self.to(working_dtype(self.dtype))
        sizes = [peak(basis, 0) for basis in (work.out, work.left, work.right)]
        a, b, c = map(powers, sizes)
        shift, core = a[:, None, None] + b[:, None] + c, work.core.detach()
        acts = (core != 0) & torch.einsum(
            "a,b,c->abc", *(size.ne(0).double() for size in sizes)
        ).bool()
        total = shift + powers(core.abs())
        power = int(total[acts].max()) if acts.any() else 0
        shift = shift - power
        shift = torch.where(acts, shift, torch.minimum(shift, -powers(core.abs())))
        scaled_bases = (
            scaled(basis, -n)
            for basis, n in zip((work.out, work.left, work.right), (a, b, c), strict=True)
        )
        return Tucker(scaled(work.core, shift), *scaled_bases, affine=self.affine), power

    def scaled(self, power: int) -> "Tucker":
        core, left, right = shared_out(power)
        return replace(
            self,
            core=scaled(self.core, core),
            left=scaled(self.left, left),
            right=scaled(self.right, right),
        )

    def terms_by_output(self) -> Float[Tensor, " o"]:
        """Each slice of the core with the basis' columns at their lengths."""
        core = self.core.detach().double()
        for axis, basis in ((1, self.left), (2, self.right)):
            lengths = torch.linalg.vector_norm(basis.detach(), dim=0, dtype=torch.float64)
            core = (core.movedim(axis, -1) * lengths).movedim(-1, axis)
        return (self.out.detach().double() * core.flatten(1).norm(dim=1)).norm(dim=1)

    def outputs_near_one(self) -> "Tucker":
        return replace(self, out=scaled(self.out, -powers(peak(self.out, 1))[:, None]))

    def grams_near_one(
        self, modes: Sequence[Mode], *, symmetric: bool, dtype: torch.dtype
    ) -> list[Float[Tensor, "_ _"]]:
        work = (self.symmetrise() if symmetric else self).to(dtype)
        return [work._gram(mode) for mode in modes]

    def _gram(self, mode: Mode) -> Float[Tensor, "s s"]:
        bases = {"out": self.out, "left": self.left, "right": self.right}
        weighed = (
            Dense(self.core)
            .map(**{other: bases[other].mT @ bases[other] for other in MODES if other != mode})
            .array
        )
        axis = MODES.index(mode)
        small = self.core.movedim(axis, 0).flatten(1) @ weighed.movedim(axis, 0).flatten(1).mT
        return bases[mode] @ small @ bases[mode].mT

    def _cube(self) -> Tensor:
        return Dense(self.core).map(out=self.out, left=self.left, right=self.right).array

    def _plus(self, other: Any) -> "Tucker":
        core = self.core.new_zeros(
            [mine + theirs for mine, theirs in zip(self.ranks, other.ranks, strict=True)]
        )
        a, b, c = self.ranks
        core[:a, :b, :c], core[a:, b:, c:] = self.core, other.core
        bases = zip(
            (self.out, self.left, self.right), (other.out, other.left, other.right), strict=True
        )
        return Tucker(core, *(torch.cat(pair, dim=1) for pair in bases), affine=self.affine)

    def __mul__(self, factor: float | int | Tensor) -> "Tucker":
        return replace(self, core=self.core * scalar("Tucker", factor, self._any()))


def _by(array: Float[Tensor, "o i j"]) -> list[Float[Tensor, "s p q"]]:
    """The slices of each mode."""
    return [array.movedim(axis, 0) for axis in range(3)]


def _counts(slices: Float[Tensor, "s p q"], values: Float[Tensor, "s k"]) -> Bool[Tensor, "s k"]:
    """Which singular values of the slices are more than rounding."""
    noise = max(slices.shape[1:]) * torch.finfo(values.dtype).eps
    return values > noise * values[:, :1]


def _symmetrised(array: Float[Tensor, "o i i"]) -> Float[Tensor, "o i i"]:
    return (array + array.mT) / 2


def _form(tensor: Dense | Tucker, u: Tensor) -> QuadraticForm:
    """Q_u from the contraction over out: M = a b gives Σ_h (aᵀ)_h·x  b_h·x."""
    tensor.require_one_space("interaction")
    matrix = tensor.contract(out=u)
    left, right = matrix.a.mT, matrix.b
    return QuadraticForm(left.new_ones(left.shape[-2]), left, right)


def _in_reach(reach: int, *tensors: Tensor) -> bool:
    """Whether no tensor as a whole, and no column of a matrix, lies further than ``reach`` powers
    of two from one.
    """
    sizes = (peak(tensor if tensor.ndim == 2 else tensor.reshape(-1), 0) for tensor in tensors)
    return all(within(size, reach) for size in sizes)
