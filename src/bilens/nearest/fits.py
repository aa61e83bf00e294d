"""The nearest tensor of an MLP by least squares on what it reads: unit by unit, or its output.

Normal equations are summed batch by batch in float64, so memory grows with the features and not
with the samples.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP
from bilens.measure import Gaussian
from bilens.nearest.quadratic import Moments, Polynomials, as_tensor, joined, sides
from bilens.nearest.regression import NormalEquations, solved
from bilens.nn import ACTIVATIONS, Hidden

Samples = Iterable[tuple[Float[Tensor, "_ i"], Float[Tensor, " _"]]]  # with their weights
Total = Callable[[Tensor], Tensor]  # the sum over all processes

CHUNK = 2**24  # numbers at once
IN_CACHE = 64  # of them a hidden unit and sample: few enough for all powers to stay in cache
# What a unit's polynomial is made of: the powers of a and b; the first three of a plain one.
PLAIN, GATED = ((0, 0), (1, 0), (2, 0)), ((0, 1), (1, 1))
# By the power of b, the highest one of a: in products of two of these, and in themselves.
GRAM, TARGET, HIGHEST = (4, 3, 2), (2, 1), (5, 3)


def tensor_by_units(
    hidden: Hidden, measure: Gaussian, samples: Samples, total: Total = lambda own: own
) -> CP:
    """What ``approximate`` gives of a layer by units, on samples that are seen once, each with what
    its squared error counts. ``total`` sums a tensor over the processes that share them.

    >>> hidden, g = bilens.nn.MLP(8, 16).hidden(), bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> samples = [(torch.randn(50, 8), torch.ones(50)) for _ in range(2)]
    >>> bilens.nearest.tensor_by_units(hidden, g, samples).shape
    (8, 9, 9)
    """
    moments = Moments.of(hidden, measure)
    return as_tensor(hidden, moments, by_units(hidden.to(torch.float64), moments, samples, total))


def by_units(
    hidden: Hidden, moments: Moments, samples: Samples, total: Total = lambda own: own
) -> Polynomials:
    """Each unit's best polynomial (1, a, b, a b, a²) on the samples, of which each counts by its
    weight. Cost O(n h (i + 30)).
    """
    kept = PLAIN + GATED if hidden.gated else PLAIN
    tops = (GRAM, TARGET) if hidden.gated else (GRAM[:1], TARGET[:1])
    sums = [moments.mean_a.new_zeros(*HIGHEST, len(moments.mean_a)) for _ in tops]
    for batch, weights in samples:
        width = len(moments.mean_a) * IN_CACHE
        for x, weight in zip(pieces([batch], width), pieces([weights], width), strict=True):
            a, b = sides(hidden, moments, x)
            # hidden(x), by the legs that are there already
            value = ACTIVATIONS[hidden.act](a + moments.mean_a)
            value = value if b is None else value * (b + moments.mean_b)
            begins = weight[:, None].expand_as(a), weight[:, None] * value
            for own, begin, top in zip(sums, begins, tops, strict=True):
                _add_powers(own, begin, a, b, top)
    squares, target = map(total, sums)
    gram = torch.stack([torch.stack([squares[i + m, j + n] for m, n in kept]) for i, j in kept])
    wanted = torch.stack([target[i, j] for i, j in kept], -1)[..., None]
    one, a, aa, *more = solved(gram.movedim(-1, 0), wanted)[..., 0].unbind(1)
    b, ab = more or (torch.zeros_like(a), torch.zeros_like(a))
    return Polynomials(one, a, b, ab, aa)


def by_output(
    hidden: Hidden,
    moments: Moments,
    units: Polynomials,
    batches: Iterable[Float[Tensor, "_ i"]],
) -> CP:
    """The pairs of ``units`` as they are, and output, linear part and constant by least squares
    on what the layer writes. Cost O(n (h + i)²) and O((h + i)³); memory O((h + i)²).
    """
    tensor = as_tensor(hidden, moments, units)  # in float64, as all that is given here
    size = tensor.shape[1]
    left, right = tensor.left[:-size], tensor.right[:-size]
    number = len(left) + size
    samples = (
        (pair_features(left, right, x), hidden.write(hidden(x))) for x in pieces(batches, number)
    )
    weights = NormalEquations.summed(samples, number, tensor.shape[0], left.device).solved()
    return joined(weights[: len(left)].mT, left, right, weights[len(left) :].mT)


def pair_features(
    left: Float[Tensor, "h i1"], right: Float[Tensor, "h i1"], x: Float[Tensor, "n i"]
) -> Float[Tensor, "n p"]:
    """The products of pairs of x̃ = (1, x), and x̃ itself.

    >>> bilens.nearest.pair_features(torch.randn(5, 9), torch.randn(5, 9), torch.randn(2, 8)).shape
    torch.Size([2, 14])
    """
    ones = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    return torch.cat([(ones @ left.mT) * (ones @ right.mT), ones], 1)


def pieces(batches: Iterable[Float[Tensor, "_ *i"]], width: int) -> Iterable[Float[Tensor, "_ *i"]]:
    """The batches in float64, so few rows at a time that ``width`` numbers a row fit."""
    for batch in batches:
        for x in batch.split(max(1, CHUNK // width)):
            yield x.to(torch.float64)


def _add_powers(
    sums: Float[Tensor, "5 3 h"],
    begin: Float[Tensor, "n h"],
    a: Float[Tensor, "n h"],
    b: Float[Tensor, "n h"] | None,
    tops: Sequence[int],
) -> None:
    """Add Σ begin aⁱ bʲ over the samples to ``sums``, for each j up to ``tops[j]``."""
    for j, top in enumerate(tops):
        begin = begin if not j or b is None else begin * b
        power = begin
        for i in range(top + 1):
            power = power * a if i else power
            sums[i, j] += power.sum(0)
