"""A data measure: the mean and covariance of what a layer reads, gathered in one pass and merged
across shards.

Weights alone do not say which directions inputs ever take. Under a Gaussian of the data's own mean
and covariance they do, and every average of a bilinear layer has a closed form
(``measure.hermite``). The Gaussian is an approximation of the data.

    f = measure.of(T)          T as a function of x under the measure
    f.inner(g)                 E⟨T(x), S(x)⟩, for g = measure.of(S)
    f.norm(), f.similarity(g)  what follows from that
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Support, ThirdOrder, require_constant, support
from bilens.base.errors import ArgumentError, RangeError, ShapeError
from bilens.base.keys import MOST, Whole, require
from bilens.base.numerics import (
    LARGEST,
    holds_several,
    is_number,
    is_whole,
    near_one,
    peak,
    powers,
    require_finite,
    require_floating,
    require_seed,
    require_values,
    restored,
    root,
    scaled,
    seeded,
    standard_normal,
    working_dtype,
)
from bilens.base.records import Record
from bilens.measure.hermite import Hermite, hermite
from bilens.measure.moments import Moments, joined, moments_of

Root = Literal["symmetric", "cheapest"]
TWO = "A covariance needs at least two."
REACH = 60  # powers of two that mean and spread may lie from one
ROUNDED = 1e-13  # of a layer's terms on the data: less is rounding, where the measure sees nothing


@dataclass(frozen=True, repr=False, eq=False)
class Gaussian(Record):
    """x ~ N(mean, cov), the covariance centred. ``count``: the samples it was measured on, 0 where
    it was not measured.

    ``from_batches`` gives float64, which is what small variances need; any floating dtype is taken,
    and all work is done in float64 with the tolerances of the dtype that holds the covariance.
    Errors: ShapeError; NotFiniteError; ArgumentError for a covariance that is not symmetric, or not
    positive semidefinite, by more than its dtype rounds. Cost: one Cholesky, i³ / 3; two where Σ is
    singular.

    >>> g = bilens.Gaussian.from_batches([torch.randn(512, 128)])
    >>> g.mean.shape, g.cov.shape, g.count
    (torch.Size([128]), torch.Size([128, 128]), 512)
    >>> g.of(T).norm() > 0  # the root of E‖T(x)‖², from the factors
    tensor(True)
    """

    mean: Float[Tensor, " i"]
    cov: Float[Tensor, "i i"]
    count: int = 0

    def __post_init__(self) -> None:
        _require_shapes(self.mean, self.cov)
        if not is_whole(self.count) or self.count < 0:
            raise ArgumentError(
                "Gaussian.count", must="be a whole number ≥ 0", got=repr(self.count)
            )
        if not self.cov.is_meta:
            require_finite("Gaussian", mean=self.mean, cov=self.cov)
            _require_symmetric(self.cov.detach())
            if self._varying is None:
                _require_semidefinite(self.cov.detach())

    @classmethod
    def from_batches(cls, batches: Iterable[Float[Tensor, "... i"]]) -> "Gaussian":
        """Mean and covariance (over n − 1) of all rows of ``batches``, in one pass and in float64.

        Each batch is centred on its own mean before it is squared, and joined to what came before
        it by Chan's update, so a mean far from zero costs no digits. Leading dims of a batch are
        samples all. Cost i² per sample; memory one batch and i². Errors: ArgumentError for fewer
        than two samples; ShapeError; NotFiniteError naming the batch.
        """
        if isinstance(batches, Tensor) or not holds_several(batches):
            todo = "Pass [x] for activations x."
            raise ArgumentError(
                "from_batches", must="be given batches", got=type(batches).__name__, todo=todo
            )
        seen: Moments | None = None
        for number, batch in enumerate(batches):
            sums = moments_of(batch, number)
            if seen is not None and sums.mean.shape != seen.mean.shape:
                raise ShapeError(
                    f"batch {number}", must=f"end in {len(seen.mean)}", got=tuple(batch.shape)
                )
            seen = sums if seen is None else joined(seen, sums)
        if seen is None:
            raise ArgumentError("from_batches", must="be given samples", got="no batches", todo=TWO)
        return cls.from_moments(seen)

    @classmethod
    def from_moments(cls, seen: Moments) -> "Gaussian":
        """The measure of samples from what they left behind. Errors: ArgumentError for fewer than
        two.
        """
        if seen.n < 2:
            raise ArgumentError("from_batches", must="be given samples", got=seen.n, todo=TWO)
        return cls(seen.mean, seen.scatter / (seen.n - 1), seen.n)

    def merge(self, other: "Gaussian") -> "Gaussian":
        """The measure of both sets of samples together, as if measured in one pass. Errors:
        ArgumentError, ShapeError.
        """
        if not isinstance(other, Gaussian):
            raise ArgumentError("merge", must="join two measures", got=type(other).__name__)
        if min(self.count, other.count) < 1:
            raise ArgumentError(
                "merge",
                must="join two measures that count their samples",
                got=(self.count, other.count),
            )
        if self.mean.shape != other.mean.shape:
            raise ShapeError(
                "merge",
                must=f"join measures over {len(self.mean)} inputs",
                got=tuple(other.mean.shape),
            )
        both = joined(
            *(
                Moments(g.count, g.mean.double(), g.cov.double() * (g.count - 1))
                for g in (self, other)
            )
        )
        return Gaussian(both.mean, both.scatter / (both.n - 1), both.n)

    @property
    def tol(self) -> float:
        """The least eigenvalue that is no rounding, of what inputs of the same variances would have
        there without correlation: i · eps of the dtype.

        An entry of Σ is known to eps √(Σ_aa Σ_bb), and so vᵀΣv to i eps Σ_a v_a² Σ_aa: one input
        that varies a million times more than another hides nothing of it.
        """
        return len(self.mean) * torch.finfo(self.cov.dtype).eps

    @property
    def rank(self) -> int:
        """How many eigenvalues of Σ are above rounding (``tol``): the directions inputs vary in.
        Cost of ``factor``.
        """
        return self._support.rank if self._varying is None else len(self._varying)

    @cached_property
    def root(self) -> Float[Tensor, "i i"]:
        """Σ^½, symmetric, in float64; zero off the support of ``rank`` directions. One eigh, O(i³),
        kept for later. Errors: RangeError where variances are so far apart that eigh loses some.
        """
        return self._support.power(0.5)

    @property
    def factor(self) -> Float[Tensor, "i z"]:
        """C with C Cᵀ = Σ, in float64: the cheapest that is exact, kept for later.

        Triangular, of one column for each input that varies, where Σ is well above rounding on all
        of them: a Cholesky, i³ / 3, a tenth of ``root``'s cost. Else ``root``.
        """
        return self.root if self._triangle is None else self._triangle

    @property
    def inverse_root(self) -> Float[Tensor, "i i"]:
        """Σ^−½ on the support, zero off it: root · inverse_root is the projector on the support."""
        return self._support.power(-0.5)

    def near_one(
        self, root: Root = "symmetric"
    ) -> tuple[Float[Tensor, " i"], Float[Tensor, "i z"], int]:
        """Mean, Σ^½ (or ``factor``) over a power of two, and the power: 0 where squares of what is
        read are in range already.
        """
        if self.cov.is_meta:
            require_finite("Gaussian", cov=self.cov)
        mean, spread = self.mean.double(), self.root if root == "symmetric" else self.factor
        size = int(powers(peak(spread))) if root == "symmetric" else self._factor_power
        power = max(int(powers(peak(mean))), size)
        if abs(power) <= REACH:
            return mean, spread, 0
        return scaled(mean, -power), scaled(spread, -power), power

    def ridge(self, eps: float | int) -> "Gaussian":
        """Σ + eps · (tr Σ / i) · 1: some variance in every direction, ``eps`` of the mean one (none
        where nothing varies). Errors: ArgumentError.
        """
        if not is_number(eps) or not 0 <= eps <= LARGEST:
            raise ArgumentError("ridge", must="be a finite share ≥ 0 of the mean variance", got=eps)
        more = float(eps) * self.cov.diagonal().mean() * torch.ones_like(self.mean)
        return Gaussian(self.mean, self.cov + more.diag(), self.count)

    def homogeneous(self) -> "Gaussian":
        """The measure of x̃ = (1, x), which a layer with biases reads: the constant first, without
        variance.
        """
        return self._homogeneous

    def over(self, tensor: ThirdOrder) -> "Gaussian":
        """The measure of what ``tensor`` reads: itself, or ``homogeneous()`` where the tensor is
        over (1, x) and the measure of x; on the device of ``tensor``.

        One that lies elsewhere is copied there each time, and its roots are made anew: move it
        yourself for many tensors. Errors: ArgumentError for what is no tensor; ShapeError for any
        other size.
        """
        if not isinstance(tensor, ThirdOrder):
            got = type(tensor).__name__
            raise ArgumentError("measure", must="be asked for one over a tensor", got=got)
        size, own = tensor.shape[1], len(self.mean)
        if self.mean.device != tensor.device:
            require_values("Gaussian.cov", self.cov)
            return self.to(tensor.device).over(tensor)
        if tensor.affine and own == size - 1:
            return self.homogeneous()
        if own != size:
            must = f"be over the layer's {size} inputs"
            told = tensor.affine or own != size - 1
            todo = "" if told else "A tensor over (1, x) says so: CP(..., affine=True)."
            raise ShapeError("measure", must=must, got=f"{own} of them", todo=todo)
        if tensor.affine:
            require_constant("measure", self.mean[0])
            if not self.cov.is_meta and bool(self.cov[0].any()):
                must, got = "be over (1, x), or x", "a constant that varies"
                raise ShapeError("measure", must=must, got=got)
        return self

    def of(self, tensor: ThirdOrder) -> "OnGaussian":
        """``tensor`` as a function of x under this measure.

        A tensor over (1, x) takes a measure of x.
        Errors: ArgumentError for what is no tensor; ShapeError where it does not fit.
        """
        return OnGaussian(tensor, self)

    def map(self, matrix: Float[Tensor, "i2 i"]) -> "Gaussian":
        """The measure of M x, with M (new, old): mean M μ and covariance M Σ Mᵀ. What is left of
        terms that cancel, rounding, is no variance of a new input. Errors: ShapeError.
        """
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[1] != len(self.mean):
            got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise ShapeError("Gaussian.map", must=f"be given (new, {len(self.mean)})", got=got)
        require_finite("Gaussian.map", matrix=matrix)
        matrix = matrix.to(self.cov)
        cov = matrix @ self.cov @ matrix.mT
        terms = matrix.abs() @ self.cov.diagonal().clamp(min=0).sqrt()
        varies = cov.diagonal() > self.tol * terms.square()
        cov = torch.where(varies & varies[:, None], (cov + cov.mT) / 2, 0.0)
        return Gaussian(matrix @ self.mean, cov, self.count)

    def sample(self, n: int, seed: int | torch.Generator = 0) -> Float[Tensor, "n i"]:
        """``n`` draws in float64, the same for the same seed. Cost: ``factor``, and i² per draw.
        Errors: ArgumentError.
        """
        require("sample", n, Whole(1, MOST), ArgumentError)
        if not isinstance(seed, torch.Generator):
            require_seed("seed", seed)
        generator = seed if isinstance(seed, torch.Generator) else seeded(seed)
        noise = standard_normal(n, self.factor.shape[1], generator=generator)
        return self.mean.double() + noise.to(self.mean.device) @ self.factor.mT

    def _onto(self, root: Root) -> tuple[Float[Tensor, "r i"], int]:
        """``near_one`` as rows, the mean first, and the power."""
        if root == "cheapest" and not (self.mean.requires_grad and torch.is_grad_enabled()):
            return self._onto_factor
        mean, spread, power = self.near_one(root)
        return torch.cat([mean[None], spread.mT]), power

    @cached_property
    def _onto_factor(self) -> tuple[Float[Tensor, "r i"], int]:
        mean, spread, power = self.near_one("cheapest")
        return torch.cat([mean.detach()[None], spread.mT]), power

    @cached_property
    def _factor_power(self) -> int:
        return int(powers(peak(self.factor)))

    @cached_property
    def _reach(self) -> tuple[float, int]:
        """E‖x‖² where mean and factor are over a power of two, and the power."""
        center, _, power = self.near_one("cheapest")
        variances = scaled(self.cov.detach().diagonal().double(), -2 * power)
        return float(center.detach().square().sum() + variances.sum()), power

    @cached_property
    def _homogeneous(self) -> "Gaussian":
        mean = torch.cat([torch.ones_like(self.mean[:1]), self.mean])
        return Gaussian(mean, torch.nn.functional.pad(self.cov, (1, 0, 1, 0)), self.count)

    @cached_property
    def _support(self) -> Support:
        near, power = self._near
        values, vectors = support(near, len(near) * torch.finfo(near.dtype).eps)  # eigh's own
        apart = vectors.square().mT @ near.diagonal().clamp(min=0)
        found = Support(torch.where(values > self.tol * apart, scaled(values, power), 0.0), vectors)
        if self._varying is not None and found.rank < len(self._varying):
            must = "have variances that float64 holds side by side in one eigenvalue problem"
            got = f"{len(self._varying) - found.rank} below the rounding of the largest"
            raise RangeError("Gaussian.root", must=must, got=got)
        return found

    @cached_property
    def _varying(self) -> Int[Tensor, " v"] | None:
        """The inputs that vary, where ``tol`` cuts off no eigenvalue of theirs: where their
        correlations, less ``tol``, have a Cholesky factor too. None where that is not so.
        """
        near, _ = self._near
        varying = (near.diagonal() > 0).nonzero()[:, 0]
        least = near[varying[:, None], varying]
        # what rounding left beside a variance of 0 is seen by the root alone
        lone = bool(torch.count_nonzero(least) < torch.count_nonzero(near))
        spread = least.diagonal().sqrt()
        least.div_(spread).div_(spread[:, None])
        least.diagonal().sub_(self.tol)
        fails = lone or not len(varying) or int(torch.linalg.cholesky_ex(least).info)
        return None if fails else varying

    @cached_property
    def _triangle(self) -> Float[Tensor, "i v"] | None:
        """Lower triangular C with C Cᵀ = Σ; None where some of what varies is cut off."""
        if self._varying is None:
            return None
        near, power = self._near
        if len(self._varying) == len(near):
            return scaled(torch.linalg.cholesky(near), power // 2)
        some = near[self._varying[:, None], self._varying]
        triangle = near.new_zeros(len(near), len(some))
        triangle[self._varying] = torch.linalg.cholesky(some)
        return scaled(triangle, power // 2)

    @property
    def _near(self) -> tuple[Float[Tensor, "i i"], int]:
        """Σ over an even power of two, and the power: 0 where it is in reach as it stands."""
        require_values("Gaussian.cov", self.cov)
        cov = self.cov.detach().double()
        power = 2 * round(int(powers(peak(cov))) / 2)
        return (cov, 0) if abs(power) <= 2 * REACH else (scaled(cov, -power), power)

    def same_as(self, other: "Gaussian") -> bool:
        """Whether both are one distribution, entry by entry."""
        pairs = (self.mean, other.mean), (self.cov, other.cov)
        return other is self or all(torch.equal(one, two) for one, two in pairs)

    def __repr__(self) -> str:
        measured = f", count={self.count:,}" if self.count else ""
        return f"Gaussian(size={len(self.mean)}{measured})"


@dataclass(frozen=True, repr=False, eq=False)
class OnGaussian(Record):
    """T(x) for x of a Gaussian, made by ``measure.of(T)``: T's verbs, as averages over x.

    Only the symmetric part of T acts. ``centred`` takes the mean output off. Work is in float64 and
    figures come in T's dtype (half types: float32), whatever the scale of T or of x. Each verb
    costs a plain one twice, and O(h i (i + o)) more for a CP. Errors: NotFiniteError; RangeError.

    >>> g = bilens.Gaussian(torch.zeros(128), torch.eye(128))
    >>> g.of(T).norm() > 0
    tensor(True)
    """

    tensor: ThirdOrder
    measure: Gaussian

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, ThirdOrder):
            got = type(self.tensor).__name__
            raise ArgumentError("Gaussian.of", must="be given a tensor", got=got)
        self.tensor.require_one_space("Gaussian.of")
        self.measure.over(self.tensor)

    def inner(self, other: "OnGaussian", *, centred: bool = False) -> Float[Tensor, ""]:
        """E⟨T(x), S(x)⟩; tr Cov(T(x), S(x)) where ``centred``."""
        self._require_like("inner", other)
        one, power = self._near_one()
        two, more = (one, power) if other is self else other._near_one()
        found = one.inner(two, centred=centred)
        return restored("inner", found, power + more, working_dtype(self.tensor.dtype))

    def norm(self, *, centred: bool = False) -> Float[Tensor, ""]:
        """√E‖T(x)‖², or the root of the summed variances where ``centred``. Its gradient at T = 0
        is 0.
        """
        near, power = self._near_one()
        length = root(near.inner(near, centred=centred))
        return restored("norm", length, power, working_dtype(self.tensor.dtype))

    def similarity(self, other: "OnGaussian", *, centred: bool = False) -> Float[Tensor, ""]:
        """E⟨T(x), S(x)⟩ over both norms, in [-1, 1].

        A large constant part makes any two layers alike: ``centred`` compares what varies. Errors:
        ArgumentError where one of the two is zero on the data, or nothing but rounding.
        """
        self._require_like("similarity", other)
        (one, power), (two, more) = self._near_one(), other._near_one()
        lengths = [root(side.inner(side, centred=centred)) for side in (one, two)]
        given = (self, one, power, lengths[0]), (other, two, more, lengths[1])
        for function, parts, at, length in given:
            if function.vanishes(float(length.detach()), parts, at):
                must = "compare two tensors that are not zero under the measure"
                raise ArgumentError("similarity", must=must, got="a norm of 0")
        found = one.inner(two, centred=centred) / lengths[0] / lengths[1]
        return found.clamp(-1, 1).to(working_dtype(self.tensor.dtype))

    def gram(self, *, centred: bool = False) -> Float[Tensor, "o o"]:
        """E[T(x) T(x)ᵀ], or the covariance of the outputs where ``centred``; in float64."""
        return self.hermite("cheapest").gram(centred=centred)

    def hermite(self, root: Root = "symmetric") -> Hermite:
        """T(x) as constant + linear + quadratic part, which do not correlate. In float64.

        Over z of x = μ + Σ^½ z; with ``root="cheapest"`` of x = μ + C z, C the measure's
        ``factor``: the same norms and inner products, for less.
        """
        near, power = self._near_one(root)
        return near.scaled(power) if power else near

    def vanishes(self, length: float, parts: Hermite, power: int = 0) -> bool:
        """Whether ``length`` · 2^power, a norm of this function, is none: 0, NaN, or rounding.

        ``parts`` are the function's own over 2^power. Rounding is what little is left of terms that
        cancel, among the parts or before them, where the measure sees nothing of the tensor.
        """
        if parts.vanishes(length):
            return True
        near, own = self.tensor.near_one(torch.float64)
        reach, more = self.measure.over(self.tensor)._reach
        return math.ldexp(length, power - own - 2 * more) <= ROUNDED * reach * near.terms()

    def _near_one(self, root: Root = "cheapest") -> tuple[Hermite, int]:
        tensor, power = self.tensor.checked("Gaussian.of")
        onto, more = self.measure.over(tensor)._onto(root)
        found, last = hermite(tensor.to(torch.float64), onto).near_one()
        return found, power + 2 * more + last

    def _require_like(self, who: str, other: object) -> None:
        if not isinstance(other, OnGaussian):
            got, todo = type(other).__name__, "Pass measure.of(T)."
            raise ArgumentError(who, must="join two tensors under a Gaussian", got=got, todo=todo)
        self.tensor.require_like(who, other.tensor, ThirdOrder)
        if not self.measure.same_as(other.measure):
            raise ArgumentError(who, must="join two tensors under one measure", got="another")

    def __repr__(self) -> str:
        return f"OnGaussian({self.tensor!r}, {self.measure!r})"


def _require_shapes(mean: Tensor, cov: Tensor) -> None:
    for name, tensor in (("mean", mean), ("cov", cov)):
        if not isinstance(tensor, Tensor):
            raise ShapeError(
                f"Gaussian.{name}", must="be a torch tensor", got=type(tensor).__name__
            )
        require_floating(f"Gaussian.{name}", tensor.dtype)
    if mean.ndim != 1 or len(mean) == 0 or cov.shape != (len(mean), len(mean)):
        got = f"{tuple(mean.shape)}, {tuple(cov.shape)}"
        raise ShapeError("Gaussian", must="get a mean (i,) and a covariance (i, i), i ≥ 1", got=got)
    if (mean.dtype, mean.device) != (cov.dtype, cov.device):
        got = f"{mean.dtype} on {mean.device}, {cov.dtype} on {cov.device}"
        raise ShapeError(
            "Gaussian", must="get mean and covariance of one dtype and device", got=got
        )


def _require_symmetric(cov: Tensor) -> None:
    """Raise ArgumentError unless ``cov`` is symmetric to what its own sums may have rounded."""
    work, power = near_one(cov.double())
    skew = float((work - work.mT).abs().max())
    if skew > _slack(cov, work):
        got = f"entries that differ by {math.ldexp(skew, power):.3g} from their mirror"
        raise ArgumentError("Gaussian.cov", must="be symmetric", got=got)


def _require_semidefinite(cov: Tensor) -> None:
    """Raise ArgumentError unless ``cov`` is positive semidefinite to its rounding τ: if and only if
    Σ + τ has a Cholesky factor.
    """
    work, power = near_one(cov.double())
    identity = torch.eye(len(cov), dtype=work.dtype, device=work.device)
    more = (work + work.mT) / 2 + _slack(cov, work) * identity
    if work.any() and int(torch.linalg.cholesky_ex(more).info):
        lowest = math.ldexp(float(torch.linalg.eigvalsh(work)[0]), power)
        todo = "A covariance is centred: pass E[x xᵀ] − μ μᵀ."
        raise ArgumentError(
            "Gaussian.cov",
            must="be positive semidefinite",
            got=f"an eigenvalue {lowest:.3g}",
            todo=todo,
        )


def _slack(cov: Tensor, near: Tensor) -> float:
    """What sums of ``cov``'s dtype may have rounded, of its largest entry: 4 i eps."""
    return 4 * len(cov) * torch.finfo(cov.dtype).eps * float(near.abs().max())
