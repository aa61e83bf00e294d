"""One vocabulary of charts: what a colour means is the same in every figure, and every figure says
what it shows, in which unit.

Figures are plain data in plotly's own JSON shape. Blue adds and orange takes away; strengths, which
have no sign, go from white to dark blue; 0 is white. Colours of text and lines are in ``TEMPLATE``,
which reads alike on a light and on a dark page.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, TypedDict, Unpack

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
FEW = 12  # places up to which each has a tick
MARKER = 9  # the size of a point that stands alone
DRAWN = 20  # bars of a ranking at most
LABEL = 34  # characters of a label beside a bar; the whole of it is shown on hovering
HIDE_NAME = "<extra></extra>"  # of the trace, which plotly writes beside a hover
BAR, FRAME = 24, 132  # pixels: of a bar, and of what stands around all of them
WIDE, TILE, TICKS = 4, 220, 24  # tiles side by side, pixels of one, and names on its axes
TOGETHER, APART = (0.07, 0.2), (0.3, 0.4)  # of a tile, left free: names stand once, or beside all
ACROSS = 30  # names under a heat map
CELL, LEAST, MOST = 26, 320, 900  # pixels: of a row of a heat map, and its whole height
FORMATS, PAPER = (".svg", ".pdf", ".png"), 5.5  # for a paper, and the inches of a page's text

# as far from white as from black (4.6 : 1), so that one figure serves light and dark pages
INK, GRID, CLEAR = "#757575", "rgba(127,127,127,0.25)", "rgba(0,0,0,0)"
# lines that are told apart, none in the colour that takes away until there are many
LINES = [PALETTE[n] for n in (0, 2, 3, 4, 5, 9, 8, 7, 1)]
_AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": INK,
    "linecolor": INK,
    "exponentformat": "power",  # 4×10⁻⁵, and no µ or k
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
}
TEMPLATE: dict[str, Any] = {
    "layout": {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0.01, "xanchor": "left", "yref": "container", "y": 1, "yanchor": "top"}
        | {"pad": {"t": 18}, "font": {"size": 15}},
        "margin": {"l": 60, "r": 24, "t": 76, "b": 56},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": LINES,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "namelength": -1},
        "hovermode": "closest",
        "bargap": 0.25,
    }
}
# a legend under the axis, for one of several lines or where something else stands over the plot
BELOW = {
    "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    "margin": {"b": 104},
}


class Layout(TypedDict, total=False):
    """Parts of a layout beside its titles; what they say of an axis goes beside its title."""

    xaxis: Mapping[str, Any]
    yaxis: Mapping[str, Any]
    height: int
    shapes: Sequence[Mapping[str, Any]]
    barmode: str
    bargap: float
    showlegend: bool


class Line(TypedDict, total=False):
    """How a line is drawn."""

    color: str
    dash: str
    width: float


def titled(title: str, x: str, y: str, **more: Unpack[Layout]) -> dict[str, Any]:
    """The layout of a figure that says what it shows and what is on its axes, in which unit."""
    xaxis = {"title": {"text": x}, **more.pop("xaxis", {})}
    yaxis = {"title": {"text": y}, **more.pop("yaxis", {})}
    return {"title": {"text": title}, "xaxis": xaxis, "yaxis": yaxis, **more}


def in_unit(axis: str, unit: str) -> str:
    """What is on an axis with its unit, where that is known.

    >>> in_unit("what it adds", "logits"), in_unit("what it adds", "")
    ('what it adds (logits)', 'what it adds')
    """
    return f"{axis} ({unit})" if unit else axis


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
    rest: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Bars by rank, the first on top, in the colour of their sign.

    Two may be called the same, and a long label is narrowed to ``LABEL`` characters; the whole of
    it, with ``hover``'s other columns, is shown on hovering. ``rest``: what is
    not among them by name, a paler bar each.
    """
    names, sizes = list(labels), list(values)
    colours = signed(sizes)
    more = {name: list(column) for name, column in (hover or {}).items()}
    for name, size in (rest or {}).items():
        names.append(name)
        sizes.append(size)
        colours.append(LEFT_OVER[signed([size])[0]])
        more = {key: [*column, None] for key, column in more.items()}
    places = list(range(len(names)))
    bars = {"type": "bar", "orientation": "h", "x": sizes, "y": places}
    bars |= {"marker": {"color": colours}} | hovered({"": names, axis: sizes} | more)
    marks = {"tickvals": places, "ticktext": [narrowed(name, LABEL) for name in names]}
    marks |= {"autorange": "reversed", "automargin": True, "tickfont": {"size": 11}}
    layout = titled(title, axis, "", yaxis=marks, height=FRAME + BAR * max(len(names), 4))
    return {"data": [bars], "layout": layout}


def curve(
    name: str,
    x: Sequence[float | int | str],
    y: Sequence[float | int],
    *,
    hover: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "lines+markers",
    **line: Unpack[Line],
) -> dict[str, Any]:
    """A line through points, or the points alone (``mode`` "markers")."""
    said: dict[str, Sequence[Any]] = {"": [name] * len(x)} if name else {}
    said |= hover or {"x": list(x), "y": list(y)}
    trace = {"type": "scatter", "mode": mode, "name": name, "x": list(x), "y": list(y)}
    return trace | ({"line": line} if line else {}) | hovered(said)


def counted(count: int) -> dict[str, Any]:
    """What an axis of 0, 1, 2, … says beside its title: no halves between few."""
    return {"dtick": 1} if count <= FEW else {}


def logarithmic(title: str) -> dict[str, Any]:
    """An axis of powers of ten."""
    return {"title": {"text": title}, "type": "log", "exponentformat": "power"}


def heat(
    values: Sequence[Sequence[float | None]],
    across: Sequence[str],
    down: Sequence[str],
    unit: str,
    *,
    strength: bool = False,
    end: float | None = None,
    texts: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """A heat map of signed values, or of strengths, whose scale runs as far as the largest value or
    ``end``; ``texts`` are written into the cells. Two rows or columns may be called the same.
    """
    largest = max((abs(cell) for row in values for cell in row if cell is not None), default=0.0)
    end = (largest if end is None else end) or 1.0
    scale = {"colorscale": SEQUENTIAL, "zmin": 0} if strength else {"colorscale": DIVERGING}
    bar = {
        "title": {"text": unit, "side": "right", "font": {"size": 13}},
        "exponentformat": "power",
        "thickness": 14,
    }
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
    if texts is not None:
        trace |= {"text": [list(row) for row in texts], "texttemplate": "%{text}"}
    return trace | scale


def ticks(names: Sequence[str], most: int = 60) -> dict[str, Any]:
    """Names on an axis whose places are 0, 1, 2, …: every one, or evenly spaced ones of many."""
    step = -(-len(names) // most) or 1
    places = list(range(0, len(names), step))
    return {
        "tickvals": places,
        "ticktext": [narrowed(names[n], LABEL) for n in places],
        "tickfont": {"size": 11},
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
    texts: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """One heat map as a whole figure, the first row on top; ``layout`` as ``titled`` makes it."""
    trace = heat(values, across, down, unit, strength=strength, end=end, texts=texts)
    x = layout["xaxis"] | ticks(across, ACROSS)
    y = layout["yaxis"] | ticks(down) | {"autorange": "reversed"}
    height = min(max(FRAME + CELL * len(down), LEAST), MOST)
    return {"data": [trace], "layout": layout | {"xaxis": x, "yaxis": y, "height": height}}


class Tile(NamedTuple):
    """One heat map among several: what it is of, its values, and the names of columns and rows."""

    name: str
    values: Sequence[Sequence[float | None]]
    across: Sequence[str]
    down: Sequence[str]


def tiled(
    tiles: Sequence[Tile], unit: str, layout: dict[str, Any], *, strength: bool = False
) -> dict[str, Any]:
    """Heat maps side by side in one scale of colours, each under its name; ``layout`` as ``titled``
    makes it. Names and titles of axes stand once where all tiles have the same.
    """
    same = len({(tuple(tile.across), tuple(tile.down)) for tile in tiles}) <= 1
    grid = _Grid(len(tiles), WIDE if same else 2, TOGETHER if same else APART)
    cells = [abs(cell) for tile in tiles for row in tile.values for cell in row if cell is not None]
    end = max(cells, default=0.0)
    traces: list[dict[str, Any]] = []
    made = {key: value for key, value in layout.items() if key not in ("xaxis", "yaxis")}
    heads = []
    for n, tile in enumerate(tiles):
        axis = str(n + 1) if n else ""
        trace = heat(tile.values, tile.across, tile.down, unit, strength=strength, end=end)
        traces.append(trace | {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "showscale": n == 0})
        wide, high = grid.span(n)
        across = {"domain": wide, "anchor": f"y{axis}"} | ticks(tile.across, TICKS)
        down = {"domain": high, "anchor": f"x{axis}", "autorange": "reversed"}
        down |= ticks(tile.down, TICKS)
        across["showticklabels"] = grid.lowest(n) or not same
        down["showticklabels"] = grid.leftmost(n) or not same
        made[f"xaxis{axis}"] = (layout["xaxis"] if grid.middle_below(n) else {}) | across
        made[f"yaxis{axis}"] = (layout["yaxis"] if grid.middle_left(n) else {}) | down
        heads.append(_heading(tile.name, sum(wide) / 2, high[1]))
    return {"data": traces, "layout": made | {"annotations": heads, "height": grid.height}}


class _Grid:
    """Where each of ``count`` tiles stands, at most ``most`` side by side with ``air`` between."""

    def __init__(self, count: int, most: int, air: tuple[float, float]) -> None:
        self.count, self.air = count, air
        self.columns = max(min(count, most), 1)
        self.lines = max(-(-count // self.columns), 1)
        self.height = FRAME + 20 + self.lines * (TILE if self.columns > 2 else 2 * TILE - 80)

    def span(self, n: int) -> tuple[list[float], list[float]]:
        """From where to where it goes, across and up, as shares of the whole."""
        line, column = divmod(n, self.columns)
        left, right = _share(column, self.columns, self.air[0])
        top, bottom = _share(line, self.lines, self.air[1])
        return [left, right], [1 - bottom, 1 - top]

    def leftmost(self, n: int) -> bool:
        return n % self.columns == 0

    def lowest(self, n: int) -> bool:
        """Whether nothing stands below it."""
        return n + self.columns >= self.count

    def middle_left(self, n: int) -> bool:
        return n == (self.lines - 1) // 2 * self.columns

    def middle_below(self, n: int) -> bool:
        last = (self.lines - 1) * self.columns
        return n == last + (self.count - last - 1) // 2


def _share(n: int, count: int, air: float) -> tuple[float, float]:
    """From where to where the n-th of ``count`` goes, ``air`` of one left free between two."""
    size = 1 / (count + air * (count - 1))
    start = n * size * (1 + air)
    return start, start + size


def _heading(text: str, x: float, y: float) -> dict[str, Any]:
    place = {"x": x, "y": y, "xref": "paper", "yref": "paper"}
    return {"text": text, "showarrow": False, "xanchor": "center", "yanchor": "bottom"} | place


def _plain(text: str) -> str:
    """A text inside a template, where plotly reads markup and its own marks: letters alone."""
    return escape(printable(text), quote=False).replace("%{", "% {")


def _told(value: Any) -> Any:
    """A value as a hover shows it."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value
