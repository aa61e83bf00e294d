"""How alike the functions of several checkpoints are: each to the one before it, and to the last.

With ⟨f, f'⟩ as in ``changes.functions``,

    similarity = ⟨f, f'⟩ / (‖f‖ ‖f'‖)
    change = ‖f − f'‖ / √(½ (‖f‖² + ‖f'‖²))      0: the same; √2: nothing in common; 2: the opposite

A similarity does not see a layer that has grown or shrunk; a change sees both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import root
from bilens.base.records import Record
from bilens.changes.functions import Functions, Pairs
from bilens.changes.reads import Read
from bilens.measure import jackknife

ROUNDED = 1e-14  # of the squares: what is left of sums that cancel; a change below 1e-7 is none


@dataclass(frozen=True, repr=False, eq=False)
class Likeness(Record):
    """One place in n checkpoints, by measure: of weights alone, then on data at each ε.

    Fields: ``sizes`` ‖f‖ of each checkpoint; ``to_last`` its similarity to the last one; ``steps``
    the change from each to the next, ``change`` from the first to the last; ``errors`` the standard
    errors of ``to_last``, 0 where it is no samples'. NaN: a similarity to a place that is zero.
    """

    sizes: Float[Tensor, "m n"]
    to_last: Float[Tensor, "m n"]
    steps: Float[Tensor, "m s"]
    change: Float[Tensor, " m"]
    errors: Float[Tensor, "m n"]


def likeness(place: Functions, count: int, measures: Sequence[Read | None]) -> Likeness:
    """That of one place in ``count`` checkpoints."""
    asked = _pairs(count)
    pairs = list(dict.fromkeys(asked))
    at = [pairs.index(pair) for pair in asked]
    by_measure = [_figures(place.products(pairs, one)[:, at], count) for one in measures]
    return Likeness(*map(torch.stack, zip(*by_measure, strict=True)))


def _pairs(count: int) -> Pairs:
    """Each with itself, with the next, and with the last."""
    return [
        *((n, n) for n in range(count)),
        *((n, n + 1) for n in range(count - 1)),
        *((n, count - 1) for n in range(count)),
    ]


def _figures(products: Float[Tensor, "b p"], count: int) -> Sequence[Tensor]:
    """sizes, to_last, steps, change, errors."""
    whole, parts = products.sum(0), [count, count - 1, count]
    squares, following, last = whole.split(parts)
    to_last = cosine(squares, squares[-1:], last)
    steps = changed(squares[:-1], squares[1:], following)
    change = changed(squares[0], squares[-1], last[0])
    errors = torch.zeros_like(to_last)
    if len(products) > 1:  # what is left where one block of neighbours is left out
        without, _, lasts = (whole - products).split(parts, 1)
        errors = jackknife(cosine(without, without[:, -1:], lasts))
    return root(squares), to_last, steps, change, errors


def cosine(
    square: Float[Tensor, "*b"], other: Float[Tensor, "*#b"], product: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """⟨f, f'⟩ over both sizes; NaN where one of them is zero."""
    scale = root(square) * root(other)
    return torch.where(scale > 0, (product / scale).clamp(-1, 1), torch.nan)


def changed(
    square: Float[Tensor, "*b"], other: Float[Tensor, "*b"], product: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """‖f − f'‖ over the root mean square of both sizes; 0 where both are zero, or differ by what
    rounding leaves.
    """
    both = square + other
    square = 2 * (both - 2 * product) / torch.where(both > 0, both, 1.0)
    return torch.where((both > 0) & (square > ROUNDED), root(square), 0.0)
