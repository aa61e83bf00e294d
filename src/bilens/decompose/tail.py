"""What the top eigenvectors of each output leave out, cheaply and with gradients."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import ThirdOrder
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole, require_finite, working_dtype

ROUNDS = 2  # of subspace iteration: a tail that training keeps small is a wide gap
SPARE = 6  # directions iterated beyond those kept


class Tail(NamedTuple):
    """Of each output's Σ λ²: what lies ``beyond`` the eigenvectors kept, and the ``total``, ‖Q_o‖²."""

    beyond: Float[Tensor, " o"]
    total: Float[Tensor, " o"]


def tail(tensor: ThirdOrder, k: int) -> Tail:
    """How much of each output's ‖Q_o‖² = Σ λ² lies beyond its ``k`` eigenvectors of largest |λ|: at most this much.

    An upper bound, equal where the subspace iteration behind it has found the top eigenvectors (a wide gap after the k-th;
    the same numbers at every call). With them held fixed its gradient is that of the tail itself, since they are where the
    kept part is largest. Cost O(h² i + o (k + 6) h i), memory O(h² + o k (h + i)).
    Errors: ArgumentError unless 1 ≤ ``k`` ≤ the number of inputs; NotFiniteError for NaN or infinite factors.
    """
    size = tensor.shape[1]
    if not is_whole(k) or not 1 <= k <= size:
        raise ArgumentError("k", must=f"be 1 … {size}", got=k)
    tensor = tensor.to(working_dtype(tensor.dtype))
    form = tensor.interaction(torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device))
    require_finite("tail", weights=form.weights, left=form.left, right=form.right)
    with torch.no_grad():
        start = torch.randn(min(k + SPARE, size), size, generator=torch.Generator().manual_seed(0))
        rows = start.to(form.device, form.dtype).expand(len(form.weights), -1, -1)  # (o, k, i)
        for _ in range(ROUNDS):
            rows = torch.linalg.qr(form.times_rows(rows).mT).Q.mT
        found = torch.linalg.svd(form.times_rows(rows), full_matrices=False)
        rows = found.U[..., :k].mT @ rows
    total = form.norm().square()
    return Tail(total - form.times_rows(rows).square().sum((1, 2)), total)
