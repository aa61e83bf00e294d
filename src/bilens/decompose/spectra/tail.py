"""What the top eigenvectors of each output leave out, cheaply and with gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm, ThirdOrder, balanced
from bilens.base.charts import DRAWN, ranked
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole, require_finite, restored, standard_normal, working_dtype
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting

ROUNDS = 2  # of subspace iteration: a tail that training keeps small is a wide gap
SPARE = 6  # directions iterated beyond those kept


@dataclass(frozen=True, repr=False, eq=False)
class Tail(Result):
    """Of each output's Σ λ² = ‖Q_o‖²: what lies beyond the ``k`` eigenvectors kept, at most this
    much.

    ``rest`` is what lies beyond and ``squares`` is all, both over 4^``power``: ``share`` needs no
    more, ``beyond`` and ``total`` put the scale back, in float64, and raise RangeError where that
    does not hold the largest.

    Columns, a row for each output: ``output``: its number; ``share``: beyond over total.

    >>> rest = bilens.decompose.tail(T, 10)
    >>> rest.share.shape
    torch.Size([128])
    """

    rest: Float[Tensor, " o"]
    squares: Float[Tensor, " o"]
    power: Int[Tensor, " o"]
    k: int

    def summary(self) -> str:
        share, first = self.share.detach(), counting(self.k, "eigenvectors")
        if not len(share):
            return f"no outputs, {first} kept of each"
        most, mean = share.max().item(), share.mean().item()
        kept = f"beyond the {first} kept of each of {counting(len(share), 'outputs')}"
        return f"{kept} lie at most {mean:.3g} of Σ λ² on average, {most:.3g} of one"

    def columns(self) -> tuple[str, ...]:
        return "output", "share"

    def rows(self) -> list[dict[str, Any]]:
        return [{"output": n, "share": share} for n, share in enumerate(self.share.tolist())]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The outputs of which most is left out."""
        return sorted(self.rows(), key=lambda row: -row["share"])[:count]

    def figure(self) -> dict[str, Any]:
        rows = self.answer(DRAWN)
        labels, shares = [f"output {row['output']}" for row in rows], [row["share"] for row in rows]
        more = f", the {len(rows)} largest of {len(self.share)}" * (len(rows) < len(self.share))
        title = f"Beyond the first {self.k} eigenvectors{more}"
        return ranked(labels, shares, "share of Σ λ², at most", title)

    @property
    def total(self) -> Float[Tensor, " o"]:
        """Σ λ² of each output."""
        return restored("tail's total", self.squares, 2 * self.power, torch.float64)

    @property
    def beyond(self) -> Float[Tensor, " o"]:
        """What of it lies beyond."""
        return restored("tail's beyond", self.rest, 2 * self.power, torch.float64)

    @property
    def share(self) -> Float[Tensor, " o"]:
        """beyond / total, 0 for an output that is zero."""
        return self._over(self.squares)

    @property
    def penalty(self) -> Float[Tensor, " o"]:
        """The same numbers with ``total`` held fixed: a step down their gradient gains nothing from
        a larger total.
        """
        return self._over(self.squares.detach())

    def _over(self, squares: Float[Tensor, " o"]) -> Float[Tensor, " o"]:
        there = squares > 0
        return torch.where(there, self.rest / torch.where(there, squares, 1.0), 0.0)


def tail(tensor: ThirdOrder, k: int) -> Tail:
    """How much of each output's ‖Q_o‖² = Σ λ² lies beyond its ``k`` eigenvectors of largest |λ|: at
    most this much.

    An upper bound, equal where the subspace iteration behind it has found the top eigenvectors (a
    wide gap after the k-th; the same numbers at every call). With them held fixed its gradient is
    that of the tail itself, since they are where the kept part is largest; that of an output that
    is zero is 0. Cost O(h² i + o (k + 6) h i), memory O(h² + o k (h + i)). Errors: ArgumentError
    unless 1 ≤ ``k`` ≤ the number of inputs; ShapeError where left and right differ; NotFiniteError
    for NaN or infinite factors.

    >>> rest = bilens.decompose.tail(T, 10).share
    >>> bool(((rest >= 0) & (rest <= 1)).all())
    True
    """
    if not isinstance(tensor, ThirdOrder):
        raise ArgumentError("tail", must="be given a tensor", got=type(tensor).__name__)
    size = tensor.shape[1]
    if not is_whole(k) or not 1 <= k <= size:
        raise ArgumentError("k", must=f"be 1 … {size}", got=repr(k))
    require_finite("tail", **tensor.factors())
    form, power = _near_one(tensor)
    with torch.no_grad():
        generator, kept = torch.Generator().manual_seed(0), min(k + SPARE, size)
        start = standard_normal(kept, size, generator=generator, dtype=torch.float32)
        rows = start.to(form.device, form.dtype).expand(len(form.weights), -1, -1)  # (o, k, i)
        for _ in range(ROUNDS):
            rows = torch.linalg.qr(form.times_rows(rows).mT).Q.mT
        found = torch.linalg.svd(form.times_rows(rows), full_matrices=False)
        rows = found.U[..., :k].mT @ rows
    total = form.norm().double().square()
    rest = total - form.times_rows(rows).double().square().sum((1, 2))
    return Tail(rest.clamp(min=0), total, power, int(k))


def _near_one(tensor: ThirdOrder) -> tuple[QuadraticForm, Int[Tensor, " o"]]:
    """The interaction matrices of all outputs, each over its own power of two, and the powers."""
    tensor = tensor.to(working_dtype(tensor.dtype))
    form = tensor.interaction(torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device))
    weights, left, right, power = balanced(form.weights, form.left, form.right)
    return QuadraticForm(weights, left, right), power
