"""How far the leading eigenvectors of a layer turned between two checkpoints."""

import math

import torch

from bilens.algebra import CP
from bilens.base.numerics import eigh
from bilens.decompose import Angles, angles, eigen

DIRECTIONS = 4  # of a layer's output, where its outputs have no names
LEADING = 4  # eigenpairs of each


@torch.no_grad()
def turned(first: CP, last: CP, labels: tuple[str, ...] = ()) -> Angles | None:
    """Angles between the leading eigenspaces of two layers, for the outputs that ``labels`` names,
    or for the leading output directions of both together; None where one of the two is zero.

    The directions are the leading eigenvectors of Gram_out(S) / ‖S‖² + Gram_out(S') / ‖S'‖², the
    same for both.
    """
    grams = [tensor.gram("out", symmetric=True) for tensor in (first, last)]
    sizes = [float(gram.trace()) for gram in grams]
    if not all(size > 0 for size in sizes):
        return None
    directions = None
    if not labels:
        both = sum((gram / size for gram, size in zip(grams, sizes, strict=True)), grams[0] * 0)
        directions = eigh(both)[1].mT.flip(0)[:DIRECTIONS].contiguous()
        labels = tuple(f"output direction {n + 1}" for n in range(len(directions)))
    one, two = (eigen(tensor, directions, LEADING).labelled(labels) for tensor in (first, last))
    return angles(one, two)


def mean_angle(found: Angles) -> float:
    """The mean over eigenvectors whose angle is trusted, each by λ², in degrees; NaN without
    any.
    """
    at = found.trusted
    weights = found.values[at].square().mean(1) * found.size[at]
    if not len(weights) or not float(weights.sum()):
        return math.nan
    return math.degrees(float((weights * found.largest[at]).sum() / weights.sum()))
