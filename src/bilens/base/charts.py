"""One vocabulary of charts: what a colour means is the same in every figure."""

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, which colour-blind readers can tell apart; two more for long legends.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
    "#661100", "#6A3D9A",
)  # fmt: skip
POSITIVE, NEGATIVE, NEUTRAL = PALETTE[0], PALETTE[1], "#f7f7f7"
REFERENCE = "#999999"  # what a curve is held against: the whole model, a random layer, one seed
# Signed values: orange takes away, blue adds, zero is white. As a list of its own, since the names
# of plotly's scales do not run the same way in Python and in the browser.
DIVERGING = [[0, NEGATIVE], [0.5, NEUTRAL], [1, POSITIVE]]
MARKER = 9  # the size of a point that stands alone


def ranked(labels: Sequence[str], values: Sequence[float], axis: str, title: str) -> dict[str, Any]:
    """A plain figure of values by rank, the first on top, each with its label however long it is;
    two may be called the same.
    """
    places = list(range(len(labels)))
    bars = {"type": "bar", "orientation": "h", "x": list(values), "y": places}
    ticks = {"tickvals": places, "ticktext": list(labels)}
    layout = {
        "title": {"text": title},
        "xaxis": {"title": {"text": axis}},
        "yaxis": ticks | {"autorange": "reversed", "automargin": True},
    }
    return {"data": [bars], "layout": layout}
