"""What a place of a model reads on data, pooled over the checkpoints that are compared: the inner
products of functions are averages over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import standard_normal
from bilens.measure import Gaussian

EPSILONS = (0.0, 0.01, 1.0)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors that are read: their Gaussian, and some of them in order, ``as_read``; to these noise
    of a standard deviation of ``spread`` is added, which the Gaussian has already.
    """

    gaussian: Gaussian
    as_read: Float[Tensor, "n i"]
    spread: float = 0.0

    @property
    def mean(self) -> Float[Tensor, " i"]:
        return self.gaussian.mean

    @property
    def root(self) -> Float[Tensor, "i z"]:
        """C with C Cᵀ = Σ."""
        return self.gaussian.factor

    @cached_property
    def rows(self) -> Float[Tensor, "n i"]:
        """Some of the vectors, with their noise."""
        if self.spread == 0:
            return self.as_read
        generator = torch.Generator().manual_seed(0)
        noise = standard_normal(*self.as_read.shape, generator=generator)
        return self.as_read + self.spread * noise

    def ridge(self, eps: float) -> "Vectors":
        """Some variance in every direction, ``eps`` of the mean one."""
        if eps == 0:
            return self
        spread = float(eps * self.gaussian.cov.diagonal().mean()) ** 0.5
        return Vectors(self.gaussian.ridge(eps), self.as_read, spread)


@dataclass(frozen=True, eq=False)
class Counts:
    """Entries that are read one at a time, as tokens are: what share of the time each is."""

    shares: Float[Tensor, " n"]

    def ridge(self, eps: float) -> "Counts":
        """The second moment of an entry as a vector of 0 and one 1 is diagonal, its shares."""
        return replace(self, shares=self.shares + eps * self.shares.mean())


Read = Vectors | Counts


def measures(read: Read | None) -> Sequence[Read | None]:
    """By what functions of ``read`` are compared: by weights alone, and on data at each ε."""
    return [None] if read is None else [None, *(read.ridge(eps) for eps in EPSILONS)]
