"""Two ways to read an entry of a tensor as a product of two vectors, with a bound on what float32
makes of it.

    plain   T_oij = (D_o ∘ L_i) · R_j       vectors of length h, rows for nothing
    short   T_oij = (b_iᵀ C_o) · b'_j       L = M Bᵀ, R = M' B'ᵀ, orthonormal B and B',
                                            C_o = Mᵀ diag(D_o) M'

with C_o as small as what the factors span. A metric W between the two vectors, z → W^½ z and b →
W^-½ b, changes no entry and all bounds ‖z‖ ‖b‖. With orthonormal b the least tr(W Σ z zᵀ) tr(W⁻¹),
the product of all squared norms, is that of W = Z^-½, Z = Σ_o C_oᵀ C_o: it is what makes bounds
exclude something. Plain rows take a diagonal W, so that they stay free.

Rounding. A product of n-vectors is within n u Σ|z||b| of the true one, u half the dtype's eps, and
they add up one after another: cores, rows, entries. With what the spans miss, measured, that is the
slack s_o ≥ |z_oi · b_j − T_oij|.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.numerics import eigh, standard_normal

SAMPLE = 16  # outputs that the metric is taken from
FLAT = 1e-8  # of the largest eigenvalue of Z: the least one
WIDE = 2.0**50  # no metric goes beyond, so that float32 holds both vectors
SKETCH = 20  # vectors at first, and twice as many each time, until they span a factor
# entries of an output for each dimension of the outputs, from which on looking for their span is
# cheap
WORTH = 32
# of a factor: what its span may miss, so that products made in float32 still have few dimensions
SAME = 1e-6
EPS = torch.finfo(torch.float64).eps


class Reading(NamedTuple):
    """T_oij ≈ z_oi · b_j within ``slack`` of o.

    rows: z of some outputs, theirs one after the other. columns, norms, order: the b_j by norm,
    largest first; their norms; and where each was. bounds: on the entries of each output. cost:
    multiply-adds for the rows of one output.
    """

    rows: Callable[[Tensor], Tensor]
    columns: Float[Tensor, "j r"]
    norms: Float[Tensor, " j"]
    order: Int[Tensor, " j"]
    bounds: Float[Tensor, " o"]
    slack: Float[Tensor, " o"]
    cost: int


def plain(tensor: CP) -> Reading:
    out, left, right = tensor.out, tensor.left, tensor.right
    ratio = right.norm(dim=1) / (out.norm(dim=0) * left.norm(dim=1))
    metric = ratio.sqrt().nan_to_num(1.0).clamp(WIDE**-1, WIDE)[:, None]
    most = out.abs() @ (_peak(left) * _peak(right))
    low = _low()
    slack = _rounding(most, tensor.rank + 8, low)
    o, rows = out.to(low), (left * metric).mT.to(low).contiguous()
    return Reading(
        lambda n: (rows * o[n][:, None]).flatten(0, 1),
        *_by_norm((right / metric).mT.to(low)),
        bounds=most * (1 + 8 * tensor.rank * EPS) + slack,
        slack=slack,
        cost=rows.numel(),
    )


def short(tensor: CP, whole: int, max_bytes: int) -> Reading | None:
    """The reading through what the factors span, or None where it would not pay; ``whole``: one
    output, plain.
    """
    out, left, right = tensor.out, tensor.left, tensor.right
    o, i, j = tensor.shape
    if o * min(i, j) < 64 * min(tensor.rank, i, j):
        return None  # finding the spans would cost about as much as all entries
    (mix, basis), (mix2, basis2) = _spanned(left), _spanned(right)
    r, r2 = basis.shape[1], basis2.shape[1]
    if i * r * r2 > whole / 2 and i * r * r2 + i * j * r2 > whole:
        return None
    weights, parts = (i * j >= WORTH * min(o, tensor.rank) and _narrow(out)) or (out, None)
    if parts is not None:
        depth = parts.shape[1]
        worth = depth * (2 * tensor.rank + o) < o * tensor.rank and 16 * depth * r * r2 <= max_bytes
        weights, parts = (weights, parts) if worth else (out, None)
    depth = weights.shape[1]
    cost = (depth + i) * r * r2
    if cost > whole / 2 and cost + i * j * r2 > whole:
        return None
    sample = out[torch.linspace(0, o - 1, min(o, SAMPLE), device=out.device).long()]
    turn, back = _metric(_slices(sample, mix, mix2))
    mix2, basis2 = mix2 @ turn, basis2 @ back
    cores = _alone(out, mix, mix2) if parts is None else _joined(weights, parts, mix, mix2)
    reach = basis.norm(dim=1).max() * basis2.norm(dim=1).max()
    left_off, right_off = _peak(left - mix @ basis.mT), _peak(right - mix2 @ basis2.mT)
    missed = out.abs() @ (left_off * _peak(right) + (_peak(left) + left_off) * right_off)
    if parts is not None:
        missed += (out - weights @ parts.mT).abs() @ (
            (_peak(left) + left_off) * (_peak(right) + right_off)
        )
    squares = ((weights @ cores.gram) * weights).sum(1).clamp(min=0) + 8 * EPS * (
        depth + r * r2
    ) * cores.most.square()
    low = _low()
    sizes = squares.sqrt()  # ‖C_o‖ ≥ ‖z_oi‖ / ‖b_i‖; the square's rounding is added before the root
    rounded = _rounding(cores.most, depth + 6, low) + _rounding(sizes, r + r2 + 6, low)
    slack = (rounded + 4 * EPS * (depth + r + r2 + tensor.rank) * cores.terms) * reach + missed
    rows = basis.to(low)
    return Reading(
        lambda n: (rows @ cores.of(n)).flatten(0, 1),
        *_by_norm(basis2.to(low)),
        bounds=sizes * reach + slack,
        slack=slack,
        cost=cost,
    )


class _Cores(NamedTuple):
    """C_o = Σ_a w_oa K_a with ``gram`` ⟨K_a, K_b⟩; most: Σ_a |w_oa| ‖K_a‖; terms: that before terms
    of K_a cancelled.
    """

    of: Callable[[Tensor], Tensor]
    gram: Float[Tensor, "a a"]
    most: Float[Tensor, " o"]
    terms: Float[Tensor, " o"]


def _alone(
    out: Float[Tensor, "o h"], mix: Float[Tensor, "h r"], mix2: Float[Tensor, "h r2"]
) -> _Cores:
    """Each core from all units: K_h of rank one."""
    low = [factor.to(_low()) for factor in (out, mix, mix2)]
    terms = out.abs() @ (mix.norm(dim=1) * mix2.norm(dim=1))
    return _Cores(
        lambda n: _slices(low[0][n], low[1], low[2]),
        (mix @ mix.mT) * (mix2 @ mix2.mT),
        terms,
        terms,
    )


def _joined(
    weights: Float[Tensor, "o a"],
    parts: Float[Tensor, "h a"],
    mix: Float[Tensor, "h r"],
    mix2: Float[Tensor, "h r2"],
) -> _Cores:
    """Cores from as few K_a as the outputs span: far fewer than units after an unembedding."""
    cores = _slices(parts.mT, mix, mix2)
    flat, low = cores.flatten(1), cores.to(_low())
    terms = parts.abs().mT @ (mix.norm(dim=1) * mix2.norm(dim=1))
    return _Cores(
        lambda n: torch.tensordot(weights[n].to(low.dtype), low, dims=1),
        flat @ flat.mT,
        weights.abs() @ flat.norm(dim=1),
        weights.abs() @ terms,
    )


def _slices(
    out: Float[Tensor, "n h"], mix: Float[Tensor, "h r"], mix2: Float[Tensor, "h r2"]
) -> Float[Tensor, "n r r2"]:
    """Mᵀ diag(D_o) M' for each row of ``out``."""
    return torch.stack([(mix * row[:, None]).mT @ mix2 for row in out])


def _metric(
    cores: Float[Tensor, "n r r2"],
) -> tuple[Float[Tensor, "r2 r2"], Float[Tensor, "r2 r2"]]:
    """A and A⁻ᵀ with A Aᵀ = W = Z^-½. Clamped, so that W stays invertible: any such W is exact,
    this one is good.
    """
    values, vectors = eigh(torch.einsum("nab,nac->bc", cores, cores))
    most = float(values.max()) if len(values) else 0.0
    quarter = (values / (most or 1.0)).clamp(min=FLAT) ** 0.25
    return vectors / quarter, vectors * quarter


def _spanned(factor: Float[Tensor, "h i"]) -> tuple[Float[Tensor, "h r"], Float[Tensor, "i r"]]:
    """A factor as M Bᵀ with orthonormal columns of B, as few as its rows span where that is less
    than half of them.
    """
    if (narrow := _narrow(factor)) is not None:
        return narrow
    if factor.shape[1] < factor.shape[0]:
        return factor, torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
    frame, corner = torch.linalg.qr(factor.mT)
    return corner.mT, frame


def _narrow(
    factor: Float[Tensor, "h i"],
) -> tuple[Float[Tensor, "h r"], Float[Tensor, "i r"]] | None:
    """M and B of few columns, or None where there must be more than half as many as there can be.

    A random sketch finds them and the residual says whether it did; what is left of it is measured
    where they are used.
    """
    generator, width, full = (
        torch.Generator(factor.device).manual_seed(0),
        SKETCH,
        min(factor.shape),
    )
    size, rest, frame, inside = float(factor.norm()), factor, factor[:, :0], factor[:0]
    while 2 * (frame.shape[1] + width) <= full:
        start = standard_normal(factor.shape[1], width, generator=generator, dtype=factor.dtype)
        more = torch.linalg.qr(rest @ start).Q
        part = more.mT @ rest
        frame, inside, rest = (
            torch.cat([frame, more], 1),
            torch.cat([inside, part]),
            rest - more @ part,
        )
        width *= 2
        if float(rest.norm()) <= SAME * size:
            u, s, vh = torch.linalg.svd(inside, full_matrices=False)
            rank = int((s > SAME * size).sum())
            return frame @ (u[:, :rank] * s[:rank]), vh[:rank].mT
    return None


def _by_norm(
    columns: Float[Tensor, "j r"],
) -> tuple[Float[Tensor, "j r"], Float[Tensor, " j"], Int[Tensor, " j"]]:
    """Columns by norm, largest first; the norms, rounded up; and where each was."""
    norms, order = norms_of(columns).sort(descending=True)
    return columns[order].contiguous(), norms, order


def norms_of(vectors: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
    """Norms, rounded up: by what r squares and their sum are off by, and by squares too small for
    the dtype.
    """
    kind, r = torch.finfo(vectors.dtype), vectors.shape[1] + 4
    return vectors.norm(dim=1) * (1 + 4 * r * kind.eps) + 2 * (r * kind.tiny) ** 0.5


def _peak(factor: Float[Tensor, "h i"]) -> Float[Tensor, " h"]:
    return factor.abs().amax(1)


def _rounding(most: Float[Tensor, " o"], n: int, low: torch.dtype) -> Float[Tensor, " o"]:
    """What a sum of products, ``most`` in absolute values, may be off by after n roundings or by
    falling below the range.
    """
    kind, unit = torch.finfo(low), n * torch.finfo(low).eps / 2
    return unit / (1 - unit) * most + n * 2**20 * kind.tiny * (
        most > 0
    )  # what falls below the range may meet a large factor


def _low() -> torch.dtype:
    """The dtype of the search: float32 where its products are rounded as float32, as torch does
    unless told otherwise.
    """
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
