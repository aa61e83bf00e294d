"""The largest terms of a quadratic form over a dictionary, Σ Q_fg a_f a_g, without making W Q Wᵀ
whole.

What acts is the coefficient of a monomial: Q_ff of a_f², and Q_fg + Q_gf = 2 Q_fg of a_f a_g. Terms
are ranked by it; the search works with half of it, so that entries off the diagonal stay as they
are and those on it are halved.

Q is d × d, W (f, d) holds what each feature writes. With z_f = Q w_f, |Q_fg| = |z_f · w_g| ≤ ‖z_f‖
‖w_g‖. Features go by falling ‖z_f‖; a block of rows f is multiplied with the columns up to it
alone, as the matrix is symmetric, and the search ends where no later row can reach the k-th largest
term so far.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm
from bilens.algebra.eigen import require_count
from bilens.base.errors import ArgumentError
from bilens.base.numerics import near_one, require_finite, scaled, working_dtype
from bilens.base.results import Result

Kind = Literal["all", "cross", "self"]
BLOCK = 512  # features whose products with all before them are held at once
TRIAL = 128  # rows of the product that shows whether bfloat16 is the faster
COARSE = 2**-7 + 2**-12  # what bfloat16 takes, over ‖z‖ ‖w‖, summing in float32 included
NEAR = 32  # pairs a row that are computed one by one; where there are more, the block is
UNITS = 1024  # hidden units that candidates are verified on at once
SPARE = 1024  # candidates beyond 4 k that are verified at most
# how many ulps of ‖z‖ ‖w‖ rounding may take: a heuristic; what it took is measured, and the search
# repeated
SLACK = 16


@dataclass(frozen=True, repr=False, eq=False)
class FeaturePairs(Result):
    """The largest terms of one output feature over pairs of input features, by |coefficient|,
    largest first.

    Pairs are unordered: f ≤ g. ``values`` are entries Q_fg of the symmetric matrix, in float64;
    what acts are the
    ``coefficients``: Q_fg + Q_gf = 2 Q_fg of a_f a_g, and Q_ff of a self-interaction a_f².
    ``kind``: pairs of both kinds, or one alone. ``certificate``: no pair of this kind that is not
    listed has a larger |coefficient|; ``searched`` of
    ``size`` pairs were computed; ``asked`` is how many were wanted.
    """

    of: str
    kind: str
    indices: Int[Tensor, "n 2"]
    values: Float[Tensor, " n"]
    names: tuple[str, ...]
    certificate: float
    asked: int
    searched: int
    size: int

    @property
    def coefficients(self) -> Float[Tensor, " n"]:
        """What multiplies a_f a_g: Q_ff, and 2 Q_fg where f ≠ g."""
        return 2 * _half(self.indices).to(self.values) * self.values

    @property
    def complete(self) -> bool:
        """Whether these are the largest there are."""
        smallest = float(self.coefficients[-1].abs()) if len(self.values) else math.inf
        return len(self.values) == self.asked and self.certificate <= smallest

    def summary(self) -> str:
        kind = "pairs" if self.kind == "all" else f"{self.kind} pairs"
        how = "exact" if self.complete else f"others may reach {self.certificate:.4g}"
        return f"{self.of}: {len(self.values)} of {self.size:,} {kind} of input features; {how} ({self.searched:,} computed)"

    def columns(self) -> tuple[str, ...]:
        return "f", "g", "kind", "Q_fg", "coefficient"

    def rows(self) -> list[dict[str, Any]]:
        columns = (self.indices.tolist(), self.values.tolist(), self.coefficients.tolist())
        return [
            {
                "f": self._name(f),
                "g": self._name(g),
                "kind": "self" if f == g else "cross",
                "Q_fg": value,
                "coefficient": c,
            }
            for (f, g), value, c in zip(*columns, strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        labels = [f"{row['f']} · {row['g']}" for row in self.rows()]
        bars = {
            "type": "bar",
            "orientation": "h",
            "x": self.coefficients.tolist(),
            "y": list(range(len(labels))),
        }
        ticks = {
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "autorange": "reversed",
            "automargin": True,
        }
        title = {"title": {"text": "coefficient of a_f a_g"}}
        return {
            "data": [bars],
            "layout": {"title": {"text": self.of}, "xaxis": title, "yaxis": ticks},
        }

    def _name(self, f: int) -> str:
        return feature_name(self.names, f)


def feature_name(names: tuple[str, ...], f: int) -> str:
    """What feature ``f`` is called: its name, or its number."""
    return names[f] if names else str(f)


@torch.no_grad()
def top_pairs(
    form: QuadraticForm,
    writes: Float[Tensor, "f i"],
    k: int,
    kind: Kind,
    of: str,
    names: tuple[str, ...],
) -> FeaturePairs:
    """The ``k`` unordered pairs of rows of ``writes`` whose monomials have the largest
    |coefficients|, exactly.

    Searched in the form's dtype (half types: float32) with a slack for its rounding, verified in
    float64 from the factors. Cost: h i² + f i² + f² i / 2 multiply-adds at most. Memory: i² + f (2
    i + ``BLOCK``), and O(k i). Errors: ArgumentError for ``k`` or ``kind``; NotFiniteError.
    """
    require_count(k)
    if kind not in get_args(Kind):
        raise ArgumentError("kind", must=f"be one of {', '.join(get_args(Kind))}", got=repr(kind))
    work = working_dtype(form.dtype)
    require_finite(of, weights=form.weights, left=form.left, right=form.right, writes=writes)
    form, writes, power = _scaled_to_one(form.to(work).detach(), writes.detach().to(work))
    features = len(writes)
    sizes_of = {
        "all": features * (features + 1) // 2,
        "cross": features * (features - 1) // 2,
        "self": features,
    }
    size = sizes_of[kind]
    wanted = min(k, size)
    if wanted == 0:
        none = torch.zeros(0, 2, dtype=torch.int64)
        return FeaturePairs(
            of, kind, none, torch.zeros(0, dtype=torch.float64), names, 0.0, 0, 0, 0
        )
    images = writes @ form.dense()
    reach, length = images.norm(dim=1), writes.norm(dim=1)
    slack = SLACK * torch.finfo(work).eps * float(reach.max() * length.max())
    search = _self_pairs if kind == "self" else _cross_pairs
    while True:
        found, sizes, missed, searched = search(images, writes, wanted, slack, kind)
        values = _entries(form, writes, found)
        halves = values.abs() * _half(found).to(values)
        off = float((halves - sizes.double()).abs().max())
        if off <= slack / 2:
            break
        slack = 4 * off
    order = halves.argsort(descending=True, stable=True)
    listed, rest = order[:wanted], order[wanted:]
    bound = torch.tensor(2 * max([missed, *halves[rest].tolist()]), dtype=torch.float64)
    return FeaturePairs(
        of=of,
        kind=kind,
        indices=found[listed].sort(dim=1).values.cpu(),
        values=scaled(values[listed], power).cpu(),
        names=names,
        certificate=float(scaled(bound, power)),
        asked=wanted,
        searched=searched,
        size=size,
    )


def _scaled_to_one(form: QuadraticForm, writes: Tensor) -> tuple[QuadraticForm, Tensor, int]:
    """Form and rows near one, and the power of two that all terms have lost by it."""
    form, power = form.near_one()
    writes, more = near_one(writes)
    return form, writes, int(power) + 2 * more


def _half(pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Half of how often an unordered pair stands in the matrix: what makes |Q_fg| half a
    coefficient.
    """
    return torch.where(pairs[:, 0] == pairs[:, 1], 0.5, 1.0)


# Candidates (n, 2), half their |coefficients|, what half of any other may reach, how many were
# computed.
Found = tuple[Tensor, Tensor, float, int]


def _self_pairs(images: Tensor, writes: Tensor, k: int, slack: float, kind: str) -> Found:
    sizes = (images * writes).sum(1).abs() / 2
    pool = _Pool(k, slack)
    pool.take(sizes[:, None], 0)
    return pool.pairs[:, :1].repeat(1, 2), pool.sizes, pool.missed, len(sizes)


def _cross_pairs(images: Tensor, writes: Tensor, k: int, slack: float, kind: str) -> Found:
    """Blocks of rows, those of the largest ‖z‖ first, with the columns up to their own.

    Where bfloat16 is the faster, a block is first looked at in it. Rounding both sides to 8 bits
    moves z·w by no more than (2 u + u²) ‖z‖ ‖w‖, u = 2⁻⁸, and rounding the product moves it by u
    |z·w|: what cannot reach the floor by that is out.
    """
    reach, order = images.norm(dim=1).sort(descending=True)
    images, writes = images[order], writes[order]
    longest = float(writes.norm(dim=1).max())
    pool, searched, below = _Pool(k, slack), 0, 0 if kind == "all" else -1
    coarse = [side.bfloat16() for side in (images, writes)] if coarse_pays(images, writes) else None
    room = images.new_empty(min(BLOCK, len(writes)) * len(writes))
    for start in range(0, len(writes), BLOCK):
        bound = float(reach[start]) * longest + slack / 2
        if bound <= pool.floor - slack / 2:
            pool.missed = max(pool.missed, bound)
            break
        stop = min(start + BLOCK, len(writes))
        searched += (stop - start) * (start + stop + 1 + 2 * below) // 2
        if coarse is not None and math.isfinite(pool.floor):
            lost = COARSE * float(reach[start]) * longest
            cut = (pool.floor - slack - lost) * (1 - COARSE)
            near = _near(coarse, start, stop, room, cut, below)
            if near is not None:
                f, g = near.unbind(1)
                pool.missed = max(pool.missed, pool.floor - slack / 2)
                pool.add((images[f] * writes[g]).sum(1).abs() * _half(near).to(images), near)
                continue
        sizes = torch.mm(
            images[start:stop], writes[:stop].mT, out=_view(room, stop - start, stop)
        ).abs_()
        _only_pairs(sizes, start, below, -math.inf)
        pool.take(sizes, start)
    pairs = torch.stack([order[pool.pairs[:, 0]], order[pool.pairs[:, 1]]], 1)
    return pairs, pool.sizes, pool.missed, searched


def coarse_pays(images: Tensor, writes: Tensor) -> bool:
    """Whether a product in bfloat16 is the faster here, as a small trial has it: processors differ
    by a factor of 30.
    """
    if len(writes) < 4 * BLOCK:
        return False
    seconds = []
    for dtype in (torch.bfloat16, images.dtype):
        one, two = images[:TRIAL].to(dtype), writes[:BLOCK].to(dtype)
        torch.mm(one, two.mT)  # the first is slower than the rest
        start = time.perf_counter()
        float((one @ two.mT)[0, 0])
        seconds.append(time.perf_counter() - start)
    return seconds[0] < seconds[1]


def _near(
    coarse: list[Tensor], start: int, stop: int, room: Tensor, cut: float, below: int
) -> Tensor | None:
    """The pairs (n, 2) of a block whose rounded size is ``cut`` or more; None where they are too
    many to look at singly.
    """
    if cut <= 0:
        return None
    images, writes = coarse
    values = torch.mm(
        images[start:stop], writes[:stop].mT, out=_view(room.view(images.dtype), stop - start, stop)
    )
    _only_pairs(values, start, below, 0.0)
    # one pass; few rows are left
    rows = (torch.maximum(values.amax(1), -values.amin(1)) >= cut).nonzero()[:, 0]
    near = (values[rows].abs_() >= cut).nonzero()
    return (
        torch.stack([rows[near[:, 0]] + start, near[:, 1]], 1)
        if len(near) <= NEAR * (stop - start)
        else None
    )


def _view(room: Tensor, rows: int, columns: int) -> Tensor:
    return room[: rows * columns].view(rows, columns)


def _only_pairs(values: Float[Tensor, "r c"], start: int, below: int, blank: float) -> None:
    """Halve the diagonal of the last square block; blank what is above, which comes the other way
    round.
    """
    own = values[:, start:]
    own.diagonal().mul_(0.5)
    own.masked_fill_(torch.ones_like(own, dtype=torch.bool).triu(below + 1), blank)


class _Pool:
    """The candidates so far: all entries within ``slack`` of the k-th largest, and no more than
    ``limit``.
    """

    def __init__(self, k: int, slack: float) -> None:
        self.k, self.slack, self.limit = k, slack, 4 * k + SPARE
        self.floor, self.missed = -math.inf, 0.0
        self.pairs, self.sizes = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0)

    def take(self, sizes: Float[Tensor, "r c"], start: int) -> None:
        """Look through a block of sizes, whose first row is ``start``; -∞ marks what is no pair."""
        flat = sizes.flatten()
        hits = (flat > self.floor - self.slack).nonzero()[:, 0]
        if len(hits) > self.limit:
            best = flat[hits].topk(self.limit + 1)
            self._drop(float(best.values[-1]))
            hits = hits[best.indices[:-1]]
        elif math.isfinite(self.floor):
            self._drop(self.floor - self.slack)
        self.add(
            flat[hits], torch.stack([hits // sizes.shape[1] + start, hits % sizes.shape[1]], 1)
        )

    def add(self, sizes: Float[Tensor, " n"], pairs: Int[Tensor, "n 2"]) -> None:
        """Take these in, raise the floor, and let go of what is below it by more than the slack."""
        pairs, sizes = (
            torch.cat([self.pairs.to(pairs), pairs]),
            torch.cat([self.sizes.to(sizes), sizes]),
        )
        order = sizes.argsort(descending=True)
        if len(order) >= self.k:
            self.floor = float(sizes[order[self.k - 1]])
        kept = min(int((sizes >= self.floor - self.slack).sum()), self.limit)
        if kept < len(order):
            self._drop(float(sizes[order[kept]]))
        self.pairs, self.sizes = pairs[order[:kept]], sizes[order[:kept]]

    def _drop(self, size: float) -> None:
        """Entries up to ``size`` as computed were given up: they may be larger by what rounding
        took.
        """
        self.missed = max(self.missed, size + self.slack / 2)


def _entries(form: QuadraticForm, writes: Tensor, pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """w_f Q w_g in float64: ½ Σ_h q_h [(l_h·w_f)(r_h·w_g) + (r_h·w_f)(l_h·w_g)], a block of units
    at a time.
    """
    used, at = pairs.unique(return_inverse=True)
    rows, (f, g) = writes[used].double(), at.unbind(1)
    total = rows.new_zeros(len(pairs))
    for start in range(0, form.weights.shape[-1], UNITS):
        block = slice(start, start + UNITS)
        left, right = rows @ form.left[block].double().mT, rows @ form.right[block].double().mT
        total += (left[f] * right[g] + right[f] * left[g]) @ form.weights[block].double()
    return total / 2
