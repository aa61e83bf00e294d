"""Extreme eigenpairs of many interaction matrices at once, from their shared factors: Lanczos in
lock step.

A step multiplies every direction's own vector by its own matrix, Q_u v = ½ [Lᵀ Λ_u (R v) + Rᵀ Λ_u
(L v)], as four GEMMs for all directions together (``spectra.product``). With V the basis, H = Vᵀ
Q V and Q V = V H + β v e_lastᵀ, a Ritz pair (θ, V s) misses by exactly β |s_last|. Q v_last is
known to need only v_last and the vector before it (the three-term recurrence); what rounding leaves
along the others is taken out by one more pass over the whole basis. So bases are fully
reorthogonalised, for half the cost of twice. A basis that has no more room is cut down to its best
Ritz vectors (thick restart).

One starting vector sees one copy of a multiple eigenvalue. So what was found is taken out, and a
random vector is asked whether anything as large is left (``spectra.probe``). If so, a new start
finds what it is, it joins in, and the question is put again. Sources: Parlett 1998, chapters 11-13;
Wu & Simon 2000.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm, Which, eigen_noise, preference
from bilens.base.numerics import eigh, seeded, standard_normal, tolerance
from bilens.decompose.spectra.probe import CHANCE, LEAVING, SURE, Held, unseen
from bilens.decompose.spectra.product import Product

# pairs beyond the k that are handed out as far as they came: what is taken out with them widens the
# gap
SPARE = 12
# how much dearer a lowered floor is than it seems: too low a floor meets what is known to be there
CAUTION = 4.0
OWN = 0.8  # the share of the tolerance that bounds may take: what rounding adds is at right angles
# ulps of the norm below which a new direction is rounding, and a random one takes its place
BROKEN = 100.0
# a decade of the bound takes about a twelfth of the steps so far: when to look again, as seen on
# layers
PER_DECADE = 12


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found, best first: ``values`` (n, k) and ``vectors`` (n, k, i).

    bounds: on what each misses by, β |s_last|, all along one unit vector ``along`` per direction.
    converged: whether all k bounds are within the tolerance.
    complete: whether nothing beyond the last is left, as probed.
    next: the best eigenvalue seen beyond the k, NaN where none was.
    largest: the largest |θ| of all, ‖Q‖₂ from below.
    joined: whether pairs come from several runs, so that ``along`` is not theirs.
    """

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k i"]
    bounds: Float[Tensor, "n k"]
    along: Float[Tensor, "n i"]
    converged: Bool[Tensor, " n"]
    complete: Bool[Tensor, " n"]
    next: Float[Tensor, " n"]
    largest: Float[Tensor, " n"]
    joined: Bool[Tensor, " n"]
    steps: int


def room(k: int, size: int) -> int:
    """How many vectors a basis may hold before it is cut down: enough that most layers need no
    restart.
    """
    return min(size, 8 * k + 96)


@torch.no_grad()
def lanczos(
    form: QuadraticForm, k: int, which: Which, tol: float, *, max_steps: int = 1000, seed: int = 0
) -> Ritz:
    """The ``k`` extreme eigenpairs of n forms that share their factors: weights (n, h), left and
    right (h, i).

    A direction is done when its k residual bounds are below ``tol`` times its largest |θ|, and then
    leaves the lock step. Cost per step and direction: 8 h i for the products, 4 i · basis for
    keeping it orthogonal; memory n · room · i. Then a third as many products again, to see that
    nothing is missing, and more where something is. Directions that do not converge in
    ``max_steps`` say so.
    """
    size, product = form.shape[-1], Product.of(form)
    generator = seeded(seed)
    hold = min(size, k + SPARE)
    found = _Krylov(product, None, k, which, tol, room(k, size), generator, hold).run(max_steps)
    found.complete[:] = found.converged & (k >= size)
    rows = (found.converged & ~found.complete).nonzero()[:, 0]
    chance, loose = CHANCE, True
    for _ in range(k + 2):  # each round can bring one more copy of each multiple eigenvalue
        if not len(rows):
            break
        held = _held(found, rows, k, which, tol, loose)
        clear = unseen(product.rows(rows), held, which, chance, max_steps + size, generator)
        found.complete[rows[clear]] = True
        rows, chance, loose = rows[~clear], SURE, False
        found = _fetched(product, found, rows, k, which, tol, max_steps, generator)
    beyond = found.values[:, k] if hold > k else torch.full_like(found.next, torch.nan)
    kept = {name: getattr(found, name)[:, :k] for name in ("values", "vectors", "bounds")}
    return replace(found, **kept, next=beyond)


def _floor(
    found: Ritz, rows: Int[Tensor, " r"], k: int, which: Which, tol: float
) -> Float[Tensor, " r"]:
    """Beyond what nothing may be left: the last kept eigenvalue, less what cannot be told from it.
    Where another is known to lie that close, only what is above both counts."""
    first, bounds = _preferred(found.values[rows], which), found.bounds[rows]
    missed = torch.where(bounds <= tol * found.largest[rows, None], bounds, 0.0).norm(dim=-1)
    told = (
        eigen_noise(bounds.dtype, found.vectors.shape[-1]) + min(tol, tolerance(bounds.dtype)) / 100
    )
    near = told * found.largest[rows] + 2 * missed
    near = near.clamp(min=torch.finfo(bounds.dtype).tiny)
    last = first[:, k - 1]
    tied = (first[:, k:] >= (last - near)[:, None]).any(-1)
    if which == "magnitude":
        tied |= last <= near  # all that is left is as small
    return torch.where(tied, last + near, last - near)


def _held(
    found: Ritz, rows: Int[Tensor, " r"], k: int, which: Which, tol: float, loose: bool
) -> Held:
    """What is taken out before a random vector asks for more. Pairs beyond the k: those that
    converged; ``loose``: as many as leave the widest gap between the floor, lowered by what they
    miss by, and the first that stays."""
    bounds, first = found.bounds[rows], _preferred(found.values[rows], which)
    floor, beyond = _floor(found, rows, k, which, tol), first[:, k:]
    below = (floor[:, None] - first).clamp(min=torch.finfo(first.dtype).tiny)
    lost = torch.where((first < floor[:, None]) & first.isfinite(), bounds.square() / below, 0.0)
    if loose:
        gap = floor[:, None] - CAUTION * lost.cumsum(-1)[:, k - 1 : -1] - beyond
        gap = torch.where(beyond.isfinite(), gap, -torch.inf)
        taken = torch.arange(first.shape[1], device=rows.device) < k + gap.argmax(-1, keepdim=True)
    else:
        taken = bounds <= tol * found.largest[rows, None]
        taken[:, :k] = True
    return Held(found.vectors[rows] * taken[..., None], floor - (lost * taken).sum(-1))


def _fetched(
    product: Product,
    found: Ritz,
    rows: Int[Tensor, " r"],
    k: int,
    which: Which,
    tol: float,
    max_steps: int,
    generator: torch.Generator,
) -> Ritz:
    """What a new start finds beside the k that are kept, for ``rows``: all that lies above the
    floor, or the best.
    """
    if not len(rows):
        return found
    hold, size = found.values.shape[1], product.size
    kept, floor, largest = (
        found.vectors[rows, :k],
        _floor(found, rows, k, which, tol),
        found.largest[rows],
    )
    run = _Krylov(
        product.rows(rows), kept, 1, which, tol, room(k, size), generator, hold, floor, largest
    )
    more = run.run(max_steps)
    good = more.bounds <= tol * largest[:, None]
    values = torch.cat([found.values[rows, :k], torch.where(good, more.values, torch.nan)], 1)
    order = _preferred(values, which).argsort(dim=-1, descending=True, stable=True)[:, :hold]
    found.values[rows] = values.gather(1, order)
    found.bounds[rows] = torch.cat([found.bounds[rows, :k], more.bounds], 1).gather(1, order)
    vectors = torch.cat([kept, more.vectors], 1)
    found.vectors[rows] = vectors.gather(1, order[..., None].expand(-1, -1, size))
    found.largest[rows] = torch.maximum(largest, more.largest)
    found.converged[rows] &= more.converged
    found.joined[rows] = True
    return replace(found, steps=found.steps + more.steps)


def _preferred(values: Float[Tensor, "n k"], which: Which) -> Float[Tensor, "n k"]:
    """``preference``, with what was not found last."""
    return preference(values, which).nan_to_num(nan=-torch.inf)


class _Krylov:
    """One basis per direction, from a random start orthogonal to ``locked``. ``full`` vectors are
    in it, and the next.

    ``hold`` pairs are handed out. Those that have to converge are the first ``k``; with a
    ``floor``, all beyond it.
    """

    def __init__(
        self,
        product: Product,
        locked: Float[Tensor, "n p i"] | None,
        k: int,
        which: Which,
        tol: float,
        space: int,
        generator: torch.Generator,
        hold: int,
        floor: Float[Tensor, " n"] | None = None,
        largest: Float[Tensor, " n"] | None = None,
    ) -> None:
        n, self.size, like = len(product), product.size, product.left
        self.product, self.locked, self.tol, self.generator = product, locked, tol, generator
        self.which: Which = which
        self.space, self.k, self.hold = min(space, self.size), min(k, self.size), hold
        self.floor = like.new_full((n,), torch.inf) if floor is None else floor
        self.largest = like.new_zeros(n) if largest is None else largest
        self.basis = like.new_empty(n, self.space + 1, self.size)
        self.projected = like.new_zeros(n, self.space, self.space)
        # of the result that each direction still in lock step has
        self.rows = torch.arange(n, device=like.device)
        self.scale = like.new_zeros(n)  # the largest |entry| of H so far
        self.due = self.k  # how many pairs have to converge
        # ``near``: the first basis vector that Q v_last can have a part along
        self.full = self.near = self.steps = 0
        self.basis[:, 0] = self.fresh(slice(None))
        self.result = Ritz(
            values=like.new_full((n, hold), torch.nan),
            vectors=like.new_zeros(n, hold, self.size),
            bounds=like.new_full((n, hold), torch.inf),
            along=like.new_zeros(n, self.size),
            converged=torch.zeros(n, dtype=torch.bool, device=like.device),
            complete=torch.zeros(n, dtype=torch.bool, device=like.device),
            next=like.new_full((n,), torch.nan),
            largest=like.new_zeros(n),
            joined=torch.zeros(n, dtype=torch.bool, device=like.device),
            steps=0,
        )

    def run(self, max_steps: int) -> Ritz:
        """Steps until all directions are done, with a look at the bounds when they may be small
        enough.
        """
        look = self.k + 4
        while len(self.rows):
            length = self.step()
            last = self.steps >= max_steps
            if self.full < min(look, self.space) and not last:
                continue
            values, turns = eigh(self.projected[:, : self.full, : self.full])
            first = preference(values, self.which)
            order = first.argsort(dim=-1, descending=True, stable=True)
            values, turns = (
                values.gather(-1, order),
                turns.gather(-1, order[:, None].expand_as(turns)),
            )
            bounds = length[:, None] * turns[:, -1].abs()
            self.largest = torch.maximum(self.largest, values.abs().amax(-1))
            count = (first >= self.floor[:, None]).sum(-1, keepdim=True).clamp(min=self.k)
            self.due = int(count.max())
            due = torch.arange(self.full, device=count.device) < count
            size = self.largest.clamp(min=torch.finfo(values.dtype).tiny)
            worst = torch.where(due, bounds, 0.0).amax(-1) / size
            done = (worst <= OWN * self.tol) & (self.full >= self.k)
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
        """One product and one new basis vector for each direction; β of each, 0 where the space is
        exhausted.
        """
        image = self.product @ self.basis[:, self.full]
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

    def orthogonal(
        self, x: Float[Tensor, "n i"], basis: Float[Tensor, "n m i"], near: int
    ) -> tuple[Tensor, Tensor]:
        """What ``x`` has along the basis, and the rest: along what it is known to be along first,
        then along all.
        """
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
        size, generator = basis.shape[-1], self.generator
        x = standard_normal(len(basis), size, generator=generator, dtype=torch.float32).to(basis)
        locked = [] if self.locked is None else [self.locked[rows]]
        for others in 2 * [*locked, basis]:
            _, x = _parted(x, others)
        return x / x.norm(dim=-1, keepdim=True)

    def keep(self, done: Tensor, values: Tensor, turns: Tensor, bounds: Tensor, last: bool) -> None:
        """Write down what is done; at the last step everything."""
        wanted = torch.ones_like(done) if last else done
        if self.full < self.k or not wanted.any():
            return
        rows, k = self.rows[wanted], min(self.hold, self.full)
        self.result.values[rows, :k] = values[wanted, :k]
        self.result.vectors[rows, :k] = turns[wanted, :, :k].mT @ self.basis[wanted, : self.full]
        self.result.bounds[rows, :k] = bounds[wanted, :k]
        self.result.along[rows] = self.basis[wanted, self.full]
        self.result.converged[rows] = done[wanted]
        self.result.largest[rows] = self.largest[wanted]

    def leave(self, stay: Bool[Tensor, " n"]) -> None:
        """Only ``stay`` go on."""
        basis = self.basis.new_empty(int(stay.sum()), *self.basis.shape[1:])
        basis[:, : self.full + 1] = self.basis[stay, : self.full + 1]
        self.basis = basis
        for name in ("projected", "scale", "rows", "floor", "largest"):
            setattr(self, name, getattr(self, name)[stay])
        self.product = self.product.rows(stay)
        self.locked = None if self.locked is None else self.locked[stay]

    def restart(self, values: Tensor, turns: Tensor) -> None:
        """Cut the basis down to its best Ritz vectors and the next one, which all of these are
        coupled to.
        """
        k, space = self.due, self.space
        stay = min(k + max(k // 2, 8), space - 2) if space > k + 2 else space - 1
        best = turns[:, :, :stay].mT @ self.basis[:, : self.full]
        self.basis[:, stay] = self.basis[:, self.full]
        self.basis[:, :stay] = best
        self.projected.zero_()
        self.projected[:, range(stay), range(stay)] = values[:, :stay]
        self.full, self.near = stay, 0

    def wait(self, worst: Float[Tensor, " n"]) -> int:
        """After how many steps half of the directions may be done, by the pace at which bounds are
        seen to fall.
        """
        if not len(worst):
            return 0
        decades = float(
            (worst.median() / max(self.tol, torch.finfo(worst.dtype).tiny)).clamp(min=1).log10()
        )
        return max(2, self.full // 32, int(min(self.full // 4, decades * self.full / PER_DECADE)))


def _parted(
    x: Float[Tensor, "n i"], rows: Float[Tensor, "n m i"]
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n i"]]:
    """What ``x`` has along the orthonormal ``rows``, and what is left of it."""
    part = x[:, None] @ rows.mT
    return part[:, 0], torch.baddbmm(x[:, None], part, rows, alpha=-1)[:, 0]
