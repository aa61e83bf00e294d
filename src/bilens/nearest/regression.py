"""Least squares on samples that are seen once, by their normal equations."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import nonnegative

BLOCK = 192  # features at a time: their products with all others stay in cache
SMALLEST = 1e-9  # the least ridge: features that repeat one another share their weight


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Σ φ φᵀ, Σ φ yᵀ and Σ ‖y‖² over samples of features φ and targets y: all that least squares
    needs of them. In float64; memory p (p + o) whatever the number of samples.

    >>> phi, y = torch.randn(50, 3).double(), torch.randn(50, 2).double()
    >>> found = bilens.nearest.NormalEquations(phi.T @ phi, phi.T @ y, (y**2).sum())
    >>> found.gram.shape
    torch.Size([3, 3])
    """

    gram: Float[Tensor, "p p"]
    target: Float[Tensor, "p o"]
    square: Float[Tensor, ""]

    @classmethod
    def summed(
        cls,
        samples: Iterable[tuple[Float[Tensor, "_ p"], Float[Tensor, "_ o"]]],
        features: int,
        targets: int,
        device: torch.device,
    ) -> "NormalEquations":
        """Of samples a piece at a time, each of ``features`` and ``targets`` numbers.

        A piece's products are made in its own dtype, and summed over pieces in float64. Cost n p (p
        / 2 + o).
        """
        zero = torch.zeros(features, features + targets, dtype=torch.float64, device=device)
        sums = cls(zero[:, :features], zero[:, features:], zero.new_zeros(()))
        for phi, y in samples:
            for start in range(0, features, BLOCK):  # what is above the diagonal
                own = phi[:, start : start + BLOCK].mT
                sums.gram[start : start + BLOCK, start:].add_(own @ phi[:, start:])
            sums.target.add_(phi.mT @ y)
            sums.square.add_(y.double().square().sum())
        return replace(sums, gram=sums.gram.triu() + sums.gram.triu(1).mT)

    def solved(
        self, ridge: float = SMALLEST, near: Float[Tensor, "p o"] | None = None
    ) -> Float[Tensor, "p o"]:
        """The weights W of least Σ ‖y − Wᵀ φ‖² + ridge Σ_j ‖φ_j‖² ‖W_j − near_j‖², so that
        ``ridge`` is a share of a feature's own square; ``near`` is 0 where it is not given. One
        Cholesky, p³ / 3.
        """
        pull = 0.0 if near is None else ridge * self.gram.diagonal()[:, None] * near
        return solved(self.gram, self.target + pull, ridge)

    def missed(self, weights: Float[Tensor, "p o"]) -> float:
        """Σ ‖y − Wᵀ φ‖² over the samples, as a share of Σ ‖y‖². Cost p² o."""
        fitted = (weights * (self.gram @ weights - 2 * self.target)).sum()
        return nonnegative(float((self.square + fitted) / self.square)) if self.square else 0.0


def solved(
    gram: Float[Tensor, "*b p p"], target: Float[Tensor, "*b p o"], ridge: float = SMALLEST
) -> Float[Tensor, "*b p o"]:
    """Least squares with a ridge, on features of unit length; one that is never on counts for
    nothing.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(squares > 0, squares.sqrt(), torch.ones_like(squares))[..., None]
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(gram / scale / scale.mT + ridge * eye)
    return torch.cholesky_solve(target / scale, factor) / scale
