"""A result's figure as vector graphics for a paper: SVG or PDF, by matplotlib, without a browser.

Figures are plain data in plotly's shape (``Result.figure``), of a few kinds of traces and parts of
a layout. Each is drawn here; what is none of them is refused by name, so that nothing is left out
unseen. What only a screen has (hovering, margins) is passed over.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilens.base.charts import FORMATS, LINES, PAPER
from bilens.base.errors import ArgumentError
from bilens.base.files import atomic_write
from bilens.base.results import Drawn
from bilens.base.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 700  # across, in which heights of layouts are meant
HEIGHT = 450  # pixels, where a layout does not say
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
MARKERS = {
    "circle": "o", "circle-open": "o", "diamond": "D", "diamond-open": "D", "line-ew-open": "_",
    "line-ns-open": "|",
}  # fmt: skip
SCREEN = {"margin", "legend", "height", "template", "hovermode", "bargap", "showlegend"}
LAYOUT = {"title", "shapes", "annotations", "barmode", *SCREEN}
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "axes.formatter.use_mathtext": True,
    "pdf.fonttype": 42,  # TrueType: text that can be searched
    "svg.hashsalt": "bilens",  # the same file from the same figure
}
Trace = dict[str, Any]


def write_figure(
    result: Drawn,
    path: str | Path,
    *,
    width: float = PAPER,
    height: float | None = None,
    title: bool = True,
) -> Path:
    """Draw ``result`` into ``path``, a .svg, .pdf or .png by its ending, and give the path.

    ``width`` and ``height`` in inches; without a height that of the screen's figure. ``title``:
    whether it stands in the figure, or is left to the caption. Letters that the font lacks are
    written as their code. Errors: ArgumentError for another ending or size, or a figure with a part
    that is not drawn here, or without matplotlib.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ArgumentError("path", must=f"end in {', '.join(FORMATS)}", got=path.name)
    for name, size in (("width", width), ("height", height)):
        if size is not None and not 0 < size < 100:
            raise ArgumentError(name, must="be inches, above 0 and below 100", got=size)
    _require_matplotlib()
    import matplotlib

    described = result.figure()
    with matplotlib.rc_context(RC):
        figure = _drawn(described, width, height, title)
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
        drawing = io.BytesIO()  # no writer of a format meets a full disk
        with _with_room():
            figure.savefig(
                drawing, format=path.suffix[1:], bbox_inches="tight", metadata=metadata, dpi=300
            )
    with atomic_write(path) as temporary:
        temporary.write_bytes(drawing.getvalue())
    return path


@contextmanager
def _with_room() -> Iterator[None]:
    """An ArgumentError where the letters leave the axes no room, of which matplotlib warns and then
    draws over itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "constrained_layout not applied")
        try:
            yield
        except UserWarning as error:
            must = "leave room for the axes beside the letters"
            todo = "Ask for more inches."
            who = "the figure's width and height"
            raise ArgumentError(who, must=must, got="too few inches", todo=todo) from error


def _require_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        todo = "pip install 'bilens[figure]'"
        must = "have matplotlib, which draws it"
        raise ArgumentError("a figure for a paper", must=must, got="none", todo=todo)


def _drawn(described: dict[str, Any], width: float, height: float | None, title: bool) -> "Figure":
    from matplotlib.figure import Figure

    layout = described["layout"]
    _require_known(described)
    size = width * layout.get("height", HEIGHT) / PIXELS if height is None else height
    figure = Figure((width, size), layout=None if _tiled(layout) else "constrained")
    axes = dict(_axes(figure, layout))
    named = False
    for n, trace in enumerate(described["data"]):
        place = axes[trace.get("yaxis", "y")]
        colour = LINES[n % len(LINES)]
        DRAWN[trace["type"]](place, trace, colour, described)
        named = named or (bool(trace.get("name")) and trace["type"] == "scatter")
    for name, place in axes.items():
        _finish(place, layout, name.removeprefix("y"))
    for shape in layout.get("shapes", ()):
        _shape(axes["y"], shape)
    if named and layout.get("showlegend", True):
        handles = [pair for place in axes.values() for pair in _legend(place)]
        axes["y"].legend(*zip(*handles, strict=True), loc="best")
    if title:
        _title(figure, layout)
    return figure


def _require_known(described: dict[str, Any]) -> None:
    for trace in described["data"]:
        if trace["type"] not in DRAWN:
            must = f"be made of {', '.join(DRAWN)}"
            raise ArgumentError("the figure", must=must, got=trace["type"])
    for key in described["layout"]:
        if key not in LAYOUT and not re.fullmatch(r"[xy]axis\d*", key):
            raise ArgumentError("the figure's layout", must="be one that is drawn", got=key)


def _tiled(layout: dict[str, Any]) -> bool:
    return "domain" in layout.get("xaxis", {})


def _axes(figure: "Figure", layout: dict[str, Any]) -> Iterator[tuple[str, "Axes"]]:
    """The axes by the name that traces give their y axis: "y", "y2", …"""
    first: Axes | None = None
    for key in layout:
        if not key.startswith("yaxis"):
            continue
        number = key.removeprefix("yaxis")
        if _tiled(layout):
            (left, right), (low, high) = (
                layout[f"{side}axis{number}"]["domain"] for side in ("x", "y")
            )
            place = figure.add_axes((left, low, right - left, high - low))
        elif layout[key].get("overlaying"):
            assert first is not None
            place = first.twinx()
            place.spines["right"].set_visible(True)
        else:
            place = figure.add_subplot()
        first = first or place
        yield f"y{number}", place


# The kinds of traces.


def _bar(axes: "Axes", trace: Trace, colour: str, described: dict[str, Any]) -> None:
    lying = trace.get("orientation") == "h"
    names, sizes = (trace["y"], trace["x"]) if lying else (trace["x"], trace["y"])
    places, width = _beside(list(names), trace, described)
    colours = _colours(trace.get("marker", {}).get("color", colour))
    draw: Callable[..., Any] = axes.barh if lying else axes.bar
    draw(places, _numbers(sizes), width, color=colours, label=_text(trace.get("name", "")))
    _name_places(axes, list(names), lying)
    (axes.axvline if lying else axes.axhline)(0, color="black", lw=0.6)
    if "error_y" in trace:
        _errors(axes, places, sizes, trace["error_y"])


def _beside(
    names: list[Any], trace: Trace, described: dict[str, Any]
) -> tuple[list[float], float | list[float]]:
    """Where bars stand and how wide they are: side by side where they are grouped."""
    places = _places(names)
    if "width" in trace:
        return places, trace["width"]
    bars = [one for one in described["data"] if one["type"] == "bar"]
    if described["layout"].get("barmode") != "group" or len(bars) < 2:
        return places, 0.75
    width = 0.75 / len(bars)
    shift = (bars.index(trace) - (len(bars) - 1) / 2) * width
    return [place + shift for place in places], width


def _scatter(axes: "Axes", trace: Trace, colour: str, described: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace.get("mode", "lines")
    x, y = _places(list(trace["x"])), _numbers(trace["y"])
    colour = line.get("color", marker.get("color", colour))
    label = _text(trace.get("name", ""))
    if "lines" in mode:
        shown = _colour(colour if isinstance(colour, str) else colour[0])
        dash, width = DASHES[line.get("dash", "solid")], line.get("width", 2) * 0.6
        axes.plot(x, y, dash, color=shown, linewidth=width, label=label, zorder=2)
        label = "_"
    if "markers" in mode and x:
        _points(axes, x, y, marker | {"color": marker.get("color", colour)}, label)
    if trace.get("error_y", {}).get("visible", True) and "error_y" in trace:
        _errors(axes, x, trace["y"], trace["error_y"])
    _name_places(axes, list(trace["x"]), lying=False)
    if all(isinstance(place, int) for place in trace["x"]):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(axes: "Axes", x: list[float], y: list[float], marker: Trace, label: str) -> None:
    sizes, symbol = marker.get("size", 6), marker.get("symbol", "circle")
    areas = [(size * 0.6) ** 2 for size in _each(sizes, len(x))]
    colours = _colours(marker["color"])
    hollow = symbol.endswith("-open")
    faces = "none" if hollow else colours
    style = {"facecolors": faces, "edgecolors": colours, "linewidths": 0.8 if hollow else 0}
    if "line" in marker and not hollow:
        edge, width = marker["line"].get("color", "#444444"), marker["line"].get("width", 1)
        style |= {"edgecolors": _colours(edge), "linewidths": 0.6 * width}
    if MARKERS[symbol] in "_|":  # which has no inside
        style = {"color": colours, "linewidths": 1.0}
    axes.scatter(x, y, areas, marker=MARKERS[symbol], label=label, zorder=3, **style)


def _heat(axes: "Axes", trace: Trace, colour: str, described: dict[str, Any]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = [_numbers(row) for row in trace["z"]]
    scale = LinearSegmentedColormap.from_list("", [tuple(stop) for stop in trace["colorscale"]])
    limits = {"vmin": trace["zmin"], "vmax": trace["zmax"]}
    if not values or not values[0]:
        return
    image = axes.imshow(values, cmap=scale, aspect="auto", interpolation="nearest", **limits)
    if trace.get("showscale", True):
        unit = trace.get("colorbar", {}).get("title", {}).get("text", "")
        tiles = [place for place in axes.figure.axes if place.images or not place.has_data()]
        bar = axes.figure.colorbar(image, ax=tiles, pad=0.02, fraction=0.04)  # type: ignore[union-attr]
        bar.set_label(_text(unit))
        bar.outline.set_visible(False)  # type: ignore[operator]
    for row, line in enumerate(trace.get("text", ())):
        for column, text in enumerate(line):
            dark = abs(values[row][column]) > 0.6 * trace["zmax"]
            ink = "white" if dark else "black"
            axes.text(column, row, _text(text), ha="center", va="center", fontsize=6, color=ink)


def _box(axes: "Axes", trace: Trace, colour: str, described: dict[str, Any]) -> None:
    place = [one["name"] for one in described["data"]].index(trace["name"])
    ink = _colour(trace.get("marker", {}).get("color", colour))
    line = {"color": ink}
    axes.boxplot(
        _numbers(trace["y"]), positions=[place], widths=0.5, sym=".", medianprops=line,
        boxprops=line, whiskerprops=line, capprops=line, flierprops={"markeredgecolor": ink},
    )  # fmt: skip
    names = [_text(one["name"]) for one in described["data"]]
    axes.set_xticks(range(len(names)), names)


DRAWN = {"bar": _bar, "scatter": _scatter, "heatmap": _heat, "box": _box}


# Axes, shapes and words.


def _finish(axes: "Axes", layout: dict[str, Any], number: str) -> None:
    over = layout.get(f"yaxis{number}", {}).get("overlaying")
    for side in ("y",) if over else ("x", "y"):
        _axis(axes, side, layout.get(f"{side}axis{number}", {}))
    if axes.images:
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for note in layout.get("annotations", ()):
        if _heads(note, layout, number):
            axes.set_title(_text(note["text"]), fontsize=8)


def _heads(note: dict[str, Any], layout: dict[str, Any], number: str) -> bool:
    """Whether a heading stands over these axes."""
    if not _tiled(layout):
        return False
    left, right = layout[f"xaxis{number}"]["domain"]
    return (
        left < note["x"] < right and abs(note["y"] - layout[f"yaxis{number}"]["domain"][1]) < 1e-9
    )


def _axis(axes: "Axes", side: str, axis: dict[str, Any]) -> None:
    own = axes.xaxis if side == "x" else axes.yaxis
    logarithmic = axis.get("type") == "log"
    axes.set(**{f"{side}label": _text(axis.get("title", {}).get("text", ""))})
    if logarithmic:
        axes.set(**{f"{side}scale": "log"})
    if "range" in axis:
        ends = [10**end for end in axis["range"]] if logarithmic else axis["range"]
        axes.set(**{f"{side}lim": ends})
    if "tickvals" in axis:
        names = axis.get("ticktext", axis["tickvals"])
        shown = names if axis.get("showticklabels", True) else [""] * len(names)
        own.set_ticks(axis["tickvals"], [_text(str(name)) for name in shown], minor=False)
        own.set_ticks([], minor=True)
        if side == "x" and sum(len(str(name)) for name in names) > 60:
            own.set_tick_params(rotation=90)
    if axis.get("autorange") == "reversed":
        axes.set(**{f"{side}lim": sorted(own.get_view_interval(), reverse=True)})


def _shape(axes: "Axes", shape: dict[str, Any]) -> None:
    """A line across the whole height, or a band."""
    if shape["type"] == "line":
        line = shape.get("line", {})
        style = DASHES[line.get("dash", "solid")]
        axes.axvline(shape["x0"], color=_colour(line.get("color", "black")), ls=style, lw=0.8)
    elif shape["type"] == "rect":
        fill = _colour(shape.get("fillcolor", "rgba(127,127,127,0.2)"))
        axes.axvspan(shape["x0"], shape["x1"], color=fill, lw=0, zorder=0)
    else:
        raise ArgumentError("the figure's shapes", must="be lines or bands", got=shape["type"])


def _title(figure: "Figure", layout: dict[str, Any]) -> None:
    title = layout.get("title", {})
    lines = [title.get("text", ""), title.get("subtitle", {}).get("text", "")]
    words = "\n".join(_text(line) for line in lines if line)
    top = 1.0 if not _tiled(layout) else 1.12
    figure.suptitle(words, fontsize=9, x=0.01, ha="left", y=top, va="bottom")


def _legend(axes: "Axes") -> list[tuple[Any, str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(zip(handles, labels, strict=True))


def _errors(axes: "Axes", x: list[float], y: Sequence[Any], error: dict[str, Any]) -> None:
    sizes = [0.0 if size is None or size != size else size for size in error["array"]]
    ink = _colour(error.get("color", "#757575"))
    axes.errorbar(x, _numbers(y), sizes, fmt="none", ecolor=ink, elinewidth=0.8, capsize=2)


def _places(names: list[Any]) -> list[float]:
    """Numbers as they are; names by the order in which they come."""
    if any(isinstance(name, str) for name in names):
        order = list(dict.fromkeys(names))
        return [float(order.index(name)) for name in names]
    return _numbers(names)


def _name_places(axes: "Axes", names: list[Any], lying: bool) -> None:
    if any(isinstance(name, str) for name in names):
        order = list(dict.fromkeys(names))
        ticks = range(len(order)), [_text(str(name)) for name in order]
        (axes.set_yticks if lying else axes.set_xticks)(*ticks)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value] * count


def _colours(given: Any) -> Any:
    return _colour(given) if isinstance(given, str) else [_colour(one) for one in given]


def _colour(given: str) -> Any:
    """A colour of plotly's for matplotlib: "rgba(…)" as four numbers."""
    numbers = re.fullmatch(r"rgba?\((.*)\)", given)
    if numbers is None:
        return given
    red, green, blue, *alpha = (float(part) for part in numbers[1].split(","))
    return (red / 255, green / 255, blue / 255, *(alpha or [1.0]))


def _text(text: str) -> str:
    """Letters alone: no formula begins at a dollar, and what the font lacks is its code."""
    shown = "".join(_letter(letter) for letter in printable(text))
    return shown.replace("$", r"\$")


def _letter(letter: str) -> str:
    return letter if ord(letter) in _letters() else f"\\u{ord(letter):04x}"


@cache
def _letters() -> frozenset[int]:
    """The letters that the font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
