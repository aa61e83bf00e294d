"""Biases as one more coordinate, the homogeneous one. ``CP.split`` takes it apart again by degree.

With x̃ = (1, x), L̃ = [b_L | L], R̃ = [b_R | R] and the output bias c as one more rank-one term c ⊗
e0 ⊗ e0, T̃(x̃, x̃) = D[(L x + b_L) ⊙ (R x + b_R)] + c exactly. The constant coordinate comes first,
and a tensor over x̃ knows it: ``T.affine``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.cp import CP
from bilens.algebra.third import require_factors


def homogeneous_map(
    matrix: Float[Tensor, "a i"], bias: Float[Tensor, " a"] | None = None
) -> Float[Tensor, "a1 i1"]:
    """The matrix that takes x̃ = (1, x) to (1, M x + b). A tensor that reads M x + b reads x
    through its transpose:
    ``tensor.map(left=H.mT, right=H.mT)``, as maps are (new, old).

    >>> H = bilens.algebra.homogeneous_map(torch.eye(2), torch.tensor([5.0, 6.0]))
    >>> H @ bilens.homogeneous(torch.zeros(2))
    tensor([1., 5., 6.])
    """
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

    >>> D, L, R = torch.ones(2, 3), torch.ones(3, 4), torch.ones(3, 4)
    >>> A = bilens.algebra.affine(D, L, R, left_bias=torch.ones(3))
    >>> A.shape, A(A.read(torch.ones(4)))
    ((2, 5, 5), tensor([60., 60.]))
    """
    whole = CP(out, left, right)
    if out_bias is None and left_bias is None and right_bias is None:
        return whole
    biases = {
        "out_bias": (out_bias, len(out)),
        "left_bias": (left_bias, len(left)),
        "right_bias": (right_bias, len(right)),
    }
    for name, (bias, size) in biases.items():
        if bias is not None:
            require_factors(f"affine({name}=)", bias=(bias, (size,)))
    tensor = CP(out, lifted(left, left_bias), lifted(right, right_bias), affine=True)
    return tensor if out_bias is None else tensor + constant(out_bias, tensor.shape[1])


def constant(value: Float[Tensor, " o"], size: int) -> CP:
    """The constant function ``value`` as a rank-one tensor c ⊗ e0 ⊗ e0 over x̃ of ``size``
    coordinates.

    >>> c = bilens.algebra.constant(torch.tensor([3.0, 4.0]), 5)
    >>> c(c.read(torch.randn(4)))
    tensor([3., 4.])
    """
    first = torch.zeros_like(value[:1]).expand(size).clone()[None]
    first[0, 0] = 1
    return CP(value[:, None], first, first, affine=True)


def linear(matrix: Float[Tensor, "o i"]) -> CP:
    """The linear function M x as a tensor over x̃ = (1, x), of rank min(o, i).

    It is Σ_a e_a ⊗ M_a ⊗ e0.

    >>> M = bilens.algebra.linear(torch.tensor([[1.0, 2.0]]))
    >>> M(M.read(torch.tensor([3.0, 4.0])))
    tensor([11.])
    """
    o, i = matrix.shape
    wide = o > i  # factor through the smaller side
    out, rows = (
        (matrix, torch.eye(i, dtype=matrix.dtype, device=matrix.device))
        if wide
        else (torch.eye(o, dtype=matrix.dtype, device=matrix.device), matrix)
    )
    first = torch.zeros_like(rows[:, :1]).expand(-1, i + 1).clone()
    first[:, 0] = 1
    return CP(out, lifted(rows), first, affine=True)


def lifted(
    factor: Float[Tensor, "h i"], bias: Float[Tensor, " h"] | None = None
) -> Float[Tensor, "h i1"]:
    """[b | M]: a factor over x as one over (1, x), with zeros where there is no bias.

    >>> bilens.algebra.lifted(torch.eye(2), torch.tensor([5.0, 6.0]))
    tensor([[5., 1., 0.],
            [6., 0., 1.]])
    """
    column = torch.zeros_like(factor[:, :1]) if bias is None else bias[:, None]
    return torch.cat([column, factor], dim=1)
