"""Figures for a paper say what the figures on a screen say."""

import matplotlib
import pytest

from bilens.base.charts import FORMATS
from bilens.base.errors import ArgumentError, FileError
from bilens.base.results import Drawn
from bilens.report import paper, write_figure
from tests.examples import EXAMPLES

matplotlib.use("agg")


def drawn(described):
    with matplotlib.rc_context(paper.RC):
        return paper._drawn(described, 5.5, None, True)


def test_bars_are_as_long_as_they_say_and_in_their_colours():
    described = EXAMPLES["Expansion"]().figure()
    (axes,) = drawn(described).axes
    (bars,) = axes.containers
    trace, layout = described["data"][0], described["layout"]
    assert [bar.get_width() for bar in bars] == pytest.approx(trace["x"])
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars]
    whole = [colour.upper() for colour in trace["marker"]["color"] if colour.startswith("#")]
    assert colours[: len(whole)] == whole
    assert [label.get_text() for label in axes.get_yticklabels()] == layout["yaxis"]["ticktext"]
    assert axes.get_xlabel() == layout["xaxis"]["title"]["text"]
    low, high = axes.get_ylim()
    assert low > high  # the first on top


def test_heat_maps_hold_their_values_each_under_its_name():
    described = EXAMPLES["AttentionPatterns"]().figure()
    figure = drawn(described)
    tiles = [axes for axes in figure.axes if axes.images]
    for axes, trace in zip(tiles, described["data"], strict=True):
        image = axes.images[0].get_array()
        shown = [
            [None if cell != cell else cell for cell in row] for row in image.filled().tolist()
        ]
        assert shown[-1] == pytest.approx(trace["z"][-1])
        assert bool(image.mask[0][1])  # nothing ahead
    heads = [note["text"] for note in described["layout"]["annotations"]]
    assert [axes.get_title() for axes in tiles] == heads


def test_lines_points_and_boxes_stand_where_they_say():
    described = EXAMPLES["HOSVD"]().figure()
    (axes,) = drawn(described).axes
    for line, trace in zip(axes.lines, described["data"], strict=False):
        assert line.get_ydata().tolist() == pytest.approx(trace["y"])
        assert line.get_label() == trace["name"]
    assert axes.get_yscale() == "log"
    assert axes.get_legend() is not None
    points = EXAMPLES["Angles"]().figure()
    (axes,) = drawn(points).axes
    found = axes.collections[0].get_offsets()
    assert found[:, 0].tolist() == pytest.approx(points["data"][0]["x"])
    assert found[:, 1].tolist() == pytest.approx(points["data"][0]["y"])
    (axes,) = drawn(EXAMPLES["LowRank"]().figure()).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]


class Sketch(Drawn):
    def __init__(self, *traces, **layout):
        self.described = {"data": list(traces), "layout": {"title": {"text": "$x$ 女"}} | layout}

    def figure(self):
        return self.described


AXES = {"xaxis": {"title": {"text": "x"}}, "yaxis": {"title": {"text": "y"}}}


def test_files_are_the_same_each_time_and_say_no_date(tmp_path):
    bars = {"type": "bar", "x": ["a$b$", "b"], "y": [1.0, None]}
    for name in ("one.svg", "two.svg", "one.pdf"):
        assert write_figure(Sketch(bars, **AXES), tmp_path / name) == tmp_path / name
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"<svg" in one
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_one_error_in_every_format(suffix, tmp_path, refuses, largest_file):
    bars = Sketch({"type": "bar", "x": ["a", "b"], "y": [1.0, 2.0]}, **AXES)
    with largest_file(1000):
        place = tmp_path / f"one{suffix}"
        refuses(FileError, lambda: write_figure(bars, place), "must be writable", "too large")
    assert not list(tmp_path.iterdir())


def test_words_are_letters_and_no_formula():
    figure = drawn(Sketch({"type": "bar", "x": [1], "y": [2]}, **AXES).figure())
    assert figure.get_suptitle() == "\\$x\\$ \\u5973"


def test_too_few_inches_for_the_letters_are_refused(tmp_path, refuses):
    bars = EXAMPLES["Expansion"]()
    for size in ({"height": 0.01}, {"height": 0.3}, {"width": 0.2}):
        refuses(
            ArgumentError,
            lambda size=size: write_figure(bars, tmp_path / "a.svg", **size),
            "room for",
        )
    assert not list(tmp_path.iterdir())


def test_what_is_not_drawn_is_refused_by_name(tmp_path, refuses, monkeypatch):
    surface = Sketch({"type": "surface"}, **AXES)
    refuses(ArgumentError, lambda: write_figure(surface, tmp_path / "a.svg"), "bar, ", "surface")
    images = Sketch(**AXES, images=[])
    refuses(ArgumentError, lambda: write_figure(images, tmp_path / "a.svg"), "images")
    plain = Sketch(**AXES)
    refuses(ArgumentError, lambda: write_figure(plain, tmp_path / "a.jpg"), ".svg, .pdf, .png")
    refuses(ArgumentError, lambda: write_figure(plain, tmp_path / "a.svg", width=0), "width")
    monkeypatch.setattr(paper, "find_spec", lambda name: None)
    refuses(ArgumentError, lambda: write_figure(plain, tmp_path / "a.svg"), "bilens[figure]")
    assert not list(tmp_path.iterdir())
