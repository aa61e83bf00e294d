"""The units of a CP, one row each: their inner products, and those that are one written as several.

a ⊗ b ⊗ c + a' ⊗ βb ⊗ γc = (a + βγ a') ⊗ b ⊗ c        and so for the other two pairs of modes
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.axes import MODES, Mode
from bilens.base.numerics import peak, powers, scaled

BLOCK = 512  # units at a time
NEARLY = 1e-9  # of a cosine from one: units closer than that are compared entry by entry


class Units(NamedTuple):
    """Three factors with a row a unit: out (h, o), left (h, i), right (h, j)."""

    out: Float[Tensor, "h o"]
    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h j"]

    def some(self, units: Tensor) -> "Units":
        return Units(*(factor[units] for factor in self))


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


def joined(one: Units, two: Units) -> Units:
    return Units(*(torch.cat(pair) for pair in zip(one, two, strict=True)))


def inner(one: Units, two: Units, symmetric: bool) -> float:
    """⟨T, T'⟩, or that of the symmetric parts, ½ (⟨T, T'⟩ + ⟨T, swap T'⟩); a block of units at a
    time.
    """
    total = 0.0
    for rows in torch.arange(len(one.out), device=one.out.device).split(BLOCK):
        some = one.some(rows)
        inputs = (some.left @ two.left.mT) * (some.right @ two.right.mT)
        if symmetric:
            inputs = 0.5 * (inputs + (some.left @ two.right.mT) * (some.right @ two.left.mT))
        total += float(((some.out @ two.out.mT) * inputs).sum())
    return total


def reduced(units: Units, apart: float, symmetric: bool) -> Units:
    """The same tensor, of units none of which is zero or shares two vectors with another, up to
    ``apart``.
    """
    before = len(units.out) + 1
    units = units.some((torch.stack([factor.norm(dim=1) for factor in units]) > 0).all(0))
    if symmetric:
        units = _turned(units)
    while len(units.out) < before:
        before = len(units.out)
        for mode in MODES:
            units = _merged(units, mode, apart)
    return units


def _merged(units: Units, mode: Mode, apart: float) -> Units:
    """Units that share their vectors in the other two modes as one."""
    if not len(units.out):
        return units
    factors = units._asdict()
    lengths = {
        name: factor.norm(dim=1, keepdim=True) for name, factor in factors.items() if name != mode
    }
    (one, a), (two, b) = ((name, factors[name] / length) for name, length in lengths.items())
    first, sign = _first_like(a, b, apart)
    heads = first.unique()
    scaled = factors[mode] * lengths[one] * lengths[two] * sign[:, None]
    summed = torch.zeros_like(scaled).index_add(0, first, scaled)[heads]
    kept = Units(**{one: a[heads], two: b[heads], mode: summed})
    return kept.some(summed.norm(dim=1) > 0)


def _first_like(
    a: Float[Tensor, "h p"], b: Float[Tensor, "h q"], apart: float
) -> tuple[Int[Tensor, " h"], Float[Tensor, " h"]]:
    """For each unit the first one with the same two vectors up to sign, itself at the latest; and
    the signs' product.
    """
    found, signs = [], []
    every = torch.arange(len(a), device=a.device)
    for rows in every.split(BLOCK):
        cosines = a[rows] @ a.mT, b[rows] @ b.mT
        first = (
            torch.stack([cosine.abs() > 1 - NEARLY for cosine in cosines]).all(0).int().argmax(1)
        )
        one, two = (cosine.gather(1, first[:, None]).sign() for cosine in cosines)
        same = ((a[rows] - one * a[first]).norm(dim=1) <= apart) & (
            (b[rows] - two * b[first]).norm(dim=1) <= apart
        )
        found.append(first.where(same, rows))
        signs.append((one * two)[:, 0].where(same, 1.0))
    return torch.cat(found), torch.cat(signs)


def _turned(units: Units) -> Units:
    """Left and right of each unit in an order of their own, which the symmetric part does not see:
    swapped twins meet.
    """
    probe = torch.linspace(
        1, 2, units.left.shape[1], dtype=units.left.dtype, device=units.left.device
    )
    left, right = (
        (factor @ probe).abs() / factor.norm(dim=1) for factor in (units.left, units.right)
    )
    swap = (left < right)[:, None]
    return Units(
        units.out, units.right.where(swap, units.left), units.left.where(swap, units.right)
    )
