"""Every result can be tabled, drawn and shown."""

import dataclasses
import importlib

import pandas
import plotly.graph_objects
import pytest

from bilens.base.records import Record
from bilens.base.results import Result, literal
from bilens.decompose import eigen, hosvd

RESULTS = {
    "Eigen": (lambda m: eigen(m.cp(3, 5), k=2), 6),
    "Eigen of one": (lambda m: m.quadratic(5).eigh(2), 2),
    "Eigen of a zero": (lambda m: (m.quadratic(5) * 0.0).eigh(2), 2),
    "Gates": (lambda m: m.spectral(3.0, 2.0, -1.0, -2.0).gates(), 2),
    "no Gates": (lambda m: m.spectral(3.0, 2.0).gates(), 0),
    "HOSVD": (lambda m: hosvd(m.cp(), 2), 11),
}
ALWAYS_ROWS = {"Comparison", "Knockout", "Truncation", "Verification"}
ROOMS = ("algebra", "decompose", "circuits", "features", "models", "training", "report")


@pytest.fixture(params=RESULTS)
def result(request, make):
    return RESULTS[request.param][0](make)


@pytest.mark.parametrize("kind", RESULTS)
def test_frame_has_a_row_per_entry(kind, make):
    make_one, count = RESULTS[kind]
    frame = make_one(make).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == count
    assert not frame.isna().any().any()


def test_every_kind_of_result_knows_its_columns():
    """Also where it has no rows; the four left out always have one."""
    for room in ROOMS:
        importlib.import_module(f"bilens.{room}")
    kinds = [
        kind
        for kind in Record._kinds.values()
        if issubclass(kind, Result) and kind.__module__.startswith("bilens.")
    ]
    silent = {kind.__name__ for kind in kinds if kind.columns is Result.columns} - {"Result"}
    assert silent == ALWAYS_ROWS
    assert len(kinds) > 20


@pytest.mark.parametrize("kind", RESULTS)
def test_columns_are_those_of_the_rows(kind, make):
    result = RESULTS[kind][0](make)
    assert list(result.to_frame()) == list(result.columns())
    assert all(tuple(row) == result.columns() for row in result.rows())
    assert len(result.columns()) >= 4


def test_plot_draws_the_plain_figure(make):
    figure = make.spectral(3.0, 2.0, -1.0, -2.0).eigh(3).plot()
    (trace,) = figure.data
    assert isinstance(figure, plotly.graph_objects.Figure)
    assert trace.y == pytest.approx((3.0, -2.0, 2.0, -1.0)) or sorted(trace.y) == pytest.approx(
        [-2.0, -1.0, 2.0, 3.0]
    )
    assert figure.layout.yaxis.title.text == "λ"
    assert figure.layout.paper_bgcolor is None  # left to the template
    assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_html_names_the_kind_and_says_the_summary(result):
    html = result._repr_html_()
    assert html.startswith(f"<p><b>{type(result).__name__}</b>: ")
    assert "<table" in html
    *table, line = repr(result).splitlines()
    assert line == f"<{type(result).__name__}: {result.summary()}>"
    assert len(table) == (1 + len(result.answer()) if result.answer() else 0)  # the answer first


def test_print_shows_ten_rows_and_as_many_columns_as_fit(make, monkeypatch):
    found = eigen(make.cp(12, 4), k=1).labelled([f"class {n}" for n in range(12)])
    names, *rows, line = repr(found).splitlines()
    assert len(rows) == 10
    assert names.split("  ")[0] == "of"
    assert line.startswith("<Eigen: ")
    monkeypatch.setenv("COLUMNS", "17")
    assert repr(found).splitlines()[0].split() == ["of", "value"]


def test_html_shows_the_first_rows_of_many_and_escapes_labels(make):
    found = eigen(make.cp(30, 4), k=1).labelled(["<b>"] * 30)
    html = found._repr_html_()
    assert html.count("<tr>") == 20
    assert "<td><b>" not in html


NASTY = "<b>&\x1b[31m\u202e"


def test_text_from_outside_is_shown_and_does_nothing(make):
    found = eigen(make.cp(2, 4), k=1).labelled([NASTY, "b"])
    entry = "<bdi>&lt;b&gt;&amp;\\x1b[31m\\u202e</bdi>"
    html = found._repr_html_()
    assert f"<td>{entry}</td>" in html
    # plotly reads <b> as markup
    assert found.plot().data[0].name == "&lt;b&gt;&amp;\\x1b[31m\\u202e"
    assert found.to_frame()["of"][0] == NASTY  # the data itself is as it was
    assert not {"\x1b", "\u202e"} & set(html + repr(found))
    long = eigen(make.cp(2, 4), k=1).labelled(["n" * 300, "b"])._repr_html_()
    assert "n" * 300 in long
    half = eigen(make.cp(2, 4), k=1).labelled(["a\ud800", "b"])
    assert half.to_frame()["of"][0] == "a\ud800"
    assert b"a\\ud800" in half._repr_html_().encode()


def test_summaries_are_shown_and_do_nothing():
    nasty = Verdict(NASTY)
    shown = "<b>&\\x1b[31m\\u202e"
    assert repr(nasty).splitlines() == [shown, f"{1:>{len(shown)}}", f"<Verdict: {shown}>"]
    assert "<bdi>&lt;b&gt;&amp;\\x1b[31m\\u202e</bdi>" in nasty._repr_html_()
    assert nasty._repr_html_().count("<bdi>&lt;b&gt;&amp;") == 2  # the column's name too


@dataclasses.dataclass(frozen=True, repr=False)
class Verdict(Result):
    text: str

    def summary(self):
        return self.text

    def rows(self):
        return [{self.text: 1}]

    def figure(self):
        return {"data": [], "layout": {}}


def test_a_literal_figure_is_json():
    figure = {
        "y": [1.5, float("nan"), -float("inf")],
        "hovertemplate": "%{y}<extra></extra>",
        "text": ("<i>", None, True),
    }
    plain = {
        "y": [1.5, None, None],
        "hovertemplate": "%{y}<extra></extra>",
        "text": ["&lt;i&gt;", None, True],
    }
    assert literal(figure) == plain
