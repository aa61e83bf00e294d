"""What is passed to a forward pass, checked in words; nothing that a model does not know is
skipped.
"""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import working_dtype

IGNORED = -100  # the label that does not count


def require_known(model: nn.Module, unknown: Mapping[str, Any]) -> None:
    """Raise ArgumentError naming the first of the arguments that ``model.forward`` does not know.

    None says nothing, and passes: so do transformers' own helpers.
    """
    for name, value in unknown.items():
        if value is not None:
            known = [*inspect.signature(model.forward).parameters][:-1]
            near = get_close_matches(name, known, 1)
            todo = f"Did you mean {near[0]}?" if near else f"It knows {', '.join(known)}."
            who = f"{type(model).__name__}.forward: {name}"
            raise ArgumentError(
                who, must="be an argument it knows", got="an unknown one", todo=todo
            )


def switch(name: str, given: bool | None, default: bool | None) -> bool:
    """A switch as passed, or as the config has it. Errors: ArgumentError unless true or false."""
    value = default if given is None else given
    if not isinstance(value, bool | None):
        raise ArgumentError(name, must="be true or false", got=repr(value))
    return bool(value)


def whole_numbers(name: str, ids: Tensor, size: int, *also: int) -> Tensor:
    """``ids`` as int64, checked to be 0 … size − 1 or one of ``also``.

    Values are looked at where that costs nothing: elsewhere a check would stall the device.
    Errors: ShapeError for another dtype, ArgumentError for a value out of range.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ShapeError(name, must="be whole numbers", got=ids.dtype)
    ids = ids.long()
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return ids
    counted = ids
    for value in also:
        counted = counted[counted != value]
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if low < 0 or high >= size:
        raise ArgumentError(name, must=f"be 0 … {size - 1}", got=low if low < 0 else high)
    return ids


def cross_entropy(logits: Tensor, labels: Tensor, items: Tensor | float | None = None) -> Tensor:
    """Cross-entropy in nats over the last dim; labels of −100 do not count.

    The mean over labels, or their sum over ``items``: the labels of all batches that one step
    adds up. Half types work in float32, float64 stays.
    """
    scores = logits.flatten(0, -2).to(working_dtype(logits.dtype))
    reduction = "mean" if items is None else "sum"
    loss = nn.functional.cross_entropy(
        scores, labels.flatten(), ignore_index=IGNORED, reduction=reduction
    )
    return loss if items is None else loss / torch.as_tensor(items, device=loss.device)
