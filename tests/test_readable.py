"""Every kind of result can be read: printed, tabled with columns that are described, drawn with a
title, units, signs in one colour each and nothing from outside that acts.
"""

import importlib
import pkgutil
import re

import pytest

import bilens
from bilens.base import charts
from bilens.base.records import Record
from bilens.base.results import Result
from bilens.report import paper
from tests.examples import EXAMPLES

COLOURS = {*charts.PALETTE, *charts.LEFT_OVER.values(), charts.INK, charts.NEUTRAL}


def kinds():
    for room in pkgutil.iter_modules(bilens.__path__, "bilens."):
        if room.ispkg and room.name != "bilens.cli":
            importlib.import_module(room.name)
    found = {kind for kind in Record._kinds.values() if issubclass(kind, Result)}
    return {kind.__name__ for kind in found if kind.__module__.startswith("bilens.")} - {"Result"}


@pytest.fixture(params=sorted(EXAMPLES))
def result(request):
    return EXAMPLES[request.param]()


def test_there_is_an_example_of_every_kind():
    assert kinds() == set(EXAMPLES)
    assert {name: type(EXAMPLES[name]()).__name__ for name in EXAMPLES} == {n: n for n in EXAMPLES}


def test_every_column_is_described(result):
    words = " ".join((type(result).__doc__ or "").split())
    columns = {*result.columns(), *result.rows()[0]}
    assert not [name for name in columns if name not in words]
    assert tuple(result.to_frame()) == tuple(result.rows()[0])


def test_the_answer_is_printed_before_what_sums_it_up(result):
    names, *rows = repr(result).splitlines()
    end = rows.index(f"<{type(result).__name__}: {result.summary()}>")
    rows = rows[:end]
    assert 1 <= len(rows) <= 10
    assert len(rows) == len(result.answer())
    assert names.split()
    assert max(map(len, rows)) <= 110
    assert result._repr_html_().count("<tr>") <= 20


def axes(layout):
    return {key: axis for key, axis in layout.items() if re.fullmatch(r"[xy]axis\d*", key)}


def test_a_figure_says_what_it_shows_and_in_which_unit(result):
    figure = result.figure()
    layout = figure["layout"]
    assert layout["title"]["text"]
    titles = [axis.get("title", {}).get("text", "") for axis in axes(layout).values()]
    named = [axis for axis in axes(layout).values() if "ticktext" in axis]
    assert sum(map(bool, titles)) >= 2 or named
    paper._require_known(figure)  # `bilens figure` draws all of it
    for trace in figure["data"]:
        told = "hovertemplate" in trace or trace.get("hoverinfo") == "skip"
        assert told or trace["type"] == "box"
    result.plot().to_json()


def colours(value):
    """All colours that a figure names."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key == "color":
                yield from inside if isinstance(inside, list) else [inside]
            elif key != "colorscale":
                yield from colours(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from colours(inside)


def test_signs_have_one_colour_each_and_zero_is_white(result):
    figure = result.figure()
    assert set(colours(figure)) <= COLOURS
    for trace in figure["data"]:
        if trace["type"] == "heatmap":
            signed = trace["colorscale"] == charts.DIVERGING
            assert signed or trace["colorscale"] == charts.SEQUENTIAL
            assert trace["zmin"] == (-trace["zmax"] if signed else 0)
        if trace["type"] == "bar" and trace.get("orientation") == "h":
            assert list(trace["x"]) or not trace["x"]
            for value, colour in zip(trace["x"], trace["marker"]["color"], strict=True):
                takes = colour in (charts.NEGATIVE, charts.LEFT_OVER[charts.NEGATIVE])
                assert takes == (value < 0) or type(result).__name__ == "Verification"
