"""The singular values and vectors of a tensor's unfoldings, two ways, and what their truncation
leaves out.

The unfolding of a CP along one mode is X = F KRᵀ, with F that mode's factor and KR the Khatri-Rao
product of the other two. Its left singular vectors are the eigenvectors of the Gram X Xᵀ = Fᵀ K F,
which needs no KR but squares the condition number; or the left singular vectors of the small F Rᵀ,
where KR = Q R, which does not.

R comes from blocks of rows of KR: the R of [R₁; KR₂] is the R of [KR₁; KR₂] (TSQR; Demmel et al.,
SIAM J. Sci. Comput. 34, 2012). Rows are one_a ∘ two_b. Those of the symmetric part, ½ (l_i ∘ r_j +
r_i ∘ l_j), come in equal pairs (i, j), (j, i): one of them counts, √2 times as long.

In the singular vectors of all modes as coordinates the truncated tensor is a corner of the cube,
and what it misses are the boxes around the corner: their norms come from slices of the turned
factors, not from what is left of ‖T‖ less ‖T̂‖.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import BLOCK, CANCELLED, CP, Dense, ThirdOrder, Tucker
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import eigh, is_whole, nonnegative, require_finite, require_share

Precision = Literal["float64", "float32", "orthogonal"]
Form = CP | Dense | Tucker
ALL = slice(None)
LOUD = 0.05  # of σ₁: noise above that comes of terms that cancel


class Unfolding(NamedTuple):
    """All singular values of one unfolding, largest first, the left singular vectors as columns,
    and the value below which there is only rounding."""

    values: Float[Tensor, " s"]
    vectors: Float[Tensor, "s s"]
    noise: float


def require_tensor(who: str, tensor: object, symmetric: bool, precision: str) -> None:
    """What all spectra of unfoldings ask: finite entries, no empty mode, and a precision that
    exists.
    """
    if not isinstance(tensor, Form):
        raise ArgumentError(who, must="be given a CP, Dense or Tucker", got=type(tensor).__name__)
    if 0 in tensor.shape:
        raise ShapeError(who, must="be given a tensor with no empty mode", got=tensor.shape)
    if symmetric and tensor.shape[1] != tensor.shape[2]:
        todo = "Pass symmetric=False, or map one."
        raise ShapeError(
            f"{who}(symmetric=True)",
            must="have left and right of one size",
            got=tensor.shape,
            todo=todo,
        )
    require("precision", precision, OneOf(get_args(Precision)), ArgumentError)
    require_finite(who, **tensor.factors())


def rescaled(tensor: Form, precision: Precision) -> tuple[Form, int]:
    """The tensor over a power of two, and the power: Grams in this precision then stay in range
    whatever its scale.
    """
    return tensor.near_one(torch.float32 if precision == "float32" else torch.float64)


def require_cutoff(cutoff: float | None) -> None:
    """Raise ArgumentError unless ``cutoff`` is None or in [0, 1)."""
    if cutoff is not None:
        require_share("cutoff", cutoff, "in [0, 1), relative to the largest singular value")


def require_rank(max_rank: object) -> None:
    """Raise ArgumentError unless ``max_rank`` is None or a whole number of at least 1."""
    if max_rank is not None and (not is_whole(max_rank) or max_rank < 1):  # type: ignore[operator]
        raise ArgumentError("max_rank", must="be a whole number ≥ 1, or None for all", got=max_rank)


def unfolding(tensor: Form, mode: Mode, symmetric: bool, precision: Precision) -> Unfolding:
    """The spectrum of one unfolding of T, or of its symmetric part: see ``unfoldings``."""
    return unfoldings(tensor, (mode,), symmetric, precision)[0]


def unfoldings(
    tensor: Form, modes: Sequence[Mode], symmetric: bool, precision: Precision
) -> list[Unfolding]:
    """The spectrum of each of these unfoldings of T, or of its symmetric part.

    "float64", "float32": from a Gram in that dtype; noise √(n eps) σ₁. "orthogonal": without a
    Gram, in float64; noise n eps σ₁. Where the terms of a CP cancel, rounding goes by the terms,
    and noise with it.
    """
    if precision == "orthogonal":
        return [_orthogonal(tensor.to(torch.float64), mode, symmetric) for mode in modes]
    dtype = torch.float64 if precision == "float64" else torch.float32
    grams = tensor.grams_near_one(modes, symmetric=symmetric, dtype=dtype)
    return [_of_gram(tensor, gram) for gram in grams]


def _of_gram(tensor: Form, gram: Float[Tensor, "s s"]) -> Unfolding:
    values, vectors = eigh(gram)
    values = values.flip(0).clamp(min=0).sqrt()
    unit = (len(values) * torch.finfo(gram.dtype).eps) ** 0.5
    return Unfolding(values, vectors.flip(1), unit * _loudness(tensor, values))


def _orthogonal(tensor: Form, mode: Mode, symmetric: bool) -> Unfolding:
    """From the R of the long side's QR, so that the SVD is of a matrix as small as the mode."""
    root = _root(tensor, mode, symmetric)
    wide = root.shape[1] > root.shape[0]
    u, s, _ = torch.linalg.svd(torch.linalg.qr(root.mT, mode="r").R.mT if wide else root)
    values = torch.nn.functional.pad(s, (0, len(u) - len(s)))
    size = max(len(values), tensor.rank) if isinstance(tensor, CP) else len(values)
    unit = size * torch.finfo(values.dtype).eps
    return Unfolding(values, u, unit * _loudness(tensor, values))


def _root(tensor: Form, mode: Mode, symmetric: bool) -> Float[Tensor, "s m"]:
    """A matrix with the singular values and left singular vectors of the unfolding."""
    match tensor:
        case CP() if symmetric and mode == "out":
            return tensor.out @ _triangle(tensor.left, tensor.right, symmetric=True).mT
        case CP():
            tensor = tensor.symmetrise() if symmetric else tensor
            factors = {"out": tensor.out.mT, "left": tensor.left, "right": tensor.right}
            one, two = (factors[other] for other in MODES if other != mode)
            return factors[mode].mT @ _triangle(one, two).mT
        case Tucker():
            tensor = tensor.symmetrise() if symmetric else tensor
            bases = {"out": tensor.out, "left": tensor.left, "right": tensor.right}
            small = Dense(tensor.core).map(
                **{
                    other: torch.linalg.qr(bases[other], mode="r").R
                    for other in MODES
                    if other != mode
                }
            )
            return bases[mode] @ small.array.movedim(MODES.index(mode), 0).flatten(1)
        case Dense():
            tensor = tensor.symmetrise() if symmetric else tensor
            return tensor.array.movedim(MODES.index(mode), 0).flatten(1)


def _triangle(
    one: Float[Tensor, "h a"], two: Float[Tensor, "h b"], symmetric: bool = False
) -> Float[Tensor, "r h"]:
    """R of the QR of the Khatri-Rao product with rows one_a ∘ two_b. O(a b h²) time, O(h²) memory.

    A factor wider than h is first replaced by its own R, which turns the rows of the product and
    leaves R alone.
    """
    hidden = len(one)
    if symmetric:  # the two lie in one space, and turn together
        both = _narrow(torch.cat([one, two]))
        one, two = both[:hidden], both[hidden:]
    else:
        one, two = _narrow(one), _narrow(two)
    width, count = two.shape[1], one.shape[1] * two.shape[1]
    block = max(2 * hidden, 256)  # rows at a time, so that factoring R again costs little
    triangle = one.new_zeros(0, hidden)
    for start in range(0, count, block):
        place = torch.arange(start, min(start + block, count), device=one.device)
        a, b = place // width, place % width
        if symmetric:
            a, b = a[a <= b], b[a <= b]
            weight = one.new_tensor([0.5**0.5, 0.5])[(a == b).long()]  # of (l_a ∘ r_b + r_a ∘ l_b)
            rows = weight[:, None] * (one.mT[a] * two.mT[b] + two.mT[a] * one.mT[b])
        else:
            rows = one.mT[a] * two.mT[b]
        triangle = torch.linalg.qr(torch.cat([triangle, rows]), mode="r").R
    return triangle


def _narrow(factor: Float[Tensor, "h a"]) -> Float[Tensor, "h r"]:
    return factor if factor.shape[1] <= len(factor) else torch.linalg.qr(factor.mT, mode="r").R.mT


def _loudness(tensor: Form, values: Float[Tensor, " s"]) -> float:
    """The size that rounding goes by: σ₁, raised by how much louder than T its terms are before
    they cancel.
    """
    largest, norm, terms = float(values[0]), float(values.double().norm()), tensor.terms()
    return terms if norm == 0 else largest * max(1.0, terms / norm)


def norm_of(tensor: Form, found: Unfolding, symmetric: bool, precision: Precision) -> float:
    """‖T‖: from the spectrum of an unfolding or, where that is all noise, from an inner product in
    float64.

    0 where that is rounding too: T is then zero as far as can be told.
    """
    if float(found.values[0]) > found.noise:
        return float(found.values.double().norm())
    if precision == "orthogonal":
        return 0.0
    norm = box_norm(tensor, ALL, ALL, ALL, symmetric, precision)
    return norm if norm > CANCELLED * tensor.terms() else 0.0


def left_out(found: Unfolding, rank: int) -> float:
    """The root of the summed squares of the singular values from ``rank`` on."""
    return float(found.values[rank:].double().norm())


def at_most(found: Unfolding, rank: int) -> float:
    """What ``left_out`` may be in truth, each of its values being known up to the noise."""
    return float((found.values[rank:].double() + found.noise).norm())


def kept(values: Float[Tensor, " s"], max_rank: int | None, cutoff: float | None) -> int:
    """How many of ``values`` stay: those above ``cutoff`` times the largest, ``max_rank`` at most,
    one at least.
    """
    count = len(values) if cutoff is None else int((values > cutoff * values[0]).sum())
    return max(1, count if max_rank is None else min(count, max_rank))


def in_basis(tensor: Form, found: Mapping[Mode, Unfolding]) -> Form:
    """T in the singular vectors as coordinates; in float64 where its terms are so loud that float32
    would drown it.
    """
    loud = any(one.noise > LOUD * float(one.values[0]) for one in found.values())
    return turned(
        tensor, {mode: one.vectors.double() if loud else one.vectors for mode, one in found.items()}
    )


def turned(tensor: Form, bases: Mapping[str, Float[Tensor, "s r"]]) -> Form:
    """T with each mode in the coordinates of its basis' columns, in their dtype. A CP's factors are
    cast by blocks.
    """
    dtype = next(iter(bases.values())).dtype
    if not isinstance(tensor, CP):
        maps: dict[str, Tensor] = {mode: basis.mT for mode, basis in bases.items()}
        return tensor.to(dtype).map(**maps)
    factors = {"out": tensor.out.mT, "left": tensor.left, "right": tensor.right}
    for mode, basis in bases.items():
        factors[mode] = torch.cat([rows.to(dtype) @ basis for rows in factors[mode].split(BLOCK)])
    cast = (factors["out"].mT.to(dtype), factors["left"].to(dtype), factors["right"].to(dtype))
    return CP(*cast, affine=tensor.affine and set(bases) == {"out"})


def box(tensor: ThirdOrder, out: slice = ALL, left: slice = ALL, right: slice = ALL) -> Form:
    """A box of the cube, in the same form: views of the factors."""
    affine = tensor.affine and left == right == ALL
    match tensor:
        case CP():
            return CP(tensor.out[out], tensor.left[:, left], tensor.right[:, right], affine)
        case Tucker(core=core):
            bases = tensor.out[out], tensor.left[left], tensor.right[right]
            return Tucker(core, *bases, affine=affine)
        case Dense():
            return Dense(tensor.array[out, left, right], affine)
    raise ArgumentError("box", must="be of a CP, Dense or Tucker", got=type(tensor).__name__)


def box_norm(
    tensor: Form, out: slice, left: slice, right: slice, symmetric: bool, precision: Precision
) -> float:
    """‖box‖ of T, or of its symmetric part S = ½ (T + Tˢ) from the two halves' boxes.

    From inner products, O(h² (o + i + j)) for a CP: what is below √eps times its terms is rounding.
    "orthogonal": not so.
    """
    one = box(tensor, out, left, right)
    if 0 in one.shape:
        return 0.0
    # else the halves are each other's swap
    two = box(tensor.swap(), out, left, right) if left != right else None
    if precision == "orthogonal":
        if symmetric and two is not None:
            return float(_root(one._plus(two) * 0.5, "out", symmetric=False).norm())
        return float(_root(one, "out", symmetric).norm())
    if not symmetric or two is None:
        square = one.inner_near_one(one, symmetric=symmetric)
    else:
        own = one.inner_near_one(one) + two.inner_near_one(two)
        square = (own + 2 * one.inner_near_one(two)) / 4
    return nonnegative(float(square)) ** 0.5


def missed(
    tensor: Form, ranks: tuple[int, int, int], symmetric: bool, precision: Precision
) -> float:
    """‖T − T̂‖, T turned so that T̂ is its corner of ``ranks``: from the boxes around it."""
    (o, beyond_o), (i, beyond_i), (j, beyond_j) = (
        (slice(rank), slice(rank, None)) for rank in ranks
    )
    norm = partial(box_norm, tensor, symmetric=symmetric, precision=precision)
    beside = norm(o, i, beyond_j)
    below = beside if symmetric and i == j else norm(o, beyond_i, j)
    return math.hypot(norm(beyond_o, ALL, ALL), norm(o, beyond_i, beyond_j), beside, below)
