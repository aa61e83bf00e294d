"""Spectra of a layer: the eigenvectors of its interaction matrices, for many output directions at
once.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Eigen, QuadraticForm, ThirdOrder, signs
from bilens.algebra.eigen import (
    Which,
    at_scale,
    degenerate_blocks,
    preference,
    require_count,
    require_which,
    rounding,
)
from bilens.algebra.quadratic import REACH
from bilens.algebra.third import GIB
from bilens.base.chunks import Share, fingerprint, write_chunks
from bilens.base.errors import ArgumentError, ShapeError, TooLargeError
from bilens.base.numerics import (
    dtype_name,
    is_whole,
    peak,
    powers,
    require_finite,
    root,
    scaled,
    tolerance,
    working_dtype,
)
from bilens.measure import Gaussian
from bilens.decompose.spectra import inertia
from bilens.decompose.spectra.inertia import CERTIFIED
from bilens.decompose.spectra.lanczos import Ritz, lanczos, room
from bilens.decompose.spectra.probe import CHANCE
from bilens.decompose.spectra.weighted import fitted, weigh, whitened

Method = Literal["auto", "lanczos", "dense"]
PROBED = f"probed: a pair beyond the last kept one is missing with a chance of at most {CHANCE:g}"
CHUNK = 256  # directions in lock step: enough for GEMMs at full speed

# The cost model behind "auto", in operations of a float32 GEMM; measured by ``python -m
# benchmarks.eigen --model``.
SMALL = 256  # below this size the whole spectrum costs next to nothing
STEPS = (
    # Lanczos takes about this many times √k steps on Gaussian weights, the hard case, and a third
    # on spectra that decay
    30
)
PROBE = 0.3  # what the probe for missing pairs takes on top, as a share of the steps
DENSE_RATE = 4.0  # how much slower an operation of LAPACK's eigensolver is than one of a GEMM
# what all looks at the growing projected matrix cost together, in eigensolves of the last
LOOKS = 4
# the same for keeping a basis orthogonal: matrix-vector products, bound by memory
ORTHOGONAL_RATE = 8.0


def eigen(
    tensor: ThirdOrder,
    directions: Float[Tensor, "n o"] | None = None,
    k: int | None = 16,
    *,
    method: Method = "auto",
    which: Which = "magnitude",
    tol: float | None = None,
    measure: Gaussian | Float[Tensor, "m i"] | None = None,
    labels: Sequence[str] = (),
    norm: bool = True,
    certify: bool = False,
    max_bytes: int = GIB,
    chunk: int = CHUNK,
    folder: str | Path | None = None,
    share: Share | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Eigen:
    """At most ``k`` eigenpairs (None: all) of Q_u for each direction u: u·T(x) = xᵀ Q_u x = Σ_m λ_m
    (v_m·x)².

    ``directions`` are output directions, one a row; None takes every output by itself. Only the
    symmetric part of T acts, so it need not be symmetrised first. Eigenvectors are of the same
    space as T's inputs: (1, x) for a layer with biases.

    ``method``: "dense" forms each matrix, O(h i² + i³) per direction, and is differentiable.
    "lanczos" works from the factors on all directions in lock step, O(steps · h i) per direction
    (see ``spectra.lanczos``); its ``spectrum`` holds what was found. "auto" takes the cheaper by
    operation counts: of ``STEPS`` · √k steps against one eigensolve.
    ``measure``: a data measure, a Gaussian or the activations themselves: then a ``WeightedEigen``,
    the spectra of Σ^½ Q_u Σ^½ beside the plain ones, and what each term is on the data. Twice the
    cost and a few products.
    ``certify``: whether Lanczos' answer is checked by inertia, one matrix at a time (O(i² h + i³)
    each, which is what dense costs without its eigensolver): ``complete`` is then certain, and what
    was missing is found. Without it a random probe looks for what is missing, and ``known`` says
    with which chance it fails.
    ``norm``: whether Lanczos also finds ‖Q‖, and with it what is left out: O(h² i) once, which for
    a few directions of a wide layer can be more than all the rest; without it ``error`` and
    ``discarded`` are NaN.

    Runs in chunks of at most ``chunk`` directions that fit in ``max_bytes``; ``progress`` hears of
    (directions done, all) after each. ``folder``: every finished chunk is written there, and one
    begun is gone on with. ``share``: several processes with one folder take their share of the
    chunks, and each returns the whole, the same to the last digit as one process.

    Returns: ``.values`` (n, k), ``.vectors`` (n, k, i), ``.residuals``, ``.converged``,
    ``.complete``, ``.degenerate``, ``.error``; relative figures do not depend on the scale of the
    weights.
    Errors: ShapeError for an empty mode or directions that do not fit; NotFiniteError for NaN or
    infinite factors or directions; ArgumentError for what is no tensor, a wrong ``k``, ``which``,
    ``method`` or number of labels; FileError for a folder that holds something else;
    TooLargeError where ``certify`` would take more than ``max_bytes``; RangeError.
    Source: Pearce et al., arXiv:2410.08417, section 3 (eigendecomposition of interaction matrices).
    """
    _require_tensor(tensor)
    directions = _output_directions(tensor, directions)
    _require(len(directions), labels, method, chunk, folder, share)
    require_which(which)
    require_count(k)
    work = working_dtype(tensor.dtype)
    if directions.dtype == tensor.dtype:  # a wrong dtype stays wrong, and is refused below
        tensor, directions = tensor.to(work), directions.to(work)
    tensor.require_fits("interaction", directions, tensor.shape[0])
    tensor, directions, power = _near_one(tensor, directions)
    if measure is not None:
        options: dict[str, Any] = {
            "method": method,
            "which": which,
            "tol": tol,
            "labels": labels,
            "norm": norm,
        }
        options |= {"certify": certify}
        options |= {"max_bytes": max_bytes, "chunk": chunk, "share": share, "progress": progress}
        gaussian, activations = fitted(measure, tensor.shape[1])
        plain, white = (
            eigen(
                one,
                directions,
                k,
                folder=None if folder is None else Path(folder) / name,
                **options,
            )
            for name, one in (("plain", tensor), ("weighted", whitened(tensor, gaussian)))
        )
        return weigh(tensor, directions, plain, white, gaussian, activations, power)
    one = tensor.interaction(directions[:1])  # of its kind are all; together they might not fit
    wanted = tensor.shape[1] if k is None else min(k, tensor.shape[1])
    method = _cheaper(one, wanted) if method == "auto" else method
    tol = tolerance(work) if tol is None else tol
    if method == "dense":
        solve: Callable[[QuadraticForm], Eigen] = partial(_by_eigh, k=wanted, which=which, tol=tol)
    else:
        _require_shared(one)
        if certify:
            _require_room(tensor.shape[1], max_bytes)
        solve = partial(_by_lanczos, k=wanted, which=which, tol=tol, norm=norm, certify=certify)
    chunk = max(1, min(chunk, max_bytes // _bytes_per_direction(one, wanted, method)))
    starts, finished = range(0, len(directions), chunk), itertools.count(1)

    def made(start: int) -> Eigen:
        rows = slice(start, start + chunk)
        return at_scale(solve(tensor.interaction(directions[rows])), power[rows])

    def done() -> None:
        reached = min(next(finished) * chunk, len(directions))
        if progress is not None:
            progress(reached, len(directions))

    if folder is None:
        found = [(made(start), done())[0] for start in starts]
    else:
        about = {
            "eigen of": fingerprint(**_factors(tensor), directions=directions, power=power),
            "k": wanted,
            "which": which,
        }
        about |= {"method": method, "tol": tol, "norm": norm, "certify": certify, "chunk": chunk}
        files = write_chunks(Path(folder), about, starts, made, done, share)
        found = [Eigen.load(file).to(tensor.device) for file in files]
    return dataclasses.replace(_join(found), labels=tuple(labels))


def _require_tensor(tensor: object) -> None:
    if not isinstance(tensor, ThirdOrder):
        raise ArgumentError("eigen", must="be given a tensor", got=type(tensor).__name__)
    if 0 in tensor.shape:
        raise ShapeError("eigen", must="be given a tensor with no empty mode", got=tensor.shape)
    require_finite("eigen", **vars(tensor))


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


def _require(
    n: int, labels: Sequence[str], method: str, chunk: int, folder: object, share: Share | None
) -> None:
    if labels and len(labels) != n:
        raise ArgumentError("labels", must=f"name all {n} directions", got=len(labels))
    if method not in get_args(Method):
        raise ArgumentError(
            "method", must=f"be one of {', '.join(get_args(Method))}", got=repr(method)
        )
    if not is_whole(chunk) or chunk < 1:
        raise ArgumentError("chunk", must="be a whole number ≥ 1", got=chunk)
    if share is not None and folder is None:
        raise ArgumentError("share", must="come with a folder that all processes see", got="none")


def _require_shared(form: QuadraticForm) -> None:
    if form.left.ndim > 2:
        raise ArgumentError(
            "method", must='be "dense" for factors of their own per direction', got="lanczos"
        )


def _bytes_per_direction(form: QuadraticForm, k: int, method: Method) -> int:
    """Memory of one direction: a matrix and its eigenvectors; or a basis, its projection twice, and
    hidden features.
    """
    hidden, size = form.left.shape[-2:]
    if method == "dense":
        return 2 * 8 * size**2  # at most float64
    space = room(k, size)
    return form.left.element_size() * (size * (space + 1) + 2 * space**2 + 4 * hidden)


def _require_room(size: int, max_bytes: int) -> None:
    needed = 4 * 8 * size**2  # a matrix in float64, shifted, its factors, and what LAPACK works in
    if needed > max_bytes:
        todo = "Pass max_bytes= to allow it, or certify=False for a probe."
        raise TooLargeError(
            "eigen(certify=True)", must=f"fit in {max_bytes:,} bytes", got=f"{needed:,}", todo=todo
        )


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


def _factors(tensor: ThirdOrder) -> dict[str, Tensor]:
    return {name: value for name, value in vars(tensor).items() if isinstance(value, Tensor)}


def _cheaper(form: QuadraticForm, k: int) -> Method:
    """The method with fewer operations for one direction, weighted by how fast they run; dense
    where Lanczos cannot be.
    """
    hidden, size = form.left.shape[-2:]
    if form.left.ndim > 2 or form.tracked or size < SMALL:
        return "dense"
    steps = min(size, STEPS * k**0.5)
    products = 8 * hidden * size * steps * (1 + PROBE)
    orthogonal = ORTHOGONAL_RATE * 4 * size * steps * min(steps, room(k, size)) / 2
    looks = LOOKS * DENSE_RATE * 9 * steps**3
    dense = 2 * hidden * size**2 + DENSE_RATE * 9 * size**3
    return "lanczos" if products + orthogonal + looks < dense else "dense"


def _by_eigh(form: QuadraticForm, k: int | None, which: Which, tol: float | None) -> Eigen:
    return form.eigh(k, which, tol)


def _by_lanczos(
    form: QuadraticForm, k: int, which: Which, tol: float, norm: bool, certify: bool
) -> Eigen:
    """Lanczos' pairs as a result. Each residual is its bound β |s_last|, and what rounding adds, as
    measured.
    """
    require_finite("eigen", weights=form.weights, left=form.left, right=form.right)
    form, power = form.near_one()
    found = lanczos(form, k, which, tol)
    largest = found.largest[:, None]
    residuals = _residuals(form, found)
    close = torch.maximum(residuals, rounding(form.dtype, form.shape[-1]) * largest)
    length = form.norm(form.dtype) if norm else torch.full_like(form.weights[:, 0], torch.nan)
    within = residuals <= tol * largest.clamp(min=torch.finfo(form.dtype).tiny)
    left = length.double().square() - found.values.double().square().sum(-1)
    pairs = Eigen(
        values=found.values,
        vectors=found.vectors * signs(found.vectors),
        residuals=residuals,
        converged=within & found.converged[:, None],
        complete=found.complete,
        blocks=degenerate_blocks(found.values, close),
        cut=(found.values[:, -1] - found.next).abs() <= 2 * close[:, -1],
        spectrum=found.values,
        discarded=root(left).to(length),
        norm=length,
        largest=found.largest,
        labels=(),
        which=which,
        method="lanczos",
        known=CERTIFIED if certify else PROBED,
        computed_in=dtype_name(form.dtype),
    )
    if certify:
        for n in range(len(pairs.values)):
            _certify(
                pairs,
                n,
                form.rows(slice(n, n + 1)).to(torch.float64),
                found.next[n],
                close[n].max(),
            )
    return at_scale(pairs, power)


def _certify(
    pairs: Eigen, n: int, form: QuadraticForm, beyond: Float[Tensor, ""], close: Float[Tensor, ""]
) -> None:
    """Count direction n's eigenvalues; where the count is another than found, take them from the
    dense solver.
    """
    which: Any = pairs.which
    kept = preference(pairs.values[n].double(), which)
    rest = float(preference(beyond.double(), which).nan_to_num(-torch.inf))
    shift, count = inertia.cut(kept, rest, float(close))
    if inertia.beyond(form.dense()[0], shift, which) != count:
        exact = form.eigh(pairs.values.shape[-1], which, 1.0)
        exact = dataclasses.replace(exact, spectrum=exact.values)
        for field in dataclasses.fields(Eigen):
            if isinstance(held := getattr(pairs, field.name), Tensor) and field.name != "norm":
                held[n] = getattr(exact, field.name)[0].to(held)
        pairs.discarded[n] = pairs.discarded[n] if float(pairs.norm[n]) >= 0 else torch.nan
    pairs.complete[n] = True


def _residuals(form: QuadraticForm, found: Ritz) -> Float[Tensor, "n k"]:
    """‖Q v − λ v‖: bounds of Lanczos and the rounding beside them; measured one by one where pairs
    are of several runs.
    """
    residuals = torch.hypot(found.bounds, _excess(form, found)[:, None])  # at right angles
    if found.joined.any():
        vectors, values = found.vectors[found.joined], found.values[found.joined]
        missed = form.rows(found.joined).times_rows(vectors) - values[..., None] * vectors
        residuals[found.joined] = missed.norm(dim=-1)
    return residuals


def _excess(form: QuadraticForm, found: Ritz) -> Float[Tensor, " n"]:
    """What Q v − λ v has beyond the bounds of Lanczos, which hold but for rounding: measured on the
    factors, in one product for all k vectors of a direction together, with random signs: ‖Σ ±(Q v −
    λ v)‖² is Σ ‖Q v − λ v‖² on average. What the bounds speak of lies along one vector, and is set
    apart."""
    flips = (
        torch.randint(0, 2, found.values.shape, generator=torch.Generator().manual_seed(1)).to(
            found.values
        )
        * 2
        - 1
    )
    together = (flips[:, None] @ found.vectors)[:, 0]
    missed = form @ together - ((flips * found.values)[:, None] @ found.vectors)[:, 0]
    known = (missed * found.along).sum(-1)
    beside = (missed - known[:, None] * found.along).norm(dim=-1)
    return torch.hypot(beside, (known.abs() - found.bounds.sum(-1)).clamp(min=0))


def effective_rank(form: QuadraticForm) -> Float[Tensor, "*b"]:
    """(Σ|λ|)² / Σλ² of one or many interaction matrices, over all eigenvalues. Cost of a full
    ``eigh``.
    """
    return form.eigh(1).effective_rank


def _join(found: list[Eigen]) -> Eigen:
    """One result from chunks along the first batch dim."""
    names = [field.name for field in dataclasses.fields(Eigen)]
    tensors = {
        name: [getattr(part, name) for part in found]
        for name in names
        if isinstance(getattr(found[0], name), Tensor)
    }
    return dataclasses.replace(
        found[0], **{name: torch.cat(parts) for name, parts in tensors.items()}
    )
