"""Biases as one more coordinate (the homogeneous one), and back into constant, linear and quadratic
parts.

With x̃ = (1, x), L̃ = [b_L | L], R̃ = [b_R | R] and the output bias c as one more rank-one term c ⊗
e0 ⊗ e0, T̃(x̃, x̃) = D[(L x + b_L) ⊙ (R x + b_R)] + c exactly. The constant coordinate comes first.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.cp import CP
from bilens.algebra.third import require_factors
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.records import Record


def homogeneous(x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b i1"]:
    """x̃ = (1, x): what a layer with biases is a tensor over."""
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)


def homogeneous_map(
    matrix: Float[Tensor, "a i"], bias: Float[Tensor, " a"] | None = None
) -> Float[Tensor, "a1 i1"]:
    """The matrix that takes x̃ = (1, x) to (1, M x + b). A tensor that reads M x + b reads x
    through its transpose:
    ``tensor.map(left=H.mT, right=H.mT)``, as maps are (new, old)."""
    corner = torch.zeros_like(matrix[:1])
    bias = torch.zeros_like(matrix[:, 0]) if bias is None else bias
    return torch.cat(
        [torch.cat([bias.new_ones(1), bias])[:, None], torch.cat([corner, matrix])], dim=1
    )


def affine(
    out: Float[Tensor, "o h"],
    left: Float[Tensor, "h i"],
    right: Float[Tensor, "h j"],
    out_bias: Float[Tensor, " o"] | None = None,
    left_bias: Float[Tensor, " h"] | None = None,
    right_bias: Float[Tensor, " h"] | None = None,
) -> CP:
    """The tensor of out[(left x + left_bias) ⊙ (right x + right_bias)] + out_bias.

    Over x where all biases are None; over x̃ = (1, x) where any is given. The rank grows by one for
    ``out_bias``.
    """
    whole = CP(out, left, right)
    if out_bias is None and left_bias is None and right_bias is None:
        return whole
    for name, bias, size in zip(
        ("out_bias", "left_bias", "right_bias"), (out_bias, left_bias, right_bias), (len(out), len(left), len(right)),
        strict=True,
    ):  # fmt: skip
        if bias is not None:
            require_factors(f"affine({name}=)", bias=(bias, (size,)))
    tensor = CP(out, _with_column(left, left_bias), _with_column(right, right_bias))
    return tensor if out_bias is None else tensor + constant(out_bias, tensor.shape[1])


def constant(value: Float[Tensor, " o"], size: int) -> CP:
    """The constant function ``value`` as a rank-one tensor c ⊗ e0 ⊗ e0 over x̃ of ``size``
    coordinates.
    """
    first = torch.zeros_like(value[:1]).expand(size).clone()[None]
    first[0, 0] = 1
    return CP(value[:, None], first, first)


def linear(matrix: Float[Tensor, "o i"]) -> CP:
    """The linear function M x as a tensor over x̃ = (1, x), of rank min(o, i): Σ_a e_a ⊗ M_a ⊗ e0."""
    o, i = matrix.shape
    wide = o > i  # factor through the smaller side
    out, rows = (matrix, torch.eye(i).to(matrix)) if wide else (torch.eye(o).to(matrix), matrix)
    first = torch.zeros_like(rows[:, :1]).expand(-1, i + 1).clone()
    first[:, 0] = 1
    return CP(out, _with_column(rows, None), first)


@dataclass(frozen=True, repr=False, eq=False)
class Parts(Record):
    """T̃(x̃) = constant + linear @ x + quadratic(x), exactly."""

    constant: Float[Tensor, " o"]
    linear: Float[Tensor, "o i"]
    quadratic: CP

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.constant + x @ self.linear.mT + self.quadratic(x)


def parts(tensor: CP) -> Parts:
    """Split a tensor over x̃ = (1, x) by degree: its blocks (0,0), (0,j)+(j,0) and (i,j). Cost O(o
    h i).
    """
    if not isinstance(tensor, CP):
        raise ArgumentError("parts", must="be given a CP", got=type(tensor).__name__)
    if tensor.shape[1] != tensor.shape[2] or tensor.shape[1] < 2:
        raise ShapeError(
            "parts", must="be given a tensor over (1, x) on both inputs", got=tensor.shape
        )
    left0, left = tensor.left[:, 0], tensor.left[:, 1:]
    right0, right = tensor.right[:, 0], tensor.right[:, 1:]
    slope = left0[:, None] * right + right0[:, None] * left
    return Parts(tensor.out @ (left0 * right0), tensor.out @ slope, CP(tensor.out, left, right))


def _with_column(
    factor: Float[Tensor, "h i"], bias: Float[Tensor, " h"] | None
) -> Float[Tensor, "h i1"]:
    """[b | M], with zeros where there is no bias."""
    column = torch.zeros_like(factor[:, :1]) if bias is None else bias[:, None]
    return torch.cat([column, factor], dim=1)
