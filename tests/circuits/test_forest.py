"""Paths over shared nodes, and what each token gives."""

import pytest

import bilens
from bilens.circuits import Recording, Starts, forest, record, starts
from bilens.circuits.paths import Apply, Latent, One, Stream, Write
from tests.circuits.transformers_made import tiny
from tests.examples import IDS, TARGET, dictionary

MODEL = tiny("linear", True)
CODED = {"mlp1.input": dictionary()}


def grown(nodes, n):
    """The tree that a node stands for, built anew."""
    node = nodes[n]
    match node.get("k"):
        case None:
            return Write(node["s"], node["t"])
        case "apply":
            below = tuple(grown(nodes, child) for child in node["i"])
            more = (tuple(node.get(key, ())) for key in ("a", "legs"))
            return Apply(node["s"], node["t"], below, *more)
        case "stream":
            return Stream(node["s"], node["t"])
        case "latent":
            what = node["l"]
            number = int(what[1:]) if what[1:].isdecimal() else what
            return Latent(node["s"], node["t"], number)
    return One()


@pytest.mark.parametrize(
    ("model", "dictionaries"),
    [(MODEL, None), (MODEL, CODED), (tiny("linear", True, attention="bilinear"), None)],
    ids=["plain", "coded", "by legs"],
)
def test_each_path_stands_in_the_forest_and_each_node_once(model, dictionaries):
    ex = bilens.expand(model, IDS, TARGET, max_terms=300, dictionaries=dictionaries)
    woods = forest(ex)
    assert [grown(woods.nodes, root) for root in woods.roots] == [term.tree for term in ex.terms]
    assert len({repr(node) for node in woods.nodes}) == len(woods.nodes)
    assert all(child < n for n, node in enumerate(woods.nodes) for child in node.get("i", ()))


def leaves(nodes, n):
    """The (name, position) of all that a node of a forest begins with."""
    below = nodes[n].get("i")
    if below is None:
        return [(nodes[n]["s"], nodes[n]["t"])]
    return [leaf for child in below for leaf in leaves(nodes, child)]


def test_what_tokens_give_adds_up_to_the_total():
    ex = bilens.expand(MODEL, IDS, TARGET, max_terms=300)
    given, woods, truth = starts(ex), forest(ex), [0.0] * len(IDS)
    for root, term in zip(woods.roots, ex.terms, strict=True):
        begun = leaves(woods.nodes, root)
        whole = any(name.startswith(("mlp", "L")) for name, _ in begun)
        places = {t for name, t in begun if name in ("embed", "pos")}
        for place in () if whole else places:
            truth[place] += term.value / len(places)
    assert given.values == pytest.approx(truth, abs=1e-12)
    assert sum(given.values) + given.elsewhere == pytest.approx(ex.total, abs=1e-9)
    cut = bilens.expand(MODEL, IDS, TARGET, detail="writes")
    own = sum(term.value for term in cut.terms if term.component in ("embed", "pos"))
    assert starts(cut).values == pytest.approx([0] * (len(IDS) - 1) + [own])  # the rest is whole


def test_what_tokens_give_is_a_result(tmp_path):
    values, names = (0.5, -2.0, 1.0), ("a", "␣b", "c")
    found = Starts(values, 0.25, names, "'x'", 2, "logits")
    assert found.to_frame().values.tolist()[1] == [1, "␣b", -2.0]
    assert found.rows()[-1] == {"position": None, "token": "elsewhere", "value": 0.25}
    assert [row["value"] for row in found.answer()] == [-2.0, 1.0, 0.5, 0.25]
    assert [row["value"] for row in found.answer(3)] == [-2.0, 1.5, 0.25]
    assert "␣b" in found._repr_html_()
    assert "'x' at 2, -0.25" in found.summary()
    figure = found.figure()
    assert figure["data"][0]["x"] == [-2.0, 1.0, 0.5, 0.25]
    assert figure["layout"]["xaxis"]["title"]["text"].endswith("start there (logits)")
    found.save(tmp_path / "s.safetensors")
    assert Starts.load(tmp_path / "s.safetensors").rows() == found.rows()


def test_a_recording_is_asked_again_and_only_of_its_model(refuses, monkeypatch):
    run = record(MODEL, IDS)
    once = bilens.expand(MODEL, IDS, TARGET, max_terms=50)
    monkeypatch.setattr("bilens.circuits.recording._Found", None)  # nothing is recorded anew
    again = bilens.expand(MODEL, run, TARGET, max_terms=50)
    assert [term.path for term in again.terms] == [term.path for term in once.terms]
    assert [term.value for term in again.terms] == [term.value for term in once.terms]
    assert isinstance(record(MODEL, run), Recording)
    error = bilens.base.errors.ArgumentError
    refuses(error, lambda: record(tiny("linear", True), run), "very model")
    refuses(error, lambda: record(MODEL, run, CODED), "left out", "Record the inputs with them")
