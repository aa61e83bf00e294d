"""How spectra are found: dense, by Lanczos, or by whichever is cheaper."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import (
    Eigen,
    QuadraticForm,
    Which,
    at_scale,
    degenerate_blocks,
    eigen_noise,
    preference,
    signs,
)
from bilens.base.errors import ArgumentError, TooLargeError
from bilens.base.numerics import dtype_name, is_number, require_finite, root, tolerance
from bilens.decompose.spectra import inertia
from bilens.decompose.spectra.inertia import CERTIFIED
from bilens.decompose.spectra.lanczos import Ritz, lanczos, room
from bilens.decompose.spectra.probe import CHANCE

PROBED = (
    "probed: a pair beyond the last kept one, by more than twice the norm of all residuals and "
    f"what rounding leaves, is missing with a chance of at most {CHANCE:g}"
)

# The cost model behind Auto, in operations of a float32 GEMM; measured by
# ``python -m benchmarks.eigen --model``.
SMALL = 256  # below this size the whole spectrum costs next to nothing
# Lanczos takes about this many times √k steps on Gaussian weights, the hard case, and a third
# of them on spectra that decay.
STEPS = 30
PROBE = 0.3  # what the probe for missing pairs takes on top, as a share of the steps
DENSE_RATE = 4.0  # how much slower an operation of LAPACK's eigensolver is than one of a GEMM
# What all looks at the growing projected matrix cost together, in eigensolves of the last.
LOOKS = 4
# The slowness of keeping a basis orthogonal: matrix-vector products, bound by memory.
ORTHOGONAL_RATE = 8.0
# ‖Q‖ over the root of its units' squares: below, what cancels has taken more than two of the digits
# that squares have
QUIET = 0.1


@dataclass(frozen=True)
class Dense:
    """Form each matrix and take its whole spectrum: O(h i² + i³) per direction, differentiable.

    ``tol``: a pair counts as converged where its residual is at most this share of ‖Q‖₂; None: what
    the dtype allows. Errors: ArgumentError for a ``tol`` below 0.

    >>> bilens.decompose.eigen(T, torch.eye(128)[:1], k=2, solver=bilens.decompose.Dense()).method
    'dense'
    """

    tol: float | None = None

    def __post_init__(self) -> None:
        _require_tol("Dense", self.tol)

    def chosen(self, form: QuadraticForm, k: int) -> "Dense":
        """Itself: dense serves every form."""
        return self

    def require(self, form: QuadraticForm, max_bytes: int) -> None:
        """Nothing: dense serves every form."""

    def bytes_each(self, form: QuadraticForm, k: int) -> int:
        """Memory of one direction: a matrix and its eigenvectors, at most in float64."""
        return 2 * 8 * form.shape[-1] ** 2

    def about(self, dtype: torch.dtype) -> dict[str, Any]:
        """What a folder of chunks says about the solver."""
        return {"method": "dense", "tol": _tol(self.tol, dtype)}

    def solve(self, form: QuadraticForm, k: int, which: Which) -> Eigen:
        """The ``k`` first eigenpairs of each form."""
        return form.eigh(k, which, _tol(self.tol, form.dtype))


@dataclass(frozen=True)
class Lanczos:
    """Find a few pairs from the factors, all directions in lock step: O(steps · h i) per direction.

    The ``spectrum`` of the result holds the pairs that were found, and no gradients flow.
    ``tol``: as for Dense.
    ``norm``: also compute ‖Q‖, and with it what is left out: O(h² i) once, which for a few
    directions of a wide layer can be more than all the rest. Without it ``error`` and ``discarded``
    are NaN.
    ``certify``: check the answer by inertia, one matrix at a time, O(i² h + i³) each, which is what
    dense costs without its eigensolver. ``complete`` is then certain, and missing pairs are ritz.
    Without it a random probe looks for missing pairs, and ``known`` gives the chance that it fails.
    Errors: ArgumentError for a ``tol`` below 0, or a ``norm`` or ``certify`` that is no bool.
    Method: see ``spectra.lanczos``.

    >>> bilens.decompose.eigen(T, torch.eye(128)[:1], k=2, solver=bilens.decompose.Lanczos()).method
    'lanczos'
    """

    tol: float | None = None
    norm: bool = True
    certify: bool = False

    def __post_init__(self) -> None:
        _require_options("Lanczos", self.tol, self.norm, self.certify)

    def chosen(self, form: QuadraticForm, k: int) -> "Lanczos":
        """Itself, whatever it costs."""
        return self

    def require(self, form: QuadraticForm, max_bytes: int) -> None:
        """Raise ArgumentError for forms that share no factors, and TooLargeError where ``certify``
        needs more than ``max_bytes``.
        """
        if form.left.ndim > 2:
            must = "be Dense() for factors of their own per direction"
            raise ArgumentError("solver", must=must, got=self)
        if self.certify:
            _require_room(form.shape[-1], max_bytes)

    def bytes_each(self, form: QuadraticForm, k: int) -> int:
        """Memory of one direction: a basis, its projection twice, and hidden features."""
        hidden, size = form.left.shape[-2:]
        space = room(k, size)
        return form.left.element_size() * (size * (space + 1) + 2 * space**2 + 4 * hidden)

    def about(self, dtype: torch.dtype) -> dict[str, Any]:
        """What a folder of chunks says about the solver."""
        options = {"tol": _tol(self.tol, dtype), "norm": self.norm, "certify": self.certify}
        return {"method": "lanczos"} | options

    @torch.no_grad()
    def solve(self, form: QuadraticForm, k: int, which: Which) -> Eigen:
        """The ``k`` first eigenpairs of each form; each residual is its bound β |s_last| and the
        rounding beside it, as measured.
        """
        require_finite("eigen", weights=form.weights, left=form.left, right=form.right)
        form, power = form.near_one()
        ritz = lanczos(form, k, which, _tol(self.tol, form.dtype))
        pairs, close = self._pairs(form, ritz, which)
        if self.certify:
            for n in range(len(pairs.values)):
                one = form.rows(slice(n, n + 1)).to(torch.float64)
                _certify(pairs, n, one, ritz.next[n], close[n].max())
        return at_scale(pairs, power)

    def _pairs(
        self, form: QuadraticForm, ritz: Ritz, which: Which
    ) -> tuple[Eigen, Float[Tensor, "n k"]]:
        """Lanczos' pairs as a result, and how close two of them are one."""
        largest = ritz.largest[:, None]
        residuals = _residuals(form, ritz)
        close = torch.maximum(residuals, eigen_noise(form.dtype, form.shape[-1]) * largest)
        size = largest.clamp(min=torch.finfo(form.dtype).tiny)
        within = residuals <= _tol(self.tol, form.dtype) * size
        length = form.weights.new_full(form.weights.shape[:1], torch.nan)
        if self.norm:
            length = _norm(form)
        left = length.double().square() - ritz.values.double().square().sum(-1)
        pairs = Eigen(
            values=ritz.values,
            vectors=ritz.vectors * signs(ritz.vectors),
            residuals=residuals,
            converged=within & ritz.converged[:, None],
            complete=ritz.complete,
            blocks=degenerate_blocks(ritz.values, close),
            cut=(ritz.values[:, -1] - ritz.next).abs() <= 2 * close[:, -1],
            spectrum=ritz.values,
            discarded=root(left).to(length),
            norm=length,
            largest=ritz.largest,
            labels=(),
            which=which,
            method="lanczos",
            known=CERTIFIED if self.certify else PROBED,
            computed_in=dtype_name(form.dtype),
        )
        return pairs, close


@dataclass(frozen=True)
class Auto:
    """Dense or Lanczos, whichever takes fewer operations: STEPS · √k steps against one eigensolve.

    Dense where the factors are few or ask for gradients. ``tol``, ``norm``, ``certify``: as for
    Lanczos; dense always measures the norm, and always has the whole spectrum.

    >>> bilens.decompose.eigen(T, torch.eye(128)[:1], k=2, solver=bilens.decompose.Auto()).method
    'dense'
    """

    tol: float | None = None
    norm: bool = True
    certify: bool = False

    def __post_init__(self) -> None:
        _require_options("Auto", self.tol, self.norm, self.certify)

    def chosen(self, form: QuadraticForm, k: int) -> Dense | Lanczos:
        """The solver with fewer operations for one direction of ``form``."""
        if _lanczos_pays(form, k):
            return Lanczos(self.tol, self.norm, self.certify)
        return Dense(self.tol)


Solver = Auto | Dense | Lanczos


def require_solver(solver: object) -> None:
    """Raise ArgumentError unless ``solver`` is one of the three."""
    if not isinstance(solver, Solver):
        must = "be Auto(), Dense() or Lanczos()"
        raise ArgumentError("solver", must=must, got=repr(solver))


def _require_tol(who: str, tol: object) -> None:
    if tol is not None and not (is_number(tol) and tol >= 0):  # type: ignore[operator]
        raise ArgumentError(f"{who}.tol", must="be a number ≥ 0, or None", got=repr(tol))


def _require_options(who: str, tol: object, norm: object, certify: object) -> None:
    _require_tol(who, tol)
    for name, value in (("norm", norm), ("certify", certify)):
        if not isinstance(value, bool):
            raise ArgumentError(f"{who}.{name}", must="be True or False", got=repr(value))


def _tol(tol: float | None, dtype: torch.dtype) -> float:
    return tolerance(dtype) if tol is None else tol


def _require_room(size: int, max_bytes: int) -> None:
    needed = 4 * 8 * size**2  # a matrix in float64, shifted, its factors, and what LAPACK works in
    if needed > max_bytes:
        must, todo = f"fit in {max_bytes:,} bytes", "Allow it in Chunks(max_bytes=), or only probe."
        raise TooLargeError("Lanczos(certify=True)", must=must, got=f"{needed:,}", todo=todo)


def _lanczos_pays(form: QuadraticForm, k: int) -> bool:
    """Whether Lanczos takes fewer operations, weighted by how fast they run, and can be used."""
    hidden, size = form.left.shape[-2:]
    if form.left.ndim > 2 or form.tracked or size < SMALL:
        return False
    steps = min(size, STEPS * k**0.5)
    products = 8 * hidden * size * steps * (1 + PROBE)
    orthogonal = ORTHOGONAL_RATE * 4 * size * steps * min(steps, room(k, size)) / 2
    looks = LOOKS * DENSE_RATE * 9 * steps**3
    dense = 2 * hidden * size**2 + DENSE_RATE * 9 * size**3
    return products + orthogonal + looks < dense


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


def _norm(form: QuadraticForm) -> Float[Tensor, " n"]:
    """‖Q‖, in the form's dtype where its digits are enough: where units do not cancel far."""
    length = form.norm(form.dtype)
    sides = form.left.norm(dim=-1) * form.right.norm(dim=-1)
    terms = (form.weights * sides).norm(dim=-1)
    return form.norm() if bool((length < QUIET * terms).any()) else length


def _residuals(form: QuadraticForm, ritz: Ritz) -> Float[Tensor, "n k"]:
    """‖Q v − λ v‖: bounds of Lanczos and the rounding beside them; measured one by one where pairs
    are of several runs.
    """
    residuals = torch.hypot(ritz.bounds, _excess(form, ritz)[:, None])  # at right angles
    if ritz.joined.any():
        vectors, values = ritz.vectors[ritz.joined], ritz.values[ritz.joined]
        missed = form.rows(ritz.joined).times_rows(vectors) - values[..., None] * vectors
        residuals[ritz.joined] = missed.norm(dim=-1)
    return residuals


def _excess(form: QuadraticForm, ritz: Ritz) -> Float[Tensor, " n"]:
    """What Q v − λ v has beyond the bounds of Lanczos, which hold but for rounding: measured on the
    factors, in one product for all k vectors of a direction together, with random signs: ‖Σ ±(Q v −
    λ v)‖² is Σ ‖Q v − λ v‖² on average. What the bounds speak of lies along one vector, and is set
    apart."""
    flips = (
        torch.randint(
            0, 2, ritz.values.shape, generator=torch.Generator().manual_seed(1), device="cpu"
        ).to(ritz.values)
        * 2
        - 1
    )
    together = (flips[:, None] @ ritz.vectors)[:, 0]
    missed = form @ together - ((flips * ritz.values)[:, None] @ ritz.vectors)[:, 0]
    known = (missed * ritz.along).sum(-1)
    beside = (missed - known[:, None] * ritz.along).norm(dim=-1)
    return torch.hypot(beside, (known.abs() - ritz.bounds.sum(-1)).clamp(min=0))
