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

ROUNDED = 1e-14  # of the squares: what is left of sums that cancel; a change below 1e-7 is none


@dataclass(frozen=True, repr=False, eq=False)
class Likeness(Record):
    """One place in n checkpoints, by measure: of weights alone, then on data at each ε.

    Fields: ``sizes`` ‖f‖ of each checkpoint; ``to_last`` its similarity to the last one; ``steps``
    the change from each to the next, ``change`` from the first to the last; ``errors`` the standard
    errors of ``to_last`` and ``change_error`` that of ``change``, 0 where they are no samples'.
    NaN: a similarity to a place that is zero.
    """

    sizes: Float[Tensor, "m n"]
    to_last: Float[Tensor, "m n"]
    steps: Float[Tensor, "m s"]
    change: Float[Tensor, " m"]
    errors: Float[Tensor, "m n"]
    change_error: Float[Tensor, " m"]


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
    """sizes, to_last, steps, change, errors, change_error."""
    whole = products.sum(0, keepdim=True)
    sizes, to_last, steps, change = (part[0] for part in _statistics(whole, count))
    if len(products) == 1:
        return sizes, to_last, steps, change, torch.zeros_like(to_last), torch.zeros_like(change)
    # by the jackknife: what is left where one block of neighbours is left out
    _, without, _, changes = _statistics(whole - products, count)
    return sizes, to_last, steps, change, _jackknife(without), _jackknife(changes)


def _statistics(
    products: Float[Tensor, "b p"], count: int
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"], Float[Tensor, "b s"], Float[Tensor, " b"]]:
    squares, following, last = products.split([count, count - 1, count], 1)
    sizes = root(squares)
    scale = sizes * sizes[:, -1:]
    to_last = torch.where(scale > 0, (last / scale).clamp(-1, 1), torch.nan)
    steps = changed(squares[:, :-1], squares[:, 1:], following)
    return sizes, to_last, steps, changed(squares[:, 0], squares[:, -1], last[:, 0])


def changed(
    square: Float[Tensor, "*b"], other: Float[Tensor, "*b"], product: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """‖f − f'‖ over the root mean square of both sizes; 0 where both are zero, or differ by what
    rounding leaves.
    """
    both = square + other
    square = 2 * (both - 2 * product) / torch.where(both > 0, both, 1.0)
    return torch.where((both > 0) & (square > ROUNDED), root(square), 0.0)


def _jackknife(without: Float[Tensor, "b *n"]) -> Float[Tensor, "*n"]:
    spread = (without - without.mean(0)).square().mean(0) * (len(without) - 1)
    return spread.sqrt().nan_to_num(nan=torch.inf)
