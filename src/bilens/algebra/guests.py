"""What torch's own functions give where a ``Factored`` stands in for a matrix."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from bilens.base.errors import OperandError
from bilens.base.numerics import near_one, restored, root


def answered(function: Callable, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """``function`` of a Factored by its own verbs. Errors: OperandError for a function, or options,
    that it has no verb for.
    """
    answer = ANSWERS.get(function)
    name = resolve_name(function) or repr(function)
    todo = "Ask it of F.AB, the product as a tensor."
    if answer is None:
        names = {str(resolve_name(one)) for one in ANSWERS}
        known = ", ".join(sorted(name for name in names if "Tensor" not in name))
        raise OperandError("A function of a Factored", must=f"be of {known}", got=name, todo=todo)
    try:
        signature(answer).bind(*args, **options)
    except TypeError as error:
        must, got = "be asked without further options", (*args[1:], *options)
        raise OperandError(f"{name} of a Factored", must=must, got=got, todo=todo) from error
    return answer(*args, **options)


def _matmul(input: Any, other: Any) -> Any:
    # a tensor's own operator would ask here again
    return other.__rmatmul__(input) if isinstance(input, Tensor) else input @ other


def _mul(input: Any, other: Any) -> Any:
    return other * input if isinstance(input, Tensor) else input * other


def _total(input: Any) -> Tensor:
    near, power = near_one(input.norm())
    return restored("norm", root(near.square().sum()), power, near.dtype)


def _thin_svd(A: Any, *, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    if full_matrices:
        todo = "Only the vectors that can have a value are known: pass full_matrices=False."
        must = "be False"
        raise OperandError("full_matrices of a Factored", must=must, got=True, todo=todo)
    u, s, v = A.svd()
    return u, s, v.mT


ANSWERS: dict[Callable, Callable] = {
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__), _mul),
    **dict.fromkeys((torch.neg, torch.negative), lambda input: -input),
    torch.linalg.norm: _total,
    torch.linalg.matrix_norm: lambda A: A.norm(),
    torch.linalg.svd: _thin_svd,
    torch.linalg.svdvals: lambda A: A.S,
    torch.linalg.eigvals: lambda A: A.eigenvalues,
    torch.svd: lambda input: input.svd(),
    torch.trace: lambda input: input.trace(),
    torch.unsqueeze: lambda input, dim: input.unsqueeze(dim),
    **dict.fromkeys((torch.t, torch.adjoint), lambda input: input.T),
}
