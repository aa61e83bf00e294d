"""Knock-outs against a model built without the component, pair matrices against dense tensors, graphs against a schema."""

import json
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import At, Knockout, Pairs, expand, graph, knockout, pairs

SCHEMA = json.loads((Path(__file__).parent / "graph.schema.json").read_text())


def build(norm="rms", layers=2, **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9, hidden_size=6, intermediate_size=4, num_hidden_layers=layers, num_attention_heads=2, head_dim=4,
        norm=norm, initializer_range=0.5, **given,
    )  # fmt: skip
    return bilens.Transformer(config).double().eval()


TOKENS = torch.tensor([1, 4, 2, 7])


def by_hand(model, name):
    """The model with the component's own weights set to zero."""
    with torch.no_grad():
        if name.startswith("mlp"):
            model.blocks[int(name[3:])].mlp.down_proj.weight.zero_()
        elif name.startswith("attn"):
            model.blocks[int(name[4:])].self_attn.o_proj.weight.zero_()
        else:
            head = int(name[3:])
            model.blocks[int(name[1])].self_attn.o_proj.weight[:, 4 * head : 4 * head + 4].zero_()
    return float(model(TOKENS[None]).logits[0, -1, 3])


@pytest.mark.parametrize("name", ["L0H1", "L1H0", "mlp0", "mlp1", "attn0"])
def test_a_knock_out_is_the_model_without_the_component(name):
    found = knockout(build(), TOKENS, name, 3)
    assert found.before == pytest.approx(float(build()(TOKENS[None]).logits[0, -1, 3]), rel=1e-12)
    assert found.after == pytest.approx(by_hand(build(), name), rel=1e-10)
    assert found.effect == found.before - found.after


def test_the_sum_and_the_model_agree_where_nothing_downstream_reacts():
    """The last layer of a model without norms: what its term says is what happens."""
    model = build("none", attention_bias=True)
    terms = {term.path: term.value for term in expand(model, TOKENS, 3, detail="writes").terms}
    found = knockout(model, TOKENS, "mlp1", 3)
    assert found.effect == pytest.approx(terms["mlp1"], rel=1e-10)
    assert found.direct == pytest.approx(terms["mlp1"], rel=1e-10)
    mean = knockout(model, TOKENS, "mlp1", 3, with_="mean")
    assert mean.effect == pytest.approx(mean.direct, rel=1e-10)
    assert mean.effect != pytest.approx(found.effect)


def test_only_the_positions_named_are_touched():
    model = build()
    assert knockout(model, TOKENS, "mlp1", 3, at=[0, 1, 2]).effect == pytest.approx(0, abs=1e-12)
    everywhere, last = (knockout(model, TOKENS, "mlp1", 3, at=at).after for at in (None, [-1]))
    assert everywhere == pytest.approx(last, rel=1e-10)
    assert knockout(model, TOKENS, "L0H0", 3, at=[0]).after != pytest.approx(knockout(model, TOKENS, "L0H0", 3).after)


def test_the_model_is_left_as_it_was():
    model = build()
    before = model(TOKENS[None]).logits
    knockout(model, TOKENS, ["L0H0", "mlp1"], 3)
    assert torch.equal(model(TOKENS[None]).logits, before)


def test_layers_of_a_classifier_can_be_taken_out():
    torch.manual_seed(0)
    config = bilens.ClassifierConfig(input_shape=[4], hidden_size=5, num_hidden_layers=2, residual=True, id2label={0: "a"})
    model = bilens.Classifier(config).double()
    image = torch.ones(4, dtype=torch.float64)
    found = knockout(model, image, ["mlp0", "mlp1"], "a")
    assert found.after == pytest.approx(float(model.head(model.embed(image))[0]), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"writes": "L7H0"}, "writes must be among L0H0, L0H1, mlp0, L1H0, L1H1, mlp1; got 'L7H0'"),
        ({"writes": "embed"}, "writes must be among"),
        ({"writes": []}, "writes must name at least one component"),
        ({"with_": "noise"}, "with_ must be one of zero, mean"),
        ({"at": [4]}, "at must hold positions -4 … 3; got 4"),
        ({"target": At(torch.zeros(6), "mlp0.input")}, "target must be over the outputs"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_taken_out_is_refused(refuses, change, text):
    given = {"writes": "mlp0", "target": 3} | change
    refuses(ArgumentError, lambda: knockout(build(), TOKENS, **given), text)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_pair_matrices_are_those_of_the_dense_tensor(norm):
    model = build(norm, mlp_bias=True, head_bias=True)
    found = pairs(model, TOKENS, 3)
    assert [matrix.layer for matrix in found.matrices] == ["mlp0", "mlp1"]
    terms = {term.path: term.value for term in expand(model, TOKENS, 3, detail="writes").terms}
    for matrix in found.matrices:
        assert float(matrix.values.sum()) == pytest.approx(terms[matrix.layer], rel=1e-10)
        assert torch.allclose(matrix.values, matrix.values.mT)
    assert found.matrices[0].sources == ("1", "embed", "L0H0", "L0H1")
    if norm == "none":
        head = found.matrices[0].sources.index("L0H1")
        layer = model.blocks[0]
        pattern = model(TOKENS[None], output_attentions=True).attentions[0][0, 1, -1]
        write = pattern @ model.W_E[TOKENS] @ model.W_V[0, 1] @ model.W_O[0, 1]
        cube = layer.mlp.tensor().symmetrise().dense()[:, 1:, 1:]
        value = torch.einsum("o,oij,i,j", model.W_U[:, 3], cube, model.W_E[TOKENS[-1]], write)
        assert float(matrix_value(found, 0, 1, head)) == pytest.approx(float(value), rel=1e-10)


def matrix_value(found, layer, a, b):
    return found.matrices[layer].values[a, b]


def test_pairs_as_a_result(tmp_path):
    found = pairs(build(), TOKENS, 3)
    rows = found.rows()
    assert sum(row["value"] for row in rows) == pytest.approx(sum(float(m.values.sum()) for m in found.matrices))
    assert abs(rows[0]["value"]) == max(abs(row["value"]) for row in rows)
    found.save(tmp_path / "p.safetensors")
    assert Pairs.load(tmp_path / "p.safetensors").rows() == rows
    assert len(found.plot().data) == 2
    out = knockout(build(), TOKENS, "mlp0", 3)
    out.save(tmp_path / "k.safetensors")
    assert Knockout.load(tmp_path / "k.safetensors").rows() == out.rows()
    assert out.plot().data


@pytest.mark.parametrize("kind", ["rms", "none", "opaque", "classifier"])
def test_graphs_are_valid_and_add_up(kind):
    if kind == "classifier":
        config = bilens.ClassifierConfig(input_shape=[4], hidden_size=5, num_hidden_layers=2, bias=True, id2label={0: "a"})
        ex = expand(bilens.Classifier(config).double(), torch.ones(4, dtype=torch.float64), "a")
    elif kind == "opaque":
        ex = expand(build("rms", gated=False, hidden_act="relu"), TOKENS, 3)
    else:
        ex = expand(build(kind, attention_bias=True), TOKENS, 3, max_terms=300)
    made = json.loads(json.dumps(graph(ex)))
    Draft202012Validator(SCHEMA).validate(made)
    names = {node["node_id"] for node in made["nodes"]}
    assert len(names) == len(made["nodes"])
    assert all(link["source"] in names and link["target"] in names for link in made["links"])
    into = sum(link["weight"] for link in made["links"] if link["target"] == "target")
    assert into + made["metadata"]["remainder"] == pytest.approx(ex.total, rel=1e-9)
    for node in made["nodes"]:
        for left, right, _ in node.get("pair_wise_contributors", ()):
            assert {left, right} <= names
    if kind in ("rms", "none"):
        top = next(node for node in made["nodes"] if node["node_id"] == "mlp1@3")
        through = sum(term.value for term in ex.terms if term.tree[0] == "pair" and term.tree[1] == "mlp1")
        pairs_in_root = sum(value for *_, value in top["pair_wise_contributors"])
        assert pairs_in_root == pytest.approx(through, rel=1e-9)
