"""How alike layers are: between layers, between checkpoints of one run, between seeds, as a matrix.

A similarity is a cosine under an inner product of the symmetric parts, which are all that acts and
are free of the gauge:

    of weights alone    ⟨S, S'⟩ (``algebra.symmetric``)          all inputs count the same
    on Gaussian data    E⟨T(x), T'(x)⟩, in closed form           ``measure.hermite``
    on activations      the average of ⟨T(x), T'(x)⟩ over them   no Gaussian assumed, but an error

Each closed form is checked by sampling what it averages over: x of the measure, or ⟨S, S'⟩ = E⟨S(x,
y), S'(x, y)⟩ over standard normal x and y. That takes many samples to see small errors, so the
formulas are checked once more where the truth is had exactly, in the span of four samples y_a:

    ⟨S, S'⟩ there       Σ_ab ⟨S(y_a, y_b), S'(y_a, y_b)⟩
    E over N(μ, Y Yᵀ)   f(0) / 3 + Σ f(√3 (±e_a ± e_b)) / 36 for f(w) = ⟨T(μ + Y w), T'(μ + Y w)⟩

over a < b and all signs: 25 points, exact up to degree 5 in four dimensions (Stroud, Approximate
Calculation of Multiple Integrals, 1971), and f has degree 4.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.charts import mapped, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.keys import MOST, Whole, require
from bilens.base.numerics import (
    is_whole,
    require_finite,
    require_floating,
    require_seed,
    restored,
    root,
    seeded,
    standard_normal,
)
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS, Result
from bilens.decompose.spectra.weighted import measure_near_one
from bilens.measure import Gaussian, Hermite, hermite, jackknife

CHUNK = 1024  # samples at a time
BLOCKS = 64  # of samples, for standard errors: enough to know them to a tenth
FEW, MANY = 96, 4096  # samples of a check: these first, and no more than these
# What a check by default has to know each entry to, a share more than that takes by the first
# samples, and the standard errors from which on it looks again with MANY: an entry that is wrong by
# 5 SHARP is passed over once in 44 times. A layer's own entry, 1 over the factor squared, moves by
# that where its norm is wrong by a factor of 0.81, or of 1.42.
SHARP, SPARE, NEAR = 0.1, 1.25, 3.0
# Flips bits of the seed: weights drawn under torch.manual_seed(0) and noise of seed 0 would be the
# same numbers, and samples that lie along the weights are not of the measure.
OWN_SEED = 0x5A3B17C9
# standard errors: one check in two million fails by chance where averages are normal, a few more
# where not yet
FAR = 5.0
AXES = 4  # directions to check the formulas in: in four, the cubature has no points on the axes
EXACT = 1e-9  # of the terms that add up: by how much the formulas may miss the truth in these
ROOTED = 0.01  # of Σ y: by how much C Cᵀ y may miss it, where Σ has the digits of a narrow dtype
WRITTEN = 12  # layers up to which each cell of the figure has its number


@dataclass(frozen=True, repr=False, eq=False)
class Sampled(Record):
    """Similarities estimated from ``count`` samples of ``source``, and their standard errors.

    ``root_error``: ‖C Cᵀ y − Σ y‖ / ‖Σ y‖ at one y = C z, for the root C of Σ that samples of a
    Gaussian and its closed form share; 0 where there is none. ``formula_error``: of the closed
    forms in the span of four samples, against the truth there, of the terms that add up.

    >>> layers = [bilens.nn.BilinearMLP(8, 16).tensor().detach() for _ in range(2)]
    >>> measure = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> bilens.decompose.similarity(layers, measure, samples=1000).check.count
    1000
    """

    matrix: Float[Tensor, "n n"]
    errors: Float[Tensor, "n n"]
    count: int
    source: str
    root_error: float = 0.0
    formula_error: float = 0.0

    def z(self, matrix: Float[Tensor, "n n"]) -> float:
        """How many standard errors ``matrix`` is off where it is off most; differences of rounding
        count as none.
        """
        off = (self.matrix - matrix).abs()
        return float(torch.where(off <= 1e-10, 0.0, off / self.errors).max())


@dataclass(frozen=True, repr=False, eq=False)
class Similarities(Result):
    """Cosines between layers as functions, with how far they can be trusted.

    Fields:
        names: of the layers, in order.
        matrix: the similarities, in closed form: of the weights, or on Gaussian data.
        norms: ‖S‖, or the root of E‖T(x)‖² under the measure.
        shares: of each layer's E‖T(x)‖²: its constant, linear and quadratic part. Without a measure
            the last is all.
        measure: what the inner product is of, in words. centred: whether means were taken off.
        rank, size: of Σ; below ``size`` the measure is blind off its support. Without a measure
            both are the inputs.
        check: the same by Monte Carlo, over the exact norms; None where no samples were asked for.
        empirical: on the activations themselves; None where a Gaussian or nothing was given.

    Columns, a row for each pair of layers and each with itself: ``layer``, ``with``, their
    ``similarity``; where they were computed, the same by ``Monte Carlo`` and ``on activations``,
    with the standard errors ``Monte Carlo, standard error`` and ``on activations, standard error``.

    >>> layers = [bilens.nn.BilinearMLP(8, 16).tensor().detach() for _ in range(2)]
    >>> bilens.decompose.similarity(layers, names=["mlp0", "mlp1"]).matrix.shape
    torch.Size([2, 2])
    """

    names: tuple[str, ...]
    matrix: Float[Tensor, "n n"]
    norms: Float[Tensor, " n"]
    shares: Float[Tensor, "n parts"]
    measure: str
    centred: bool
    rank: int
    size: int
    check: Sampled | None
    empirical: Sampled | None

    @property
    def z(self) -> float:
        """How many standard errors the Monte Carlo is off where it is off most; differences of
        rounding count as none.

        Errors: ArgumentError where no check was made.
        """
        if self.check is None:
            raise ArgumentError("z", must="be asked where a check was made", got="samples=0")
        return self.check.z(self.matrix)

    @property
    def checked(self) -> bool:
        """Whether the Monte Carlo was made and agrees with the closed forms, to 5 s.e. each, the
        formulas are exact where the truth is known, and Σ has the root that both take.
        """
        if self.check is None:
            return False
        exact = self.check.formula_error <= EXACT and self.check.root_error <= ROOTED
        return exact and self.z <= FAR

    def summary(self) -> str:
        n = len(self.names)
        blind = (
            f"; blind off a support of {self.rank} of {self.size} dimensions"
            if self.rank < self.size
            else ""
        )
        how = (
            "no check"
            if self.check is None
            else f"Monte Carlo {self.z:.2g} standard errors off at most"
        )
        verdict = "" if self.check is None or self.checked else ": the closed form is not confirmed"
        what = f"{n} × {n} similarities {self.measure}{', centred' * self.centred}"
        return f"{what}{blind}; {how}{verdict}"

    def columns(self) -> tuple[str, ...]:
        beside = {"Monte Carlo": self.check, "on activations": self.empirical}
        found = [name for name, sampled in beside.items() if sampled is not None]
        more = [column for name in found for column in (name, f"{name}, standard error")]
        return ("layer", "with", "similarity", *more)

    def rows(self) -> list[dict[str, Any]]:
        pairs = [(a, b) for a in range(len(self.names)) for b in range(a, len(self.names))]
        return [
            {"layer": self.names[a], "with": self.names[b], "similarity": float(self.matrix[a, b])}
            | self._columns("Monte Carlo", self.check, a, b)
            | self._columns("on activations", self.empirical, a, b)
            for a, b in pairs
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The pairs that are most alike, a layer with itself left out."""
        rows = [row for row in self.rows() if row["layer"] != row["with"]] or self.rows()
        return sorted(rows, key=lambda row: -abs(row["similarity"]))[:count]

    def figure(self) -> dict[str, Any]:
        title = f"Similarity {self.measure}{', centred' * self.centred}"
        values, names = self.matrix.tolist(), self.names
        texts = (
            [[f"{cell:.2f}" for cell in row] for row in values] if len(names) <= WRITTEN else None
        )
        layout = titled(title, "layer", "layer")
        return mapped(values, names, names, "cosine", layout, end=1.0, texts=texts)

    @staticmethod
    def _columns(name: str, found: Sampled | None, a: int, b: int) -> dict[str, float]:
        if found is None:
            return {}
        return {
            name: float(found.matrix[a, b]),
            f"{name}, standard error": float(found.errors[a, b]),
        }


@torch.no_grad()
def similarity(
    layers: Mapping[str, CP] | Sequence[CP],
    measure: Gaussian | Float[Tensor, "n i"] | None = None,
    *,
    names: Sequence[str] = (),
    centred: bool = False,
    samples: int | None = None,
    seed: int = 0,
) -> Similarities:
    """Similarities of ``layers`` to each other, as functions: their symmetric parts alone count,
    and no gauge shows.

    ``measure``: None takes the weights alone; a Gaussian takes the layers on such data, means
    included; activations (n, i) take the Gaussian of their mean and covariance, and beside it the
    plain average over them, with standard errors by a jackknife over 64 runs of neighbours (tokens
    of one text are not independent; runs of them nearly are). Layers with biases, over (1, x), take
    a measure of x.
    ``centred``: compare the layers less their means over the data. Where a constant part is most of
    the output (see ``shares``), all layers with like constants are alike without it.
    ``samples``: of the Monte-Carlo check, reproducible by ``seed``; 0 makes none. None draws 96;
    where a standard error is above 0.1, as many as bring it there, and where a figure is then off
    by 3 of its own, 4096, which are the most it draws.

    The check evaluates the layers themselves at whole inputs. It shares with the closed forms the
    layers and the measure as given, the means that ``centred`` takes off, and the measure's root C,
    which is held against Σ at one vector. A formula that is wrong for these layers shows to nine
    digits: in the span of four samples it has to give what the layers give. That it was then given
    the whole measure, the samples say. By default they find an entry of ``matrix`` that is off by
    0.5, or a norm that is wrong by a factor below 0.81 or above 1.42, in 97 of 100 seeds, where
    4096 bring standard errors to 0.1; of entries that are off by three ``check.errors``, half.
    Smaller ones take more ``samples``: they show where they are five ``check.errors``. As few as
    64, where told, are not looked at again, and their means are not yet normal: of 300 pairs of
    small random layers 11 right answers were called not confirmed, of 200 samples 4, of 1,000 none.

    Work is in float64. Cost for n layers: O(n² h² (o + i)) time in n² / 2 inner products, in blocks
    of hidden units; under a measure, memory of all factors in float64. The check costs O(samples ·
    n · (h (o + i) + n o)), and i² more for each sample of a measure. Errors: ArgumentError for no
    layers, wrong names, numbers of samples, or a layer that is zero (named: also one that the
    measure sees nothing of); ShapeError for layers or a measure that do not fit; NotFiniteError.

    >>> A = bilens.nn.BilinearMLP(8, 16).tensor().detach()
    >>> turned = bilens.CP(A.out, A.right, A.left)  # the inputs exchanged: the same function
    >>> bilens.decompose.similarity([A, turned]).matrix.round(decimals=3)
    tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)
    """
    labels, tensors = _layers(layers, names)
    tensors, powers = zip(*(tensor.near_one(torch.float64) for tensor in tensors), strict=True)
    if samples is not None and (not is_whole(samples) or samples < 0 or samples == 1):
        raise ArgumentError(
            "samples", must="be a whole number ≥ 2, or 0 for no check", got=repr(samples)
        )
    require("samples", samples or 0, Whole(0, MOST), ArgumentError)
    require_seed("seed", seed)
    size = tensors[0].shape[1]
    activations = _activations(measure, tensors[0]) if isinstance(measure, Tensor) else None
    given = Gaussian.from_batches(measure.split(CHUNK)) if isinstance(measure, Tensor) else measure
    if given is not None and not isinstance(given, Gaussian):
        must = "be a Gaussian or activations"
        raise ArgumentError("measure", must=must, got=type(given).__name__)
    if given is None and centred:
        raise ArgumentError(
            "centred", must="be asked under a measure", got="none", todo="Pass measure=."
        )
    gaussian = None if given is None else given.over(tensors[0])
    if gaussian is not None:
        gaussian, activations, more = measure_near_one(gaussian, activations)
        powers = [power + 2 * more for power in powers]
    seen = tensors if gaussian is None else _on(gaussian, tensors)
    parts = _parts(seen)
    inner = parts[..., 1 if centred else 0 :].sum(-1)
    norms = root(inner.diagonal())
    matrix = (inner / norms.outer(norms)).clamp(-1, 1)
    _require_seen(labels, tensors, seen, norms, gaussian)
    own = parts.diagonal().mT
    means = _means(seen) if centred else torch.zeros_like(norms)[:, None, None]
    generator = seeded(seed ^ OWN_SEED)
    draw = partial(_sampled, tensors, gaussian, means, norms, generator)
    return Similarities(
        names=labels,
        matrix=matrix,
        norms=torch.stack(
            [
                restored(f"the norm of layer {name}", norm, power, torch.float64)
                for name, norm, power in zip(labels, norms, powers, strict=True)
            ]
        ),
        shares=own / own.sum(1, keepdim=True),
        measure=_words(gaussian, activations),
        centred=centred,
        rank=size if given is None else given.rank,
        size=size if given is None else len(given.mean),
        check=None
        if samples == 0
        else replace(
            _check(draw, matrix, samples), **_exact(tensors, gaussian, centred, generator)
        ),
        empirical=None
        if activations is None
        else _empirical(labels, tensors, activations, means, centred),
    )


def _layers(
    layers: Mapping[str, CP] | Sequence[CP], names: Sequence[str]
) -> tuple[tuple[str, ...], list[CP]]:
    """Names and tensors, all of one shape and finite."""
    if not isinstance(layers, Mapping | Sequence) or isinstance(layers, str):
        raise ArgumentError(
            "layers",
            must="be a sequence of tensors, or a mapping from names",
            got=type(layers).__name__,
        )
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise ArgumentError(
            "names", must="be a sequence, one for each layer", got=type(names).__name__
        )
    if isinstance(layers, Mapping):
        if names:
            raise ArgumentError(
                "names", must="be given once", got="a mapping and names", todo="Leave names= out."
            )
        layers, names = list(layers.values()), list(layers)
    names = tuple(map(str, names)) or tuple(str(n) for n in range(len(layers)))
    if len(layers) == 0 or len(names) != len(layers) or len(set(names)) < len(names):
        must = "be at least one, each with a name of its own"
        raise ArgumentError("layers", must=must, got=f"{len(layers)} layers, names {names}")
    for name, layer in zip(names, layers, strict=True):
        if not isinstance(layer, CP):
            raise ArgumentError(
                f"layer {name}",
                must="be a CP",
                got=type(layer).__name__,
                todo="Pass layer.tensor().",
            )
        if layer.shape != layers[0].shape or layer.device != layers[0].device:
            must = f"be {layers[0].shape} on {layers[0].device} like layer {names[0]}"
            raise ShapeError(f"layer {name}", must=must, got=f"{layer.shape} on {layer.device}")
        if layer.affine != layers[0].affine:
            must = f"be over {'(1, x)' if layers[0].affine else 'x'} like layer {names[0]}"
            raise ShapeError(f"layer {name}", must=must, got="the other")
        layer.require_one_space(f"layer {name}")
        if 0 in layer.shape:
            raise ShapeError(f"layer {name}", must="have no empty mode", got=layer.shape)
        require_finite(f"layer {name}", out=layer.out, left=layer.left, right=layer.right)
    return names, list(layers)


def _activations(x: Tensor, layer: CP) -> Tensor:
    """Activations over the layers' inputs, the constant one added where they lack it."""
    size = layer.shape[1]
    fits = (size - 1, size) if layer.affine else (size,)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] not in fits:
        alone = f", or (n, {size - 1}) of x alone" if layer.affine else ""
        must = f"be (n, {size}){alone}, n ≥ 2"
        raise ShapeError("activations", must=must, got=tuple(x.shape))
    require_floating("activations", x.dtype)
    require_finite("", activations=x)
    return layer.read(x.to(layer.device))


def _on(gaussian: Gaussian, tensors: Sequence[CP]) -> list[Hermite]:
    return [gaussian.of(tensor).hermite("cheapest") for tensor in tensors]


def _words(gaussian: Gaussian | None, activations: Tensor | None) -> str:
    if gaussian is None:
        return "of the weights"
    return "on Gaussian data" + (
        f" fitted to {len(activations):,} activations" if activations is not None else ""
    )


def _parts(seen: Sequence[CP | Hermite]) -> Float[Tensor, "n n parts"]:
    """What the parts of every two layers add to their inner product."""
    upper = [torch.stack([_product(one, two) for two in seen[n:]]) for n, one in enumerate(seen)]
    rows = torch.stack([torch.nn.functional.pad(row, (0, 0, n, 0)) for n, row in enumerate(upper)])
    mirrored = rows.transpose(0, 1).clone()
    mirrored.diagonal().zero_()
    return rows + mirrored


def _product(one: CP | Hermite, two: Any) -> Float[Tensor, " parts"]:
    if isinstance(one, Hermite):
        return one.shares(two)
    return one.inner_near_one(two, symmetric=True)[None]


def _means(seen: Sequence[Any]) -> Float[Tensor, "n 1 o"]:
    return torch.stack([one.mean for one in seen])[:, None]


def _require_seen(
    names: Sequence[str],
    tensors: Sequence[CP],
    seen: Sequence[Any],
    norms: Tensor,
    gaussian: Gaussian | None,
) -> None:
    """Raise ArgumentError for a layer of which there is nothing to compare but rounding."""
    for name, tensor, one, norm in zip(names, tensors, seen, norms.tolist(), strict=True):
        if one.vanishes(norm) if gaussian is None else gaussian.of(tensor).vanishes(norm, one):
            where = "" if gaussian is None else " under the measure"
            todo = "Leave it out; a layer that varies nowhere on the data has no direction."
            raise ArgumentError(
                f"layer {name}", must=f"not be zero{where}", got=f"a norm of {norm:.3g}", todo=todo
            )


def _check(
    draw: Callable[[int], Sampled], matrix: Float[Tensor, "n n"], samples: int | None
) -> Sampled:
    """As many samples as are asked for; else few, more where these are not sharp, and many where a
    figure seems to be off. Each time new ones: the first do not choose what the last say.
    """
    if samples is not None:
        return draw(samples)
    found = draw(FEW)
    blur = float(found.errors.max()) / SHARP
    if blur > 1:
        found = draw(int(min(MANY, SPARE * FEW * blur**2)))
    return found if found.z(matrix) <= NEAR or found.count == MANY else draw(MANY)


def _exact(
    tensors: Sequence[CP], gaussian: Gaussian | None, centred: bool, generator: torch.Generator
) -> dict[str, float]:
    """What is checked without samples: the formulas in the span of four inputs, and Σ's root."""
    device = tensors[0].device
    tensors = [tensor.to(torch.float64) for tensor in tensors]
    found = (part.to(device) for part in _span(gaussian, tensors[0].shape[1], generator))
    onto, weights, *inputs = found
    values = torch.stack([_values(tensor, *inputs) for tensor in tensors])
    if centred:
        values = values - torch.einsum("aso,s->ao", values, weights)[:, None]
    truth = torch.einsum("aso,bso,s->ab", values, values, weights)
    small = [tensor.map(left=onto, right=onto) for tensor in tensors]
    seen = small if gaussian is None else [hermite(tensor, onto) for tensor in tensors]
    closed = _parts(seen)[..., 1 if centred else 0 :].sum(-1)
    terms = torch.tensor([tensor.terms() for tensor in small], device="cpu").to(truth)
    off = (closed - truth).abs() / terms.outer(terms)
    errors = {"formula_error": float(off.where(closed != truth, 0.0).max())}
    return errors if gaussian is None else errors | {"root_error": _root_error(gaussian, onto[1])}


def _span(gaussian: Gaussian | None, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Four samples (4, i), after the mean where there is one; the weights (s,) of points in their
    span that together are exact; and the points, as a layer reads them: x, or x and y (s, i).
    """
    if gaussian is None:
        onto = standard_normal(AXES, size, generator=generator)
        pairs = torch.cartesian_prod(*[torch.arange(AXES, device="cpu")] * 2)
        return onto, onto.new_ones(len(pairs)), onto[pairs[:, 0]], onto[pairs[:, 1]]
    mean = gaussian.mean.double()
    noise = standard_normal(AXES, gaussian.factor.shape[1], generator=generator)
    onto = torch.cat([mean[None], noise.to(mean.device) @ gaussian.factor.mT])
    points, weights = _cubature()
    return onto, weights, mean + points.to(mean.device) @ onto[1:]


@cache
def _cubature() -> tuple[Float[Tensor, "s k"], Float[Tensor, " s"]]:
    """Points and weights with which averages over four normal numbers are exact, to degree 5."""
    first, second = torch.combinations(torch.arange(AXES, device="cpu")).unbind(1)
    axes = math.sqrt(3) * torch.eye(AXES, dtype=torch.float64, device="cpu")
    ends = [s * axes[first] + t * axes[second] for s in (1, -1) for t in (1, -1)]
    points = torch.cat([axes.new_zeros(1, AXES), *ends])
    weights = points.new_full((len(points),), 1 / 36)
    weights[0] = 1 / 3
    return points, weights


def _sampled(
    tensors: Sequence[CP],
    gaussian: Gaussian | None,
    means: Tensor,
    norms: Tensor,
    generator: torch.Generator,
    samples: int,
) -> Sampled:
    """The closed forms by sampling, over the exact norms: an estimate that has no bias."""
    chunks = [len(part) for part in torch.arange(samples, device="cpu").split(CHUNK)]
    drawn = (_drawn(gaussian, tensors[0].shape[1], generator, n) for n in chunks)
    totals, count = _totals(tensors, drawn, samples, means)
    scale = norms.outer(norms)
    matrix, errors = _jackknife(totals, count, lambda averages: averages / scale)
    if gaussian is None:
        return Sampled(matrix, errors, samples, "standard normal pairs")
    return Sampled(matrix, errors, samples, "the Gaussian")


def _drawn(
    gaussian: Gaussian | None, size: int, generator: torch.Generator, count: int
) -> tuple[Float[Tensor, "n i"], ...]:
    """Samples of the Gaussian, or standard normal pairs. Noise of seven digits does for the first:
    what is rounded is which x is drawn, not what is made of it.
    """
    if gaussian is not None:
        width = gaussian.factor.shape[1]
        noise = standard_normal(count, width, generator=generator, dtype=torch.float32)
        spread = gaussian.factor.to(noise.dtype)
        return (gaussian.mean.double() + (noise.to(spread.device) @ spread.mT).double(),)
    return tuple(standard_normal(2, count, size, generator=generator))


def _root_error(gaussian: Gaussian, y: Float[Tensor, " i"]) -> float:
    """‖C Cᵀ y − Σ y‖ / ‖Σ y‖ at y = C z, where no direction is that C leaves out as rounding."""
    spread = gaussian.factor
    image = gaussian.cov.double() @ y
    off = torch.linalg.vector_norm(spread @ (spread.mT @ y) - image)
    return float(off / torch.linalg.vector_norm(image)) if image.any() else 0.0


def _empirical(
    names: Sequence[str], tensors: Sequence[CP], x: Tensor, means: Tensor, centred: bool
) -> Sampled:
    """Cosines on activations. Their own mean output differs from the Gaussian's, as their
    covariance is over n.
    """
    if centred:
        mean = x.to(torch.float64).mean(0, keepdim=True)
        at_mean = torch.stack([_values(tensor.to(torch.float64), mean) for tensor in tensors])
        means = means + (at_mean - means) / len(x)
    totals, count = _totals(tensors, ((part,) for part in x.split(CHUNK)), len(x), means)
    for name, square in zip(names, totals.sum(0).diagonal().tolist(), strict=True):
        # as of cross terms alone where no two inputs are ever on together: no Gaussian has that
        if square <= 0:
            todo = "Leave it out, or pass Gaussian.from_batches of them."
            raise ArgumentError(
                f"layer {name}",
                must="not be zero on the activations",
                got="0 on all of them",
                todo=todo,
            )
    matrix, errors = _jackknife(totals, count, _cosines)
    return Sampled(matrix, errors, len(x), "the activations")


def _totals(
    tensors: Sequence[CP], parts: Iterable[tuple[Tensor, ...]], samples: int, means: Tensor
) -> tuple[Float[Tensor, "b n n"], Int[Tensor, " b"]]:
    """Sums of ``_products`` over runs of samples, which come in ``parts`` of CHUNK, and how many
    each run has.
    """
    runs = torch.arange(samples, device="cpu").tensor_split(min(BLOCKS, samples))
    count = torch.tensor([len(run) for run in runs], device="cpu")
    run = torch.arange(len(count), device="cpu").repeat_interleave(count).to(means.device)
    totals = means.new_zeros(len(count), len(tensors), len(tensors))
    for inputs, of in zip(parts, run.split(CHUNK), strict=True):
        totals.index_add_(0, of, _products(tensors, inputs, means))
    return totals, count


def _products(
    tensors: Sequence[CP], inputs: tuple[Tensor, ...], means: Tensor
) -> Float[Tensor, "s n n"]:
    """⟨T(x) − mean, T'(x) − mean'⟩ at samples x for all pairs of layers; at pairs (x, y),
    ⟨S(x, y), S'(x, y)⟩.
    """
    inputs = tuple(x.to(means.device) for x in inputs)
    values = torch.stack([_values(tensor.to(torch.float64), *inputs) for tensor in tensors])
    flat = (values - means).transpose(0, 1)
    return flat @ flat.mT


def _values(tensor: CP, x: Tensor, y: Tensor | None = None) -> Float[Tensor, "s o"]:
    x = x.to(tensor.dtype)
    return tensor(x) if y is None else 0.5 * (tensor(x, y) + tensor(y, x))


def _cosines(products: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    scale = products.diagonal(dim1=-2, dim2=-1).sqrt()
    return products / (scale[..., :, None] * scale[..., None, :])


def _jackknife(
    totals: Float[Tensor, "b n n"], count: Int[Tensor, " b"], statistic: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """A statistic of the average, and its standard error from leaving out one block of samples at a
    time.
    """
    count = count.to(totals)[:, None, None]
    without = statistic((totals.sum(0) - totals) / (count.sum() - count))
    return statistic(totals.sum(0) / count.sum()), jackknife(without)
