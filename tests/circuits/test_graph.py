"""Graphs against a count of every term by hand, against a schema, and their labels."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import expand, forest, graph, starts
from bilens.circuits.paths import Apply, One, Stream

SCHEMA = json.loads((Path(__file__).parent / "graph.schema.json").read_text())
TOKENS = torch.tensor([1, 4, 2, 7])


def build(norm="rms", layers=2, **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=4,
        norm=norm,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval()


def expansions(kind):
    if kind == "classifier":
        config = bilens.ClassifierConfig(
            input_shape=[4], hidden_size=5, num_hidden_layers=2, bias=True, id2label={0: "a"}
        )
        model = bilens.Classifier(config).double()
        return expand(model, torch.ones(4, dtype=torch.float64), "a")
    if kind == "opaque":
        return expand(build("rms", gated=False, hidden_act="relu"), TOKENS, 3)
    if kind == "one step":  # heads of one position, whole streams: nodes of other kinds
        return expand(build("layer", mlp_bias=True), TOKENS, 3, detail="pairs")
    return expand(build(kind, attention_bias=True), TOKENS, 3, max_terms=300)


KINDS = ["rms", "none", "opaque", "classifier", "one step"]


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_are_valid(kind):
    made = json.loads(json.dumps(graph(expansions(kind))))
    Draft202012Validator(SCHEMA).validate(made)
    names = {node["node_id"] for node in made["nodes"]}
    assert len(names) == len(made["nodes"])
    assert {end for link in made["links"] for end in (link["source"], link["target"])} == names
    for node in made["nodes"]:
        for left, right, _ in node.get("pair_wise_contributors", ()):
            assert {left, right} <= names


def top(tree, position):
    """The name of the node at the top of a path."""
    match tree:
        case One():
            return f"1@{position}"
        case Stream(reader, t):
            return (
                f"x{2 * int(reader[1])}@{t}"  # attn0, mlp0, attn1, …: what L1H0 reads, part 2 does
            )
    return f"{tree.source}@{tree.t}"


def edges(tree, position):
    """Every link of a path, as often as it is passed, and the pairs."""
    match tree:
        case Apply(_, t, inputs, at):
            for child, s in zip(inputs, at or [t] * len(inputs), strict=True):
                yield top(child, s), top(tree, position)
                yield from edges(child, s)


def products(tree):
    """Every (layer's node, its two inputs' nodes) of a path, as often as it multiplies there."""
    match tree:
        case Apply(_, _, (child,)):
            yield from products(child)
        case Apply(_, t, (left, right)):
            yield top(tree, t), *sorted((top(left, t), top(right, t)))
            yield from products(left)
            yield from products(right)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_counts_once_for_each_node_link_and_pair(kind):
    """Every sum of the graph again, term by term; many of the paths pass a link more than once."""
    ex = expansions(kind)
    nodes, links, pairs = (defaultdict(list) for _ in range(3))
    again = 0
    for term in ex.terms:
        root = top(term.tree, ex.position)
        passed = [(root, "target"), *edges(term.tree, ex.position)]
        again += len(passed) - len(set(passed))
        for link in set(passed):
            links[link].append(term.value)
        for node in {source for source, _ in passed}:
            nodes[node].append(term.value)
        for pair in set(products(term.tree)):
            pairs[pair].append(term.value)
    assert again > 0 or kind == "opaque"
    made = graph(ex)

    def same(found, truth):
        assert set(found) == set(truth)
        for key, values in truth.items():
            assert found[key] == pytest.approx(sum(values), rel=1e-9, abs=1e-14), key

    same({(link["source"], link["target"]): link["weight"] for link in made["links"]}, links)
    same(
        {node["node_id"]: node["influence"] for node in made["nodes"]},
        nodes | {"target": [ex.total]},
    )
    triples = {
        (node["node_id"], left, right): value
        for node in made["nodes"]
        for left, right, value in node.get("pair_wise_contributors", ())
    }
    same(triples, pairs)
    into = sum(link["weight"] for link in made["links"] if link["target"] == "target")
    assert into + made["metadata"]["remainder"] == pytest.approx(ex.total, rel=1e-9)


def test_labels_say_position_and_token():
    model = bilens.load("tinystories-1l")
    ex = expand(model, "Once upon a time", " girl", max_terms=50)
    labels = {node["node_id"]: node["clerp"] for node in graph(ex)["nodes"]}
    last = len(ex.inputs) - 1
    assert labels[f"mlp0@{last}"] == f"mlp0 at {last} ␣time"
    assert labels["target"].endswith(f"at {last} ␣time")
    heads = {name: label for name, label in labels.items() if name.startswith("L0H")}
    assert heads
    assert all(
        label == f"{name.partition('@')[0]} at {last} ␣time" for name, label in heads.items()
    )


@pytest.mark.bad_input
@pytest.mark.parametrize("odd", [None, 3, "text"])
def test_what_is_no_expansion_is_refused(refuses, odd):
    for ask in (graph, forest, starts):
        name = ask.__name__
        refuses(ArgumentError, lambda ask=ask: ask(odd), f"{name} must be given an Expansion")
