"""One form for all equal layers: the gauge freedoms of a bilinear layer, fixed.

S_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj) does not change when hidden units are permuted, when a
unit's L, R and D are scaled by a, b and 1/(ab) (signs are such scales), or when its L and R are
swapped. The canonical form takes, of each unit,

    ‖l‖ = ‖r‖ = 1, the first of the largest entries of each positive, l before r,

and its strength and sign go to D; then the units go by strength ‖D_:h‖, strongest first. Two layers
that differ by a gauge alone have equal canonical factors. Layers that are equal as functions need
not: parallel units are not merged.
"""

from functools import cmp_to_key, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra.cp import CP
from bilens.algebra.symmetric import signs
from bilens.base.errors import ArgumentError, RangeError, ShapeError
from bilens.base.numerics import dtype_name, peak, powers, require_finite, scaled, working_dtype

TIE = 64  # ulps: what a few products and a norm may round, with room


def canonical(T: CP, *, swap: bool = True) -> CP:
    """The same layer in its canonical gauge: equal, factor by factor, for layers that differ by a
    gauge alone.

    ``swap`` lets a unit's left and right change places, which leaves the symmetric part S (all that
    acts on one x) and not T itself; without it T is left as it is, and the inputs may be different
    spaces. Units that are zero are dropped. What ties to 64 ulps (largest entries, strengths) is
    broken by the order of the entries, left, then right, then out, larger first; units that tie in
    all of it are equal. The tie is a matter of rounding: where two strengths lie just 64 ulps
    apart, two gauges of a layer may come out in two orders. Worked in float64 and given in T's
    dtype, half types in float32; gradients flow. Cost O(h (o + i + j) + h log h). Errors:
    ShapeError where ``swap`` finds two spaces, or for an empty mode; NotFiniteError; RangeError
    where T's dtype does not hold what goes to D. Source: the symmetries of the CP form, Sharkey,
    arXiv:2305.03452; Kolda and Bader 2009, section 3.1.

    >>> turned = bilens.CP(T.out, 2 * T.left, T.right / 2)
    >>> one, two = bilens.algebra.canonical(T), bilens.algebra.canonical(turned)
    >>> torch.allclose(one.left, two.left, atol=1e-5)
    True
    """
    if not isinstance(T, CP):
        raise ArgumentError("canonical", must="be given a CP", got=type(T).__name__)
    if 0 in T.shape:
        raise ShapeError("canonical", must="be given a tensor with no empty mode", got=T.shape)
    if swap:
        T.require_one_space("canonical(swap=True)")
    require_finite("canonical", out=T.out, left=T.left, right=T.right)
    dtype = working_dtype(T.dtype)
    tie = TIE * torch.finfo(dtype).eps
    alive = T.out.any(0) & T.left.any(1) & T.right.any(1)
    work = CP(T.out[:, alive], T.left[alive], T.right[alive]).to(torch.float64)
    left, left_length, one = _unit_rows(work.left, tie)
    right, right_length, two = _unit_rows(work.right, tie)
    if swap:
        later = _before(right, left, tie)[:, None]
        left, right = torch.where(later, right, left), torch.where(later, left, right)
    out = scaled(work.out * left_length * right_length, one + two)
    _require_kept(work.out, out, dtype)
    order = _order(out, left, right, tie)
    return CP(out[:, order], left[order], right[order], T.affine).to(dtype)


def _unit_rows(
    rows: Float[Tensor, "h i"], tie: float
) -> tuple[Float[Tensor, "h i"], Float[Tensor, " h"], Int[Tensor, " h"]]:
    """Rows of unit length, the first of their largest entries positive; and what they must be
    scaled by to be as before: a number, and a power of two."""
    power = powers(peak(rows, -1))
    rows = scaled(rows, -power[:, None])
    length = rows.norm(dim=-1) * signs(rows, tie)[:, 0]
    return rows / length[:, None], length, power


def _require_kept(
    before: Float[Tensor, "o h"], after: Float[Tensor, "o h"], dtype: torch.dtype
) -> None:
    """Raise RangeError unless ``dtype`` holds the strength of every unit; none was zero."""
    sizes = peak(after, 0)
    kind = torch.finfo(dtype)
    lost = int(((sizes > kind.max) | (sizes < kind.tiny)).sum())
    if lost:
        todo = "Use .to(torch.float64), or multiply T by a number."
        got = f"{lost} of {before.shape[1]} units out of it"
        raise RangeError(
            "canonical",
            must=f"have strengths in the range of {dtype_name(dtype)}",
            got=got,
            todo=todo,
        )


def _before(one: Float[Tensor, "h i"], two: Float[Tensor, "h i"], tie: float) -> Bool[Tensor, " h"]:
    """Whether the first entry in which rows differ by more than ``tie`` is larger in ``one``."""
    apart = one.detach() - two.detach()
    first = (apart.abs() > tie).int().argmax(-1, keepdim=True)
    return apart.gather(-1, first)[:, 0] > tie


def _compared(entries: Float[Tensor, "h i"], tie: float, a: int, b: int) -> int:
    """1 where row a comes later than row b, -1 where b does."""
    one, two = entries[[a]], entries[[b]]
    return int(_before(two, one, tie)) - int(_before(one, two, tie))


def _order(out: Tensor, left: Tensor, right: Tensor, tie: float) -> Int[Tensor, " kept"]:
    """Strongest unit first; chains of strengths that tie, by their entries."""
    power = powers(peak(out, 0))
    strength = scaled(scaled(out.detach(), -power).norm(dim=0), power)
    order = strength.argsort(descending=True, stable=True)
    ranked = strength[order]
    apart = ranked[:-1] - ranked[1:] > tie * ranked[:-1]
    chain = torch.cat([order.new_zeros(1)[: len(order)], apart.cumsum(0)])
    if bool(apart.all()):  # as almost always
        return order
    entries = torch.cat([left, right, (out / strength).mT], dim=1).detach()

    later = cmp_to_key(partial(_compared, entries, tie))
    groups: dict[int, list[int]] = {}
    for number, unit in zip(chain.tolist(), order.tolist(), strict=True):
        groups.setdefault(number, []).append(unit)
    units = [unit for group in groups.values() for unit in sorted(group, key=later)]
    return torch.tensor(units, device=order.device)
