"""The precision and the modules that a model is explained in."""

import copy
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from bilens.base.errors import ArgumentError
from bilens.base.numerics import working_dtype

M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")
TO_FLOAT = "Ask of model.float()."


def eager(model: M) -> M:
    """``model`` run module by module, so that its hooks are heard.

    It itself; where it or a part of it is compiled, a copy of its modules over the very same
    weights.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in _modules(model))
    return _over(model, lambda tensor: tensor) if compiled else model


def is_half(model: object) -> bool:
    """Whether any weight of ``model`` is in a half type."""
    return any(working_dtype(tensor.dtype) != tensor.dtype for tensor in _tensors(model))


def explained(model: M) -> M:
    """``model`` in the precision that it is explained in: itself, or a float32 copy of one whose
    weights are half types.

    Half-precision weights are exact in float32, so the copy is the very same function, without the
    rounding of each step. Gradients flow back to the half weights. Cost: a float32 copy of the
    weights, twice the memory of the half ones, for as long as the answer is worked out. Where many
    questions follow, ask them of ``model.float()``.
    """
    if not is_half(model):
        return eager(model)
    made = _over(model, _in_full)
    _require_own_weights(model, made)
    return made


def _require_own_weights(model: object, made: object) -> None:
    """Raise ArgumentError where a forward that a person put on a part was not copied: it runs the
    half weights still.
    """
    for module, copied in zip(_modules(model), _modules(made), strict=True):
        bound = vars(module).get("forward")
        if bound is not None and vars(copied).get("forward") is bound:
            who, must = f"the forward of {type(module).__name__}", "be its class's own, or a method"
            got = "a function of the object's own, over half-precision weights"
            raise ArgumentError(who, must=must, got=got, todo=TO_FLOAT)


def explains(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb of a model (its first argument), with one ArgumentError where the float32 copy of a
    half-precision one cannot run: a hook, say, may hold on to the half weights.
    """

    @wraps(verb)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not is_half(args[0] if args else kwargs.get("model")):
                raise
            must = "run over a float32 copy of its half-precision weights"
            raise ArgumentError("the model", must=must, got=error, todo=TO_FLOAT) from error

    return told


def _in_full(tensor: Tensor) -> Tensor:
    """Half types in float32; everything else as it is."""
    return tensor.to(working_dtype(tensor.dtype))


def _over(model: M, change: Callable[[Tensor], Tensor]) -> M:
    """A copy of the modules of ``model``, not compiled, over ``change`` of its weights; what is
    shared stays shared.
    """
    model = getattr(model, "_orig_mod", model)
    memo: dict[int, Any] = {id(tensor): change(tensor) for tensor in _tensors(model)}
    tokenizer = getattr(model, "tokenizer", None)
    try:
        return copy.deepcopy(model, memo | {id(tokenizer): tokenizer})
    except Exception as error:  # of whatever somebody hung on it: a lock, an open file
        who, must = "the model", "be one that can be copied, to be read in float32 and not compiled"
        todo = f"{TO_FLOAT[:-1]}, not compiled."
        raise ArgumentError(who, must=must, got=error, todo=todo) from error


def _modules(model: object) -> Iterator[nn.Module]:
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    return model.modules() if isinstance(model, nn.Module) else iter(())


def _tensors(model: object) -> Iterator[Tensor]:
    if not isinstance(model, nn.Module):
        return iter(())
    return chain(model.parameters(), model.buffers())
