"""A bilinear layer as a function on Gaussian data: three orthogonal parts, from the factors.

With x = μ + Σ^½ z, z standard normal, and S the symmetric part of T in the coordinates of z, T(x) is

    T(x) = m + J z + [S_z(z, z) − tr S_z]       m = T(μ, μ) + tr S_z       J = 2 S(μ, Σ^½ ·)       S_z = S(Σ^½ ·, Σ^½ ·)

a constant, a linear and a purely quadratic part: Hermite polynomials of degree 0, 1 and 2, which do not correlate. So

    E⟨T(x), T'(x)⟩ = m·m' + ⟨J, J'⟩ + 2 ⟨S_z, S_z'⟩         E[T(x) T(x)ᵀ] = m mᵀ + J Jᵀ + 2 Gram_out(S_z)

and 2 ⟨S_z, S_z'⟩ = ⟨T_z, T_z'⟩ + ⟨T_z, swap T_z'⟩ without doubling the rank. Written out in a = L x, b = R x, c = L' x,
e = R' x these are Isserlis' sums over pairs for E[a b c e]; here the three parts of a norm are squares, and do not cancel.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class Hermite(Record):
    """T on Gaussian inputs as constant + linear + quadratic, by degree in z; made by ``T.hermite(measure)``, in float64.

    Fields: ``mean`` E[T(x)]; ``slope`` J; ``quadratic`` T_z, in the form of T and over z; only its symmetric part acts.
    """

    mean: Float[Tensor, " o"]
    slope: Float[Tensor, "o i"]
    quadratic: Any  # a ThirdOrder: the forms stand above this file

    def __call__(self, z: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """T(μ + Σ^½ z), exactly where μ and Σ^½ z are all there is of x."""
        constant = self.mean - _traces(self.quadratic)
        return constant + z @ self.slope.mT + self.quadratic(z)

    def inner(self, other: "Hermite", *, centred: bool = False) -> Float[Tensor, ""]:
        """E⟨T(x), T'(x)⟩; without the product of the means where ``centred``. O(h h' (o + i)) for two CPs."""
        return self.shares(other)[1 if centred else 0 :].sum()

    def shares(self, other: "Hermite | None" = None) -> Float[Tensor, "3"]:
        """What the constant, linear and quadratic parts add to E⟨T(x), T'(x)⟩ (T' is T unless given)."""
        other = self if other is None else other
        quadratic = self.quadratic._inner(other.quadratic) + self.quadratic._inner(other.quadratic.swap())
        return torch.stack([self.mean @ other.mean, (self.slope * other.slope).sum(), quadratic])

    def gram(self, *, centred: bool = False) -> Float[Tensor, "o o"]:
        """E[T(x) T(x)ᵀ], or the covariance of the outputs where ``centred``."""
        spread = self.slope @ self.slope.mT + 2 * self.quadratic.gram("out", symmetric=True)
        return spread if centred else spread + self.mean.outer(self.mean)


def _traces(tensor: Any) -> Float[Tensor, " o"]:
    """Σ_i T_oii."""
    eye = torch.eye(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
    return tensor(eye).sum(0)
