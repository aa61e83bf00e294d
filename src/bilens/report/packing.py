"""Numbers for a page: as many digits as are meant, and many at once in few bytes."""

import base64
import math
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

PLAIN = 20_000  # numbers, up to which they are written out
STEPS = 32_767  # of a packed number between 0 and the largest


def rounded(value: float, digits: int) -> float | None:
    """``value`` to ``digits`` significant digits; None for what JSON has no number for.

    >>> rounded(1234.5678, 3)
    1230.0
    """
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def packed(rows: Float[Tensor, "n m"]) -> list[list[float | None]] | dict[str, Any]:
    """Rows of numbers, three significant digits each; many of them as ``{"scale": …, "rows":
    [base64 of signed 16-bit numbers, low byte first]}``, each number being such a one times the
    scale.
    """
    if rows.numel() <= PLAIN:
        return [[rounded(value, 3) for value in row] for row in rows.tolist()]
    scale = float(rows.abs().max()) / STEPS or 1.0
    steps = np.rint(rows.double().cpu().numpy() / scale).astype("<i2")
    return {"scale": scale, "rows": [base64.b64encode(row.tobytes()).decode() for row in steps]}
