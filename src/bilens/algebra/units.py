"""The hidden units of a tensor in factors, as a table."""

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import near_one, require_values, scaled
from bilens.base.tables import Columns

UNITS: tuple[str, ...] = ("unit", "strength", "share", "cosine", "out", "left", "right")


@torch.no_grad()
def strongest_units(
    out: Float[Tensor, "h o"], left: Float[Tensor, "h i"], right: Float[Tensor, "h j"]
) -> Columns:
    """A row for each unit, the strongest first (see ``CP``). Cost O(h (o + i + j))."""
    require_values("the units", out)
    sizes = [_lengths(side) for side in (out, left, right)]
    strengths = sizes[0] * sizes[1] * sizes[2]
    near = near_one(strengths)[0].square()
    total = near.sum()
    shares = near / torch.where(total > 0, total, 1.0)
    largest = [side.abs().argmax(1).tolist() if side.shape[1] else [0] * len(side)
               for side in (out, left, right)]  # fmt: skip
    columns = (strengths.tolist(), shares.tolist(), cosines(left, right), *largest)
    order = strengths.argsort(descending=True, stable=True).tolist()
    rows = [dict(zip(UNITS, (h, *(column[h] for column in columns)), strict=True)) for h in order]
    return Columns(UNITS, rows)


@torch.no_grad()
def cosines(left: Float[Tensor, "h i"], right: Float[Tensor, "h j"]) -> list[float] | list[None]:
    """Of the two sides of each unit; None where they are of different spaces, 0 for a zero."""
    if left.shape != right.shape:
        return [None] * len(left)
    one, two = near_one(left.double())[0], near_one(right.double())[0]
    lengths = one.norm(dim=1) * two.norm(dim=1)
    products = (one * two).sum(1)
    return torch.where(lengths > 0, products / lengths, torch.zeros_like(lengths)).tolist()


def _lengths(rows: Float[Tensor, "h n"]) -> Float[Tensor, " h"]:
    """In float64, whatever the scale."""
    near, power = near_one(rows.double())
    return scaled(near.norm(dim=1), power)
