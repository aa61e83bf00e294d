"""Pairs by what they make on text: against every token's every pair."""

import dataclasses

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, TooLargeError
from bilens.features import Cofiring, Dictionary, FiringPairs, cofiring, interactions
from tests.latents_made import F, dictionary

OUT = 4
READS, WRITES = "layers.1.mlp.input", "layers.1.mlp.output"


@pytest.fixture(scope="module")
def layer(model):
    return model.blocks[1].mlp.tensor().detach()


def latents(model, coder, texts, place="mlp1.input"):
    """Every token's latents, by the model's own forward pass."""
    rows = bilens.models.activations(model, [ids[None] for ids in texts], place)
    return torch.cat([coder.encode(x) for x in rows])


SIGNS = {"architecture": "signed_topk", "k": 6, "threshold": None}


CASES = {
    "everywhere": ({}, "all", False),
    "cross pairs": ({}, "cross", False),
    "squares where it fires": ({}, "self", True),
    "signs": (SIGNS, "all", False),
    "signs where it fires": (SIGNS, "all", True),
}


@pytest.mark.parametrize(("more", "kind", "where"), CASES.values(), ids=CASES)
def test_pairs_are_ranked_as_by_every_token(model, texts, layer, close, more, kind, where):
    reader, writer = dictionary(READS, **more), dictionary(WRITES)
    together = cofiring(model, reader, texts, where=(writer, OUT) if where else None)
    found = interactions(layer, writer, reader).of(OUT).top_on(together, 7, kind)
    a = latents(model, reader, texts)
    if where:
        a = a[latents(model, writer, texts, "mlp1.output")[:, OUT] != 0]
    assert 0 < together.tokens == found.tokens == len(a)
    cube = torch.einsum("oh,hi,hj->oij", layer.out, layer.left, layer.right)
    Q = torch.einsum("o,oij,fi,gj->fg", writer.reads[OUT], cube, reader.writes, reader.writes)
    terms = {}
    for f in range(F):
        for g in range(f, F):
            if (f == g and kind == "cross") or (f != g and kind == "self"):
                continue
            c = Q[f, g] + Q[g, f] if f != g else Q[f, f]
            term = (c * a[:, f] * a[:, g]).abs().mean()
            terms[f, g] = float(term), float(c), int(((a[:, f] != 0) & (a[:, g] != 0)).sum())
    best = sorted(terms, key=lambda pair: -terms[pair][0])[:7]
    assert [tuple(pair) for pair in found.indices.tolist()] == best
    for n, pair in enumerate(best):
        mean, c, both = terms[pair]
        row = found.rows()[n]
        assert row["mean |term|"] == pytest.approx(mean, rel=1e-9)
        assert row["coefficient"] == pytest.approx(c, rel=1e-9)
        assert row["both fire"] == both
        assert row["share"] == pytest.approx(mean / found.total)
    assert found.total == pytest.approx(sum(mean for mean, _, _ in terms.values()))
    assert found.rest == pytest.approx(found.total - sum(terms[pair][0] for pair in best))


def test_how_often_latents_fire_together(model, texts, monkeypatch):
    coder = dictionary(READS)
    found = cofiring(model, coder, texts)
    on = (latents(model, coder, texts) != 0).double()
    alive = on.any(0).nonzero()[:, 0]
    assert found.latents.tolist() == alive.tolist()
    assert torch.equal(found.counts.double(), (on.mT @ on)[alive][:, alive])
    assert (found.tokens, found.size) == (len(on), F)
    rows = found.to_frame()
    assert list(rows.columns) == list(found.columns())
    assert rows["times chance"].is_monotonic_decreasing
    first = found.rows()[0]
    f, g = on[:, first["f"]], on[:, first["g"]]
    assert first["both"] == int((f * g).sum()) >= 20
    chance = float((f * g).mean() / (f.mean() * g.mean()))
    assert first["times chance"] == pytest.approx(chance)
    assert found.figure()["data"]


def test_they_are_results(model, texts, layer, tmp_path):
    together = cofiring(model, dictionary(READS), texts)
    together.save(tmp_path / "together")
    again = Cofiring.load(tmp_path / "together")
    form = interactions(layer, dictionary(WRITES), dictionary(READS)).of(OUT)
    found = form.top_on(again, 3)
    found.save(tmp_path / "pairs")
    assert (
        FiringPairs.load(tmp_path / "pairs").to_frame().equals(form.top_on(together, 3).to_frame())
    )
    assert list(found.to_frame().columns) == list(found.columns())
    assert "output 4: 3 pairs hold" in found.summary()
    every = form.top_on(again, 1000)
    assert 0 < len(every.means) < F * (F + 1) // 2
    assert float(every.means.min()) > 0 == every.together.le(0).sum()
    found.plot()


def test_nothing_fires(model, texts, layer):
    silent = dictionary(READS, threshold=torch.full((F,), 1e9).double())
    together = cofiring(model, silent, texts)
    assert f"0 of {F} latents of mlp1.input fire on" in together.summary()
    found = interactions(layer, dictionary(WRITES), silent).of(OUT).top_on(together)
    assert (found.rows(), found.total) == ([], 0.0)
    never = cofiring(
        model, dictionary(READS), texts, where=(dictionary(WRITES, threshold=silent.threshold), OUT)
    )
    assert never.tokens == 0
    assert interactions(layer, dictionary(WRITES), silent).of(OUT).top_on(never).rows() == []


@pytest.mark.bad_input
def test_bad_input(refuses, model, texts, layer):
    coder = dictionary(READS)
    refuses(
        TooLargeError,
        lambda: cofiring(model, coder, texts, max_bytes=100),
        f"cofiring must have pairs that take at most 100 bytes; got {F} latents, {12 * F * F:,}",
    )
    calls = {"max_bytes must be a whole number ≥ 1": {"max_bytes": "many"}}
    calls |= {"where must name one of the dictionary's latents": {"where": (coder, [1, 2])}}
    for told, more in calls.items():
        refuses(ArgumentError, lambda more=more: cofiring(model, coder, texts, **more), told)
    form = interactions(layer, dictionary(WRITES), coder).of(OUT)
    refuses(ArgumentError, lambda: form.top_on("text"), "together must be what cofiring() gave")
    together = cofiring(model, coder, texts)
    refuses(ArgumentError, lambda: form.top_on(together, 0), "k must be a whole number ≥ 1")
    refuses(ArgumentError, lambda: form.top_on(together, 3, "odd"), "kind must be one of all")
    half = interactions(layer, dictionary(WRITES), coder.writes[:3]).of(OUT)
    refuses(ArgumentError, lambda: half.top_on(together), f"of the 3 input latents; got {F} lat")
    for odd in (coder, (coder,), 3):
        refuses(
            ArgumentError,
            lambda odd=odd: cofiring(model, coder, texts, where=odd),
            "where must be a dictionary and one of its latents",
        )
    refuses(
        ArgumentError,
        lambda: cofiring(model, coder, texts, where=(coder, F)),
        f"feature must be a whole number from 0 to {F - 1}",
    )


@pytest.mark.bad_input
def test_what_was_gathered_of_others_is_refused(refuses, model, texts, layer):
    """Of what the layer writes, and of latents of the same place that write another way."""
    coder = dictionary(READS)
    form = interactions(layer, dictionary(WRITES), coder).of(OUT)
    turned = dataclasses.replace(coder, W_dec=coder.W_dec.flip(0))
    for other in (dictionary(WRITES, W_dec=turned.W_dec), turned):
        told = "of the 20 input latents; got others, of mlp1."
        together = cofiring(model, other, texts)
        refuses(ArgumentError, lambda them=together: form.top_on(them), told)


def test_what_was_gathered_of_the_same_is_taken(model, texts, layer, tmp_path):
    """Also in a smaller dtype, of rows alone, and from a file of before."""
    coder = dictionary(READS)
    together = cofiring(model, coder, texts)
    rows = interactions(layer, dictionary(WRITES), coder.writes).of(OUT)
    truth = rows.top_on(together, 3).indices
    narrow = [dictionary(side).to(torch.float32) for side in (WRITES, READS)]
    assert torch.equal(
        interactions(layer.to(torch.float32), *narrow).of(OUT).top_on(together, 3).indices, truth
    )
    before = dataclasses.replace(together, written="")
    assert torch.equal(rows.top_on(before, 3).indices, truth)


def test_summaries_say_it_of_a_dictionary_of_another_model(tmp_path):
    """Of either dictionary, and of the pairs that are ranked by it; files keep it."""
    model, texts = bilens.load("tinystories-2l"), ["Once upon a time there was a little girl."]
    reads, writes = (Dictionary.load(f"tinystories-2l/mlp1.{side}") for side in ("input", "output"))
    other = {"metadata": {"model_name": "gpt2-small"}}
    strange, strange_too = (dataclasses.replace(one, meta=other) for one in (reads, writes))
    told = "; the dictionary says that it was made of gpt2-small, and this model is tinystories-2l"
    made = interactions(model.blocks[1].mlp.tensor().detach(), outputs=writes, inputs=reads)
    for coder, where in (
        (strange, None),
        (reads, (strange_too, 938)),
        (strange, (strange_too, 938)),
    ):
        together = cofiring(model, coder, texts, where=where)
        for found in (together, made.of(938).top_on(together, 3)):
            assert found.summary().count(told) == 1
            found.save(tmp_path / "f.safetensors")
            assert type(found).load(tmp_path / "f.safetensors").summary() == found.summary()
    assert "says" not in cofiring(model, reads, texts, where=(writes, 938)).summary()
