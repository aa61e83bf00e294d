"""An MLP by its hidden units: what circuits hold of a pass, and what is approximated."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from bilens.base.records import Record
from bilens.nn.activations import ACTIVATIONS


@dataclass(frozen=True, eq=False)
class Leg:
    """One input of a product: the hidden features W x + b of what is read. ``of``: in a wiring, the
    part whose reading that is, where it is not that of its own part.

    >>> leg = bilens.nn.Leg(torch.eye(2), torch.ones(2))
    >>> leg(torch.zeros(2))
    tensor([1., 1.])
    """

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None = None
    of: str = ""

    def __call__(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        return linear(x, self.weight, self.bias)

    def ones(self, units: int) -> "Leg":
        """As many features of the same input that are 1 whatever is read."""
        like = self.weight
        return Leg(like.new_zeros(units, like.shape[1]), like.new_ones(units), self.of)

    def beside(self, other: "Leg") -> "Leg":
        """The features of both."""
        biases = [
            leg.weight.new_zeros(len(leg.weight)) if leg.bias is None else leg.bias
            for leg in (self, other)
        ]
        biased = self.bias is not None or other.bias is not None
        weight = torch.cat([self.weight, other.weight])
        return Leg(weight, torch.cat(biases) if biased else None, self.of)


class Routed(NamedTuple):
    """What a layer writes, given its gates: out [gates ∘ ∏ legs], of degree 1 or 2 in what
    it reads.

    >>> routed = bilens.nn.Routed(torch.eye(2), (bilens.nn.Leg(torch.eye(2)),), torch.ones(2))
    >>> len(routed.legs)
    1
    """

    out: Float[Tensor, "d k"]
    legs: tuple[Leg, ...]
    gates: Float[Tensor, "*b k"]

    def open(self, out: Float[Tensor, "d m"], *legs: Leg) -> "Routed":
        """With further units whose gate is 1."""
        ones = self.gates.new_ones(*self.gates.shape[:-1], out.shape[1])
        beside = tuple(leg.beside(other) for leg, other in zip(self.legs, legs, strict=True))
        return Routed(torch.cat([self.out, out], 1), beside, torch.cat([self.gates, ones], -1))


@dataclass(frozen=True, repr=False, eq=False)
class Hidden(Record):
    """An MLP by its hidden units: out [act(W x + b) ⊙ (U x + c)] + bias, without U where it
    is plain.

    >>> hidden = bilens.nn.GatedMLP(8, 16).hidden()
    >>> hidden.act, hidden.weight.shape
    ('silu', torch.Size([16, 8]))
    """

    act: str
    out: Float[Tensor, "d h"]
    weight: Float[Tensor, "h i"]
    weight_bias: Float[Tensor, " h"] | None
    up: Float[Tensor, "h i"] | None
    up_bias: Float[Tensor, " h"] | None
    bias: Float[Tensor, " d"] | None

    @property
    def gated(self) -> bool:
        return self.up is not None

    @property
    def legs(self) -> tuple[Leg, ...]:
        """What is given to ``act``, and what is multiplied with it where the layer is gated."""
        first = Leg(self.weight, self.weight_bias)
        return (first,) if self.up is None else (first, Leg(self.up, self.up_bias))

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b h"]:
        """What each unit gives, before ``out``."""
        first, *others = self.legs
        given = ACTIVATIONS[self.act](first(x))
        for leg in others:
            given = given * leg(x)
        return given

    def write(self, units: Float[Tensor, "*b h"]) -> Float[Tensor, "*b d"]:
        """What the layer gives where its units give ``units``."""
        return linear(units, self.out, self.bias)

    def routed(self, x: Float[Tensor, "*b i"]) -> Routed:
        """What it writes where it reads ``x``, given its gates s = (act(a) − act(0)) / a:

            gated   out [s ⊙ a ⊙ b] + act(0) out b + bias
            plain   out [s ⊙ a] + act(0) out 1 + bias

        with a and b the features of its legs. Views of the weights where act(0) = 0 and there is no
        ``bias``.
        """
        act, (first, *others) = ACTIVATIONS[self.act], self.legs
        made = Routed(self.out, self.legs, act.gate(first(x)))
        if act.at_zero:
            made = made.open(act.at_zero * self.out, first.ones(len(first.weight)), *others)
        if self.bias is not None:
            made = made.open(self.bias[:, None], *(leg.ones(1) for leg in self.legs))
        return made

    def same_as(self, other: "Hidden") -> bool:
        """Whether both have the very same weights, whatever the dtypes that hold them."""
        names = ("out", "weight", "weight_bias", "up", "up_bias", "bias")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return self.act == other.act and all(
            one is two if one is None or two is None else _equal(one, two) for one, two in pairs
        )


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((one == two.to(one.device)).all())
