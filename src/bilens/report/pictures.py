"""Vectors over pixels as pictures: a diverging map centred on 0 that colour-blind readers can tell
apart.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb
from torch import Tensor

# ColorBrewer's RdBu: blue is positive, red negative, white zero. Its two arms differ in lightness
# for every reader.
_SCALE = (
    np.array([unlabel_rgb(colour) for colour in sample_colorscale("RdBu", 255)])
    .round()
    .astype(np.uint8)
)


def picture(values: Tensor, shape: tuple[int, ...]) -> str:
    """``values`` as a PNG data URI of ``shape`` pixels; full colour at ± the largest |value|."""
    grid = values.detach().double().cpu().reshape(shape).numpy()
    largest = np.abs(grid).max()
    index = np.rint((grid / largest if largest > 0 else grid) * 127 + 127).astype(int)
    buffer = io.BytesIO()
    Image.fromarray(_SCALE[index]).save(buffer, format="PNG", optimize=True)
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
