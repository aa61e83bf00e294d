"""An MLP by its hidden units: what circuits hold of a pass, and what is approximated."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from bilens.base.records import Record
from bilens.nn.activations import ACTIVATIONS


class Side(NamedTuple):
    """Hidden features W x + b, linear in what the layer reads."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> "Side":
        return cls(linear.weight, linear.bias)

    @classmethod
    def ones(cls, units: int, like: Float[Tensor, "k d"]) -> "Side":
        """Features that are 1 whatever is read."""
        return cls(like.new_zeros(units, like.shape[1]), like.new_ones(units))

    def beside(self, other: "Side") -> "Side":
        """The features of both."""
        biases = [
            side.weight.new_zeros(len(side.weight)) if side.bias is None else side.bias
            for side in (self, other)
        ]
        biased = self.bias is not None or other.bias is not None
        weight = torch.cat([self.weight, other.weight])
        return Side(weight, torch.cat(biases) if biased else None)


class Routed(NamedTuple):
    """What a layer writes, given its gates: out [gates ∘ ∏ sides], of degree 1 or 2 in what
    it reads.
    """

    out: Float[Tensor, "d k"]
    sides: tuple[Side, ...]
    gates: Float[Tensor, "*b k"]

    def open(self, out: Float[Tensor, "d k"] | Float[Tensor, " d"], *sides: Side) -> "Routed":
        """With further units whose gate is 1."""
        more = out.reshape(len(self.out), -1)
        ones = self.gates.new_ones(*self.gates.shape[:-1], more.shape[1])
        beside = tuple(side.beside(other) for side, other in zip(self.sides, sides, strict=True))
        return Routed(torch.cat([self.out, more], 1), beside, torch.cat([self.gates, ones], -1))


ROWS = 1024  # rows of a weight at a time
WEIGHTS = ("out", "weight", "weight_bias", "up", "up_bias", "bias")


@dataclass(frozen=True, repr=False, eq=False)
class Hidden(Record):
    """An MLP by its hidden units: out [act(W x + b) ⊙ (U x + c)] + bias, without U where it
    is plain.
    """

    act: str
    out: Float[Tensor, "d h"]
    weight: Float[Tensor, "h i"]
    weight_bias: Float[Tensor, " h"] | None
    up: Float[Tensor, "h i"] | None
    up_bias: Float[Tensor, " h"] | None
    bias: Float[Tensor, " d"] | None

    def copied(self) -> "Hidden":
        """The weights as they are now, whatever becomes of the layer."""
        fields = {name: getattr(self, name) for name in WEIGHTS}
        return replace(
            self,
            **{
                name: None if weight is None else weight.detach().clone()
                for name, weight in fields.items()
            },
        )

    def same_as(self, other: "Hidden") -> bool:
        """Whether both have the very same weights, whatever the dtypes that hold them."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in WEIGHTS]
        return self.act == other.act and all(
            one is two if one is None or two is None else _equal(one, two) for one, two in pairs
        )

    @property
    def gated(self) -> bool:
        return self.up is not None

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b h"]:
        """What each unit gives, before ``out``."""
        given = ACTIVATIONS[self.act](linear(x, self.weight, self.weight_bias))
        return given if self.up is None else given * linear(x, self.up, self.up_bias)

    def write(self, units: Float[Tensor, "*b h"]) -> Float[Tensor, "*b d"]:
        """What the layer gives where its units give ``units``."""
        return linear(units, self.out, self.bias)


def _equal(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    pairs = zip(one.split(ROWS), two.detach().to(one.device).split(ROWS), strict=True)
    return all(bool((a.double() == b.double()).all()) for a, b in pairs)
