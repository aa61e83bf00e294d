"""Every latent at a glance, against all tokens at once."""

import dataclasses

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.features import Dictionary, Firing, Texts, examples, firing
from tests.latents_made import F, dictionary

SIGNS = {"architecture": "signed_topk", "k": 6, "threshold": None}


CASES = {"by count": ({}, "count"), "by mean": ({}, "mean"), "with signs": (SIGNS, "largest")}


@pytest.mark.parametrize(("more", "by"), CASES.values(), ids=CASES)
def test_it_is_what_all_tokens_say(model, texts, close, more, by):
    coder = dictionary(**more)
    found = firing(model, coder, texts, by=by)
    rows = bilens.models.activations(model, [ids[None] for ids in texts], "mlp1.input")
    a, ids = torch.cat([coder.encode(x) for x in rows]), torch.cat(texts)
    size, fired = a.abs(), a != 0
    means = size.sum(0) / fired.sum(0).clamp(min=1)
    key = {"count": fired.sum(0), "mean": means, "largest": size.amax(0)}[by]
    assert key[found.latents].tolist() == sorted(key.tolist(), reverse=True)
    assert sorted(found.latents.tolist()) == list(range(F))
    assert torch.equal(found.counts, fired.sum(0)[found.latents])
    close(found.means, means[found.latents])
    close(found.largest, size.amax(0)[found.latents])
    for place, latent in enumerate(found.latents.tolist()[:5]):
        top = size[:, latent].topk(16)
        mass = torch.zeros(30, dtype=a.dtype).index_add_(0, ids[top.indices], top.values)
        share = (mass / mass.sum()).topk(3)
        close(found.at[place].values.double(), share.values, tol=1e-6)
        peak = int(size[:, latent].argmax())
        assert f"«{int(ids[peak])}»" in found.passages[place]


def test_names_and_passages_are_those_of_examples(model, texts):
    found = firing(model, dictionary(), texts)
    for place in (0, 7):
        latent = int(found.latents[place])
        one = examples(model, dictionary(), texts, latent, k=1)
        assert found.passages[place] == one.top[0].passage
        assert found.answers[place].tokens == one.latents[0].answers.tokens[:3]
        assert found.promotes[place].tokens == one.latents[0].promotes.tokens[:3]
        assert found.names[latent] == f"{latent} {' '.join(found.at[place].tokens[:2])}".rstrip()


def test_heads_read_row_by_row(model, texts):
    """What a latent writes through heads is that of a text of one token, latent by latent."""
    coder = dictionary("layers.1.self_attn.input")
    found = firing(model, coder, texts)
    one = examples(model, coder, texts, int(found.latents[3]), k=1).latents[0]
    assert found.promotes[3].tokens == one.promotes.tokens[:3]


def test_it_is_a_result(model, texts, tmp_path):
    some = dictionary(threshold=torch.tensor([1e9, *[1.0] * (F - 1)]).double())
    found = firing(model, some, texts)
    found.save(tmp_path / "firing")
    found = Firing.load(tmp_path / "firing")
    assert list(found.to_frame().columns) == list(found.columns())
    assert "1 never; ranked by count" in found.summary()
    assert (found.passages[-1], found.names[0], found.at[-1].tokens) == ("", "0", ())
    assert len(found.figure()["data"][0]["x"]) == F - 1
    found.plot()


@pytest.mark.bad_input
def test_bad_input(refuses, model, texts):
    refuses(
        ArgumentError,
        lambda: firing(model, dictionary(), texts, by="size"),
        "by must be one of count, mean, largest; got 'size'.",
    )


def test_the_dictionaries_in_the_box():
    model = bilens.load("tinystories-2l")
    coder = Dictionary.load("tinystories-2l/mlp1.input")
    text = ["Once upon a time, there was a little girl. It was time to go to bed."]
    found = firing(model, coder, text)
    assert found.names[17] == "17 ␣time"


def test_a_summary_names_the_text_and_a_dictionary_of_another_model(tmp_path):
    """As the folder that was read, or the name on a hub, is called."""
    model = bilens.load("tinystories-2l")
    coder = Dictionary.load("tinystories-2l/mlp1.input")
    (tmp_path / "few.txt").write_text("Once upon a time.\n<|endoftext|>\nThere was a girl.")
    texts = Texts(str(tmp_path / "few.txt"), 9)

    def named(name, count=1):
        made = dataclasses.replace(coder, meta={"metadata": {"model_name": name}})
        asked = firing, lambda *given: examples(*given, 560, k=1)
        return [ask(model, made, texts) for ask in asked[:count]]

    told = "the dictionary says that it was made of gpt2-small, and this model is tinystories-2l"
    for found in named("gpt2-small", 2):
        assert f" of {tmp_path / 'few.txt'}" in found.summary()
        assert found.summary().endswith(f"; {told}")
    for found in (*named("some/tinystories-2l", 2), *named(""), *named(3)):
        assert "says" not in found.summary()
    model.name_or_path = ""
    assert "says" not in named("gpt2-small")[0].summary()
    assert firing(model, coder, ["Once upon a time"]).source == ""
