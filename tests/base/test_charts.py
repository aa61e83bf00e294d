"""Figures in plain data: colours by sign, long names, the remainder, nothing from outside acts."""

import plotly.graph_objects
import pytest

from bilens.base.charts import (
    LABEL,
    LEFT_OVER,
    NEGATIVE,
    POSITIVE,
    heat,
    mapped,
    ranked,
    ticks,
    titled,
)
from bilens.base.results import literal

LONG = "mlp1(" + "embed, " * 20 + "embed)"


def test_a_ranking_is_coloured_by_sign_and_its_remainder_is_a_paler_bar():
    figure = ranked(
        ["a", "a", LONG],
        [2.0, -1.5, 1e-5],
        "logit",
        "t",
        hover={"given": [1, 2, 3]},
        rest={"r": -1.0},
    )
    (bars,) = plotly.graph_objects.Figure(figure).data
    assert list(bars.marker.color) == [POSITIVE, NEGATIVE, POSITIVE, LEFT_OVER[NEGATIVE]]
    assert list(bars.x) == [2.0, -1.5, 1e-5, -1]
    marks = figure["layout"]["yaxis"]
    assert marks["ticktext"][0] == marks["ticktext"][1] == "a"
    assert marks["ticktext"][3] == "r"
    assert max(map(len, marks["ticktext"])) == LABEL
    assert figure["data"][0]["customdata"][2:] == [[LONG, "1e-05", 3], ["r", "-1", "–"]]
    assert bars.hovertemplate.startswith("%{customdata[0]}<br>logit: %{customdata[1]}<br>given: ")


def test_names_from_outside_are_letters_in_templates_too():
    name = "<b>%{x}\x1b"
    for figure in (
        ranked([name], [1.0], name, name),
        mapped([[1.0]], "a", "b", name, titled("", "", "")),
    ):
        template = literal(figure)["data"][0]["hovertemplate"]
        assert "&lt;b&gt;% {x}\\x1b" in template


@pytest.mark.parametrize(("strength", "low"), [(False, -3.0), (True, 0)])
def test_a_heat_map_is_white_at_zero(strength, low):
    trace = heat([[1.0, None], [-3.0, 0.0]], "ab", "cd", "unit", strength=strength)
    assert (trace["zmin"], trace["zmax"]) == (low, 3.0)
    white = 0 if strength else 0.5
    assert [white, "#ffffff"] in trace["colorscale"]
    assert heat([], "", "", "unit")["zmax"] == 1.0


def test_of_many_names_evenly_spaced_ones_are_written():
    marks = ticks([str(n) for n in range(100)], most=30)
    assert marks["tickvals"] == list(range(0, 100, 4))
    assert marks["ticktext"][:2] == ["0", "4"]
    assert ticks([])["tickvals"] == []
