"""The CP form: a bilinear layer's tensor as its own three weight matrices."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.factored import Factored
from bilens.algebra.quadratic import QuadraticForm
from bilens.algebra.third import ThirdOrder, require_factors, require_maps, require_mode
from bilens.base.axes import MODES, Mode
from bilens.base.numerics import scalar, working_dtype


@dataclass(frozen=True, repr=False, eq=False)
class CP(ThirdOrder):
    """T[o, i, j] = Σ_h out[o, h] left[h, i] right[h, j]: three factors, never the cube.

    For an MLP D[(L x) ⊙ (R x)] these are down_proj, gate_proj and up_proj as they lie in the checkpoint. CP is closed
    under every verb here, so it is the one form that layers, feature bases and paths need.

    >>> T = CP(mlp.down_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight)
    >>> torch.testing.assert_close(T(x), mlp(x))
    """

    out: Float[Tensor, "o h"]
    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h j"]

    def __post_init__(self) -> None:
        hidden = self.out.shape[-1] if self.out.ndim else None
        require_factors(
            "CP", out=(self.out, (None, None)), left=(self.left, (hidden, None)), right=(self.right, (hidden, None))
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.out.shape[0], self.left.shape[1], self.right.shape[1]

    @property
    def rank(self) -> int:
        """The number of terms h: an upper bound on the tensor's rank."""
        return self.out.shape[1]

    def _any(self) -> Tensor:
        return self.out

    def _apply(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ self.left.mT) * (y @ self.right.mT)) @ self.out.mT

    def _contract(self, mode: Mode, u: Tensor) -> Factored:
        match mode:
            case "out":
                return Factored(self.left.mT * (u @ self.out)[..., None, :], self.right)
            case "left":
                return Factored(self.out * (u @ self.left.mT)[..., None, :], self.right)
            case "right":
                return Factored(self.out * (u @ self.right.mT)[..., None, :], self.left)

    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        self._require_one_space("interaction")
        self.require_fits("interaction", u, self.shape[0])
        return QuadraticForm(u @ self.out, self.left, self.right)

    def map(self, *, out: Tensor | None = None, left: Tensor | None = None, right: Tensor | None = None) -> "CP":
        require_maps(self, out=out, left=left, right=right)
        return CP(
            self.out if out is None else out @ self.out,
            self.left if left is None else self.left @ left.mT,
            self.right if right is None else self.right @ right.mT,
        )

    def swap(self) -> "CP":
        return CP(self.out, self.right, self.left)

    def _inner(self, other: ThirdOrder) -> Float[Tensor, ""]:
        if not isinstance(other, CP):
            return other._inner(self)
        return (
            (self.out.mT @ other.out) * (self.left @ other.left.mT) * (self.right @ other.right.mT)
        ).sum()  # ⟨T, T'⟩ = Σ_hh' (DᵀD')∘(LL'ᵀ)∘(RR'ᵀ)

    def gram(self, mode: Mode) -> Float[Tensor, "s s"]:
        require_mode(mode)
        work = self.to(working_dtype(self.dtype))
        factors = {"out": work.out.mT, "left": work.left, "right": work.right}
        one, two = (factors[other] for other in MODES if other != mode)
        return factors[mode].mT @ ((one @ one.mT) * (two @ two.mT)) @ factors[mode]

    def _cube(self) -> Tensor:
        return torch.stack([(self.left * row[:, None]).mT @ self.right for row in self.out])

    def _plus(self, other: Any) -> "CP":
        return CP(
            torch.cat([self.out, other.out], dim=1),
            torch.cat([self.left, other.left]),
            torch.cat([self.right, other.right]),
        )

    def __mul__(self, factor: float | int | Tensor) -> "CP":
        return CP(self.out * scalar("CP", factor, self._any()), self.left, self.right)

    def __repr__(self) -> str:
        return super().__repr__().replace(", dtype", f", rank={self.rank}, dtype", 1)
