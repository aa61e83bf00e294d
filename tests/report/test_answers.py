"""The answer that a page shows says what circuits say."""

import base64
import json

import numpy as np
import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import (
    Prompt,
    attention_patterns,
    effects,
    knockout,
    lens,
    pairs,
)
from bilens.report import answer
from bilens.report.answers import exact
from bilens.report.packing import packed, rounded

PROMPT = "Once upon a time there was a little"
GOAL = (" girl", " boy")


@pytest.fixture(scope="module")
def model():
    return exact(bilens.load("tinystories-2l"))


@pytest.fixture(scope="module")
def found(model):
    made = answer(model, PROMPT, *GOAL, without=["L0H1", "mlp1"], name="tinystories-2l")
    return json.loads(json.dumps(made, allow_nan=False))


def test_the_terms_are_those_of_expand_and_add_up(model, found):
    ex = bilens.expand(model, PROMPT, GOAL, max_terms=400)
    assert [value for value, _ in found["terms"]] == pytest.approx(
        [term.value for term in ex.terms], rel=1e-8
    )
    tops = [found["nodes"][node]["s"] for _, node in found["terms"]]
    assert tops == [term.component for term in ex.terms]
    whole = sum(value for value, _ in found["terms"]) + found["remainder"]
    assert whole == pytest.approx(found["total"], abs=1e-7)
    assert found["total"] == pytest.approx(found["value"], abs=1e-7)
    assert sum(found["positions"]) + found["elsewhere"] == pytest.approx(found["total"], abs=1e-7)
    assert found["summary"] == ex.summary()
    assert (found["left_out"], found["given"]) == (ex.left_out, list(ex.given))
    assert found["held"] == f"{len(ex.given)} patterns and norm scales"


def test_sources_have_what_they_write_beside_what_is_lost_without_them(model, found):
    ex = bilens.expand(model, PROMPT, GOAL, max_terms=1)
    rows = {row["name"]: row for row in found["sources"]}
    assert [rows[name]["direct"] for name in ex.writes[0]] == pytest.approx(list(ex.writes[1]))
    told = effects(model, PROMPT, GOAL, pairs=20)
    taken = {", ".join(one.what): one for one in told.knockouts}
    assert {row["name"] for row in found["cuts"]} | rows.keys() == taken.keys() | {"embed"}
    for name, row in (rows | {row["name"]: row for row in found["cuts"]}).items():
        if name != "embed":
            zero, mean = taken[name].removals
            assert row["effect"] == pytest.approx(zero.effect, rel=1e-4)
            assert row["effect_mean"] == pytest.approx(mean.effect, rel=1e-4)
            assert row["direct_mean"] == pytest.approx(mean.direct, rel=1e-4)
            assert (row["verdict"], row["why"]) == (zero.verdict, zero.why)
            assert (row["verdict_mean"], row["why_mean"]) == (mean.verdict, mean.why)
    assert rows["L1H3"]["verdict"] != rows["L1H3"]["verdict_mean"]
    assert rows["embed"]["effect"] is rows["embed"]["verdict_mean"] is None
    assert found["tried"] is None


def test_taking_several_out_says_what_knockout_says(model, found):
    truth = knockout(model, PROMPT, ["L0H1", "mlp1"], GOAL)
    made = found["knockout"]
    assert made["what"] == list(truth.what)
    zero, mean = made["removals"]
    assert (zero["after"], mean["replaced_by"]) == (pytest.approx(truth.after), "mean")
    assert zero["verdict"] == truth.verdict
    assert answer(model, PROMPT, effects=False)["knockout"] is None


def test_patterns_lens_and_pairs_are_those_of_circuits(model, found):
    looks = attention_patterns(model, PROMPT)
    rows, columns = np.tril_indices(len(looks.tokens))
    assert found["patterns"]["heads"] == list(looks.heads)
    for weights, truth in zip(found["patterns"]["weights"], looks.weights, strict=True):
        assert weights == pytest.approx(truth[rows, columns].tolist(), rel=5e-3)
    says = lens(model, PROMPT, GOAL)
    assert found["lens"]["says"] == [list(row) for row in says.says]
    assert found["lens"]["ranks"] == says.ranks.tolist()
    assert np.array(found["lens"]["values"]) == pytest.approx(says.values.numpy(), rel=1e-4)
    for made, truth in zip(found["pairs"], pairs(model, PROMPT, GOAL).matrices, strict=True):
        assert (made["layer"], made["names"]) == (truth.layer, list(truth.sources))
        flat = [value for row in made["values"] for value in row]
        lower = truth.values.mT[np.tril_indices(len(truth.sources))]
        assert flat == pytest.approx(lower.tolist(), rel=1e-4)
        assert "others" not in made


def test_tokens_are_named_and_the_likeliest_come_first(model, found):
    ids = model.read(PROMPT)
    assert [token["id"] for token in found["tokens"]] == ids[0].tolist()
    chances = model.outputs(ids)[-1].softmax(-1)
    assert found["likely"][0]["id"] == int(chances.argmax()) == found["target"]["id"]
    assert found["likely"][0]["probability"] == pytest.approx(float(chances.max()), rel=1e-4)
    assert len(found["likely"]) == 10
    plain = answer(model, PROMPT, position=3, effects=False)
    assert (plain["position"], plain["versus"]) == (3, None)
    first = plain["likely"][0]
    assert (plain["target"]["id"], plain["probability"]) == (first["id"], first["probability"])


@pytest.mark.parametrize(
    "prompt", [PROMPT, Prompt("a\n'\"\\ b", special_tokens=False)], ids=["text", "plain"]
)
def test_the_line_of_python_gives_the_same(model, prompt):
    found = answer(model, prompt, effects=False, max_terms=7, name="tinystories-2l")
    scope = {"bilens": bilens}
    exec(found["python"], scope)
    assert scope["ex"].summary() == found["summary"]


def test_a_large_model_has_its_largest_writers_taken_out_and_says_of_how_many(model, monkeypatch):
    whole = 2 * 8 * model.num_parameters()  # zero and mean, of eight tokens
    monkeypatch.setattr("bilens.report.answers.PASSES", 2 * whole)
    made = answer(model, PROMPT, *GOAL, name="tinystories-2l")
    parts = [row for row in made["sources"] if row["name"] != "embed"]
    largest = sorted(parts, key=lambda row: -abs(row["direct"]))
    # what is downstream of each costs: (depth - part) / depth of a pass
    depths = {"attn0": 1.0, "mlp0": 0.75, "attn1": 0.5, "mlp1": 0.25}
    named = [row["name"].replace("L", "attn").partition("H")[0] for row in largest]
    fit = sum(np.cumsum([depths[name] for name in named]) <= 2)
    assert 1 < fit < len(largest)
    assert [row["effect"] is not None for row in largest] == [n < fit for n in range(len(largest))]
    assert (made["cuts"], made["tried"]) == ([], [fit, len(largest)])
    scope = {"bilens": bilens}
    told = eval(made["python_effects"], scope)
    known = {", ".join(one.what): one.effect for one in told.knockouts}
    for row in largest[:fit]:
        assert row["effect"] == pytest.approx(known[row["name"]], rel=1e-4)


def test_of_many_sources_those_that_weigh_most_have_their_pairs_told(model, monkeypatch):
    monkeypatch.setattr("bilens.report.answers.PAIRED", 4)
    made = answer(model, PROMPT, *GOAL, effects=False, name="tinystories-2l")
    told = eval(made["python_pairs"], {"bilens": bilens})
    for shown, truth in zip(made["pairs"], told.matrices, strict=True):
        both = (truth.values + truth.values.mT).numpy()
        weight = np.abs(both).sum(1) - np.abs(np.diag(both)) / 2
        largest = sorted(np.argsort(-weight)[:4])
        assert shown["names"] == [truth.sources[n] for n in largest]
        assert shown["values"][2][1] == pytest.approx(both[largest[2], largest[1]], rel=1e-4)
        together = sum(map(sum, shown["values"])) + shown["others"]["value"]
        assert together == pytest.approx(float(truth.values.sum()), abs=1e-4)
        assert shown["others"]["count"] == len(truth.sources) - 4


def test_what_cannot_be_is_refused(model, refuses):
    refuses(ArgumentError, lambda: answer(model, PROMPT, None, " boy"), "versus", "with a target")
    refuses(ArgumentError, lambda: answer(model, PROMPT, " girl", position=8), "position")
    refuses(ArgumentError, lambda: answer(model, "a" * 2000), "context of 256")


def test_many_numbers_are_packed():
    rows = torch.randn(3, 9000, dtype=torch.float64)
    made = packed(rows)
    assert isinstance(made, dict)
    read = [np.frombuffer(base64.b64decode(row), "<i2") * made["scale"] for row in made["rows"]]
    assert np.stack(read) == pytest.approx(rows.numpy(), abs=float(rows.abs().max()) / 60_000)
    assert packed(rows[:, :2]) == [[rounded(x, 3) for x in row] for row in rows[:, :2].tolist()]
    assert rounded(float("inf"), 3) is None


def test_a_model_in_float64_and_one_in_half_are_explained_as_they_are(model):
    assert exact(model) is model
    half = bilens.load("tinystories-2l").half()
    assert exact(half) is half
    assert "as run in half precision" in answer(half, PROMPT, effects=False)["summary"]
