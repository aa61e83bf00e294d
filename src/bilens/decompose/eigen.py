"""Spectra of a layer: the eigenvectors of its interaction matrices, for many output directions at once."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import Eigen, QuadraticForm, ThirdOrder
from bilens.algebra.eigen import Which
from bilens.algebra.third import GIB
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_finite, working_dtype


def eigen(
    tensor: ThirdOrder,
    directions: Float[Tensor, "n o"] | None = None,
    k: int | None = 16,
    *,
    which: Which = "magnitude",
    tol: float | None = None,
    labels: Sequence[str] = (),
    max_bytes: int = GIB,
) -> Eigen:
    """At most ``k`` eigenpairs (None: all) of Q_u for each direction u: u·T(x) = xᵀ Q_u x = Σ_m λ_m (v_m·x)².

    ``directions`` are output directions, one a row; None takes every output by itself. Only the symmetric part of T acts,
    so it need not be symmetrised first. Eigenvectors are of the same space as T's inputs: (1, x) for a layer with biases.

    Dense method: O(h i² + i³) per direction, in chunks of directions whose matrices fit in ``max_bytes``.

    Returns: ``.values`` (n, k), ``.vectors`` (n, k, i), ``.residuals``, ``.converged``, ``.degenerate``, ``.error``.
    Errors: ShapeError for directions that do not fit; NotFiniteError for NaN or infinite factors or directions;
    ArgumentError for a wrong ``k``, ``which`` or number of labels.
    Source: Pearce et al., arXiv:2410.08417, section 3 (eigendecomposition of interaction matrices).
    """
    if directions is None:
        directions = torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    if not isinstance(directions, Tensor) or directions.ndim != 2 or len(directions) == 0:
        got = tuple(directions.shape) if isinstance(directions, Tensor) else type(directions).__name__
        raise ShapeError("directions", must=f"be a tensor (n, {tensor.shape[0]}) with n ≥ 1", got=got)
    if labels and len(labels) != len(directions):
        raise ArgumentError("labels", must=f"name all {len(directions)} directions", got=len(labels))
    require_finite("eigen", directions=directions)
    work = working_dtype(tensor.dtype)
    if directions.dtype == tensor.dtype:  # a wrong dtype stays wrong, and is refused below
        tensor, directions = tensor.to(work), directions.to(work)
    size = tensor.shape[1]
    chunk = max(1, max_bytes // (2 * 8 * size * size))  # a matrix and its eigenvectors, at most float64
    found = [tensor.interaction(part).eigh(k, which, tol) for part in directions.split(chunk)]
    return dataclasses.replace(_join(found), labels=tuple(labels))


def effective_rank(form: QuadraticForm) -> Float[Tensor, "*b"]:
    """(Σ|λ|)² / Σλ² of one or many interaction matrices, over all eigenvalues. Cost of a full ``eigh``."""
    return form.eigh(1).effective_rank


def _join(found: list[Eigen]) -> Eigen:
    """One result from chunks along the first batch dim."""
    names = [field.name for field in dataclasses.fields(Eigen)]
    tensors = {
        name: [getattr(part, name) for part in found] for name in names if isinstance(getattr(found[0], name), Tensor)
    }
    return dataclasses.replace(found[0], **{name: torch.cat(parts) for name, parts in tensors.items()})
