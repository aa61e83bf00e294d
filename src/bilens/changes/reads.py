"""What a place of a model reads on data, pooled over the checkpoints that are compared: the inner
products of functions are averages over it.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.measure import Gaussian

EPSILONS = (0.0, 0.01, 1.0)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors that are read: their Gaussian, and some of them as they are, in order."""

    gaussian: Gaussian
    rows: Float[Tensor, "n i"]

    @property
    def mean(self) -> Float[Tensor, " i"]:
        return self.gaussian.mean

    @property
    def root(self) -> Float[Tensor, "i z"]:
        """C with C Cᵀ = Σ."""
        return self.gaussian.factor

    def ridge(self, eps: float) -> "Vectors":
        """Some variance in every direction, ``eps`` of the mean one: noise is added to the rows."""
        if eps == 0:
            return self
        cov = self.gaussian.cov
        spread = float(eps * cov.diagonal().mean()) ** 0.5
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.rows.shape, generator=generator, dtype=torch.float64)
        return Vectors(self.gaussian.ridge(eps), self.rows + spread * noise)


@dataclass(frozen=True, eq=False)
class Counts:
    """Entries that are read one at a time, as tokens are: what share of the time each is."""

    shares: Float[Tensor, " n"]

    def ridge(self, eps: float) -> "Counts":
        """The second moment of an entry as a vector of 0 and one 1 is diagonal, its shares."""
        return replace(self, shares=self.shares + eps * self.shares.mean())


Read = Vectors | Counts
