"""Pair matrices against the dense tensor, and both orders of a pair as one number everywhere."""

import pytest
import torch

import bilens
from bilens.circuits import PairMatrix, Pairs, expand, pairs
from bilens.circuits.paths import Apply

TOKENS = torch.tensor([1, 4, 2, 7])


def build(norm="rms", **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        norm=norm,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_pairs_are_the_terms_of_one_step_further(norm):
    """Heads are one source each here and one a position there: their terms are added up."""
    model = build(norm, mlp_bias=True, head_bias=True)
    found = pairs(model, TOKENS, 3)
    assert [matrix.layer for matrix in found.matrices] == ["mlp0", "mlp1"]
    assert found.matrices[0].sources == ("1", "embed", "L0H0", "L0H1")
    terms = expand(model, TOKENS, 3, detail="pairs", max_terms=None, cutoff=0).terms
    values = {
        term.path: term.value
        for term in terms
        if isinstance(term.tree, Apply) and len(term.tree.inputs) == 2
    }
    rows = {f"{row['layer']}({row['left']}, {row['right']})": row["value"] for row in found.rows()}
    assert set(rows) == set(values)
    for path, value in values.items():
        assert rows[path] == pytest.approx(value, rel=1e-10, abs=1e-14), path
    writes = {t.path: t.value for t in expand(model, TOKENS, 3, detail="writes").terms}
    for matrix in found.matrices:
        assert float(matrix.values.sum()) == pytest.approx(writes[matrix.layer], rel=1e-10)
        assert torch.equal(matrix.values, matrix.values.triu())


def test_one_pair_by_hand():
    """q · T(embed, L0H1) in both orders, by the dense tensor: twice the entry of the symmetric
    part.
    """
    model = build("none", mlp_bias=True)
    matrix = pairs(model, TOKENS, 3).matrices[0]
    pattern = model(TOKENS[None], output_attentions=True).attentions[0][0, 1, -1]
    write = pattern @ model.W_E[TOKENS] @ model.W_V[0, 1] @ model.W_O[0, 1]
    mlp, x = model.blocks[0].mlp, model.W_E[TOKENS[-1]]
    gate, up = mlp.gate_proj.weight, mlp.up_proj.weight
    both = (gate @ x) * (up @ write) + (gate @ write) * (up @ x)
    value = model.W_U[:, 3] @ mlp.down_proj.weight @ both
    at = matrix.sources.index("embed"), matrix.sources.index("L0H1")
    assert float(matrix.values[at]) == pytest.approx(float(value), rel=1e-10)
    assert float(matrix.values[at[::-1]]) == 0


def made():
    first = torch.tensor([[1.0, -2.0], [0.0, 0.5]], dtype=torch.float64)
    second = torch.tensor([[0.25, 4.0], [0.0, 0.0]], dtype=torch.float64)
    matrices = (PairMatrix("mlp0", ("a", "b"), first), PairMatrix("mlp1", ("a", "c"), second))
    return Pairs("t", 3, matrices, ())


def test_rows_rank_by_both_orders_together(tmp_path):
    rows = [tuple(row.values()) for row in made().rows()]
    assert rows[:4] == [
        ("mlp1", "a", "c", 4.0),
        ("mlp0", "a", "b", -2.0),
        ("mlp0", "a", "a", 1.0),
        ("mlp0", "b", "b", 0.5),
    ]
    assert len(rows) == 6
    found = pairs(build(), TOKENS, 3)
    found.save(tmp_path / "p.safetensors")
    assert Pairs.load(tmp_path / "p.safetensors").rows() == found.rows()


def test_the_figure_shows_what_the_table_says():
    """The same numbers, each pair once, in one scale of colours that is symmetric about 0."""
    figure = made().figure()
    assert [cells["z"] for cells in figure["data"]] == [
        [[1.0, -2.0], [None, 0.5]],
        [[0.25, 4.0], [None, 0.0]],
    ]
    assert [(cells["zmin"], cells["zmax"]) for cells in figure["data"]] == [(-4.0, 4.0)] * 2
    assert [cells["showscale"] for cells in figure["data"]] == [True, False]
    across = [figure["layout"][axis]["ticktext"] for axis in ("xaxis", "xaxis2")]
    assert across == [["a", "b"], ["a", "c"]]
    low, middle, high = (colour for _, colour in figure["data"][0]["colorscale"])
    assert (low, middle, high) == ("#D55E00", "#ffffff", "#0072B2")  # orange takes, blue adds
    layout = made().plot().layout
    heads = [note.text.partition(":")[0] for note in layout.annotations]
    assert heads == ["mlp0", "mlp1"]
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    assert (layout.yaxis.autorange, layout.yaxis2.anchor) == ("reversed", "x2")
    nothing = Pairs("t", 0, (PairMatrix("mlp0", ("a",), torch.zeros(1, 1)),), ())
    assert nothing.figure()["data"][0]["zmax"] == 1.0
