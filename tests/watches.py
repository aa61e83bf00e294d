"""What runs are watched with: live bytes, the largest array, and how costs grow."""

import math
import weakref
from collections.abc import Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """The most bytes at once in tensors made under the watch: storages by their address, while any
    tensor holds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.bytes, self.peak = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if torch.is_tensor(leaf)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf):
                self.hold(leaf, given)
        return result

    def hold(self, tensor, given) -> None:
        storage = tensor.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        # empty, or a view of what was there before
        if at == 0 or (at in given and at not in self.holders):
            return
        if at not in self.holders:
            self.holders[at] = 0
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self.holders[at] += 1
        weakref.finalize(tensor, self.release, at, size)

    def release(self, at, size) -> None:
        self.holders[at] -= 1
        if not self.holders[at]:
            del self.holders[at]
            self.bytes -= size


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent of growth: least squares through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
