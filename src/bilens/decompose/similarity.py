"""How alike layers are: between layers, between checkpoints of one run, between seeds, as a matrix.

A similarity is a cosine under an inner product of the symmetric parts, which are all that acts and
are free of the gauge:

    of weights alone    ⟨S, S'⟩ (``algebra.symmetric``)          all inputs count the same
    on Gaussian data    E⟨T(x), T'(x)⟩, in closed form           ``measure.hermite``
    on activations      the average of ⟨T(x), T'(x)⟩ over them   no Gaussian assumed, but an error

Each closed form is checked by sampling what it averages over: x of the measure, or ⟨S, S'⟩ = E⟨S(x,
y), S'(x, y)⟩ over standard normal x and y.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.charts import mapped, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import (
    is_whole,
    require_finite,
    require_floating,
    require_seed,
    restored,
    root,
    scaled,
)
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS, Result
from bilens.measure import Gaussian, Hermite, jackknife

CHUNK = 1024  # samples at a time
BLOCKS = 64  # of samples, for standard errors: enough to know them to a tenth
# standard errors: one check in two million fails by chance where averages are normal, a few more
# where not yet
FAR = 5.0
WRITTEN = 12  # layers up to which each cell of the figure has its number


@dataclass(frozen=True, repr=False, eq=False)
class Sampled(Record):
    """Similarities estimated from ``count`` samples of ``source``, and their standard errors.

    >>> layers = [bilens.nn.BilinearMLP(8, 16).tensor().detach() for _ in range(2)]
    >>> measure = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> bilens.decompose.similarity(layers, measure).check.count
    4096
    """

    matrix: Float[Tensor, "n n"]
    errors: Float[Tensor, "n n"]
    count: int
    source: str


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
        off = (self.check.matrix - self.matrix).abs()
        return float(torch.where(off <= 1e-10, 0.0, off / self.check.errors).max())

    @property
    def checked(self) -> bool:
        """Whether the Monte Carlo was made and agrees with the closed forms, to 5 s.e. each."""
        return self.check is not None and self.z <= FAR

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
    samples: int = 4096,
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
    the output (see
    ``shares``), all layers with like constants are alike without it.
    ``samples``: of the Monte-Carlo check, reproducible by ``seed``; 0 makes none.

    Work is in float64. Cost for n layers: O(n² h² (o + i)) time in n² / 2 inner products, in blocks
    of hidden units; under a measure, memory of all factors in float64. The check costs O(samples ·
    n · h (o + i)). Errors: ArgumentError for no layers, wrong names, numbers of samples, or a layer
    that is zero (named: also one that the measure sees nothing of); ShapeError for layers or a
    measure that do not fit; NotFiniteError.

    >>> A = bilens.nn.BilinearMLP(8, 16).tensor().detach()
    >>> turned = bilens.CP(A.out, A.right, A.left)  # the inputs exchanged: the same function
    >>> bilens.decompose.similarity([A, turned]).matrix.round(decimals=3)
    tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)
    """
    labels, tensors = _layers(layers, names)
    tensors, powers = zip(*(tensor.near_one(torch.float64) for tensor in tensors), strict=True)
    if not is_whole(samples) or samples < 0 or samples == 1:
        raise ArgumentError(
            "samples", must="be a whole number ≥ 2, or 0 for no check", got=repr(samples)
        )
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
        gaussian, activations, more = _rescaled(gaussian, activations)
        powers = [power + 2 * more for power in powers]
    seen = tensors if gaussian is None else _on(gaussian, tensors)
    parts = _parts(seen)
    inner = parts[..., 1 if centred else 0 :].sum(-1)
    norms = root(inner.diagonal())
    _require_seen(labels, tensors, seen, norms, gaussian)
    own = parts.diagonal().mT
    means = _means(seen) if centred else torch.zeros_like(norms)[:, None, None]
    return Similarities(
        names=labels,
        matrix=(inner / norms.outer(norms)).clamp(-1, 1),
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
        check=_check(tensors, gaussian, means, norms, samples, seed) if samples else None,
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
    if not isinstance(names, Sequence):
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


def _rescaled(gaussian: Gaussian, x: Tensor | None) -> tuple[Gaussian, Tensor | None, int]:
    """The measure, and the activations, of inputs over a power of two, and the power."""
    mean, _, power = gaussian.near_one("cheapest")
    if power == 0:
        return gaussian, x, 0
    near = Gaussian(mean, scaled(gaussian.cov.double(), -2 * power), gaussian.count)
    return near, None if x is None else scaled(x.double(), -power), power


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
    tensors: Sequence[CP],
    gaussian: Gaussian | None,
    means: Tensor,
    norms: Tensor,
    samples: int,
    seed: int,
) -> Sampled:
    """The closed forms by sampling, over the exact norms: an estimate that has no bias."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(_drawn, gaussian, tensors[0].shape[1], generator)
    count = torch.tensor(
        [len(part) for part in torch.arange(samples).tensor_split(min(BLOCKS, samples))]
    )
    totals = torch.stack(
        [_products(tensors, [x.to(norms.device) for x in draw(n)], means) for n in count.tolist()]
    )
    scale = norms.outer(norms)
    matrix, errors = _jackknife(totals, count, lambda averages: averages / scale)
    return Sampled(
        matrix, errors, samples, "standard normal pairs" if gaussian is None else "the Gaussian"
    )


def _drawn(
    gaussian: Gaussian | None, size: int, generator: torch.Generator, count: int
) -> tuple[Float[Tensor, "n i"], ...]:
    """Samples of the Gaussian, or standard normal pairs."""
    if gaussian is not None:
        return (gaussian.sample(count, generator),)
    return tuple(torch.randn((2, count, size), generator=generator, dtype=torch.float64))


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
    parts = x.tensor_split(min(BLOCKS, len(x)))
    totals = torch.stack([_products(tensors, (part,), means) for part in parts])
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
    matrix, errors = _jackknife(totals, torch.tensor([len(part) for part in parts]), _cosines)
    return Sampled(matrix, errors, len(x), "the activations")


def _products(
    tensors: Sequence[CP], inputs: Sequence[Tensor], means: Tensor
) -> Float[Tensor, "n n"]:
    """Σ ⟨T(x) − mean, T'(x) − mean'⟩ over samples x for all pairs of layers; over pairs (x, y),
    ⟨S(x, y), S'(x, y)⟩.
    """
    products = torch.zeros(len(tensors), len(tensors), dtype=torch.float64, device=means.device)
    for part in zip(*(x.split(CHUNK) for x in inputs), strict=True):
        values = torch.stack([_values(tensor.to(torch.float64), *part) for tensor in tensors])
        flat = (values - means).flatten(1)
        products += flat @ flat.mT
    return products


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
