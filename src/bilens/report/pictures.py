"""Vectors over pixels as pictures, in the colours of figures: blue is positive, orange negative, 0
white.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from bilens.base.charts import NEGATIVE, NEUTRAL, POSITIVE

STOPS = ("#6a2c00", NEGATIVE, NEUTRAL, POSITIVE, "#00324e")  # dark ends: more steps to tell apart
PLACES = (-1, -0.6, 0, 0.6, 1)  # of the stops, as shares of the largest |value|
STEPS = 127  # of colour, to each side of white
_STOPS = np.array([[int(stop[n : n + 2], 16) for n in (1, 3, 5)] for stop in STOPS])
_SCALE = np.stack(
    [np.interp(np.arange(-STEPS, STEPS + 1) / STEPS, PLACES, part) for part in _STOPS.T], 1
)


def picture(values: Tensor, shape: tuple[int, ...]) -> str:
    """``values`` as a PNG data URI of ``shape`` pixels; full colour at ± the largest |value|."""
    grid = values.detach().double().cpu().reshape(shape).numpy()
    largest = np.abs(grid).max()
    index = np.rint((grid / largest if largest > 0 else grid) * STEPS + STEPS).astype(int)
    buffer = io.BytesIO()
    Image.fromarray(_SCALE[index].round().astype(np.uint8)).save(
        buffer, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def shown(vector: Tensor, shape: Sequence[int], what: str, caption: str) -> dict[str, str]:
    """A vector over pixels, or over (1, pixels), as a picture with its words."""
    size = math.prod(shape)
    if len(vector) > size:
        caption += f", constant {vector[0]:.2g}"
    return {
        "src": picture(vector[-size:], tuple(shape)),
        "alt": f"{what}, {caption}",
        "caption": caption,
    }
