"""Spectra of a layer: the eigenvectors of its interaction matrices, for many output directions at
once.
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import (
    REACH,
    Eigen,
    QuadraticForm,
    ThirdOrder,
    Which,
    at_scale,
    require_count,
    require_which,
)
from bilens.base.chunks import Chunks, fingerprint, make_chunks, require_chunks, write_chunks
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import peak, powers, require_finite, scaled, working_dtype
from bilens.decompose.spectra.solvers import Auto, Solver, require_solver
from bilens.decompose.spectra.weighted import fitted, measure_near_one, weigh, whitened
from bilens.measure import Gaussian

AUTO, CHUNKS = Auto(), Chunks()


def eigen(
    tensor: ThirdOrder,
    directions: Float[Tensor, "n o"] | None = None,
    k: int | None = 16,
    *,
    which: Which = "magnitude",
    solver: Solver = AUTO,
    measure: Gaussian | Float[Tensor, "m i"] | None = None,
    chunks: Chunks = CHUNKS,
) -> Eigen:
    """At most ``k`` eigenpairs (None: all) of Q_u for each direction u: u·T(x) = xᵀ Q_u x = Σ_m λ_m
    (v_m·x)².

    ``directions`` are output directions, one a row; None takes every output by itself, and
    ``.labelled(names)`` names them in the result. Only the symmetric part of T acts, so it need not
    be symmetrised first. Eigenvectors are of the same space as T's inputs: (1, x) for a layer with
    biases.

    ``solver``: ``Dense()`` forms each matrix and is differentiable; ``Lanczos()`` works from the
    factors on all directions in lock step; ``Auto()`` takes the cheaper of the two. Their options
    are the tolerance, whether ‖Q‖ is measured, and whether completeness is certified.
    ``measure``: a data measure, a Gaussian or the activations themselves: then a ``WeightedEigen``,
    the spectra of Σ^½ Q_u Σ^½ beside the plain ones, and what each term is on the data. Twice the
    cost and a few products.
    ``chunks``: at most ``size`` directions at a time that fit in ``max_bytes``; ``progress`` hears
    of (directions done, all) after each. With a ``folder`` every finished chunk is written there,
    and a run that was begun is continued. With a ``share`` several processes that see one folder
    divide the chunks, and each returns the whole, the same to the last digit as one process.

    Returns: ``.values`` (n, k), ``.vectors`` (n, k, i), ``.residuals``, ``.converged``,
    ``.complete``, ``.degenerate``, ``.error``; relative figures do not depend on the scale of the
    weights.
    Errors: ShapeError for an empty mode or directions that do not fit; NotFiniteError for NaN or
    infinite factors or directions; ArgumentError for what is no tensor, a wrong ``k``, ``which`` or
    ``solver``; FileError for a folder that holds something else; TooLargeError where ``certify``
    would take more than ``max_bytes``; RangeError.
    Source: Pearce et al., arXiv:2410.08417, section 3 (eigendecomposition of interaction matrices).

    >>> pairs = bilens.decompose.eigen(T, model.lm_head.weight[:2].detach(), k=4)
    >>> pairs.values.shape, pairs.vectors.shape
    (torch.Size([2, 4]), torch.Size([2, 4, 128]))
    >>> pairs.labelled(model.output_names([0, 1])).labels
    ('<|endoftext|>', '!')
    """
    _require_tensor(tensor)
    directions = _output_directions(tensor, directions)
    require_solver(solver)
    require_chunks(chunks)
    require_which(which)
    require_count(k)
    work = working_dtype(tensor.dtype)
    if directions.dtype == tensor.dtype:  # a wrong dtype stays wrong, and is refused below
        tensor, directions = tensor.to(work), directions.to(work)
    tensor.require_fits("interaction", directions, tensor.shape[0])
    tensor, directions, power = _near_one(tensor, directions)
    if measure is not None:
        gaussian, activations, more = measure_near_one(*fitted(measure, tensor))
        over_z, apart = whitened(tensor, gaussian)
        plain, white = (
            eigen(one, directions, k, which=which, solver=solver, chunks=chunks.under(name))
            for name, one in (("plain", tensor), ("weighted", over_z))
        )
        white = at_scale(white, torch.full_like(power, apart))
        return weigh(tensor, directions, plain, white, gaussian, activations, power, more)
    # One form is like all of them; together they might not fit.
    one = tensor.interaction(directions[:1])
    pairs = tensor.shape[1] if k is None else min(k, tensor.shape[1])
    chosen = solver.chosen(one, pairs)
    chosen.require(one, chunks.max_bytes)
    chunks = chunks.within(chosen.bytes_each(one, pairs))

    def make(start: int) -> Eigen:
        rows = slice(start, start + chunks.size)
        form = tensor.interaction(directions[rows])
        return at_scale(chosen.solve(form, pairs, which), power[rows])

    if chunks.folder is None:
        return _join(make_chunks(chunks, len(directions), make))
    given = fingerprint(**tensor.factors(), directions=directions, power=power)
    about = {"eigen of": given, "k": pairs, "which": which} | chosen.about(work)
    files = write_chunks(chunks, len(directions), about | {"chunk": chunks.size}, make)
    return _join([Eigen.load(file).to(tensor.device) for file in files])


def _require_tensor(tensor: object) -> None:
    if not isinstance(tensor, ThirdOrder):
        raise ArgumentError("eigen", must="be given a tensor", got=type(tensor).__name__)
    if 0 in tensor.shape:
        raise ShapeError("eigen", must="be given a tensor with no empty mode", got=tensor.shape)
    require_finite("eigen", **tensor.factors())


def _output_directions(tensor: ThirdOrder, directions: Tensor | None) -> Float[Tensor, "n o"]:
    if directions is None:
        return torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    if not isinstance(directions, Tensor) or directions.ndim != 2 or len(directions) == 0:
        got = (
            tuple(directions.shape) if isinstance(directions, Tensor) else type(directions).__name__
        )
        raise ShapeError(
            "directions", must=f"be a tensor (n, {tensor.shape[0]}) with n ≥ 1", got=got
        )
    require_finite("eigen", directions=directions)
    return directions


def _near_one(
    tensor: ThirdOrder, directions: Float[Tensor, "n o"]
) -> tuple[ThirdOrder, Float[Tensor, "n o"], Int[Tensor, " n"]]:
    """Both with their scale taken out where it is far from one, and the power of two of each
    direction's form.
    """
    apart = powers(peak(directions, 1))
    apart = apart.masked_fill(apart.abs() <= REACH[tensor.dtype], 0)
    tensor, power = tensor.near_one(tensor.dtype)
    directions = scaled(directions, -apart[:, None])
    return tensor, directions, apart + power


def effective_rank(form: QuadraticForm) -> Float[Tensor, "*b"]:
    """(Σ|λ|)² / Σλ² of one or many interaction matrices, over all eigenvalues. Cost of a full
    ``eigh``.

    >>> round(float(bilens.decompose.effective_rank(T.interaction(torch.eye(128)[0]))))
    80
    """
    return form.eigh(1).effective_rank


def _join(chunks: list[Eigen]) -> Eigen:
    """One result from chunks along the first batch dim."""
    first = chunks[0]
    names = [field.name for field in dataclasses.fields(Eigen)]
    tensors = [name for name in names if isinstance(getattr(first, name), Tensor)]
    joined = {name: torch.cat([getattr(part, name) for part in chunks]) for name in tensors}
    return dataclasses.replace(first, **joined)
