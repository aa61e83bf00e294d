"""Averages of layers over samples, with their standard errors: what stands beside a closed form under a Gaussian."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.third import ThirdOrder
from bilens.base.errors import ShapeError
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class Estimate(Record):
    """An average over ``count`` samples and its standard error, which takes the samples to be independent."""

    value: Float[Tensor, ""]
    error: Float[Tensor, ""]
    count: int

    def __repr__(self) -> str:
        return f"Estimate({float(self.value):.6g} ± {float(self.error):.2g}, count={self.count:,})"


@torch.no_grad()
def sampled_inner(T: ThirdOrder, S: ThirdOrder, x: Float[Tensor, "n i"], *, centred: bool = False) -> Estimate:
    """⟨T(x), S(x)⟩ averaged over activations, or tr Cov(T(x), S(x)) where ``centred``: no Gaussian assumed.

    In float64. Tokens of one text are not independent: the standard error is then too small.
    Cost n · h (o + 2 i) for each of two CPs; memory n (h + o). Errors: ShapeError.
    """
    T._require_like("sampled_inner", S, ThirdOrder)
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError("activations", must="be (n, i) with n ≥ 2", got=tuple(x.shape))
    one, two = (form.to(torch.float64)(x.to(form.device, torch.float64)) for form in (T, S))
    if centred:
        one, two = one - one.mean(0), two - two.mean(0)
    products = (one * two).sum(-1)
    return Estimate(products.sum() / (len(x) - centred), products.std() / len(x) ** 0.5, len(x))
