"""Averages of layers over samples, with their standard errors: what stands beside a closed form
under a Gaussian.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.third import ThirdOrder
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import near_one, require_finite, require_floating, restored
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class Estimate(Record):
    """An average over ``count`` samples and its standard error, which takes the samples to be
    independent.
    """

    value: Float[Tensor, ""]
    error: Float[Tensor, ""]
    count: int

    def __repr__(self) -> str:
        return f"Estimate({float(self.value):.6g} ± {float(self.error):.2g}, count={self.count:,})"


@torch.no_grad()
def sampled_inner(
    T: ThirdOrder, S: ThirdOrder, x: Float[Tensor, "n i"], *, centred: bool = False
) -> Estimate:
    """⟨T(x), S(x)⟩ averaged over activations, or tr Cov(T(x), S(x)) where ``centred``: no Gaussian
    assumed.

    In float64. Tokens of one text are not independent: the standard error is then too small.
    Cost n · h (o + 2 i) for each of two CPs; memory n (h + o). Errors: ShapeError.
    """
    if not isinstance(T, ThirdOrder):
        raise ArgumentError("sampled_inner", must="be given two tensors", got=type(T).__name__)
    T._require_like("sampled_inner", S, ThirdOrder)
    T._require_one_space("sampled_inner")
    if not isinstance(x, Tensor):
        raise ShapeError("activations", must="be a torch tensor", got=type(x).__name__)
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError("activations", must="be (n, i) with n ≥ 2", got=tuple(x.shape))
    require_floating("activations", x.dtype)
    require_finite("", activations=x)
    (one, power), (two, more) = (_values(tensor, x) for tensor in (T, S))
    if centred:
        one, two = one - one.mean(0), two - two.mean(0)
    products = (one * two).sum(-1)
    average, error = products.sum() / (len(x) - centred), products.std() / len(x) ** 0.5
    found = restored("sampled_inner", torch.stack([average, error]), power + more, torch.float64)
    return Estimate(found[0], found[1], len(x))


def _values(tensor: ThirdOrder, x: Float[Tensor, "n i"]) -> tuple[Float[Tensor, "n o"], int]:
    """T(x) over a power of two, and the power."""
    require_finite("sampled_inner", **vars(tensor))
    form, power = tensor.to(torch.float64).near_one()
    inputs, more = near_one(x.to(form.device, torch.float64))
    values, last = near_one(form(inputs))
    return values, power + 2 * more + last
