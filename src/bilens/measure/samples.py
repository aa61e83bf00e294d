"""Samples as a measure: averages of layers over activations, with their standard errors.

What stands beside a closed form under a Gaussian; no distribution is assumed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import ThirdOrder, require_constant
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import near_one, require_finite, require_floating, restored, root
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class Estimate(Record):
    """An average over ``count`` samples and its standard error, which takes the samples to be
    independent.

    >>> samples = bilens.measure.Samples(x)
    >>> bilens.measure.Estimate(torch.tensor(1.0), torch.tensor(0.1), 100).count
    100
    """

    value: Float[Tensor, ""]
    error: Float[Tensor, ""]
    count: int

    def __repr__(self) -> str:
        return f"Estimate({float(self.value):.6g} ± {float(self.error):.2g}, count={self.count:,})"


@dataclass(frozen=True, repr=False, eq=False)
class Samples(Record):
    """Activations, a row each, as what inputs are: every average is over them.

    Tokens of one text are not independent: standard errors are then too small. Errors: ShapeError
    for fewer than two rows; NotFiniteError.

    >>> bilens.measure.Samples(x).x.shape
    torch.Size([4, 128])
    """

    x: Float[Tensor, "n i"]

    def __post_init__(self) -> None:
        if not isinstance(self.x, Tensor):
            got = type(self.x).__name__
            raise ShapeError("activations", must="be a torch tensor", got=got)
        if self.x.ndim != 2 or len(self.x) < 2:
            raise ShapeError("activations", must="be (n, i) with n ≥ 2", got=tuple(self.x.shape))
        require_floating("activations", self.x.dtype)
        if not self.x.is_meta:
            require_finite("", activations=self.x)

    @property
    def count(self) -> int:
        return len(self.x)

    def of(self, tensor: ThirdOrder) -> "OnSamples":
        """``tensor`` as a function on these inputs. Errors: ArgumentError; ShapeError."""
        return OnSamples(tensor, self)

    def __repr__(self) -> str:
        return f"Samples(count={self.count:,}, size={self.x.shape[1]})"


@dataclass(frozen=True, repr=False, eq=False)
class OnSamples(Record):
    """T(x) on samples of x, made by ``Samples(x).of(T)``: T's verbs, as averages over the samples.

    In float64, without gradients. ``centred`` takes the mean output off. Cost n · h (o + 2 i) for a
    CP; memory n (h + o). Errors: NotFiniteError; RangeError.

    >>> f = bilens.measure.Samples(x).of(T)
    >>> f.norm() is not None
    True
    """

    tensor: ThirdOrder
    samples: Samples

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, ThirdOrder):
            got = type(self.tensor).__name__
            raise ArgumentError("Samples.of", must="be given a tensor", got=got)
        self.tensor.require_one_space("Samples.of")
        size = self.tensor.shape[1]
        fits = (size - 1, size) if self.tensor.affine else (size,)
        if self.samples.x.shape[1] not in fits:
            must = f"end in {fits[0]} (T is {self.tensor.shape})"
            raise ShapeError("activations", must=must, got=tuple(self.samples.x.shape))
        if self.tensor.affine and self.samples.x.shape[1] == size:
            require_constant("activations", self.samples.x[:, 0])

    @torch.no_grad()
    def inner(self, other: "OnSamples", *, centred: bool = False) -> Estimate:
        """⟨T(x), S(x)⟩ averaged over the samples, or tr Cov(T(x), S(x)) where ``centred``."""
        self._require_like("inner", other)
        (one, power), (two, more) = self._values(centred), other._values(centred)
        products = (one * two).sum(-1)
        count = self.samples.count
        average = products.sum() / (count - centred)
        figures = torch.stack([average, products.std() / count**0.5])
        found = restored("inner", figures, power + more, torch.float64)
        return Estimate(found[0], found[1], count)

    @torch.no_grad()
    def norm(self, *, centred: bool = False) -> Float[Tensor, ""]:
        """The root of the average of ‖T(x)‖², or of the summed variances where ``centred``."""
        values, power = self._values(centred)
        square = values.square().sum() / (self.samples.count - centred)
        return restored("norm", root(square), power, torch.float64)

    @torch.no_grad()
    def similarity(self, other: "OnSamples", *, centred: bool = False) -> Float[Tensor, ""]:
        """The average of ⟨T(x), S(x)⟩ over both norms, in [-1, 1].

        Errors: ArgumentError where one of the two is zero on all samples.
        """
        self._require_like("similarity", other)
        (one, _), (two, _) = self._values(centred), other._values(centred)
        lengths = [root(values.square().sum()) for values in (one, two)]
        if not all(float(length) > 0 for length in lengths):
            must = "compare two tensors that are not zero on the samples"
            raise ArgumentError("similarity", must=must, got="a norm of 0")
        return ((one * two).sum() / lengths[0] / lengths[1]).clamp(-1, 1)

    def _values(self, centred: bool) -> tuple[Float[Tensor, "n o"], int]:
        """T(x) over a power of two, and the power."""
        require_finite("Samples.of", **self.tensor.factors())
        form, power = self.tensor.to(torch.float64).near_one()
        x = form.read(self.samples.x.to(form.device, torch.float64))
        inputs, more = near_one(x)
        values, last = near_one(form(inputs))
        values = values - values.mean(0) if centred else values
        return values, power + 2 * more + last

    def _require_like(self, who: str, other: object) -> None:
        if not isinstance(other, OnSamples):
            got, todo = type(other).__name__, "Pass Samples(x).of(T)."
            raise ArgumentError(who, must="join two tensors on samples", got=got, todo=todo)
        self.tensor.require_like(who, other.tensor, ThirdOrder)
        one, two = self.samples.x, other.samples.x
        if one is not two and not torch.equal(one, two):
            raise ArgumentError(who, must="join two tensors on the same samples", got="others")

    def __repr__(self) -> str:
        return f"OnSamples({self.tensor!r}, {self.samples!r})"


def jackknife(without: Float[Tensor, "b *n"]) -> Float[Tensor, "*n"]:
    """The standard error of a statistic, from what it is without each of b blocks of samples.

    Infinite where it is NaN without one of them: what is nothing on all others says nothing of how
    blocks differ. So it is of fewer than two blocks.

    >>> bilens.measure.jackknife(torch.tensor([1.0, 2.0, 3.0]))
    tensor(1.1547)
    """
    if len(without) < 2:
        return torch.full_like(without.sum(0), torch.inf)
    spread = (without - without.mean(0)).square().mean(0) * (len(without) - 1)
    return spread.sqrt().nan_to_num(nan=torch.inf)
