"""Extreme eigenpairs of many interaction matrices at once, from their shared factors: Lanczos in lock step.

A step multiplies every direction's own vector by its own matrix, Q_u v = ½ [Lᵀ Λ_u (R v) + Rᵀ Λ_u (L v)], as four GEMMs for
all directions together. Bases are fully reorthogonalised (twice); a full basis is cut down to its best Ritz vectors (thick
restart). With V the basis, H = Vᵀ Q V and Q V = V H + β v e_lastᵀ, a Ritz pair (θ, V s) misses by exactly β |s_last|.

One starting vector sees one copy of a multiple eigenvalue. So what has converged is locked, and a new random start probes
the rest of the space for anything as large; what it finds joins in. Sources: Parlett 1998, chapters 11-13; Wu & Simon 2000.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilens.algebra import QuadraticForm
from bilens.algebra.eigen import Which, best_first, preference

PROBE = 12  # steps that look for missed copies
BROKEN = 100.0  # ulps of the norm below which a new direction is rounding, and a random one takes its place


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found, best first: ``values`` (n, k), ``vectors`` (n, k, i), whether each direction converged, and the
    largest eigenvalue seen beyond the k, with NaN where none was."""

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k i"]
    converged: Bool[Tensor, " n"]
    next: Float[Tensor, " n"]
    steps: int


def room(k: int, size: int) -> int:
    """How many vectors a basis may hold before it is cut down."""
    return min(size, max(2 * k + 32, 96))


@torch.no_grad()
def lanczos(form: QuadraticForm, k: int, which: Which, tol: float, *, max_steps: int = 1000, seed: int = 0) -> Ritz:
    """The ``k`` extreme eigenpairs of n forms that share their factors: weights (n, h), left and right (h, i).

    A direction is done when its k residual bounds are below ``tol`` times its largest |θ|, and then leaves the lock step.
    Cost per step and direction: 8 h i for the products, 8 i · basis for keeping it orthogonal; memory n · room · i.
    Directions that do not converge in ``max_steps`` say so.
    """
    size = form.shape[-1]
    space = room(k, size)
    generator = torch.Generator().manual_seed(seed)
    found = _krylov(form, None, k, which, tol, space, max_steps, generator)
    values, vectors, converged, steps = found.values, found.vectors, found.converged, found.steps
    beyond = found.next
    doubtful = converged.clone()
    for _ in range(k):  # each round can bring one more copy of each multiple eigenvalue
        rows = doubtful.nonzero()[:, 0]
        if not len(rows) or size <= k:
            break
        part = QuadraticForm(form.weights[rows], form.left, form.right)
        probe = _krylov(part, vectors[rows], 1, which, tol, PROBE, PROBE, generator)
        noise = tol * values[rows].abs().amax(-1)
        missed = preference(probe.values[:, 0], which) > preference(values[rows, -1], which) + noise
        doubtful = torch.zeros_like(doubtful)
        doubtful[rows[missed]] = True
        if missed.any():
            rows = rows[missed]
            part = QuadraticForm(form.weights[rows], form.left, form.right)
            more = _krylov(part, vectors[rows], 1, which, tol, space, max_steps, generator)
            values[rows], vectors[rows], beyond[rows] = _merged(values[rows], vectors[rows], more, which)
            converged[rows] &= more.converged
            steps += more.steps
        steps += probe.steps
    return Ritz(values, vectors, converged, beyond, steps)


def _krylov(
    form: QuadraticForm,
    locked: Float[Tensor, "n p i"] | None,
    k: int,
    which: Which,
    tol: float,
    space: int,
    max_steps: int,
    generator: torch.Generator,
) -> Ritz:
    """Lanczos from one random start per direction, orthogonal to ``locked``. Long, as its parts share one basis."""
    n, size = len(form.weights), form.shape[-1] - (0 if locked is None else locked.shape[1])
    space, k = min(space, size), min(k, size)
    basis = form.left.new_zeros(n, space + 1, form.shape[-1])
    projected = torch.zeros(n, space, space, dtype=torch.float64, device=form.device)
    active = torch.arange(n, device=form.device)
    result = Ritz(
        values=form.left.new_full((n, k), torch.nan),
        vectors=form.left.new_zeros(n, k, form.shape[-1]),
        converged=torch.zeros(n, dtype=torch.bool, device=form.device),
        next=form.left.new_full((n,), torch.nan),
        steps=0,
    )
    basis[:, 0] = _fresh(basis[:, :0], locked, generator)
    scale = form.left.new_zeros(n)  # the largest |entry| of the projected matrix so far
    full, checked, step = 0, 0, 0  # ``full``: vectors in the basis
    while step < max_steps and len(active):
        image = QuadraticForm(form.weights[active], form.left, form.right) @ basis[:, full]
        kept, image = _orthogonal(image, basis[:, : full + 1], None if locked is None else locked[active])
        projected[:, : full + 1, full] = projected[:, full, : full + 1] = kept.double()
        length = image.norm(dim=-1)
        scale = torch.maximum(scale, kept.abs().amax(-1))
        broken = length <= BROKEN * torch.finfo(length.dtype).eps * scale
        full, step = full + 1, step + 1
        if full < size:
            following = image / length.clamp(min=torch.finfo(length.dtype).tiny)[:, None]
            if broken.any():
                others = None if locked is None else locked[active[broken]]
                following[broken] = _fresh(basis[broken, :full], others, generator)
            basis[:, full] = following
        length = torch.where(broken, 0.0, length) if full < size else torch.zeros_like(length)
        if full < space and step < max_steps and full < max(k + 4, checked + max(8, checked // 5)):
            continue
        checked = full
        values, turns = torch.linalg.eigh(projected[:, :full, :full])
        order = best_first(values, which)
        values, turns = values.gather(-1, order), turns.gather(-1, order[:, None].expand_as(turns))
        bounds = length[:, None] * turns[:, -1].abs()
        reached = full >= k
        done = (bounds[:, :k] <= tol * values.abs().amax(-1, keepdim=True)).all(-1) & reached
        leaving = done if step < max_steps else torch.ones_like(done)
        if leaving.any() and reached:
            rows = active[leaving]
            result.values[rows] = values[leaving, :k].to(result.values)
            result.vectors[rows] = turns[leaving, :, :k].mT.to(basis) @ basis[leaving, :full]
            result.converged[rows] = done[leaving]
            if full > k:
                result.next[rows] = values[leaving, k].to(result.next)
            active, basis, projected, scale, values, turns = (
                part[~leaving] for part in (active, basis, projected, scale, values, turns)
            )
        if full == space and len(active):  # thick restart
            stay = min(k + max(k // 2, 8), space - 2) if space > k + 2 else space - 1
            best = turns[:, :, :stay].mT.to(basis) @ basis[:, :full]
            basis[:, stay] = basis[:, full]
            basis[:, :stay] = best
            projected.zero_()
            projected[:, range(stay), range(stay)] = values[:, :stay]
            full = checked = stay
    return Ritz(result.values, result.vectors, result.converged, result.next, step)


def _orthogonal(
    x: Float[Tensor, "n i"], basis: Float[Tensor, "n m i"], locked: Float[Tensor, "n p i"] | None
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n i"]]:
    """What ``x`` has along the basis, and the rest: classical Gram-Schmidt, twice, which is enough (Giraud et al. 2005)."""
    along = torch.zeros_like(basis[..., 0])
    for _ in range(2):
        if locked is not None:
            x = x - ((locked @ x[..., None]).mT @ locked)[:, 0]
        part = basis @ x[..., None]
        x = x - (part.mT @ basis)[:, 0]
        along = along + part[..., 0]
    return along, x


def _fresh(
    basis: Float[Tensor, "n m i"], locked: Float[Tensor, "n p i"] | None, generator: torch.Generator
) -> Float[Tensor, "n i"]:
    """Random unit vectors orthogonal to each direction's basis."""
    x = torch.randn(len(basis), basis.shape[-1], generator=generator).to(basis)
    _, x = _orthogonal(x, basis, locked)
    return x / x.norm(dim=-1, keepdim=True)


def _merged(values: Tensor, vectors: Tensor, more: Ritz, which: Which) -> tuple[Tensor, Tensor, Tensor]:
    """The best k of what was there and what was found, and the best that is not among them."""
    k = values.shape[1]
    values, vectors = torch.cat([values, more.values], 1), torch.cat([vectors, more.vectors], 1)
    order = best_first(values, which)
    values = values.gather(1, order)
    vectors = vectors.gather(1, order[..., None].expand_as(vectors))
    return values[:, :k], vectors[:, :k], values[:, k]
