"""Whether an eigenvalue was missed: a further random vector, and a bound on how little of it one
could have hidden.

Let the pairs that are held be taken out of Q, and let w be a random unit vector of what is left,
of dimension n. The vectors v_1 = w, v_2, … of the three-term recurrence β_j v_j+1 = Q v_j − α_j
v_j − β_j−1 v_j−1 have along an eigenvector u of eigenvalue λ the parts x_j = u·v_j, which obey
the same recurrence, β_j x_j+1 = (λ − α_j) x_j − β_j−1 x_j−1. So x_j+1 / x_j = d_j / β_j with

    d_1 = λ − α_1,    d_j = λ − α_j − β_j−1² / d_j−1

the pivots of λ − T_j, T_j the tridiagonal of α and β; and as |x_j+1| ≤ 1, |u·w| ≤ r_j = Π β / d.
While all pivots at μ are positive, T_j lies below μ (Sylvester), and r_j at any λ ≥ μ is no more
than at μ. A random unit vector has so small a part along a given u with a chance of at most √(2n/π)
r_j: that is the chance that an eigenvalue ≥ μ is there unseen, and each step multiplies it by β /
d. A pivot that is not positive says that one is there. Nothing but two vectors is kept, and none
need be orthogonal: only x, one number, has to obey its recurrence.

What is held need not be exact. Ritz pairs (θ_i, y_i) of one Lanczos run miss by ρ_i along one
vector all; taken out, they lower what is left of an eigenvalue ≥ μ by at most Σ ρ_i² / (μ − θ_i)
over those below μ (the Schur complement), and μ is lowered so far. So pairs beyond those asked
for, half converged, serve too, and the gap that the recurrence has to see is wide.

Sources: Kuczyński & Woźniakowski 1992 (a random start); Van Dorsselaer, Hochstenbach & Van der
Vorst 2000 (the bound by the run's own polynomial, as here).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import Which
from bilens.base.numerics import standard_normal
from bilens.decompose.spectra.product import Product

# that an eigenvalue is missed at the very edge of what is kept (further in, far less)
CHANCE = 1e-3
SURE = 1e-9  # the same once a direction was seen to have copies, where more are to be expected
LEAVING = 8  # directions leave the lock step once this share (1/8) of it is done
# ulps of the largest α and β below which β is rounding: w has been used up, and has shown all it
# holds
BROKEN = 100.0
SIDES: dict[Which, tuple[int, ...]] = {"top": (1,), "bottom": (-1,), "magnitude": (1, -1)}


class Held(NamedTuple):
    """What is taken out of each form: orthonormal rows, or rows of zeros; and the bound μ, by
    preference.
    """

    rows: Float[Tensor, "n p i"]
    floor: Float[Tensor, " n"]


def unseen(
    product: Product,
    held: Held,
    which: Which,
    chance: float,
    max_steps: int,
    generator: torch.Generator,
) -> Bool[Tensor, " n"]:
    """Whether nothing beyond ``held.floor`` is left of each form, but for ``chance``. Cost per step
    8 h i and 4 p i.
    """
    n, size = len(product), product.size
    clear = torch.zeros(n, dtype=torch.bool, device=product.left.device)
    state = _Recurrence(product, held, SIDES[which], generator)
    goal = chance / (2 * size / torch.pi) ** 0.5
    rows = torch.arange(n, device=product.left.device)
    for step in range(max_steps):
        state.step()
        clear[rows] = (clear[rows] | (state.hidden() <= goal)) & ~state.crossed
        stay = ~(clear[rows] | state.crossed)
        if not stay.any():
            break
        if int((~stay).sum()) * LEAVING >= len(stay) or step == 0:
            state.leave(stay)
            rows = rows[stay]
    return clear


class _Recurrence:
    """v_j and v_j−1 of each direction, the last pivots at μ on each side asked for, and log r."""

    def __init__(
        self, product: Product, held: Held, sides: tuple[int, ...], generator: torch.Generator
    ) -> None:
        n = len(product)
        self.product, self.held, self.floor = product, held.rows, held.floor.double()[:, None]
        self.sides = torch.tensor(sides, dtype=torch.float64, device=product.left.device)
        start = standard_normal(n, product.size, generator=generator, dtype=torch.float32)
        start = start.to(held.rows)
        start = self.beside(self.beside(start))
        self.now = start / start.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(start.dtype).tiny)
        self.before, self.beta = torch.zeros_like(self.now), self.floor.new_zeros(n)
        self.pivot = self.floor.new_ones(n, len(sides))
        self.log = self.floor.new_zeros(n, len(sides))
        self.scale = self.now.new_zeros(n)
        self.crossed = torch.zeros(n, dtype=torch.bool, device=product.left.device)

    def step(self) -> None:
        image = self.beside(self.product @ self.now)
        alpha = (self.now * image).sum(-1)
        image = image - alpha[:, None] * self.now - self.beta.to(image)[:, None] * self.before
        length = image.norm(dim=-1)
        self.scale = torch.maximum(self.scale, torch.maximum(alpha.abs(), length))
        length = torch.where(
            length <= BROKEN * torch.finfo(image.dtype).eps * self.scale, 0.0, length
        )
        coupled = self.beta.square()[:, None] / self.pivot
        self.pivot = self.floor - alpha.double()[:, None] * self.sides - coupled
        self.crossed = self.crossed | (self.pivot <= 0).any(-1)
        self.beta = length.double()
        self.log = self.log + self.beta.log()[:, None] - self.pivot.clamp(min=1e-300).log()
        tiny = torch.finfo(image.dtype).tiny
        self.before, self.now = self.now, image / length.clamp(min=tiny)[:, None]

    def beside(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n i"]:
        """What ``x`` has beside the rows that are held."""
        part = x[:, None] @ self.held.mT
        return torch.baddbmm(x[:, None], part, self.held, alpha=-1)[:, 0]

    def hidden(self) -> Float[Tensor, " n"]:
        """r, summed over both sides: the largest part of w that an eigenvector beyond μ can have
        had.
        """
        return self.log.exp().sum(-1)

    def leave(self, stay: Bool[Tensor, " n"] | Int[Tensor, " n"]) -> None:
        """Only ``stay`` go on."""
        self.product = self.product.rows(stay)
        for name in ("held", "floor", "now", "before", "beta", "pivot", "log", "crossed", "scale"):
            setattr(self, name, getattr(self, name)[stay])
