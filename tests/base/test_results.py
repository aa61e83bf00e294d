"""Every result can be tabled, drawn and shown."""

import pandas
import plotly.graph_objects
import pytest

from bilens.decompose import eigen, hosvd

RESULTS = {
    "Eigen": (lambda m: eigen(m.cp(3, 5), k=2), 6),
    "Eigen of one": (lambda m: m.quadratic(5).eigh(2), 2),
    "Eigen of a zero": (lambda m: (m.quadratic(5) * 0.0).eigh(2), 2),
    "Gates": (lambda m: m.spectral(3.0, 2.0, -1.0, -2.0).gates(), 2),
    "no Gates": (lambda m: m.spectral(3.0, 2.0).gates(), 0),
    "HOSVD": (lambda m: hosvd(m.cp(), 2), 11),
}


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


def test_plot_is_a_plotly_figure_of_its_plain_data(result):
    figure = result.plot()
    assert isinstance(figure, plotly.graph_objects.Figure)
    assert len(figure.data) == len(result.figure()["data"]) > 0


def test_html_names_the_kind_and_says_the_summary(result):
    html = result._repr_html_()
    assert html.startswith(f"<p><b>{type(result).__name__}</b>: ")
    assert "<table" in html
    assert repr(result) == f"<{type(result).__name__}: {result.summary()}>"


def test_html_shows_the_first_rows_of_many_and_escapes_labels(make):
    found = eigen(make.cp(30, 4), k=1, labels=["<b>"] * 30)
    html = found._repr_html_()
    assert "(first 20 of 30 rows)" in html
    assert html.count("<tr>") == 20
    assert "<td><b>" not in html
