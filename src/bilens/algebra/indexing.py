"""An index of a matrix with leading dims, taken apart: what is for those, for rows and for
columns.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilens.base.errors import IndexingError
from bilens.base.numerics import as_given, is_whole

ALL = slice(None)
MASKS = (torch.bool, torch.uint8)  # torch still takes bytes for a mask, with a warning of its own


class Index(NamedTuple):
    """``lead`` as torch takes it; ``rows`` and ``columns`` a slice, or a vector of numbers or of
    yes and no.
    """

    lead: tuple[Any, ...]
    rows: slice | Tensor
    columns: slice | Tensor


def split_index(index: object, shape: tuple[int, ...]) -> Index:
    """``index`` of a matrix (..., l, r) by what it is for: ints, slices, None, one ellipsis, and
    tensors, arrays or sequences of ints or booleans.

    An int for a row or a column keeps a dim of size 1. Errors: IndexingError.
    """
    items = [_settled(item) for item in (index if isinstance(index, tuple) else (index,))]
    lead: list[Any] = []
    lines: list[Any] = []
    leading, axis = len(shape) - 2, 0
    for item in _spelled_out(items, shape):
        before = axis < leading or (axis == leading and _axes(item) == 0)
        (lead if before else lines).append(item)
        axis += _axes(item)
        if (before and axis > leading) or (not before and _axes(item) != 1):
            must = "index rows and columns one by one, and add dims before them alone"
            raise IndexingError("Factored[index]", must=must, got=_told(item))
    rows, columns = map(_line, lines, shape[-2:])
    return Index(tuple(lead), rows, columns)


def _settled(item: Any) -> Any:
    """An entry of an index as None, an ellipsis, a slice, an int or a tensor."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if is_whole(item):
        return int(item)
    try:
        tensor = as_given(item)
    except (TypeError, ValueError, RuntimeError) as error:
        raise IndexingError("Factored[index]", must=_KINDS, got=repr(item)) from error
    if tensor.numel() == 0 and not isinstance(item, Tensor):
        return tensor.long()  # torch reads [] as floats
    if tensor.is_floating_point() or tensor.is_complex():
        raise IndexingError("Factored[index]", must=_KINDS, got=_told(tensor))
    return int(tensor) if tensor.ndim == 0 and tensor.dtype not in MASKS else tensor


_KINDS = "be made of ints, slices, None, one ellipsis, and tensors or lists of ints or booleans"


def _spelled_out(items: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The entries with the ellipsis, or what is missing at the end, written out as whole slices."""
    dots = [n for n, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexingError("Factored[index]", must=_KINDS, got=f"{len(dots)} ellipses")
    missing = len(shape) - sum(_axes(item) for item in items)
    if missing < 0:
        got = f"too long an index, for {len(shape) - missing}"
        raise IndexingError("Factored[index]", must=f"be for {len(shape)} dims", got=got)
    at = dots[0] if dots else len(items)
    return [*items[:at], *[ALL] * missing, *items[at + 1 :]]


def _axes(item: Any) -> int:
    """How many dims an entry of an index is for."""
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype in MASKS else 1


def _line(item: Any, size: int) -> slice | Tensor:
    """Which rows, or columns, of ``size``."""
    if isinstance(item, Tensor) and item.ndim != 1:
        must = "index rows and columns by vectors"
        raise IndexingError("Factored[index]", must=must, got=_told(item))
    if not isinstance(item, int):
        return item
    if not -size <= item < size:
        must = f"name one of {size} rows or columns"
        raise IndexingError("Factored[index]", must=must, got=item)
    return slice(item % size, item % size + 1)


def _told(item: Any) -> str:
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')} {tuple(item.shape)}"
    return repr(item)
