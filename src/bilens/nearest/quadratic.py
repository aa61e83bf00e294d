"""Each hidden unit's best polynomial of degree 2, and the layer's as a tensor over (1, x).

With a = g·x and b = u·x of a unit about their means, the L²-best polynomial under x ~ N(μ, Σ) is

    act(a) b ≈ E φ + (m_b E_1 + c E_2) a + E_0 b + E_1 (a b − c) + ½ (m_b E_2 + c E_3) (a² − v)

with E_n = E[act⁽ⁿ⁾(a)], v = Var a, c = Cov(a, b), E φ = m_b E_0 + c E_1; of a plain unit E φ = E_0,
slope E_1 and ½ E_2 (a² − v). All units share that form, φ ≈ p (1, a, b, a b, a²), whatever gave
the coefficients. The quadratic part a (p_ab b + p_aa a) is of rank 1 a unit, so the layer's has the
layer's own hidden units; the linear part is one matrix, of rank i + 1 over (1, x).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP
from bilens.measure import Gaussian
from bilens.nearest.averages import averages
from bilens.nn import Hidden, Leg

ROWS = 2048  # units at a time


class Moments(NamedTuple):
    """Of a unit's two legs under a measure: their means, the first's variance, their covariance."""

    mean_a: Float[Tensor, " h"]
    var_a: Float[Tensor, " h"]
    mean_b: Float[Tensor, " h"]
    cov: Float[Tensor, " h"]

    @classmethod
    def of(cls, hidden: Hidden, measure: Gaussian) -> "Moments":
        """In float64, some units at a time. O(h i²)."""
        parts = [cls._of(units, measure) for units in some(hidden)]
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @classmethod
    def _of(cls, hidden: Hidden, measure: Gaussian) -> "Moments":
        mean, cov = measure.mean.double(), measure.cov.double()
        a, *others = hidden.legs
        spread = a.weight @ cov
        var_a = (spread * a.weight).sum(1)
        # of a unit that reads no direction of the support rounding is left, which is no variance
        terms = a.weight.abs() @ cov.diagonal().clamp(min=0).sqrt()
        varies = var_a > measure.tol * terms.square()
        var_a, spread = var_a.where(varies, 0.0), spread * varies[:, None]
        if not others:  # b = 1
            zero = torch.zeros_like(var_a)
            return cls(a(mean), var_a, torch.ones_like(zero), zero)
        (b,) = others
        return cls(a(mean), var_a, b(mean), (spread * b.weight).sum(1))


class Polynomials(NamedTuple):
    """Of every unit: ``constant`` + ``a`` a + ``b`` b + ``ab`` a b + ``aa`` a², a and b less their
    means.
    """

    constant: Float[Tensor, " h"]
    a: Float[Tensor, " h"]
    b: Float[Tensor, " h"]
    ab: Float[Tensor, " h"]
    aa: Float[Tensor, " h"]

    def __call__(
        self, a: Float[Tensor, "n h"], b: Float[Tensor, "n h"] | None
    ) -> Float[Tensor, "n h"]:
        """Their values at ``a`` and ``b`` (less their means; None: a plain layer)."""
        value = self.constant + a * (self.a + self.aa * a)
        return value if b is None else value + b * (self.b + self.ab * a)


def closed(hidden: Hidden, moments: Moments) -> tuple[Polynomials, float]:
    """The best under the Gaussian, and the error of the averages it is made of."""
    found, error = averages(hidden.act, moments.mean_a, moments.var_a.sqrt(), 3)
    e0, e1, e2, e3 = found
    m, c = moments.mean_b, moments.cov
    curve = 0.5 * (m * e2 + c * e3)
    constant = m * e0 + c * e1 - e1 * c - curve * moments.var_a
    plain = hidden.up is None
    zero = torch.zeros_like(e0)
    made = Polynomials(
        constant, m * e1 + c * e2, zero if plain else e0, zero if plain else e1, curve
    )
    return made, error


def as_tensor(hidden: Hidden, moments: Moments, units: Polynomials) -> CP:
    """The layer whose units are these polynomials: exact, over (1, x), of rank h + i + 1.

    Made in float64, some units at a time, and held in the layer's dtype.
    """
    h, i = hidden.weight.shape
    left, right = (hidden.weight.new_empty(h, i + 1) for _ in range(2))
    plain = moments.mean_a.new_zeros(len(hidden.out), i + 1)
    if hidden.bias is not None:
        plain[:, 0] += hidden.bias
    rows = torch.arange(h, device=left.device).split(ROWS)
    for at, part in zip(rows, some(hidden), strict=True):
        own = Polynomials(*(values[at] for values in units))
        first, *others = part.legs
        a = _lifted(first, moments.mean_a[at])
        other, slope = own.aa[:, None] * a, own.a[:, None] * a
        for leg in others:
            b = _lifted(leg, moments.mean_b[at])
            other, slope = other + own.ab[:, None] * b, slope + own.b[:, None] * b
        slope[:, 0] += own.constant
        left[at], right[at] = a.to(left), other.to(right)
        plain += part.out @ slope
    return joined(hidden.out, left, right, plain.to(left))


def some(hidden: Hidden) -> Iterator[Hidden]:
    """The layer by ROWS of its units, in float64, without its own bias."""
    for at in torch.arange(len(hidden.weight), device=hidden.weight.device).split(ROWS):
        given = hidden.weight_bias, hidden.up, hidden.up_bias
        bias, up, up_bias = (None if part is None else part[at].double() for part in given)
        weight = hidden.weight[at].double()
        yield Hidden(hidden.act, hidden.out[:, at].double(), weight, bias, up, up_bias, None)


def joined(
    out: Float[Tensor, "d h"],
    left: Float[Tensor, "h i1"],
    right: Float[Tensor, "h i1"],
    linear: Float[Tensor, "d i1"],
) -> CP:
    """out [(left x̃) ⊙ (right x̃)] + linear x̃ as one tensor over x̃ = (1, x)."""
    size = left.shape[1]
    one = left.new_zeros(size, size)
    one[:, 0] = 1.0
    eye = torch.eye(size, dtype=left.dtype, device=left.device)
    return CP(
        torch.cat([out, linear], 1), torch.cat([left, eye]), torch.cat([right, one]), affine=True
    )


def sides(
    hidden: Hidden, moments: Moments, x: Float[Tensor, "n i"]
) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n h"] | None]:
    """a and b of every unit at ``x``, less their means."""
    first, *others = hidden.legs
    a = first(x) - moments.mean_a
    return a, others[0](x) - moments.mean_b if others else None


def _lifted(leg: Leg, mean: Float[Tensor, " h"]) -> Float[Tensor, "h i1"]:
    """A leg less its mean, over (1, x)."""
    constant = -mean if leg.bias is None else leg.bias - mean
    return torch.cat([constant[:, None], leg.weight], 1)
