"""The largest terms of a quadratic form over rows, Σ Q_fg a_f a_g, without making W Q Wᵀ whole.

What acts is the coefficient of a monomial: Q_ff of a_f², and Q_fg + Q_gf = 2 Q_fg of a_f a_g. Terms
are ranked by it; the search works with half of it, so that entries off the diagonal stay as they
are and those on it are halved.

Q is d × d, W (f, d) holds a row for each a_f. With z_f = Q w_f, |Q_fg| = |z_f · w_g| ≤ ‖z_f‖ ‖w_g‖.
Rows go by falling ‖z_f‖; a block of them is multiplied with those up to it alone, as the matrix is
symmetric (``entries.search``).
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm
from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import (
    near_one,
    require_count,
    require_finite,
    restored,
    working_dtype,
)
from bilens.decompose.entries.search import Rows, Search, bound_at
from bilens.decompose.entries.top_entries import TopEntries

PairKind = Literal["all", "cross", "self"]
BLOCK = 512  # rows whose products with all before them are held at once
UNITS = 1024  # hidden units that candidates are verified on at once
# Multiply-adds of float32 in the time of one of bfloat16, where a processor has instructions for
# it: a low guess. Where it has none, bfloat16 is many times slower, and is not used.
BFLOAT16_RATE = 2.0
PASSES = 64  # multiply-adds in the time that a first look's passes over one product take, about
# How many ulps of ‖z‖ ‖w‖ rounding may take: a heuristic; what it took is measured, and the search
# repeated.
SLACK = 16


@torch.no_grad()
def top_pairs(
    form: QuadraticForm, rows: Float[Tensor, "f i"], k: int = 20, kind: PairKind = "all"
) -> TopEntries:
    """The ``k`` unordered pairs of ``rows`` whose monomials a_f a_g have the largest coefficients
    in Q(Σ_f a_f w_f), by absolute value and exactly.

    ``kind``: pairs of both kinds, or those of two different rows ("cross") or of a row with itself
    ("self") alone. In the result ``values`` are the coefficients, and ``certificate`` bounds those
    of all pairs that are not listed, computed or not.

    Searched in the form's dtype (half types: float32) with a slack for its rounding, verified in
    float64 from the factors. Cost: h i² + f i² multiply-adds in float64, and f² i / 2 at most.
    Memory: i² + f (2 i + ``BLOCK``), and O(k i). Errors: ArgumentError for ``k`` or ``kind``;
    NotFiniteError; RangeError where float64 does not hold the largest.

    >>> form = T.interaction(torch.eye(128)[0])
    >>> bilens.decompose.top_pairs(form, D.writes, k=3).indices.shape
    torch.Size([3, 2])
    """
    require_count("k", k)
    require("kind", kind, OneOf(get_args(PairKind)), ArgumentError)
    require_finite("top_pairs", **vars(form), rows=rows)
    work = working_dtype(form.dtype)
    form, power = form.to(work).detach().near_one()
    rows, more = near_one(rows.detach().to(form.left))
    images = _images(form, rows)
    search, pairs, values = _verified(form, images, rows, k, kind)
    halves = values.abs() * _half(pairs).to(values)
    order = halves.argsort(descending=True, stable=True)
    listed, rest = order[:k], order[k:]
    missed = max(search.skipped, search.given_up) + search.margin / 2
    bound = max([missed, *halves[rest].tolist()]) if len(listed) < search.size else 0.0
    scale = int(power) + 2 * more
    coefficients = 2 * _half(pairs[listed]).to(values) * values[listed]
    return TopEntries(
        modes=("left", "right"),
        indices=pairs[listed].sort(dim=1).values.cpu(),
        values=restored("top_pairs", coefficients, scale, torch.float64).cpu(),
        names={},
        certificate=bound_at(2 * bound, scale),
        asked=min(k, search.size),
        looked_at=search.looked_at,
        size=search.size,
        symmetric=True,
    )


def _images(form: QuadraticForm, rows: Float[Tensor, "f i"]) -> Float[Tensor, "f i"]:
    """Q w of each row, in float64 before it is rounded: what units and coordinates cancel is then
    no part of the error, which goes by ‖Q w‖.
    """
    matrix = form.to(torch.float64).dense()
    return torch.cat([(block.double() @ matrix).to(rows.dtype) for block in rows.split(BLOCK)])


def _verified(
    form: QuadraticForm, images: Tensor, rows: Tensor, k: int, kind: str
) -> tuple[Search, Int[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Candidates and their entries Q_fg in float64: every pair that the margin of the search leaves
    in question. Where rounding took more than was allowed for, the search is made again.
    """
    longest = float(images.norm(dim=1).max() * rows.norm(dim=1).max()) if len(rows) else 0.0
    slack = SLACK * torch.finfo(rows.dtype).eps * longest
    while True:
        search = Search(
            k,
            (1, len(rows), len(rows)),
            unordered=True,
            squares=kind == "all",
            margin=slack,
            max_bytes=0,
        )
        pairs = _squares(search, images, rows) if kind == "self" else _walk(search, images, rows)
        values = _entries(form, rows, pairs)
        sizes = values.abs() * _half(pairs).to(values)
        off = float((sizes - search.values.double()).abs().max()) if len(sizes) else 0.0
        if off <= slack / 2:
            return search, pairs, values
        slack = 4 * off


def _squares(search: Search, images: Tensor, rows: Tensor) -> Int[Tensor, "n 2"]:
    """Each row with itself: all are computed."""
    every = torch.arange(len(rows), device=rows.device)
    search.enlist(every, (images * rows).sum(1).abs() / 2)
    search.looked_at = search.size = len(rows)
    return torch.stack([search.keys, search.keys], 1)


def _walk(search: Search, images: Tensor, rows: Tensor) -> Int[Tensor, "n 2"]:
    """Blocks of rows, those of the largest ‖z‖ first, with the rows up to their own.

    Rows are numbered backwards for it: of a pair i ≤ j, i is then the row that comes later, and j
    one of those up to it.
    """
    norms, order = images.norm(dim=1).sort(descending=True)
    images, rows = images[order], rows[order]
    number = torch.arange(len(rows) - 1, -1, -1, device=rows.device)
    coarse = None
    if coarse_pays(len(rows), rows.shape[1], rows.device):
        coarse = images.bfloat16(), rows.bfloat16()
    longest = rows.norm(dim=1).max().expand(len(rows)) if len(rows) else norms
    search.walk(
        Rows(
            images,
            norms,
            number * len(rows),
            rows,
            longest,
            number,
            triangle=min(BLOCK, len(rows)),
            coarse=coarse,
        )
    )
    backwards = order.flip(0)
    places = search.keys // max(1, len(rows)), search.keys % max(1, len(rows))
    return torch.stack([backwards[place] for place in places], 1)


def coarse_pays(count: int, size: int, device: torch.device) -> bool:
    """Whether a first look in bfloat16 takes fewer operations than all products as they are."""
    if not _multiplies_bfloat16(device) or count < 4 * BLOCK:
        return False
    return size / BFLOAT16_RATE + PASSES < size


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for products in bfloat16."""
    if device.type != "cpu":
        return True
    kinds = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, kind, bool)() for kind in kinds)


def _half(pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Half of how often an unordered pair stands in the matrix: what makes |Q_fg| half a
    coefficient.
    """
    return torch.where(pairs[:, 0] == pairs[:, 1], 0.5, 1.0)


def _entries(form: QuadraticForm, rows: Tensor, pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """w_f Q w_g in float64: ½ Σ_h q_h [(l_h·w_f)(r_h·w_g) + (r_h·w_f)(l_h·w_g)], a block of units
    at a time.
    """
    used, at = pairs.unique(return_inverse=True)
    vectors, (f, g) = rows[used].double(), at.unbind(1)
    total = vectors.new_zeros(len(pairs))
    for start in range(0, form.weights.shape[-1], UNITS):
        block = slice(start, start + UNITS)
        left, right = (vectors @ side[block].double().mT for side in (form.left, form.right))
        total += (left[f] * right[g] + right[f] * left[g]) @ form.weights[block].double()
    return total / 2
