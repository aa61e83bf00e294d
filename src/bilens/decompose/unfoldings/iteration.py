"""Higher-order orthogonal iteration: a truncated HOSVD made better, one mode's basis at a time.

With the bases of the other modes held, the best basis of a mode is that of the leading left
singular vectors of T in their coordinates (De Lathauwer, De Moor and Vandewalle 2000, SIAM J.
Matrix Anal. Appl. 21, 1324, algorithm 4.2). Each step lowers the error, or leaves it, where the
modes have bases of their own; left and right of a symmetric part share one, and a sweep may then
raise it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from bilens.base.axes import MODES, Mode
from bilens.decompose.unfoldings.unfolding import (
    Form,
    Precision,
    Unfolding,
    in_basis,
    missed,
    turned,
    unfolding,
)

Ranks = tuple[int, int, int]


class Iterated(NamedTuple):
    """Each mode with all its vectors, those kept first; T in them; what the kept ones miss of it;
    and the sweeps made.
    """

    found: Mapping[Mode, Unfolding]
    whole: Form
    missed: float
    sweeps: int


def iterated(
    tensor: Form,
    found: Mapping[Mode, Unfolding],
    ranks: Ranks,
    symmetric: bool,
    precision: Precision,
    sweeps: int,
) -> Iterated:
    """The best of at most ``sweeps`` sweeps from ``found``, which ends with the first that misses
    no less.
    """
    best = _judged(tensor, found, ranks, symmetric, precision)
    if not sweeps:
        return best
    both = tensor.symmetrise() if symmetric else tensor
    for sweep in range(1, sweeps + 1):
        bases = _swept(both, best.found, ranks, symmetric, precision)
        now = _judged(tensor, bases, ranks, symmetric, precision)
        if now.missed >= best.missed:
            break
        best = now._replace(sweeps=sweep)
    return best


def _judged(
    tensor: Form,
    found: Mapping[Mode, Unfolding],
    ranks: Ranks,
    symmetric: bool,
    precision: Precision,
) -> Iterated:
    whole = in_basis(tensor, found)
    return Iterated(found, whole, missed(whole, ranks, symmetric, precision), 0)


def _swept(
    tensor: Form,
    found: Mapping[Mode, Unfolding],
    ranks: Ranks,
    symmetric: bool,
    precision: Precision,
) -> dict[Mode, Unfolding]:
    """One sweep: the vectors of each mode anew, beside those that the others keep."""
    kept, found = dict(zip(MODES, ranks, strict=True)), dict(found)
    for mode in ("out", "left") if symmetric else MODES:
        beside = {other: found[other].vectors[:, : kept[other]] for other in MODES if other != mode}
        vectors = unfolding(turned(tensor, beside), mode, False, precision).vectors
        found[mode] = found[mode]._replace(vectors=vectors)
        if symmetric and mode == "left":
            found["right"] = found["left"]
    return found
