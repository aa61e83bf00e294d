"""Paths: one tree, written and read in one grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilens.base.errors import ArgumentError
from bilens.circuits.paths import (
    BASE,
    ERROR,
    NOWHERE,
    READOUT,
    Apply,
    Latent,
    One,
    Score,
    Stream,
    Write,
    cut,
    latex,
    order,
    parse,
    positions,
    text,
    walk,
)

LEAVES = st.sampled_from(["embed", "pos", "embed.bias", "attn0.bias", "L0H3", "mlp1", "mlp3.e2"])
SOURCES = st.sampled_from(["L0H3", "L11H10", "mlp0", "mlp3.e2", "conv0", "cubic2"])
LEGS = st.sampled_from([("q1", "k1", "v"), ("q2", "k2", "v"), ("q1", "k1", "q2", "k2", "v")])
PLACES = st.integers(0, 99)


@st.composite
def nodes(draw, reader="", t=NOWHERE, depth=3):
    """What ``reader`` reads at ``t``; NOWHERE: over weights."""
    kinds = ["write", "one", "stream"] + ["apply"] * 3 * (depth > 0) + ["latent"] * bool(reader)
    kinds += ["legs"] * (depth > 0)
    match draw(st.sampled_from(kinds)):
        case "one":
            return One()
        case "stream":
            return Stream(reader, t)
        case "latent":
            return Latent(reader, t, draw(st.integers(0, 9999) | st.sampled_from([BASE, ERROR])))
        case "write":
            return Write(draw(LEAVES), t)
        case "legs":
            return draw(by_leg(t, 0))  # five legs each five deep would be many
    source, n = draw(SOURCES), draw(st.integers(1, 5))
    if t == NOWHERE:
        at = draw(st.just(()) | st.tuples(st.integers(-9, -1)))
        inputs = [draw(nodes(source, NOWHERE, depth - 1)) for _ in range(n)]
    else:
        at = draw(st.just(()) | st.tuples(*[PLACES] * n))
        stands = at or (t,) * n
        inputs = [draw(nodes(source, s, depth - 1)) for s in stands]
    return Apply(source, t, tuple(inputs), at)


@st.composite
def by_leg(draw, t, depth):
    """A head without softmax by its legs, or by those of one score."""
    source, legs = draw(SOURCES), draw(LEGS)
    if t == NOWHERE:
        at = draw(st.just(()) | st.tuples(st.integers(-9, -1)))
        stands = (NOWHERE,) * len(legs)
    else:
        looks = draw(PLACES)
        at = stands = tuple(t if leg.startswith("q") else looks for leg in legs)
    inputs = tuple(draw(nodes(source, s, depth)) for s in stands)
    return Apply(source, t, inputs, at, legs)


@given(nodes(t=7))
def test_a_path_over_an_input_is_read_as_it_is_written(node):
    assert parse(text(node), 7) == node


@st.composite
def expressions(draw):
    kind = draw(st.sampled_from(["path", "readout", "score"]))
    if kind == "path":
        return draw(nodes())
    if kind == "readout":
        return Apply(READOUT, NOWHERE, (draw(nodes()),))
    source = draw(SOURCES)
    numbers = draw(st.integers(-9, 0)), draw(st.integers(0, 2))
    return Score(source, draw(nodes(source)), draw(nodes(source)), *numbers)


@given(expressions())
def test_a_path_over_weights_is_read_as_it_is_written(node):
    assert parse(text(node)) == node


@given(nodes(t=7))
def test_nodes_compare_hash_and_save_as_values(node):
    assert len({node, parse(text(node), 7)}) == 1
    assert all(isinstance(hash(one), int) for one in walk(node))
    assert latex(node)


def test_what_is_written_differently_is_read_the_same():
    assert parse("W_U · mlp0( embed ,x)") == parse("W_U mlp0(embed, x)")
    assert parse("L1H2[−1].QK(embed, pos)") == Score("L1H2", Write("embed"), Write("pos"), -1)
    assert parse("L1H2.QK2(embed, x)").number == 2
    assert parse("L1H2[0](x)") == Apply("L1H2", NOWHERE, (Stream("L1H2"),))


@pytest.mark.parametrize(
    ("expr", "must"),
    [
        ("", "at character 1; got the end"),
        ("mlp0(embed", "have ')' at character 11; got the end"),
        ("mlp0(embed, )", "at character 13"),
        ("L0H3[1](x)", "have an offset 0, -1, -2, "),
        ("L0H3@(x)", "have a position at character 6"),
        ("L0H3@5(x)", "have '→' at character 7"),
        ("mlp0(L0H3.QK(x, x), x)", "have a score only by itself"),
        ("L0H3.QK0(x, x)", "have 'QK', 'QK1' or 'QK2' at character 6; got 'QK0'"),
        ("embed embed", "end at character 7"),
        ("mlp0{x}", "be made of names, numbers"),
        ("mlp0(W_U, x)", "have a leaf, a head like L0H3"),
    ],
)
def test_what_does_not_read_is_refused_with_its_character(expr, must, refuses):
    refuses(ArgumentError, lambda: parse(expr), must)


def test_for_people_each_position_has_its_token_beside_it():
    node = parse("mlp1(L0H3@5→7(embed), mlp0(L0H1@0→7(embed), L0H2@9→12(embed)))", 7)
    tokens = ["Once", "b", "c", "d", "e", "␣sat", "g", "␣mat"]
    shown = "mlp1(L0H3@5 ␣sat→7 ␣mat(embed), mlp0(L0H1@0 Once→7 ␣mat(embed), L0H2@9→12(embed)))"
    assert text(node, tokens) == shown


def test_order_positions_and_cut():
    node = parse("mlp1(L0H3@5→9(embed), mlp0(embed, 1))", 9)
    ends = {"embed", "pos"}
    assert order(walk(node), ends, {"embed"}) == 2
    assert order(walk(parse("mlp1(L0H3, embed)", 9)), ends, {"embed"}) is None
    assert order(walk(parse("mlp1(f3, base)", 9)), ends, {"embed"}) == 1
    assert positions(node) == (5, 9)
    assert text(cut(node, 1)) == "mlp1(L0H3, mlp0)"
    assert latex(node).startswith(r"2 \left( A^{0,3}_{9,5} W_{OV}^{0,3} W_E t_{5} \cdot_{12} B^{1}")
