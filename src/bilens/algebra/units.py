"""The hidden units of a tensor in factors, as a table."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.numerics import peak, powers, require_values, scaled, square_shares
from bilens.base.tables import Columns

UNITS: tuple[str, ...] = ("unit", "strength", "share", "cosine", "out", "left", "right")


@torch.no_grad()
def strongest_units(
    out: Float[Tensor, "h o"], left: Float[Tensor, "h i"], right: Float[Tensor, "h j"]
) -> Columns:
    """A row for each unit, the strongest first (see ``CP``). Cost O(h (o + i + j))."""
    require_values("the units", out)
    strengths, power = products(out, left, right)
    there = power[strengths > 0]
    near = scaled(strengths, power - int(there.max()) if len(there) else power)
    shares, strengths = square_shares(near), scaled(strengths, power)
    largest = [side.abs().argmax(1).tolist() if side.shape[1] else [0] * len(side)
               for side in (out, left, right)]  # fmt: skip
    columns = (strengths.tolist(), shares.tolist(), cosines(left, right), *largest)
    order = near.argsort(descending=True, stable=True).tolist()
    rows = [dict(zip(UNITS, (h, *(column[h] for column in columns)), strict=True)) for h in order]
    return Columns(UNITS, rows)


@torch.no_grad()
def cosines(left: Float[Tensor, "h i"], right: Float[Tensor, "h j"]) -> list[float] | list[None]:
    """Of the two sides of each unit; None where they are of different spaces, 0 for a zero."""
    if left.shape != right.shape:
        return [None] * len(left)
    one, two = (_near_one(side)[0] for side in (left, right))
    lengths = one.norm(dim=1) * two.norm(dim=1)
    products = (one * two).sum(1)
    return torch.where(lengths > 0, products / lengths, torch.zeros_like(lengths)).tolist()


def products(*sides: Float[Tensor, "h _"]) -> tuple[Float[Tensor, " h"], Int[Tensor, " h"]]:
    """The product of the lengths of each unit's vectors, over a power of two, and the power: in
    float64, whatever the scale.
    """
    near, power = zip(*map(_near_one, sides), strict=True)
    lengths = torch.stack([rows.norm(dim=1) for rows in near])
    return lengths.prod(0), torch.stack(power).sum(0)


def _near_one(rows: Float[Tensor, "h n"]) -> tuple[Float[Tensor, "h n"], Int[Tensor, " h"]]:
    """Each row in float64 over a power of two of its own, and the powers."""
    power = powers(peak(rows, 1))
    return scaled(rows.double(), -power[:, None]), power
