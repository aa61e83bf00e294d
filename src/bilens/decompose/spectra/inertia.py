"""A certificate that no eigenvalue is missing: Sylvester's law of inertia.

The number of eigenvalues of Q above σ is the number of positive pivots of an L D Lᵀ of Q − σ 1.
So with σ in the gap below the last kept eigenvalue, the count says whether all above it were
found. Forming Q is 2 i² h operations and its factors i³/3. Where the last kept pairs cannot be
told from what lies beyond them there is no gap: σ goes above that block, and what is certified is
that everything above the block was found.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import Which
from bilens.decompose.spectra.probe import SIDES

CERTIFIED = "certified by inertia"
WIDE = 16.0  # error bounds that a gap has to be wide before σ is put into it
INTO = 1 / 8  # how far into the gap: what lies beyond is known less well than what is kept


class Cut(NamedTuple):
    """Where to cut a spectrum, by preference, and how many eigenvalues are known to lie above."""

    shift: float
    above: int


def cut(kept: Float[Tensor, " k"], beyond: float, close: float) -> Cut:
    """σ by preference, for eigenvalues ``kept``, best first, that are known to ``close``.

    ``beyond``: the best of the others, −∞ where none was seen.
    """
    count = int((kept > beyond + WIDE * close).sum())
    if not count:
        return Cut(float(kept[0]) + WIDE * close, 0)
    last = float(kept[count - 1])
    rest = float(kept[count]) if count < len(kept) else beyond
    return Cut(
        last - max(INTO * (last - rest), close) if rest > -torch.inf else last - WIDE * close, count
    )


def beyond(matrix: Float[Tensor, "i i"], shift: float, which: Which) -> int:
    """How many eigenvalues of ``matrix`` lie beyond ``shift``, by ``which``."""
    return sum(_above(side * matrix, shift) for side in SIDES[which])


def _above(matrix: Float[Tensor, "i i"], shift: float) -> int:
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, pivots, _ = torch.linalg.ldl_factor_ex(matrix - shift * identity)
    # the others come in pairs: 2 × 2 pivots, of one positive and one negative eigenvalue each
    alone = pivots > 0
    return int((factor.diagonal()[alone] > 0).sum()) + int((~alone).sum()) // 2
