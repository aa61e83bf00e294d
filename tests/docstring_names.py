"""What the examples of docstrings take as there already; docs say it where the reference begins."""

from functools import cache
from typing import Any

import torch

import bilens


def names() -> dict[str, Any]:
    """The names, afresh: an example may change what they stand for."""
    torch.manual_seed(0)
    return _names() | {"x": torch.randn(4, 128)}


@cache
def _names() -> dict[str, Any]:
    model = bilens.load("tinystories-2l")
    mlp = model.blocks[0].mlp
    return {
        "bilens": bilens,
        "torch": torch,
        "model": model,
        "mlp": mlp,
        "T": mlp.tensor().detach(),
        "D": bilens.features.Dictionary.load("tinystories-2l/mlp1.input"),
        "prompt": "Once upon a time there was a little",
        "target": (" girl", " boy"),
    }
