"""What a pass over samples leaves behind: how many, their mean and their scatter, in float64.

Each batch is centred on its own mean before it is squared, so a mean far from zero costs no digits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bilens.base.errors import ShapeError
from bilens.base.numerics import (
    near_one,
    require_finite,
    require_floating,
    require_values,
    restored,
    scaled,
)


class Moments(NamedTuple):
    """What samples leave behind: how many, their mean, and Σ (x − mean)(x − mean)ᵀ.

    >>> found = bilens.measure.moments_of(x, 0)
    >>> found.n, found.mean.shape, found.scatter.shape
    (4, torch.Size([128]), torch.Size([128, 128]))
    """

    n: int
    mean: Tensor
    scatter: Tensor


def moments_of(batch: Tensor, number: int) -> Moments:
    """Those of all rows of one batch, which ``number`` names in errors.

    >>> bilens.measure.moments_of(torch.tensor([[1.0], [3.0]]), 0).mean
    tensor([2.], dtype=torch.float64)
    """
    if not isinstance(batch, Tensor) or batch.ndim < 1 or batch.shape[-1] == 0:
        got = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise ShapeError(f"batch {number}", must="be a tensor (..., i)", got=got)
    require_floating(f"batch {number}", batch.dtype)
    require_values(f"batch {number}", batch)
    rows = batch.detach().reshape(-1, batch.shape[-1]).double()
    require_finite("", **{f"batch {number}": rows})
    if len(rows) == 0:
        size = rows.shape[1]
        return Moments(0, rows.new_zeros(size), rows.new_zeros(size, size))
    mean = rows.mean(0)
    centred = rows - mean
    left_over = centred.mean(0)  # what rounding left of the mean: the corrected two-pass algorithm
    centred, mean = centred - left_over, mean + left_over
    near, power = near_one(centred)
    scatter = restored(
        f"the covariance of batch {number}", near.mT @ near, 2 * power, torch.float64
    )
    return Moments(len(rows), mean, scatter)


def joined(one: Moments, two: Moments) -> Moments:
    """Those of both sets of samples together: S = S₁ + S₂ + (n₁ n₂ / n) δ δᵀ, δ = mean₂ − mean₁.

    Source: Chan, Golub and LeVeque 1979, equation 2.1.

    >>> one, two = bilens.measure.moments_of(x, 0), bilens.measure.moments_of(x, 1)
    >>> bilens.measure.joined(one, two).n
    8
    """
    count = one.n + two.n
    if count == 0:
        return one
    apart = two.mean - one.mean
    near, power = near_one(apart)
    between = (one.n * two.n / count) * near.outer(near)
    within = one.scatter + two.scatter
    if bool(within.any()):
        scatter = within + scaled(between, 2 * power)
    else:  # of single samples, say: all there is
        scatter = restored("the covariance", between, 2 * power, torch.float64)
    return Moments(count, one.mean + apart * (two.n / count), scatter)
