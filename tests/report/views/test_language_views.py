"""What a page says of weights, layers, features and changes is what their rooms say."""

import dataclasses

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, ShapeError
from bilens.features import Dictionary, Texts, examples, firing
from bilens.report import Asked, Extra
from bilens.report.page import made
from bilens.report.view import Query, story
from bilens.report.views import compare, features, rules, spectra, weights
from bilens.training import BUILT_IN, Truth
from tests.report.reading import sections

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model():
    return bilens.load("tinystories-1l")


def shown(view, model, **more):
    """The sections of a view by their titles."""
    query = Query(prompts=(PROMPT,), **({"name": "tinystories-1l"} | more))
    found = [made(block) for block in view.VIEW.build(model, query)]
    assert not [one.error for one in found if one.kind == "broken"]
    return {one.title: one for one in found}


def test_spectra_are_of_what_the_layer_writes_to_the_target():
    deep = bilens.load("tinystories-2l")
    asked = {"asked": Asked(" girl", " boy"), "name": "tinystories-2l"}
    one = shown(spectra, deep, **asked)["Spectrum of mlp1"]
    rows = torch.tensor([row["value"] for row in one.content["rows"]])
    wide = deep.double()
    T = wide.model.blocks[1].mlp.tensor().detach()
    girl, boy = map(wide.output_index, (" girl", " boy"))
    row = wide.lm_head.weight[girl] - wide.lm_head.weight[boy]
    u = (row * wide.model.norm.weight).detach()
    dense = torch.einsum("o,oh,hi,hj->ij", u, T.out, T.left, T.right)
    truth = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    largest = truth[truth.abs().argsort(descending=True)[:16]]
    assert rows.double().sort().values.numpy() == pytest.approx(largest.sort().values, rel=1e-4)
    assert "␣girl − ␣boy" in one.content["text"]
    names = {}
    exec(one.content["python"].replace("; ", "; found = "), {"bilens": bilens}, names)
    assert names["found"].values.detach().sort().values[0].numpy() == pytest.approx(
        rows.double().sort().values.numpy(), rel=1e-6
    )
    read = wide.model.blocks[1].post_attention_layernorm(wide.W_E).detach()
    values, vectors = torch.linalg.eigh((dense + dense.mT) / 2)
    best = values.abs().argmax()
    told = one.content["vectors"][0]
    assert told["value"] == pytest.approx(float(values[best]), rel=1e-3)
    along = read @ vectors[:, best]
    ends = [along.topk(5).indices, (-along).topk(5).indices]
    sides = {tuple(deep.output_names(end)) for end in ends}
    assert sides == {tuple(told["plus"]["tokens"]), tuple(told["minus"]["tokens"])}
    assert told["plus"]["values"][0] > 0 > told["minus"]["values"][0]
    (figure,) = (trace for trace in one.content["map"]["figure"]["data"])
    both = read @ (dense + dense.mT) @ read.mT
    both.diagonal().mul_(0.5)
    ids = {name: n for n, name in enumerate(deep.output_names(range(len(read))))}
    rows = [ids[pairs[0][0]] for pairs in figure["customdata"]]
    for row, n in enumerate(rows):
        cells = figure["z"][row]
        assert cells[: row + 1] == pytest.approx(both[n, rows[: row + 1]].tolist(), rel=1e-2)
        assert set(cells[row + 1 :]) <= {None}
    assert float(both.abs().max()) == pytest.approx(
        max(abs(cell) for row in figure["z"] for cell in row if cell is not None), rel=1e-2
    )
    gate = one.content["gates"][0]
    strong, weak = values.max(), -values.min()
    share = float((strong**2 + weak**2) / (values**2).sum())
    assert gate["share"] == pytest.approx(share, rel=1e-2)


def test_an_answer_has_the_layers_of_what_it_is_about():
    deep = bilens.load("tinystories-2l").double()
    found = bilens.report.answer(deep, PROMPT, " girl", " boy", effects=False)["layers"]
    query = Query(prompts=(PROMPT,), asked=Asked(" girl", " boy"))
    for one, block in zip(found, spectra.VIEW.build(deep, query), strict=True):
        section = block.make()
        assert one["vectors"] == section["vectors"]
        assert section["layer"] == one["layer"]


def test_weights_of_a_large_model_say_how_they_are_had(model, monkeypatch):
    monkeypatch.setattr("bilens.report.views.rules.WORDS", 10)
    assert shown(weights, model)["Which parts read which"].content["columns"]
    found = shown(rules, model)
    assert found["Strongest rules"].kind == "missing"
    assert "bilens.load('tinystories-1l')" in found["Strongest rules"].content["text"]
    monkeypatch.setattr("bilens.report.views.weights.PARTS", 0)
    assert shown(weights, model)["Which parts read which"].kind == "missing"


def test_rules_are_those_of_circuits(model, monkeypatch):
    monkeypatch.setattr("bilens.report.views.rules._paths", lambda *_: ["W_U L0H0(embed)"])
    one = shown(rules, model)["Strongest rules: W_U L0H0(embed)"]
    truth = bilens.circuits.rules(model, "W_U L0H0(embed)").rows()
    assert [row["value"] for row in one.content["rows"]] == [row["value"] for row in truth]


@pytest.fixture(scope="module")
def two_scores():
    """A model without a softmax or a tokenizer."""
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=16, attention="bilinear", norm="none",
        hidden_act="linear", gated=True,
    )  # fmt: skip
    return bilens.Transformer(config).eval()


def test_known_rules_are_scored_beside_the_strongest(two_scores):
    strongest = bilens.circuits.rules(two_scores, "W_U mlp0(embed, L0H0)")
    written, current, earlier = strongest.entries.indices[0].tolist()
    truth = Truth(bigram=((1, ((2, 1.0),)),), skip=((earlier, current, written),), reach=3)
    found = shown(rules, two_scores, truth=truth)
    scored = found["Known rules"].content
    whole = bilens.training.evaluate_rules(two_scores, truth).rows()
    rows = [row for row in scored["rows"] if row["of"] == "the model"]
    assert [row["right"] for row in rows] == [row["right"] for row in whole]
    assert {row["of"] for row in scored["rows"]} == {
        "the model", "without L0H0", "without mlp0",
    }  # fmt: skip
    single = found["Known rules in single paths"].content["rows"]
    assert single == bilens.training.evaluate_paths(two_scores, truth).rows()
    marked = found["Strongest rules: W_U mlp0(embed, L0H0)"].content
    assert marked["rows"][0]["known rule"] == "skip"
    assert "✓, 1 of these 20: is a known rule." in marked["text"]
    assert "✓" in marked["chart"]["figure"]["layout"]["yaxis"]["ticktext"][0]
    scores = [title for title in found if ".QK" in title]
    assert scores == [f"Strongest rules: L0H0[-1].QK{n}(embed, embed)" for n in (1, 2)]
    looked = {
        tuple(int(row[key]) for key in ("query", "key"))
        for title in scores
        for row in found[title].content["rows"]
        if row["known rule"]
    }
    assert looked <= {(current, earlier)}


def test_a_model_without_a_tokenizer_is_asked_by_numbers(two_scores, tmp_path):
    page = bilens.report.write_page(two_scores, None, tmp_path)
    assert page.broken == ()
    missing = [one["data"]["text"] for one in sections(page) if one["kind"] == "missing"]
    assert any("no tokenizer" in text for text in missing)
    extra = Extra(truth=Truth(skip=((5, 6, 7),), fillers=(1, 2), reach=4, begin=0))
    asked = bilens.report.write_page(two_scores, None, tmp_path, extra=extra)
    (prompt,) = sections(asked, "prompt")
    assert prompt["prompt"] == "0 5 1 2 6"
    assert story(two_scores) == "0 1 2 3 4 5"
    page = bilens.report.write_page(two_scores, ["0 5 6"], tmp_path)
    assert sections(page, "prompt")[0]["prompt"] == "0 5 6"


def test_features_are_told_as_their_room_tells_them(monkeypatch):
    monkeypatch.setattr("bilens.report.views.features.TOKENS", 300)
    deep = bilens.load("tinystories-2l")
    named = (f"tinystories-2l/mlp1.{side}" for side in ("output", "input"))
    coders = tuple(map(Dictionary.load, named))
    found = shown(features, deep, dictionaries=coders)
    assert len(found) == 2 * 5 + 4 * 2
    spectrum = found["Spectrum of no. 1 of mlp1.output"].content
    ranked = firing(deep, coders[0], Texts("topics", 300))
    rows = found["Features of mlp1.output"].content["rows"]
    assert [row["latent"] for row in rows] == ranked.latents.tolist()
    strongest = int(ranked.latents[ranked.largest.argmax()])
    truth = examples(deep, coders[0], Texts("topics", 300), strongest, k=8)
    module, reads = deep.model.blocks[1].mlp, coders[0].reads[strongest].detach()
    form = module.tensor().detach().interaction(reads).dense()
    largest = torch.linalg.eigvalsh(form).abs().max()
    assert abs(spectrum["vectors"][0]["value"]) == pytest.approx(float(largest), rel=1e-3)
    card = found["Features of mlp1.output: no. 1"].content
    assert [row["passage"] for row in card["rows"]] == [row["passage"] for row in truth.rows()]
    (latent,) = truth.latents
    said = {one["name"]: one["tokens"] for one in card["words"]}
    assert (said["writes for"], said["fires at"]) == (
        [*latent.promotes.tokens],
        [*latent.at.tokens],
    )
    for one, true in zip(card["examples"], truth.latents[0].examples, strict=True):
        assert one["tokens"][one["at"]] == true.tokens[true.at]
        assert one["activations"][one["at"]] == pytest.approx(true.activation, rel=1e-2)
    assert f"latent {strongest}" in found["What makes no. 1 of mlp1.output"].content["text"]
    (missing,) = shown(features, deep).values()
    assert (missing.kind, "--dictionary" in missing.content["text"]) == ("missing", True)


def test_dictionaries_of_one_place_are_told_apart(monkeypatch):
    monkeypatch.setattr("bilens.report.views.features.TOKENS", 300)
    deep = bilens.load("tinystories-2l")
    one, other = (Dictionary.load(f"tinystories-2l/mlp1.{side}") for side in ("output", "input"))
    query = {"dictionaries": (one, other, other), "named": ("out", "in/a", "in/b")}
    made_of = features.VIEW.build(deep, Query(prompts=(PROMPT,), name="tinystories-2l", **query))
    titles = [block.title for block in made_of]
    assert len(set(titles)) == len(titles) == 3 * 5 + 4 * (1 + 2)
    assert "Features of mlp1.output: no. 1" in titles
    assert "Features of mlp1.input (in/b): no. 4" in titles
    assert "What makes no. 1 of mlp1.output in mlp1.input (in/a)" in titles
    second = next(block for block in made_of if block.title == "Features of mlp1.input (in/b)")
    assert "Dictionary.load('in/b')" in second.make()["python"]
    plain = features.VIEW.build(deep, Query(prompts=(PROMPT,), dictionaries=(other, other)))
    assert plain[0].title == "Features of mlp1.input (no. 1 of those given)"
    with pytest.raises(ArgumentError, match="named must be of the 1 dictionaries; got 2 names"):
        Extra(dictionaries=(one,), named=("a", "b"))


def test_the_latents_that_were_asked_for_are_shown(monkeypatch):
    monkeypatch.setattr("bilens.report.views.features.TOKENS", 300)
    deep = bilens.load("tinystories-2l")
    coders = tuple(Dictionary.load(f"tinystories-2l/mlp1.{side}") for side in ("output", "input"))
    fired = firing(deep, coders[0], Texts(BUILT_IN, 300))
    silent = int(fired.latents[fired.largest.argmin()])
    query = Query(prompts=(PROMPT,), dictionaries=coders, features=(938, silent, 938))
    found = {block.title: block for block in features.VIEW.build(deep, query)}
    assert len(found) == 1 + 2 * 3 + 1 + 4  # no other of the first; the second's strongest
    card = found["Features of mlp1.output: latent 938"].make()
    assert card["largest"] == pytest.approx(float(fired.largest[fired.latents == 938]), rel=1e-3)
    spectrum = found["Spectrum of latent 938 of mlp1.output"].make()
    tensor, row = (
        bilens.load("tinystories-2l").double().wiring().layers["mlp1"].module.tensor(),
        coders[0].reads[938],
    )
    form = torch.einsum("o,oij->ij", row.double(), tensor.dense().detach())
    leading = max(torch.linalg.eigvalsh((form + form.mT) / 2).tolist(), key=abs)
    assert spectrum["rows"][0]["value"] == pytest.approx(leading, rel=1e-5)
    assert "latent 938" in found["What makes latent 938 of mlp1.output"].make()["text"]
    assert found[f"Features of mlp1.output: latent {silent}"].make()["examples"] == []


def test_pairs_are_shown_of_dictionaries_that_make_them(monkeypatch):
    """In another dtype than the model's too, and not of those whose latents are no sums of them."""
    monkeypatch.setattr("bilens.report.views.features.TOKENS", 100)
    monkeypatch.setattr("bilens.report.views.features.CARDS", 1)
    deep = bilens.load("tinystories-2l")
    out, into = (Dictionary.load(f"tinystories-2l/mlp1.{side}") for side in ("output", "input"))
    given = tuple(one.to(torch.float64) for one in (out, into))
    found = shown(features, deep, dictionaries=given)
    strongest = found["Features of mlp1.output: no. 1"].content["text"].split()[1]
    told = found["What makes no. 1 of mlp1.output"].content["text"]
    assert f"Which pairs make latent {strongest}, by weights." in told
    coder = {"architecture": "jumprelu_transcoder", "hook_out": "layers.1.mlp.output"}
    coder = dataclasses.replace(into, centred=False, **coder)
    scaled = dataclasses.replace(out, normalisation="layer_norm")
    for pair in ((out, coder), (scaled, into)):
        query = Query(prompts=(PROMPT,), dictionaries=pair)
        titles = [block.title for block in features.VIEW.build(deep, query)]
        assert len(titles) == 5
        assert not any("What makes" in title for title in titles)


def test_a_dictionary_of_no_place_of_the_model_is_refused(tmp_path):
    """Before a part of the page is made."""
    deep, coder = bilens.load("tinystories-2l"), Dictionary.load("tinystories-2l/mlp1.output")
    nowhere = dataclasses.replace(coder, hook="")
    narrow = Dictionary(*(torch.ones(*n) for n in ((5, 3), (3, 5), (3,), (5,))), hook=coder.hook)
    for one, kind, text in (
        (nowhere, ArgumentError, r"D: hook must be one of attn0.input, .*; got no name of a place"),
        (narrow, ShapeError, "D must read a place of width 128"),
    ):
        extra = Extra(dictionaries=(one,), named=("D",))
        with pytest.raises(kind, match=text):
            bilens.report.write_page(deep, [PROMPT], tmp_path / "page", extra=extra)
    assert list(tmp_path.iterdir()) == []


def test_a_latent_that_is_not_there_is_refused():
    coder = Dictionary.load("tinystories-2l/mlp1.output")
    with pytest.raises(ArgumentError, match="feature must be one of a dictionary's latents"):
        Extra(features=(3,))
    with pytest.raises(ArgumentError, match="from 0 to 1023; got 1024"):
        Extra(dictionaries=(coder,), features=(3, 1024))


def test_what_changed_is_what_diff_says(model, tmp_path):
    assert shown(compare, model) == {}
    other = bilens.load("tinystories-1l")
    other.lm_head.weight.data *= 2
    other.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    (one,) = shown(compare, model, against=str(tmp_path)).values()
    truth = bilens.diff(str(tmp_path), model)
    assert [row["place"] for row in one.content["rows"]] == [row["place"] for row in truth.rows()]
    assert one.content["rows"][0]["change"] > 0.1


def test_missing_parts_say_so_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.report.writing.VIEWS", (features.VIEW,))
    page = bilens.report.write_page(bilens.load("tinystories-1l"), None, tmp_path, extra=Extra())
    (one,) = sections(page)
    assert (one["kind"], one["data"]["text"]) == ("missing", features.NONE)
