"""A bilinear layer as a function on Gaussian data: three orthogonal parts, from the factors.

With x = μ + Σ^½ z, z standard normal, and S the symmetric part of T in the coordinates of z, T(x)
is

    T(x) = m + J z + [S_z(z, z) − tr S_z]
    m = T(μ, μ) + tr S_z       J = 2 S(μ, Σ^½ ·)       S_z = S(Σ^½ ·, Σ^½ ·)

a constant, a linear and a purely quadratic part: Hermite polynomials of degree 0, 1 and 2, which do
not correlate. So

    E⟨T(x), T'(x)⟩ = m·m' + ⟨J, J'⟩ + 2 ⟨S_z, S_z'⟩
    E[T(x) T(x)ᵀ] = m mᵀ + J Jᵀ + 2 Gram_out(S_z)

with ⟨S_z, S_z'⟩ as in ``algebra.symmetric``. Written out in a = L x, b = R x, c = L' x, e = R' x
these are Isserlis' sums over pairs for E[a b c e]; here the three parts of a norm are squares, and
do not cancel.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import ThirdOrder
from bilens.base.numerics import peak, powers, restored, scaled, within
from bilens.base.records import Record

# powers of two that the parts may lie from one before their squares are a matter of scale
REACH = 60


@dataclass(frozen=True, repr=False, eq=False)
class Hermite(Record):
    """T on Gaussian inputs as constant + linear + quadratic, by degree in z; in float64.

    Made by ``measure.of(T).hermite()``.

    Fields: ``mean`` E[T(x)]; ``slope`` J; ``quadratic`` T_z, in the form of T and over z; only its
    symmetric part acts.

    >>> g = bilens.Gaussian(torch.zeros(128), torch.eye(128))
    >>> parts = g.of(T).hermite()
    >>> parts.mean.shape, parts.slope.shape
    (torch.Size([128]), torch.Size([128, 128]))
    """

    mean: Float[Tensor, " o"]
    slope: Float[Tensor, "o z"]
    quadratic: ThirdOrder

    def __call__(self, z: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """T(μ + Σ^½ z), exactly where μ and Σ^½ z are all there is of x."""
        constant = self.mean - self.quadratic.traces()
        return constant + z @ self.slope.mT + self.quadratic(z)

    def inner(self, other: "Hermite", *, centred: bool = False) -> Float[Tensor, ""]:
        """E⟨T(x), T'(x)⟩; without the product of the means where ``centred``. O(h h' (o + i)) for
        two CPs.
        """
        return self.shares(other)[1 if centred else 0 :].sum()

    def shares(self, other: "Hermite | None" = None) -> Float[Tensor, "3"]:
        """What the constant, linear and quadratic parts add to E⟨T(x), T'(x)⟩ (T' is T unless
        given).
        """
        one, power = self.near_one()
        two, more = (one, power) if other is None or other is self else other.near_one()
        quadratic = 2 * one.quadratic.inner_near_one(two.quadratic, symmetric=True)
        shares = torch.stack([one.mean @ two.mean, (one.slope * two.slope).sum(), quadratic])
        return restored("shares", shares, power + more, shares.dtype)

    def near_one(self) -> "tuple[Hermite, int]":
        """The parts over a power of two, and the power: that of the largest, so that their squares
        stay in range.
        """
        return (self, 0) if self._in_reach else self._over_power()

    @cached_property
    def _in_reach(self) -> bool:
        return self._over_power()[0] is self

    def _over_power(self) -> "tuple[Hermite, int]":
        quadratic, power = self.quadratic.near_one(torch.float64)
        same = quadratic is self.quadratic
        if same and within(torch.stack([peak(self.mean), peak(self.slope)]), REACH):
            return self, 0
        parts = (part.reshape(-1) for part in (self.mean, self.slope) if part.any())
        sizes = [int(powers(peak(part))) for part in parts]
        most = max([power, *sizes] if quadratic.terms() else sizes, default=0)
        if same and abs(most) <= REACH:
            return self, 0
        mean, slope = scaled(self.mean, -most), scaled(self.slope, -most)
        return Hermite(mean, slope, quadratic.scaled(power - most)), most

    def scaled(self, power: int) -> "Hermite":
        """All of it times 2^power. Errors: RangeError."""
        mean, slope = (
            restored("hermite", part, power, part.dtype) for part in (self.mean, self.slope)
        )
        return Hermite(mean, slope, self.quadratic.scaled(power))

    def vanishes(self, length: float) -> bool:
        """Whether a norm of these parts is none: 0, NaN, or what rounding leaves of terms of the
        quadratic part that cancel.
        """
        return self.quadratic.vanishes(length)

    def gram(self, *, centred: bool = False) -> Float[Tensor, "o o"]:
        """E[T(x) T(x)ᵀ], or the covariance of the outputs where ``centred``."""
        near, power = self.near_one()
        spread = near.slope @ near.slope.mT + 2 * near.quadratic.gram("out", symmetric=True)
        spread = spread if centred else spread + near.mean.outer(near.mean)
        return restored("gram", spread, 2 * power, spread.dtype)


def hermite(tensor: ThirdOrder, onto: Float[Tensor, "r i"]) -> Hermite:
    """The parts of T(μ + C z), from the rows of ``onto``: μ and the columns of C, Σ^½ itself or any
    other with C Cᵀ = Σ.

    T over (1, z), from one map of each input, has all of them. Cost for a CP: O(h i r). Errors:
    ShapeError.

    >>> bilens.measure.hermite(T, torch.randn(5, 128)).slope.shape  # a mean, and four directions
    torch.Size([128, 4])
    """
    mapped = tensor.map(left=onto, right=onto)
    whole = replace(mapped, affine=True)  # type: ignore[type-var]
    first = torch.zeros_like(onto[:, 0])
    first[0] = 1.0
    slope = whole.contract(left=first).dense() + whole.contract(right=first).dense()
    quadratic = whole.quadratic()
    return Hermite(slope[:, 0] / 2 + quadratic.traces(), slope[:, 1:], quadratic)
