"""How bilinear an MLP is: the shares of E‖f(x)‖² by Hermite degree, x of a Gaussian.

In z = Σ^−½ (x − μ) the part of degree n of act(a) b is the symmetric tensor

    A_n = (1/n!) [P_n g⊗…⊗g + n E_{n−1} sym(g⊗…⊗g ⊗ u)]     P_n = m_b E_n + c E_{n+1}

with g and u the unit's rows over z, E_n = E[act⁽ⁿ⁾(a)]. Parts of different degree do not correlate
(Parseval), so with M = DᵀD, G, U, X the products g·g', u·u', g·u', elementwise,

    E‖f_n‖² = (1/n!) Σ M [P P' Gⁿ + 2 n P E' G^{n−1} X + n E E' (G^{n−1} U + (n−1) G^{n−2} X Xᵀ)]

What is beyond the highest degree is all else: E‖f − q‖², q the part of degree 2 and less, by
sampling (it has nothing in common with q, so little noise), less degrees 3 and above.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import INK, POSITIVE, hovered, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_seed, seeded
from bilens.base.results import Result
from bilens.measure import Gaussian
from bilens.nearest.averages import averages
from bilens.nearest.quadratic import Moments, closed, sides
from bilens.nn import Hidden

HIGHEST = 4
ROWS = 1024  # hidden units at a time
DRAWS = 2**14
BATCH = 1024  # draws at a time
TOLD = 1e-6  # of a quadrature, relative: less is below what is sampled


@dataclass(frozen=True, repr=False, eq=False)
class Degrees(Result):
    """``powers``: E‖f_n‖² for degrees 0 … 4 under the Gaussian, and last all beyond; ``error``: the
    standard error of the last, which is sampled; ``quadrature``: the error of the averages that the
    others are made of, relative, and 0 where these are closed forms.

    Columns: ``degree``; its ``power`` E‖f_n‖²; its ``share`` of E‖f‖², and the ``standard error``
    of that: every share is of a whole that is sampled in part.

    >>> gelu = bilens.nn.MLP(8, 16, act="gelu")
    >>> g = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> powers = bilens.approximate(gelu, g).degrees.powers
    >>> powers.shape  # degrees 0 to 4, and all beyond
    torch.Size([6])
    """

    powers: Float[Tensor, " n"]
    error: Float[Tensor, ""]
    quadrature: float = 0.0

    @property
    def shares(self) -> Float[Tensor, " n"]:
        """Of E‖f‖², the constant part among it; 0 where that is 0."""
        return _over(self.powers, self.powers.sum())

    @property
    def unexplained(self) -> Float[Tensor, ""]:
        """What no polynomial of degree 2 has of the variance: degrees from 3 over those from 1; 0
        where nothing varies.
        """
        return _over(self.powers[3:].sum(), self.powers[1:].sum())

    def summary(self) -> str:
        shares = ", ".join(
            f"{name} {share:.3g}"
            for name, share in zip(self._names(), self.shares.tolist(), strict=True)
        )
        found = f"shares of E‖f‖² by degree: {shares} (beyond: ± {self._errors()[-1]:.1g})"
        if self.quadrature > TOLD:
            found += f"; averages by a rule that is off by {self.quadrature:.1g}"
        return found

    def columns(self) -> tuple[str, ...]:
        return "degree", "power", "share", "standard error"

    def rows(self) -> list[dict[str, Any]]:
        columns = (self._names(), self.powers.tolist(), self.shares.tolist(), self._errors())
        return [dict(zip(self.columns(), row, strict=True)) for row in zip(*columns, strict=True)]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        names, shares, errors = (
            [row[name] for row in rows] for name in ("degree", "share", "standard error")
        )
        bars = {"type": "bar", "x": names, "y": shares, "marker": {"color": POSITIVE}}
        bars["error_y"] = {"type": "data", "array": [e or None for e in errors], "color": INK}
        bars |= hovered({"degree": names, "share of E‖f‖²": shares, "standard error": errors})
        title = f"How bilinear the layer is: {float(self.unexplained):.3g} beyond degree 2"
        layout = titled(title, "Hermite degree", "share of E‖f‖²", xaxis={"type": "category"})
        return {"data": [bars], "layout": layout}

    def _names(self) -> list[str]:
        return [*map(str, range(len(self.powers) - 1)), "beyond"]

    def _errors(self) -> list[float]:
        """Of the shares, to first order in the error of what is beyond."""
        moved = self.shares.clone()
        moved[-1] = 1 - moved[-1]
        return _over(moved * self.error, self.powers.sum()).tolist()


def require_measure(hidden: Hidden, measure: object) -> Gaussian:
    """What is a Gaussian over what ``hidden`` reads; else an error."""
    if not isinstance(measure, Gaussian):
        todo = "Gaussian.from_batches(activations)."
        got = type(measure).__name__
        raise ArgumentError("measure", must="be a Gaussian", got=got, todo=todo)
    width = hidden.weight.shape[1]
    if len(measure.mean) != width:
        raise ShapeError("measure", must=f"be over the {width} inputs", got=len(measure.mean))
    return measure


@torch.no_grad()
def degree_spectrum(hidden: Hidden, measure: Gaussian, seed: int = 0) -> Degrees:
    """The degrees of an MLP, from its ``hidden()`` units, in float64. Cost O(h² (i + d)) and DRAWS
    passes, drawn by ``seed``; memory O(h i). Errors: ArgumentError for what are no hidden units, no
    Gaussian or no seed; ShapeError for a Gaussian of another width.

    >>> gelu = bilens.nn.MLP(8, 16, act="gelu")
    >>> g = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> bilens.nearest.degree_spectrum(gelu.hidden(), g).powers.shape
    torch.Size([6])
    """
    if not isinstance(hidden, Hidden):
        got, todo = type(hidden).__name__, "Pass layer.hidden()."
        raise ArgumentError("degree_spectrum", must="be given hidden units", got=got, todo=todo)
    measure = require_measure(hidden, measure)
    require_seed("seed", seed)
    hidden = hidden.to(torch.float64).detach()
    moments = Moments.of(hidden, measure)
    found, quadrature = averages(hidden.act, moments.mean_a, moments.var_a.sqrt(), HIGHEST + 1)
    mean, cov = moments.mean_b, moments.cov
    slopes = mean * found[:-1] + cov * found[1:]  # P_0 … P_4
    constant = hidden.out @ slopes[0] + (0.0 if hidden.bias is None else hidden.bias)
    powers = [constant.square().sum()]
    powers += list(_powers(hidden, measure, slopes, found))
    rest, error = _sampled(hidden, measure, moments, seed)
    beyond = (rest - sum(powers[3:], rest.new_zeros(()))).clamp(min=0)
    return Degrees(torch.stack([*powers, beyond]), error, quadrature)


def _over(part: Float[Tensor, "*n"], whole: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    return part / whole if whole else torch.zeros_like(part)


def _powers(
    hidden: Hidden, measure: Gaussian, slopes: Float[Tensor, "n h"], averaged: Float[Tensor, "m h"]
) -> Float[Tensor, " degree"]:
    """E‖f_n‖² for n = 1 … HIGHEST, a block of rows at a time; ``averaged``: E_0, E_1, …"""
    cov, (first, *others) = measure.cov.double(), hidden.legs
    total = slopes.new_zeros(HIGHEST)
    for rows in torch.arange(len(first.weight), device=cov.device).split(ROWS):
        spread = first.weight[rows] @ cov
        outer, inner = hidden.out[:, rows].mT @ hidden.out, spread @ first.weight.mT
        parts = [p[rows, None] * p * inner**n for n, p in enumerate(slopes[1:], 1)]
        for leg in others:
            wide = leg.weight[rows] @ cov
            across, back = spread @ leg.weight.mT, wide @ first.weight.mT
            both = wide @ leg.weight.mT
            for n, part in enumerate(parts, 1):
                p, e, below = slopes[n], averaged[n - 1], inner ** (n - 1)
                part += n * below * (p[rows, None] * e * across + e[rows, None] * p * back)
                mixed = below * both
                if n > 1:
                    mixed += (n - 1) * inner ** (n - 2) * across * back
                part += n * e[rows, None] * e * mixed
        for n, part in enumerate(parts, 1):
            total[n - 1] += (outer * part).sum() / math.factorial(n)
    return total


def _sampled(
    hidden: Hidden, measure: Gaussian, moments: Moments, seed: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """E‖f − q‖² over draws, and its standard error."""
    units, _ = closed(hidden, moments)
    generator = seeded(seed)
    squares = []
    for _ in range(DRAWS // BATCH):
        x = measure.sample(BATCH, generator).to(hidden.out)
        missed = hidden(x) - units(*sides(hidden, moments, x))
        squares.append((missed @ hidden.out.mT).square().sum(-1))
    values = torch.cat(squares)
    return values.mean(), values.std() / len(values) ** 0.5
