"""A sparse replacement of a layer's tensor, learned from weights alone, and how far off it is,
exactly.

Under x ~ N(μ, Σ) the distance of two tensors is a closed form of their factors (``measure``), so

    E‖T(x) − T̂(x)‖² / E‖T(x)‖² + l1 · (‖D‖₁ + ‖L‖₁ + ‖R‖₁)        T̂ = (D, L, R)

is learned without a single activation, and its first term is the certificate. The sum of sizes is
of T̂ as it is where E‖T(x)‖² and the mean square of what is read are 1. T̂ begins as what T rounds
to in the metric of E[x xᵀ]; steps are Adam's, each followed by the penalty's own, which makes
entries exactly zero (proximal gradients in Adam's metric: Yun et al., arXiv:2007.03714).

Off the data's support a measure sees nothing: two tensors may agree there by the measure and
nowhere else. So errors stand beside those under Σ + ε (tr Σ / d) 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP
from bilens.base.charts import ranked
from bilens.base.errors import ArgumentError
from bilens.base.numerics import (
    eigh,
    is_number,
    require_count,
    require_finite,
    require_seed,
    seeded,
    standard_normal,
    working_dtype,
)
from bilens.base.progress import Progress, require_progress
from bilens.base.results import Result
from bilens.measure import Gaussian

EPSILONS = (0.0, 0.01, 1.0)  # of the mean variance, added in every direction
PART = 0.1  # similarities that lie further from each other tell two different functions
RATE = 0.03  # of a factor's root mean square, the first step
MOMENTA = (0.9, 0.99)
LEAST = 1e-8, 0.1  # of a gradient's size, by itself and of the penalty: smaller ones are rounding
SMALL = 0.03  # of the others' size: units that are there from the start beside what T rounds to
EVERY = 50  # steps between what progress hears
SUPPORT = 1e-12  # of the largest eigenvalue of E[x xᵀ]: below that nothing is read

Factors = Sequence[Tensor]  # out (o, u), left (u, i), right (u, i)


@dataclass(frozen=True, repr=False, eq=False)
class Transcoding(Result):
    """T̂ (``tensor``) in the place of T, and what it misses: exactly, under the measure with
    ``epsilons`` of its mean variance added in every direction.

    ``missed``: E‖T(x) − T̂(x)‖² / E‖T(x)‖², the first is the certificate; ``similarity``:
    E⟨T, T̂⟩ over both norms; ``jacobian``: E‖J_T − J_T̂‖² / E‖J_T‖², J the derivative by x.
    ``course``: what was made smaller, the error and the penalty together, at the start and after
    every 50 steps and the last.

    Columns: ``added variance``, ε as a share of the mean one; ``missed``, ``similarity`` and
    ``Jacobian missed`` as above.

    >>> measure = bilens.Gaussian(torch.zeros(128), torch.eye(128))
    >>> found = bilens.features.transcode(T, measure, 8, steps=1)
    >>> [row["added variance"] for row in found.rows()]
    [0.0, 0.01, 1.0]
    """

    tensor: CP
    l1: float
    epsilons: tuple[float, ...]
    missed: Float[Tensor, " e"]
    similarity: Float[Tensor, " e"]
    jacobian: Float[Tensor, " e"]
    course: Float[Tensor, " n"]

    @property
    def error(self) -> float:
        """What is missed under the measure itself: the certificate."""
        return float(self.missed[0])

    @property
    def units(self) -> int:
        """Units of which something is left."""
        alive = [self.tensor.out.any(0), self.tensor.left.any(1), self.tensor.right.any(1)]
        return int(torch.stack(alive).all(0).sum())

    @property
    def zeros(self) -> float:
        """The share of entries of the factors that are exactly zero."""
        factors = self.tensor.factors().values()
        return sum(int((f == 0).sum()) for f in factors) / sum(f.numel() for f in factors)

    @property
    def note(self) -> str:
        """Where the measures part: what the data do not see. Empty where they agree."""
        seen = float(self.similarity.max() - self.similarity.min())
        if seen <= PART:
            return ""
        return (
            "off the data's support the two are different: similarity "
            f"{float(self.similarity[0]):.3f} on it, {float(self.similarity.min()):.3f} with "
            "variance in every direction"
        )

    def summary(self) -> str:
        kept = f"{self.units} of {len(self.tensor.left)} units, {self.zeros:.0%} of entries zero"
        missed = f"missed {self.error:.3g} of E‖T(x)‖² under the Gaussian, exactly"
        return "; ".join([kept, missed, *([self.note] if self.note else [])])

    def columns(self) -> tuple[str, ...]:
        return "added variance", "missed", "similarity", "Jacobian missed"

    def rows(self) -> list[dict[str, Any]]:
        measured = (self.missed, self.similarity, self.jacobian)
        every = zip(self.epsilons, *(values.tolist() for values in measured), strict=True)
        return [dict(zip(self.columns(), row, strict=True)) for row in every]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        more = [f"{epsilon:.0%} of the mean variance added" for epsilon in self.epsilons[1:]]
        told = {name: [row[name] for row in rows] for name in ("similarity", "Jacobian missed")}
        title = f"What a replacement of {self.units} units misses"
        names, missed = ["the measure itself", *more], [row["missed"] for row in rows]
        return ranked(names, missed, "missed, of E‖T(x)‖²", title, hover=told)


def transcode(
    T: CP,
    measure: Gaussian,
    units: int,
    l1: float = 0.0,
    *,
    steps: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Transcoding:
    """A tensor of ``units`` units in the place of T, with sparse factors where ``l1`` is above 0,
    learned from weights and ``measure`` alone; what it misses is exact.

    ``l1``: what a unit of Σ |entry| is worth in error; 1e-4 to 1e-2 are usual. ``measure``: of what
    the layer reads; of x where T is over (1, x). ``steps``: of descent after the start; the error
    told is that of what comes out, however many. The same for the same ``seed``.

    ``found.tensor`` is a replacement in ``expand(replacements={"mlp1": found.tensor})``, whose
    error there is a source of its own.

    Work in float64. Cost: ``T.round`` once, then O(u i² + u (h + u) (i + o)) a step for T of h
    units; memory O((h + u)²) in the end. Errors: ArgumentError for what is no CP, for counts, a
    penalty or a seed that cannot be, and for a T that is zero under the measure; ShapeError where
    they do not fit; NotFiniteError. Source: the loss is Isserlis' theorem (``measure.hermite``).

        >>> small = bilens.CP(torch.randn(4, 6), torch.randn(6, 5), torch.randn(6, 5))
        >>> measure = bilens.Gaussian(torch.zeros(5), torch.eye(5))
        >>> bilens.features.transcode(small, measure, units=6, steps=5).error < 1e-6
        True
    """
    _require(T, measure, units, l1, steps, seed, progress)
    with torch.inference_mode(False), torch.enable_grad():
        given = T.detach().to(torch.float64)
        of_x = _of_inputs(measure.detach().to(torch.float64, T.device), given)
        one = _Unit.of(given, of_x)
        course, found = _descended(one, units, float(l1), steps, seed, progress)
    made = one.back(found).to(working_dtype(T.dtype))
    with torch.no_grad():
        return Transcoding(made, float(l1), EPSILONS, *_certified(given, made, of_x), course)


def _require(
    T: object, measure: object, units: int, l1: float, steps: int, seed: int, progress: object
) -> None:
    if not isinstance(T, CP):
        must, got = "be a CP, as layer.tensor() gives it", type(T).__name__
        raise ArgumentError("transcode: T", must=must, got=got)
    if not isinstance(measure, Gaussian):
        must, got = "be a Gaussian of what the layer reads", type(measure).__name__
        raise ArgumentError("transcode: measure", must=must, got=got)
    require_count("units", units)
    require_count("steps", steps, 0)
    require_seed("seed", seed)
    require_progress("progress", progress)
    if not is_number(l1) or not 0 <= l1 < float("inf"):
        raise ArgumentError("l1", must="be a finite number ≥ 0", got=repr(l1))
    require_finite("transcode", **T.factors())
    T.require_one_space("transcode")


def _of_inputs(measure: Gaussian, T: CP) -> Gaussian:
    """The measure of x, where that of (1, x) may be given. Errors: ShapeError."""
    if measure.over(T) is not measure or not T.affine:
        return measure
    return Gaussian(measure.mean[1:], measure.cov[1:, 1:], measure.count)


# How it is learned.


@dataclass(frozen=True, eq=False)
class _Unit:
    """T and what it reads where E‖T(x)‖² is 1, and the mean square of x: ``size`` is √E‖T(x)‖²,
    ``scale`` that of each input.
    """

    tensor: CP
    measure: Gaussian
    size: Tensor
    scale: Float[Tensor, " i"]

    @classmethod
    def of(cls, given: CP, of_x: Gaussian) -> "_Unit":
        """Errors: ArgumentError where T is zero under the measure."""
        function = of_x.of(given)
        size = function.norm()
        if function.vanishes(float(size), function.hermite("cheapest")):
            must, got = "be more than zero under the measure", "nothing but rounding"
            raise ArgumentError("transcode: T", must=must, got=got)
        over, first = of_x.over(given), int(given.affine)
        square = over.cov.diagonal()[first:] + over.mean[first:].square()
        scale = torch.ones_like(over.mean)
        scale[first:] = square.mean().sqrt() if square.any() else 1.0
        tensor = CP(given.out / size, given.left * scale, given.right * scale, given.affine)
        cov = over.cov / scale / scale[:, None]
        return cls(tensor, Gaussian(over.mean / scale, cov), size, scale)

    def made(self, factors: Factors) -> CP:
        out, left, right = factors
        return CP(out, left, right, self.tensor.affine)

    def back(self, factors: Factors) -> CP:
        """T̂ in the scales that were given."""
        out, left, right = factors
        return self.made((out * self.size, left / self.scale, right / self.scale))

    def start(self, units: int, seed: int) -> Factors:
        """What T rounds to in the metric of E[x xᵀ], every unit's three vectors of one length; and
        small random units, where there are to be more.
        """
        values, vectors = eigh(self.measure.cov + self.measure.mean.outer(self.measure.mean))
        kept = values > SUPPORT * values[-1]
        lengths, vectors = values[kept].sqrt(), vectors[:, kept]
        onto, back = vectors * lengths, vectors / lengths
        metric = CP(self.tensor.out, self.tensor.left @ onto, self.tensor.right @ onto)
        near = metric.round(max_rank=units, symmetric=True, seed=seed).cp
        found = _balanced((near.out, near.left @ back.mT, near.right @ back.mT))
        generator, more = seeded(seed), units - len(near.left)
        small = [SMALL * _rms(one) for one in found]

        def beside(rows: int, columns: int, size: Tensor) -> Tensor:
            return standard_normal(rows, columns, generator=generator).to(size) * size

        out = beside(len(near.out), more, small[0])
        left, right = (beside(more, len(self.scale), size) for size in small[1:])
        joined = zip(found, (out, left, right), (1, 0, 0), strict=True)
        return [torch.cat([old, new], dim) for old, new, dim in joined]


def _balanced(factors: Factors) -> Factors:
    """The same terms, of which each has its three vectors of one length."""
    out, left, right = factors
    lengths = torch.stack([out.norm(dim=0), left.norm(dim=1), right.norm(dim=1)])
    mean = lengths.log().mean(0).exp()
    to_out, to_left, to_right = torch.where(lengths > 0, mean / lengths, 0.0)
    return out * to_out, left * to_left[:, None], right * to_right[:, None]


def _rms(factor: Tensor) -> Tensor:
    return factor.square().mean().sqrt()


def _descended(
    one: _Unit, units: int, l1: float, steps: int, seed: int, progress: Progress | None
) -> tuple[Float[Tensor, " n"], Factors]:
    """What was made smaller on the way, and the factors where it was smallest."""
    factors = [factor.requires_grad_() for factor in one.start(units, seed)]
    target = one.measure.of(one.tensor).hermite("cheapest")
    adam, course = _ProximalAdam(factors, l1), []
    least, best = float("inf"), factors
    for step in range(steps + 1):
        parts = one.measure.of(one.made(factors)).hermite("cheapest")
        error = 1 - 2 * parts.inner(target) + parts.inner(parts)
        value = float(error.detach()) + l1 * sum(float(f.detach().abs().sum()) for f in factors)
        if value < least:
            least, best = value, [factor.detach().clone() for factor in factors]
        if step % EVERY == 0 or step == steps:
            course.append(value)
            if progress is not None and step:
                progress(step, steps, {"missed": float(error.detach())}, "steps")
        if step < steps:
            adam.step(torch.autograd.grad(error, factors), 1 - step / steps)
    return torch.tensor(course, dtype=torch.float64, device="cpu"), best


class _ProximalAdam:
    """Adam of the error, each step followed by the step of the penalty in the same metric, which
    takes entries to exactly zero.
    """

    def __init__(self, factors: list[Tensor], l1: float) -> None:
        self.factors, self.l1, self.count = factors, l1, 0
        self.rates = [RATE * _rms(factor.detach()) for factor in factors]
        self.means = [torch.zeros_like(factor) for factor in factors]
        self.squares = [torch.zeros_like(factor) for factor in factors]

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...], share: float) -> None:
        """``share`` of the first rate."""
        self.count += 1
        (slow, slower), least = MOMENTA, LEAST[0] + LEAST[1] * self.l1
        held = zip(self.factors, gradients, self.rates, self.means, self.squares, strict=True)
        for factor, gradient, rate, mean, square in held:
            mean.lerp_(gradient, 1 - slow)
            square.lerp_(gradient.square(), 1 - slower)
            size = (square / (1 - slower**self.count)).sqrt() + least
            step = share * rate / size
            moved = factor - step * mean / (1 - slow**self.count)
            factor.copy_(moved.sign() * (moved.abs() - step * self.l1).relu())


# What it misses.


def _certified(given: CP, made: CP, of_x: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """What is missed, the similarity and what of the Jacobian is missed, under each measure."""
    made = made.to(torch.float64)
    off, rows = given - made, []
    for epsilon in EPSILONS:
        measure = of_x.ridge(epsilon)
        one, two = measure.of(given), measure.of(made)
        whole, other = float(one.norm()), float(two.norm())
        missed = (float(measure.of(off).norm()) / whole) ** 2
        # not similarity(), which refuses a T̂ of which nothing is left
        alike = max(-1.0, min(1.0, float(one.inner(two)) / whole / other)) if other else 0.0
        slope = _slopes(given, measure)
        rows.append((missed, alike, _slopes(off, measure) / slope if slope else 0.0))
    missed, alike, slopes = torch.tensor(rows, dtype=torch.float64, device="cpu").mT.contiguous()
    return missed, alike, slopes


def _slopes(tensor: CP, measure: Gaussian) -> float:
    """E‖J‖² = 4 tr[Gram_in(S) E[x xᵀ]], J = 2 S(x, ·) by x, S the symmetric part."""
    both, over = tensor.symmetrise(), measure.over(tensor)
    by_x = CP(both.out, both.left, both.right[:, int(tensor.affine) :])  # the constant stays
    square = over.cov + over.mean.outer(over.mean)
    return 4 * max(0.0, float((by_x.gram("left") * square).sum()))
