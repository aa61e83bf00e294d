"""Sums of products kept in range: each unit's vectors near one, its size in its weight."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.numerics import peak, powers, scaled


class Balanced(NamedTuple):
    """weights · left · right of each unit as before, over 2^power: no entry is above one, the
    largest product is near it.
    """

    weights: Float[Tensor, "*b h"]
    left: Float[Tensor, "*#b h i"]
    right: Float[Tensor, "*#b h j"]
    power: Int[Tensor, "*b"]


def balanced(
    weights: Float[Tensor, "*#b h"], left: Float[Tensor, "*#b h i"], right: Float[Tensor, "*#b h j"]
) -> Balanced:
    """Units whose squares and products stay in range: each one's vectors near one, its size in its
    weight, and the largest size of each row of weights taken out.

    By powers of two, which round nothing; only weights that are smaller by the whole range of the
    dtype than the largest of their row vanish. Gradients flow.

    >>> Q = T.interaction(torch.eye(128)[0])
    >>> same = bilens.algebra.balanced(Q.weights, Q.left, Q.right)
    """
    sizes = peak(left, -1), peak(right, -1), weights.detach().abs()
    a, b, c = map(powers, sizes)
    product = torch.stack(torch.broadcast_tensors(*(size > 0 for size in sizes))).all(0)
    total = (a + b + c).masked_fill(~product, -(2**40))
    power = total.amax(-1) if total.shape[-1] else total.sum(-1)
    power = power.masked_fill(power <= -(2**40), 0)
    shift = a + b - power[..., None]
    # 0 times what overflows would be NaN
    shift = torch.where(product, shift, torch.minimum(shift, -c))
    return Balanced(
        scaled(weights, shift), scaled(left, -a[..., None]), scaled(right, -b[..., None]), power
    )
