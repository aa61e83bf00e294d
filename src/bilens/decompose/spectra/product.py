"""Q_u v for many directions u in lock step, each with its own vector: the four GEMMs of all of
them.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm


@dataclass(frozen=True)
class Product:
    """½ [Lᵀ Λ_u (R v) + Rᵀ Λ_u (L v)] with vectors as columns, and [L; R]ᵀ laid out anew: GEMMs
    then read rows as they lie.

    A tenth to a third faster than by rows with 256 directions, half as fast again with 32. Memory:
    2 h i and 4 h n values.
    """

    halves: Float[Tensor, "h n"]  # ½ Λ_u, a column for each direction
    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    across: Float[Tensor, "i 2*h"]

    @classmethod
    def of(cls, form: QuadraticForm) -> "Product":
        """For forms that share their factors: weights (n, h)."""
        across = torch.cat([form.left.mT, form.right.mT], 1)
        return cls(0.5 * form.weights.mT.contiguous(), form.left, form.right, across)

    def __len__(self) -> int:
        return self.halves.shape[1]

    @property
    def size(self) -> int:
        return self.left.shape[1]

    def __matmul__(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n i"]:
        columns, (hidden, _) = x.mT, self.left.shape
        onto = x.new_empty(2 * hidden, len(x))
        for read, half in ((self.right, onto[:hidden]), (self.left, onto[hidden:])):
            torch.mm(read, columns, out=half).mul_(self.halves)
        return (self.across @ onto).mT.contiguous()

    def rows(self, which: Bool[Tensor, " n"] | Int[Tensor, " r"]) -> "Product":
        """Those of some directions."""
        return replace(self, halves=self.halves[:, which])
