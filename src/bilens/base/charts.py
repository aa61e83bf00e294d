"""One vocabulary of charts: what a colour means is the same in every figure, and every figure says
what it shows, in which unit.

Figures are plain data in plotly's own JSON shape. Blue adds and orange takes away; strengths, which
have no sign, go from white to dark blue; 0 is white. Colours of text and lines are in ``TEMPLATE``,
which reads alike on a light and on a dark page.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bilens.base.words import narrowed, printable

# Okabe and Ito's colours, which colour-blind readers can tell apart; two more for long legends.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
    "#661100", "#6A3D9A",
)  # fmt: skip
POSITIVE, NEGATIVE, NEUTRAL = PALETTE[0], PALETTE[1], "#ffffff"
REFERENCE = "#999999"  # what a curve is held against: the whole model, a random layer, one seed
# the same two colours for what is left over: the remainder, all that is not drawn
LEFT_OVER = {POSITIVE: "rgba(0,114,178,0.45)", NEGATIVE: "rgba(213,94,0,0.45)"}
# Signed values: orange takes away, blue adds, zero is white. As a list of its own, since the names
# of plotly's scales do not run the same way in Python and in the browser.
DIVERGING = [[0, NEGATIVE], [0.5, NEUTRAL], [1, POSITIVE]]
SEQUENTIAL = [[0, NEUTRAL], [0.6, POSITIVE], [1, "#00324e"]]  # strengths
MARKER = 9  # the size of a point that stands alone
DRAWN = 20  # bars of a ranking at most
LABEL = 40  # characters of a label beside a bar; the whole of it is shown on hovering
HIDE_NAME = "<extra></extra>"  # of the trace, which plotly writes beside a hover
BAR, FRAME = 24, 120  # pixels: of a bar, and of what stands around all of them
CELL, LEAST, MOST = 26, 320, 900  # pixels: of a row of a heat map, and its whole height

# as far from white as from black (4.6 : 1), so that one figure serves light and dark pages
INK, GRID, CLEAR = "#757575", "rgba(127,127,127,0.25)", "rgba(0,0,0,0)"
_AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": INK,
    "linecolor": INK,
    "exponentformat": "power",  # 4×10⁻⁵, and no µ or k
    "automargin": True,
    "title": {"standoff": 8},
}
TEMPLATE: dict[str, Any] = {
    "layout": {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0.01, "xanchor": "left", "font": {"size": 15}},
        "margin": {"l": 60, "r": 24, "t": 64, "b": 56},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": [colour for colour in PALETTE if colour != "#000000"],
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "namelength": -1},
        "hovermode": "closest",
        "bargap": 0.25,
    }
}


def titled(title: str, x: str, y: str, **more: Any) -> dict[str, Any]:
    """The layout of a figure that says what it shows and what is on its axes, in which unit.

    ``more``: other parts of the layout; what they say of an axis goes beside its title.
    """
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    for name in axes:
        axes[name] |= more.pop(name, {})
    return {"title": {"text": title}, **axes, **more}


def signed(values: Sequence[float]) -> list[str]:
    """The colour of each value: blue adds, orange takes away."""
    return [NEGATIVE if value < 0 else POSITIVE for value in values]


def hovered(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What a trace says of each of its marks when it is pointed at: a line a column, the name of
    the column before each but that named "".
    """
    lines = [
        f"{_plain(name)}: %{{customdata[{n}]}}" if name else f"%{{customdata[{n}]}}"
        for n, name in enumerate(columns)
    ]
    rows = [[_told(value) for value in row] for row in zip(*columns.values(), strict=True)]
    return {"customdata": rows, "hovertemplate": "<br>".join(lines) + HIDE_NAME}


def ranked(
    labels: Sequence[str],
    values: Sequence[float],
    axis: str,
    title: str,
    *,
    hover: Mapping[str, Sequence[Any]] | None = None,
    rest: tuple[str, float] | None = None,
) -> dict[str, Any]:
    """Bars by rank, the first on top, in the colour of their sign.

    Two may be called the same, and a long label is narrowed to ``LABEL`` characters; the whole of
    it, with ``hover``'s other columns, is shown on hovering. ``rest``: the name and value of what
    is not among them, a paler bar of its own.
    """
    names, sizes = list(labels), list(values)
    colours = signed(sizes)
    more = {name: list(column) for name, column in (hover or {}).items()}
    if rest is not None:
        names.append(rest[0])
        sizes.append(rest[1])
        colours.append(LEFT_OVER[signed(sizes[-1:])[0]])
        more = {name: [*column, None] for name, column in more.items()}
    places = list(range(len(names)))
    bars = {"type": "bar", "orientation": "h", "x": sizes, "y": places}
    bars |= {"marker": {"color": colours}} | hovered({"": names, axis: sizes} | more)
    marks = {"tickvals": places, "ticktext": [narrowed(name, LABEL) for name in names]}
    marks |= {"autorange": "reversed", "automargin": True}
    layout = titled(title, axis, "", yaxis=marks, height=FRAME + BAR * max(len(names), 4))
    return {"data": [bars], "layout": layout}


def heat(
    values: Sequence[Sequence[float | None]],
    across: Sequence[str],
    down: Sequence[str],
    unit: str,
    *,
    strength: bool = False,
    end: float | None = None,
) -> dict[str, Any]:
    """A heat map of signed values, or of strengths, whose scale runs as far as the largest value or
    ``end``. Two rows or columns may be called the same.
    """
    largest = max((abs(cell) for row in values for cell in row if cell is not None), default=0.0)
    end = (largest if end is None else end) or 1.0
    scale = {"colorscale": SEQUENTIAL, "zmin": 0} if strength else {"colorscale": DIVERGING}
    bar = {"title": {"text": unit, "side": "right"}, "exponentformat": "power", "thickness": 14}
    names = [[[one, two] for two in across] for one in down]
    said = f"%{{customdata[0]}} · %{{customdata[1]}}<br>{_plain(unit)}: %{{z:.4~g}}{HIDE_NAME}"
    trace = {
        "type": "heatmap",
        "z": [list(row) for row in values],
        "x": list(range(len(across))),
        "y": list(range(len(down))),
        "zmin": -end,
        "zmax": end,
        "colorbar": bar,
        "customdata": names,
        "hovertemplate": said,
    }
    return trace | scale


def ticks(names: Sequence[str], most: int = 60) -> dict[str, Any]:
    """Names on an axis whose places are 0, 1, 2, …: every one, or evenly spaced ones of many."""
    step = -(-len(names) // most) or 1
    places = list(range(0, len(names), step))
    return {
        "tickvals": places,
        "ticktext": [narrowed(names[n], LABEL) for n in places],
        "showgrid": False,
        "zeroline": False,
    }


def mapped(
    values: Sequence[Sequence[float | None]],
    across: Sequence[str],
    down: Sequence[str],
    unit: str,
    layout: dict[str, Any],
    *,
    strength: bool = False,
    end: float | None = None,
) -> dict[str, Any]:
    """One heat map as a whole figure, the first row on top; ``layout`` as ``titled`` makes it."""
    trace = heat(values, across, down, unit, strength=strength, end=end)
    x = layout["xaxis"] | ticks(across)
    y = layout["yaxis"] | ticks(down) | {"autorange": "reversed"}
    height = min(max(FRAME + CELL * len(down), LEAST), MOST)
    return {"data": [trace], "layout": layout | {"xaxis": x, "yaxis": y, "height": height}}


def _plain(text: str) -> str:
    """A text inside a template, where plotly reads markup and its own marks: letters alone."""
    return escape(printable(text), quote=False).replace("%{", "% {")


def _told(value: Any) -> Any:
    """A value as a hover shows it."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value
