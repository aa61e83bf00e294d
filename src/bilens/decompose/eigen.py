"""Spectra of a layer: the eigenvectors of its interaction matrices, for many output directions at once."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import Eigen, QuadraticForm, ThirdOrder
from bilens.algebra.eigen import Which, degenerate_blocks, require_count, require_which
from bilens.algebra.quadratic import rounding, signs
from bilens.algebra.third import GIB
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import dtype_name, require_finite, tolerance, working_dtype
from bilens.decompose.lanczos import lanczos, room

Method = Literal["auto", "lanczos", "dense"]
SMALL = 256
STEPS = 6  # Lanczos steps for each eigenpair wanted, as seen on trained layers; Gaussian weights take twice as many
DENSE_RATE = 4.0  # how much slower an operation of LAPACK's eigensolver is than one of a GEMM, as measured
ORTHOGONAL_RATE = 8.0  # the same for keeping a basis orthogonal: matrix-vector products, bound by memory


def eigen(
    tensor: ThirdOrder,
    directions: Float[Tensor, "n o"] | None = None,
    k: int | None = 16,
    *,
    method: Method = "auto",
    which: Which = "magnitude",
    tol: float | None = None,
    labels: Sequence[str] = (),
    max_bytes: int = GIB,
) -> Eigen:
    """At most ``k`` eigenpairs (None: all) of Q_u for each direction u: u·T(x) = xᵀ Q_u x = Σ_m λ_m (v_m·x)².

    ``directions`` are output directions, one a row; None takes every output by itself. Only the symmetric part of T acts,
    so it need not be symmetrised first. Eigenvectors are of the same space as T's inputs: (1, x) for a layer with biases.

    ``method``: "dense" forms each matrix, O(h i² + i³) per direction, and is differentiable. "lanczos" works from the
    factors on all directions in lock step, O(steps · h i) per direction (see ``decompose.lanczos``); its ``spectrum`` holds
    what was found. "auto" takes the cheaper by operation counts: of ``STEPS`` · k steps against one eigensolve.
    Both run in chunks of directions that fit in ``max_bytes``.

    Returns: ``.values`` (n, k), ``.vectors`` (n, k, i), ``.residuals``, ``.converged``, ``.degenerate``, ``.error``.
    Errors: ShapeError for directions that do not fit; NotFiniteError for NaN or infinite factors or directions;
    ArgumentError for a wrong ``k``, ``which``, ``method`` or number of labels.
    Source: Pearce et al., arXiv:2410.08417, section 3 (eigendecomposition of interaction matrices).
    """
    if directions is None:
        directions = torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    if not isinstance(directions, Tensor) or directions.ndim != 2 or len(directions) == 0:
        got = tuple(directions.shape) if isinstance(directions, Tensor) else type(directions).__name__
        raise ShapeError("directions", must=f"be a tensor (n, {tensor.shape[0]}) with n ≥ 1", got=got)
    if labels and len(labels) != len(directions):
        raise ArgumentError("labels", must=f"name all {len(directions)} directions", got=len(labels))
    if method not in get_args(Method):
        raise ArgumentError("method", must=f"be one of {', '.join(get_args(Method))}", got=repr(method))
    require_which(which)
    require_count(k)
    require_finite("eigen", directions=directions)
    work = working_dtype(tensor.dtype)
    if directions.dtype == tensor.dtype:  # a wrong dtype stays wrong, and is refused below
        tensor, directions = tensor.to(work), directions.to(work)
    size = tensor.shape[1]
    tensor.require_fits("interaction", directions, tensor.shape[0])
    one = tensor.interaction(directions[:1])  # of its kind are all; together they might not fit
    wanted = size if k is None else min(k, size)
    if method == "auto":
        method = _cheaper(one, wanted)
    if method == "lanczos":
        if one.left.ndim > 2:
            raise ArgumentError("method", must='be "dense" for factors of their own per direction', got="lanczos")
        per_direction = one.left.element_size() * size * (room(wanted, size) + 1)
        solve = partial(_by_lanczos, k=wanted, which=which, tol=tolerance(work) if tol is None else tol)
    else:
        per_direction = 2 * 8 * size * size  # a matrix and its eigenvectors, at most float64
        solve = partial(_by_eigh, k=k, which=which, tol=tol)
    chunk = max(1, max_bytes // per_direction)
    found = [solve(tensor.interaction(part)) for part in directions.split(chunk)]
    return dataclasses.replace(_join(found), labels=tuple(labels))


def _cheaper(form: QuadraticForm, k: int) -> Method:
    """The method with fewer operations for one direction, weighted by how fast they run; dense where Lanczos cannot be."""
    hidden, size = form.left.shape[-2:]
    if form.left.ndim > 2 or form.tracked or size < SMALL:  # below SMALL the whole spectrum costs next to nothing
        return "dense"
    steps = min(size, STEPS * k + 24)
    products = 8 * hidden * size * steps
    orthogonal = ORTHOGONAL_RATE * 8 * size * steps * min(steps, room(k, size)) / 2
    dense = 2 * hidden * size**2 + DENSE_RATE * 9 * size**3
    return "lanczos" if products + orthogonal < dense else "dense"


def _by_eigh(form: QuadraticForm, k: int | None, which: Which, tol: float | None) -> Eigen:
    return form.eigh(k, which, tol)


def _by_lanczos(form: QuadraticForm, k: int, which: Which, tol: float) -> Eigen:
    """Lanczos' pairs as a result, with residuals measured on the factors."""
    require_finite("eigen", weights=form.weights, left=form.left, right=form.right)
    found = lanczos(form, k, which, tol)
    largest = found.values.abs().amax(-1, keepdim=True)
    vectors = found.vectors * signs(found.vectors)
    residuals = (form.times_rows(vectors) - found.values[..., None] * vectors).norm(dim=-1)
    bounds = torch.maximum(residuals, rounding(form.dtype, form.shape[-1]) * largest)
    blocks = degenerate_blocks(found.values, bounds)
    norm = form.norm()
    converged = (residuals <= tol * largest.clamp(min=torch.finfo(form.dtype).tiny)) & found.converged[:, None]
    return Eigen(
        values=found.values,
        vectors=vectors,
        residuals=residuals,
        converged=converged,
        blocks=blocks,
        cut=(found.values[:, -1] - found.next).abs() <= 2 * bounds[:, -1],
        spectrum=found.values,
        discarded=(norm.double().square() - found.values.double().square().sum(-1)).clamp(min=0).sqrt().to(norm),
        norm=norm,
        labels=(),
        which=which,
        method="lanczos",
        computed_in=dtype_name(form.dtype),
    )


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
