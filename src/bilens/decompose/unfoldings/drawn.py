"""How the singular values of an unfolding are shown."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import INK, curve, logarithmic, titled
from bilens.base.numerics import square_share


def spectrum_line(
    name: str, values: Float[Tensor, " s"], norm: float, dash: str = "solid"
) -> dict[str, Any]:
    """Singular values, largest first, each with what it holds of the norm's square."""
    sizes = values.tolist()
    places = list(range(len(sizes)))
    shares = [square_share(size, norm) for size in sizes]
    hover = {"component": places, "singular value": sizes, "share of ‖T‖²": shares}
    return curve(name, places, sizes, hover=hover, mode="lines", dash=dash)


def spectrum_layout(title: str, kept: Sequence[int]) -> dict[str, Any]:
    """Axes of singular values by component, with a dotted line behind the last that is kept."""
    ends = [
        {
            "type": "line",
            "x0": count - 0.5,
            "x1": count - 0.5,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"dash": "dot", "color": INK},
        }
        for count in kept
    ]
    axis = logarithmic("singular value")
    return titled(title, "component", "singular value", yaxis=axis, shapes=ends)
