"""On what text latents fire, by brute force over all tokens; and what a model says without one, by
stock transformers with a hook.
"""

import dataclasses
import json
import re
import sys

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, FileError, ShapeError
from bilens.features import Dictionary, Examples, Texts, examples
from bilens.wiring import Prompt
from tests.latents_made import VOCABULARY, D, F, dictionary

module = sys.modules["bilens.features.examples"]  # examples is its function too
LATENT = 3


@pytest.fixture(scope="module")
def boxed():
    return bilens.load("tinystories-2l")


TRANSCODER = {
    "architecture": "transcoder",
    "hook_out": "layers.1.mlp.output",
    "threshold": None,
    "normalisation": "layer_norm",
}
PLACES = {
    "what a layer reads": {},
    "what a layer writes": {"hook": "layers.0.mlp.output"},
    "what heads read": {"hook": "layers.1.self_attn.input"},
    "normalised": {"normalisation": "layer_norm"},
    "centred": {"centred": True},
    "a transcoder": TRANSCODER,
    "signs": {"architecture": "signed_topk", "k": 8, "threshold": None},
}


def module_of(stock, hook):
    layer, part, side = re.fullmatch(r"layers\.(\d)\.(\w+)\.(\w+)", hook).groups()
    return getattr(stock.model.layers[int(layer)], part), side


def heard(stock, hook, ids):
    """What the place holds, by stock transformers and torch's own hook."""
    module, side = module_of(stock, hook)
    kept = []
    if side == "input":
        told = lambda _, given, named: kept.append(given[0] if given else named["hidden_states"])  # noqa: E731
        handle = module.register_forward_pre_hook(told, with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad():
        stock(input_ids=ids[None], use_cache=False)
    handle.remove()
    return kept[0][0]


def without(stock, coder, ids, latent):
    """The model's probabilities where what is decoded lacks the latent: by decoding twice."""
    x = heard(stock, coder.hook, ids)
    a = coder.encode(x)
    less = a.clone()
    less[:, latent] = 0
    lost = (coder.decode(a, x) - coder.decode(less, x))[None]
    module, side = module_of(stock, coder.hook_out or coder.hook)
    if side == "input":

        def act(_, given, named):
            if given:
                return ((given[0] - lost, *given[1:]), named)
            return (given, named | {"hidden_states": named["hidden_states"] - lost})

        handle = module.register_forward_pre_hook(act, with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _, __, out: out - lost)
    with torch.no_grad():
        logits = stock(input_ids=ids[None], use_cache=False).logits[0]
    handle.remove()
    return logits.softmax(-1)


@pytest.mark.parametrize("more", PLACES.values(), ids=PLACES)
def test_examples_are_those_of_all_tokens(model, texts, close, more):
    """Everything that is told, from the activations of every token at once."""
    coder, stock = dictionary(**more), model.to_llama().double()
    result = examples(model, coder, texts, LATENT, k=3)
    (found,) = result.latents
    rows = [coder.encode(heard(stock, coder.hook, ids))[:, LATENT] for ids in texts]
    a, ids = torch.cat(rows), torch.cat(texts)
    fired = a != 0
    assert 10 < int(fired.sum()) == found.count < len(a) == result.tokens
    assert result.texts == len(texts)
    assert found.mean == pytest.approx(float(a[fired].abs().mean()))
    assert found.largest == pytest.approx(float(a.abs().max()))
    edges = found.edges.tolist()
    counts, _ = torch.histogram(a[fired].abs(), found.edges)
    assert found.counts.tolist() == counts.tolist()
    assert edges[-2] <= found.largest < edges[-1]
    peaks = [float(row.abs().max()) for row in rows]
    best = sorted(range(len(texts)), key=lambda n: -peaks[n])[:3]
    assert [one.text for one in result.top] == best
    assert [one.position for one in result.top] == [int(rows[n].abs().argmax()) for n in best]
    mass = torch.zeros(VOCABULARY, dtype=a.dtype).index_add_(0, ids, a.abs())
    share, token = (mass / mass.sum()).topk(5)
    assert found.at.tokens == tuple(map(str, token.tolist()))
    close(found.at.values, share, tol=1e-6)  # the stock norm works in float32
    for side, step in (("before", -1), ("after", 1)):
        mass = torch.zeros(VOCABULARY, dtype=a.dtype)
        for text, row in zip(texts, rows, strict=True):
            for t in range(len(text)):
                if 0 <= t + step < len(text):
                    mass[text[t + step]] += row[t].abs()
        close(getattr(found, side).values, (mass / mass.sum()).topk(5).values, tol=1e-6)
    assert len(result.random) == 3
    for one in (*result.top, *result.random):
        row = rows[one.text][one.begin : one.begin + len(one.tokens)]
        close(one.activations, row, tol=1e-6)
        assert one.activation == pytest.approx(float(row[one.at]), rel=1e-5)
        assert one.activation != 0
        assert one.tokens == tuple(map(str, texts[one.text][one.begin :][: len(row)].tolist()))


@pytest.mark.parametrize("more", PLACES.values(), ids=PLACES)
def test_probabilities_with_and_without_are_those_of_stock_transformers(model, texts, more):
    coder, stock = dictionary(**more), model.to_llama().double()
    result = examples(model, coder, texts, LATENT, k=3)
    changed = 0
    for one in (*result.top, *result.random):
        ids = texts[one.text]
        if one.position + 1 == len(ids):
            assert (one.next, one.p, one.p_without) == (None, None, None)
            continue
        token = int(ids[one.position + 1])
        assert one.next == str(token)
        with torch.no_grad():
            p = stock(input_ids=ids[None], use_cache=False).logits[0].softmax(-1)
        assert one.p == pytest.approx(float(p[one.position, token]), rel=1e-5)
        gone = without(stock, coder, ids, LATENT)[one.position, token]
        assert one.p_without == pytest.approx(float(gone), rel=1e-5)
        changed += abs(one.p_without / one.p - 1) > 1e-3
    assert changed > 2


def test_random_examples_come_from_equal_parts_of_the_activations(model, texts):
    """With a pool that holds every token that it fires on, each part is known exactly."""
    coder = dictionary()
    result = examples(model, coder, texts, LATENT, k=5)
    rows = [coder.encode(x)[:, LATENT] for x in _inputs(model, texts)]
    values = torch.cat(rows).sort(descending=True).values
    values = values[values != 0].tolist()
    size = len(values)
    parts = [values[size * n // 5 : size * (n + 1) // 5] for n in range(5)]
    drawn = [one.activation for one in result.random]
    for value, part in zip(drawn, parts, strict=True):
        assert part[-1] - 1e-12 <= value <= part[0] + 1e-12
    again = examples(model, coder, texts, [0, LATENT], k=5).of(LATENT)
    assert [one.activation for one in again.random] == pytest.approx(drawn)
    other = examples(model, coder, texts, LATENT, k=5, seed=1)
    assert [one.activation for one in other.random] != drawn


def _inputs(model, texts):
    return bilens.models.activations(model, [ids[None] for ids in texts], "mlp1.input")


def test_texts_pass_by_and_a_pass_ends_at_the_place(model, texts, monkeypatch):
    """However many texts there are, k and the pool are held of them; nothing after the place runs
    but for the examples.
    """
    calls, held = [], []

    class Watched(module._Seen):
        def see(self, *given):
            super().see(*given)
            held.append((len(self.top), len(self.pool)))

    monkeypatch.setattr(module, "_Seen", Watched)
    many = (texts[n % 10].add(n).remainder(VOCABULARY) for n in range(100))
    handle = model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    result = examples(model, dictionary("layers.0.mlp.input"), many, LATENT, k=1)
    handle.remove()
    assert result.texts == 100
    assert len(calls) == 2 * len({one.text for one in result.latents[0].examples})
    assert result.latents[0].count > 16 == max(held)[1] == held[-1][1]
    assert {size for size, _ in held} <= {0, 1}


def test_a_passage_that_comes_twice_is_shown_once(model, texts):
    twice = [*texts, *texts]
    once, both = (examples(model, dictionary(), given, LATENT, k=4) for given in (texts, twice))
    assert both.latents[0].count == 2 * once.latents[0].count
    assert [one.text for one in both.top] == [one.text for one in once.top]
    passages = {(one.text % 10, one.position) for one in both.random}
    assert len(passages) == len(both.random)


def test_the_histogram_knows_no_order():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(500, generator=generator).exp().pow(3)
    one, other = module._Histogram(), module._Histogram()
    for part in values.split(7):
        one.add(part)
    other.add(values.sort(descending=True).values)
    assert torch.equal(one.filled[0], other.filled[0])
    assert torch.equal(one.filled[1], other.filled[1])
    assert int(one.counts.sum()) == 500


@pytest.mark.parametrize("power", [-1000, -200, 150, 1000])
def test_the_histogram_knows_no_scale(power):
    values = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, other = module._Histogram(), module._Histogram()
    for part in values.split(100):
        plain.add(part)
        other.add(part * 2.0**power)
    (edges, counts), (moved, same) = plain.filled, other.filled
    assert torch.equal(counts, same)
    assert torch.equal(moved, edges * 2.0**power)


def test_names_by_weights(model, texts, close):
    """What it answers, by texts of two tokens; what it writes for, by hand through the layer."""
    coder = dictionary()
    result = examples(model, coder, texts, LATENT)
    (found,) = result.latents
    first = texts[0][0]
    pairs = [torch.stack([first, token]) for token in torch.arange(VOCABULARY)]
    pre = torch.stack([coder.pre(x)[1, LATENT] for x in _inputs(model, pairs)])
    close(found.answers.values, pre.topk(5).values)
    assert found.answers.tokens == tuple(map(str, pre.topk(5).indices.tolist()))
    with torch.no_grad():
        mlp, x = model.blocks[1].mlp, coder.b_dec + found.mean * coder.W_dec[LATENT]
        delta = mlp(x) - mlp(coder.b_dec)
        scores = (model.model.norm.weight * delta) @ model.W_U
    z = (scores - scores.mean()) / scores.std()
    close(found.promotes.values, z.topk(5).values)
    assert found.demotes.tokens == tuple(map(str, (-z).topk(5).indices.tolist()))
    (found,) = examples(model, dictionary("layers.0.mlp.output"), texts, LATENT).latents
    scores = (model.model.norm.weight * dictionary().W_dec[LATENT]) @ model.W_U
    assert found.promotes.tokens == tuple(map(str, scores.topk(5).indices.tolist()))


def test_a_latent_that_never_fires_is_told_by_its_weights(model, texts):
    silent = dictionary(threshold=torch.full((F,), 1e9).double())
    result = examples(model, silent, texts, LATENT)
    (found,) = result.latents
    assert (found.count, found.mean, found.examples, result.rows()) == (0, 0.0, (), [])
    assert f"latent {LATENT} of mlp1.input never fired in {result.tokens} tokens" in str(result)
    assert found.answers.tokens[0] in result.summary()
    assert list(result.to_frame().columns) == list(result.columns())
    assert "never fired" in result._repr_html_()
    assert "never fired" in result.figure()["layout"]["title"]["text"]
    several = examples(model, silent, texts, [LATENT, 5])
    assert "never fired: 3, 5" in several.summary()
    assert [row["passage"] for row in several.answer()] == ["never", "never"]


@pytest.mark.parametrize("device", ["memory", "disk"])
def test_it_is_a_result(model, texts, tmp_path, device):
    result = examples(model, dictionary(), texts, [LATENT, 5], k=2)
    if device == "disk":
        result.save(tmp_path / "examples.safetensors")
        result = Examples.load(tmp_path / "examples.safetensors")
    frame = result.to_frame()
    assert list(frame.columns) == list(result.columns())
    assert frame["latent"].unique().tolist() == [LATENT, 5]
    assert len(frame) == len(result.top) + len(result.random)
    assert [row["latent"] for row in result.answer()] == [LATENT, 5]
    alone = result.of(LATENT)
    assert list(alone.to_frame().columns) == list(alone.columns())
    assert "«" in alone.rows()[0]["passage"]
    assert json.dumps(alone.figure())
    assert sum(alone.figure()["data"][0]["y"]) == alone.latents[0].count
    alone.plot()


def test_text_is_shown_and_nothing_in_it_acts(boxed):
    coder = Dictionary.load("tinystories-2l/mlp1.input")
    texts = ["Once upon a time, there was <b>a</b> time.\nOne day, it was time to go."]
    result = examples(boxed, coder, texts, 17)
    page = result._repr_html_()
    assert "␣time" in page
    assert "⏎" in page
    assert "&lt;" in page
    assert "<</span>" not in page
    assert "«␣time»" in result.rows()[0]["passage"]
    assert {one.next for one in result.top} <= set(boxed.output_names(range(1024)))


TEXT = "Once upon a time there was a little girl."


def test_texts_come_in_many_ways(boxed, tmp_path):
    """The same tokens however they are given; as many as are asked for."""
    words = boxed.tokenizer
    ids = words(TEXT)["input_ids"]
    file = tmp_path / "text.txt"
    file.write_text(f"A text to train on.<|endoftext|>{TEXT}")  # and the last is held out
    ways = {
        "strings": [TEXT],
        "a generator": (text for text in [TEXT]),
        "a prompt": Prompt(TEXT),
        "prompts": [Prompt(TEXT, special_tokens=False)],
        "ids": torch.tensor(ids),
        "a batch": torch.tensor([ids]),
        "batches": [torch.tensor([ids])],
        "a tokenizer's": words([TEXT], return_tensors="pt"),
        "lists": [ids],
        "a source": str(file),
        "a path": file,
    }
    for name, texts in ways.items():
        assert [read.tolist() for read in Texts.of(texts).ids(boxed)] == [[ids]], name
    told = []
    half = Texts([TEXT] * 4, tokens=15, progress=lambda *given, **_: told.append(given))
    assert [read.shape[1] for read in half.ids(boxed)] == [len(ids), 15 - len(ids)]
    assert told == [(len(ids), 15), (15, 15)]
    told.clear()
    list(Texts([TEXT] * 2, progress=half.progress).ids(boxed))
    assert told == [(1, 2), (2, 2)]


def test_a_text_longer_than_the_context_is_several(model):
    ids = torch.arange(40) % VOCABULARY
    result = examples(model, dictionary(), [ids], LATENT)
    assert (result.texts, result.tokens) == (3, 40)


def other(**more):
    return lambda model, texts: examples(model, dictionary(**more), texts, LATENT)


BAD = {
    "a latent": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), texts, F),
        f"feature must be a whole number from 0 to {F - 1}; got {F}.",
    ),
    "no latent": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), texts, []),
        "feature must be a whole number",
    ),
    "a width": (
        ShapeError,
        lambda model, texts: examples(model, _wide(), texts, LATENT),
        f"dictionary must read a place of width {D}; got",
    ),
    "a dictionary": (
        ArgumentError,
        lambda model, texts: examples(model, "mlp1", texts, LATENT),
        "dictionary must be a Dictionary; got str",
    ),
    "no texts": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), [], LATENT),
        "texts must hold at least one text; got none.",
    ),
    "a spent generator": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), iter(()), LATENT),
        "texts must hold at least one text; got none.",
    ),
    "an empty text": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), [texts[0], ""], LATENT),
        "texts[1] must hold at least one token; got an empty text.",
    ),
    "no ids": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), [texts[0][:0]], LATENT),
        "texts[0]: inputs must hold at least one token; got none.",
    ),
    "a token": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), [texts[0] + 100], LATENT),
        "texts[0]: inputs must be tokens 0 …",
    ),
    "a number": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), 7, LATENT),
        "texts must be a list of texts, or the name of a source of them; got int.",
    ),
    "a source": (
        FileError,
        lambda model, texts: examples(model, dictionary(), "Once upon a time", LATENT),
        "Once upon a time must be",
        "To read this very text, give it in a list: [text].",
    ),
    "no place": (
        ArgumentError,
        other(hook=""),
        "dictionary.hook must name a place of the model that it reads, mlp1.input say; got ''. "
        "Give it as at=.",
    ),
    "another place": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), texts, LATENT, at="mlp0.input"),
        "at must be mlp1.input, the place of the dictionary; got mlp0.input.",
    ),
    "a place that is not there": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(""), texts, LATENT, at="mlp7.input"),
        "place must be one of",
    ),
    "k": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), texts, LATENT, k=0),
        "k must be a whole number ≥ 1; got 0.",
    ),
    "tokens": (
        ArgumentError,
        lambda model, texts: Texts(texts, tokens=0),
        "Texts.tokens must be a whole number ≥ 1; got 0.",
    ),
    "a classifier": (
        ArgumentError,
        lambda model, texts: examples(_classifier(), dictionary(), texts, LATENT),
        "model must be a language model; got Classifier.",
    ),
    "a transcoder to what was before": (
        ArgumentError,
        other(architecture="transcoder", threshold=None, hook_out="layers.0.mlp.output"),
        "dictionary must write no place before the one that it reads; "
        "got mlp1.input to mlp0.output.",
    ),
    "one not asked for": (
        ArgumentError,
        lambda model, texts: examples(model, dictionary(), texts, LATENT).of(4),
        "feature must be among 3; got 4.",
    ),
}


def _wide():
    zeros = torch.zeros(D + 1, F)
    hook = "layers.1.mlp.input"
    return Dictionary(zeros, zeros.mT.clone(), zeros[0], zeros[:, 0].clone(), hook=hook)


def _classifier():
    sizes = {"input_shape": [1, 2, 2], "hidden_size": 4, "intermediate_size": 5}
    return bilens.Classifier(bilens.ClassifierConfig(**sizes))


@pytest.mark.bad_input
@pytest.mark.parametrize(("kind", "call", "said"), [(b[0], b[1], b[2:]) for b in BAD.values()],
                         ids=BAD)  # fmt: skip
def test_bad_input(refuses, model, texts, kind, call, said):
    refuses(kind, lambda: call(model, texts), *said)


def test_another_librarys_name_of_a_place(model, texts):
    """``at`` says it; of a transcoder the layer that reads it writes."""
    known = examples(model, dictionary(), texts, LATENT).to_frame()
    foreign = dictionary("blocks.1.hook_mlp_in")
    assert examples(model, foreign, texts, LATENT, at="mlp1.input").to_frame().equals(known)
    known = examples(model, dictionary(**TRANSCODER), texts, LATENT)
    coder = dataclasses.replace(dictionary(**TRANSCODER), hook="blocks.1.ln2", hook_out="mlp_out")
    found = examples(model, coder, texts, LATENT, at="mlp1.input")
    assert found.to_frame().equals(known.to_frame())
    assert found.changed == "what mlp1 writes, and with it all that reads the stream after it"
