"""What the examples of docstrings take as there already: what the reference begins with."""

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import torch

GIVEN = Path(__file__).parents[1] / "docs" / "extension" / "given.py"


def names() -> dict[str, Any]:
    """The names, afresh: an example may change what they stand for."""
    torch.manual_seed(0)
    return _names() | {"x": torch.randn(4, 128)}


@cache
def _names() -> dict[str, Any]:
    return runpy.run_path(str(GIVEN))
