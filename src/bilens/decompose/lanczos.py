"""Extreme eigenpairs of many interaction matrices at once, from their shared factors: Lanczos in lock step.

A step multiplies every direction's own vector by its own matrix, Q_u v = ½ [Lᵀ Λ_u (R v) + Rᵀ Λ_u (L v)], as four GEMMs for
all directions together. With V the basis, H = Vᵀ Q V and Q V = V H + β v e_lastᵀ, a Ritz pair (θ, V s) misses by exactly
β |s_last|. Q v_last is known to need only v_last and the vector before it (the three-term recurrence); what rounding leaves
along the others is taken out by one more pass over the whole basis. So bases are fully reorthogonalised, for half the cost
of twice. A basis that has no more room is cut down to its best Ritz vectors (thick restart).

One starting vector sees one copy of a multiple eigenvalue. So what has converged is locked, and a new random start probes
the rest of the space for anything as large; what it finds joins in. A probe sees what stands out: a copy of an eigenvalue
that is close to all the others can stay unseen. Sources: Parlett 1998, chapters 11-13; Wu & Simon 2000.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm
from bilens.algebra.eigen import Which, best_first, preference

PROBE = 6  # steps that look for missed copies
BROKEN = 100.0  # ulps of the norm below which a new direction is rounding, and a random one takes its place
PER_DECADE = 12  # a decade of the bound takes about a twelfth of the steps so far: when to look again, as seen on layers
LEAVING = 8  # directions leave the lock step once this share (1/8) of it is done: to leave costs a copy of the others


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found, best first: ``values`` (n, k), ``vectors`` (n, k, i), the bound β |s_last| on what each misses by,
    all along one unit vector ``along`` per direction, whether each converged, and the best eigenvalue seen beyond the k,
    with NaN where none was."""

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k i"]
    bounds: Float[Tensor, "n k"]
    along: Float[Tensor, "n i"]
    converged: Bool[Tensor, " n"]
    next: Float[Tensor, " n"]
    steps: int


def room(k: int, size: int) -> int:
    """How many vectors a basis may hold before it is cut down: enough that most layers need no restart."""
    return min(size, 8 * k + 96)


@torch.no_grad()
def lanczos(form: QuadraticForm, k: int, which: Which, tol: float, *, max_steps: int = 1000, seed: int = 0) -> Ritz:
    """The ``k`` extreme eigenpairs of n forms that share their factors: weights (n, h), left and right (h, i).

    A direction is done when its k residual bounds are below ``tol`` times its largest |θ|, and then leaves the lock step.
    Cost per step and direction: 8 h i for the products, 4 i · basis for keeping it orthogonal; memory n · room · i.
    Directions that do not converge in ``max_steps`` say so.
    """
    size = form.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    found = _Krylov(form, None, k, which, tol, room(k, size), generator).run(max_steps)
    doubtful = found.converged.clone()
    for _ in range(k):  # each round can bring one more copy of each multiple eigenvalue
        rows = doubtful.nonzero()[:, 0]
        if not len(rows) or size <= k:
            break
        probe = _Krylov(_part(form, rows), found.vectors[rows], 1, which, tol, PROBE, generator).run(PROBE)
        seen = torch.stack([found.next[rows], probe.values[:, 0]], 1)
        found.next[rows] = seen.gather(1, preference(seen, which).nan_to_num(-torch.inf).argmax(1, keepdim=True))[:, 0]
        noise = tol * found.values[rows].abs().amax(-1)
        missed = preference(probe.values[:, 0], which) > preference(found.values[rows, -1], which) + noise
        doubtful = torch.zeros_like(doubtful)
        doubtful[rows[missed]] = True
        if missed.any():
            rows = rows[missed]
            more = _Krylov(_part(form, rows), found.vectors[rows], 1, which, tol, room(1, size), generator).run(max_steps)
            found = _joined(found, rows, more, which)
    return found


class _Krylov:
    """One basis per direction, from a random start orthogonal to ``locked``. ``full`` vectors are in it, and the next."""

    def __init__(
        self,
        form: QuadraticForm,
        locked: Float[Tensor, "n p i"] | None,
        k: int,
        which: Which,
        tol: float,
        space: int,
        generator: torch.Generator,
    ) -> None:
        n, self.size = len(form.weights), form.shape[-1] - (0 if locked is None else locked.shape[1])
        self.form, self.locked, self.tol, self.generator = form, locked, tol, generator
        self.which: Which = which
        self.space, self.k = min(space, self.size), min(k, self.size)
        self.basis = form.left.new_empty(n, self.space + 1, form.shape[-1])
        self.projected = form.left.new_zeros(n, self.space, self.space)
        self.rows = torch.arange(n, device=form.device)  # of the result that each direction still in lock step has
        self.scale = form.left.new_zeros(n)  # the largest |entry| of H so far
        self.full = self.near = self.steps = 0  # ``near``: the first basis vector that Q v_last can have a part along
        self.basis[:, 0] = self.fresh(slice(None))
        self.result = Ritz(
            values=form.left.new_full((n, self.k), torch.nan),
            vectors=form.left.new_zeros(n, self.k, form.shape[-1]),
            bounds=form.left.new_full((n, self.k), torch.inf),
            along=form.left.new_zeros(n, form.shape[-1]),
            converged=torch.zeros(n, dtype=torch.bool, device=form.device),
            next=form.left.new_full((n,), torch.nan),
            steps=0,
        )

    def run(self, max_steps: int) -> Ritz:
        """Steps until all directions are done, with a look at the bounds when they may be small enough."""
        look = self.k + 4
        while len(self.rows):
            length = self.step()
            last = self.steps >= max_steps
            if self.full < min(look, self.space) and not last:
                continue
            values, turns = torch.linalg.eigh(self.projected[:, : self.full, : self.full])
            order = best_first(values, self.which)
            values, turns = values.gather(-1, order), turns.gather(-1, order[:, None].expand_as(turns))
            bounds = length[:, None] * turns[:, -1].abs()
            worst = bounds[:, : self.k].amax(-1) / values.abs().amax(-1).clamp(min=torch.finfo(values.dtype).tiny)
            done = (worst <= self.tol) & (self.full >= self.k)
            self.keep(done, values, turns, bounds, last)
            stay = ~done if not last else torch.zeros_like(done)
            if last or int(done.sum()) * LEAVING >= len(done):
                self.leave(stay)
                values, turns, worst = values[stay], turns[stay], worst[stay]
            if self.full == self.space and len(self.rows):
                self.restart(values, turns)
            look = self.full + self.wait(worst)
        return replace(self.result, steps=self.steps)

    def step(self) -> Float[Tensor, " n"]:
        """One product and one new basis vector for each direction; β of each, 0 where the space is exhausted."""
        image = self.form @ self.basis[:, self.full]
        self.full, self.steps = self.full + 1, self.steps + 1
        along, image = self.orthogonal(image, self.basis[:, : self.full], self.near)
        self.near = max(0, self.full - 1)
        self.projected[:, : self.full, self.full - 1] = along
        self.projected[:, self.full - 1, : self.full] = along
        length = image.norm(dim=-1)
        self.scale = torch.maximum(self.scale, along.abs().amax(-1))
        if self.full >= self.size:
            self.basis[:, self.full] = 0
            return torch.zeros_like(length)
        broken = length <= BROKEN * torch.finfo(length.dtype).eps * self.scale
        self.basis[:, self.full] = image / length.clamp(min=torch.finfo(length.dtype).tiny)[:, None]
        if broken.any():
            self.basis[broken, self.full] = self.fresh(broken)
        return torch.where(broken, 0.0, length)

    def orthogonal(self, x: Float[Tensor, "n i"], basis: Float[Tensor, "n m i"], near: int) -> tuple[Tensor, Tensor]:
        """What ``x`` has along the basis, and the rest: along what it is known to be along first, then along all."""
        along = torch.zeros_like(basis[..., 0])
        for start in (near, 0):
            if self.locked is not None:
                _, x = _parted(x, self.locked)
            part, x = _parted(x, basis[:, start:])
            along[:, start:] += part
        return along, x

    def fresh(self, rows: Tensor | slice) -> Float[Tensor, "n i"]:
        """Random unit vectors orthogonal to the basis of each of ``rows``."""
        basis = self.basis[rows, : self.full]
        x = torch.randn(len(basis), basis.shape[-1], generator=self.generator).to(basis)
        locked = [] if self.locked is None else [self.locked[rows]]
        for others in 2 * [*locked, basis]:
            _, x = _parted(x, others)
        return x / x.norm(dim=-1, keepdim=True)

    def keep(self, done: Tensor, values: Tensor, turns: Tensor, bounds: Tensor, last: bool) -> None:
        """Write down what is done; at the last step everything."""
        wanted = torch.ones_like(done) if last else done
        if self.full < self.k or not wanted.any():
            return
        rows, k = self.rows[wanted], self.k
        self.result.values[rows] = values[wanted, :k]
        self.result.vectors[rows] = turns[wanted, :, :k].mT @ self.basis[wanted, : self.full]
        self.result.bounds[rows] = bounds[wanted, :k]
        self.result.along[rows] = self.basis[wanted, self.full]
        self.result.converged[rows] = done[wanted]
        if self.full > k:
            self.result.next[rows] = values[wanted, k]

    def leave(self, stay: Bool[Tensor, " n"]) -> None:
        """Only ``stay`` go on."""
        basis = self.basis.new_empty(int(stay.sum()), *self.basis.shape[1:])
        basis[:, : self.full + 1] = self.basis[stay, : self.full + 1]
        self.basis, self.projected, self.scale, self.rows = basis, self.projected[stay], self.scale[stay], self.rows[stay]
        self.form = _part(self.form, stay)
        self.locked = None if self.locked is None else self.locked[stay]

    def restart(self, values: Tensor, turns: Tensor) -> None:
        """Cut the basis down to its best Ritz vectors and the next one, which all of these are coupled to."""
        k, space = self.k, self.space
        stay = min(k + max(k // 2, 8), space - 2) if space > k + 2 else space - 1
        best = turns[:, :, :stay].mT @ self.basis[:, : self.full]
        self.basis[:, stay] = self.basis[:, self.full]
        self.basis[:, :stay] = best
        self.projected.zero_()
        self.projected[:, range(stay), range(stay)] = values[:, :stay]
        self.full, self.near = stay, 0

    def wait(self, worst: Float[Tensor, " n"]) -> int:
        """After how many steps half of the directions may be done, by the pace at which bounds are seen to fall."""
        if not len(worst):
            return 0
        decades = float((worst.median() / max(self.tol, torch.finfo(worst.dtype).tiny)).clamp(min=1).log10())
        return max(2, self.full // 32, int(min(self.full // 4, decades * self.full / PER_DECADE)))


def _parted(x: Float[Tensor, "n i"], rows: Float[Tensor, "n m i"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n i"]]:
    """What ``x`` has along the orthonormal ``rows``, and what is left of it."""
    part = x[:, None] @ rows.mT
    return part[:, 0], torch.baddbmm(x[:, None], part, rows, alpha=-1)[:, 0]


def _part(form: QuadraticForm, rows: Int[Tensor, " r"] | Bool[Tensor, " n"]) -> QuadraticForm:
    return QuadraticForm(form.weights[rows], form.left, form.right)


def _joined(found: Ritz, rows: Int[Tensor, " r"], more: Ritz, which: Which) -> Ritz:
    """The best k of what was there and what was found for ``rows``, and the best that is not among them."""
    k = found.values.shape[1]
    values = torch.cat([found.values[rows], more.values], 1)
    bounds = torch.cat([found.bounds[rows], more.bounds], 1)
    vectors = torch.cat([found.vectors[rows], more.vectors], 1)
    order = best_first(values, which)
    values, bounds = values.gather(1, order), bounds.gather(1, order)
    found.values[rows], found.bounds[rows], found.next[rows] = values[:, :k], bounds[:, :k], values[:, k]
    found.vectors[rows] = vectors.gather(1, order[:, :k, None].expand(-1, -1, vectors.shape[-1]))
    found.converged[rows] &= more.converged
    return replace(found, steps=found.steps + more.steps)
