"""A conversion to bilinear as a run: figures that stock transformers confirms, stopped and resumed,
shared, refused.
"""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import bilens
from bilens.base.errors import ArgumentError, ConfigError, FileError, Interrupted
from bilens.training import ConversionRecipe, load_text, make_bilinear, read_recipe, train_language
from bilens.training.conversion import _divergence
from tests.documents_made import stories
from tests.processes_made import run_together

MODEL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "hidden_act": "silu",
}
FITTED = ConversionRecipe(tokens=2048, length=16)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(stories(), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text):
    made = tmp_path_factory.mktemp("model") / "silu"
    how = read_recipe(None, steps=60, batch_size=8, vocab_size=300, model=MODEL)
    train_language(text, made, how, quiet=True)
    return made


@pytest.fixture
def model(folder):
    return bilens.load(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder, text):
    output = tmp_path_factory.mktemp("whole") / "bilinear"
    make_bilinear(bilens.load(folder), text, output, FITTED, quiet=True)
    return output


def figures(output):
    return json.loads((output / "training.json").read_text())["figures"]


@torch.no_grad()
def test_what_is_written_is_a_llama_and_its_losses_are_stocks(whole, model, text):
    told, stock = figures(whole), AutoModelForCausalLM.from_pretrained(whole).eval()
    assert type(stock).__name__ == "LlamaForCausalLM"
    blocks = load_text(text, model.tokenizer, 16).valid
    at = torch.linspace(0, len(blocks) - 1, min(64, len(blocks))).long().tolist()
    held = blocks.__getitems__(at)["input_ids"][1::2]
    assert told["tokens measured"] == held[:, 1:].numel()
    for name, one in (("before", model), ("least squares", stock)):
        assert told[name] == pytest.approx(float(one(held, labels=held).loss), abs=1e-5)
    assert 0 < abs(told["least squares"] - told["before"]) < 0.1
    assert [row["layer"] for row in told["layers"]] == [0, 1]
    assert not list(whole.glob("layers-*"))
    bilens.load(whole).tokenizer.encode("cats")


def test_a_conversion_that_was_stopped_ends_at_the_same_weights(whole, model, text, tmp_path):
    def stop(done, of, figures, what):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="Resume"):
        make_bilinear(model, text, tmp_path / "run", FITTED, progress=stop)
    assert [file.name for file in (tmp_path / "run").glob("layers-*/*")]
    make_bilinear(model, text, tmp_path / "run", FITTED, resume=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    before = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    make_bilinear(model, text, tmp_path / "run", FITTED, resume=True)  # finished: as it is
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == before


def test_tokens_are_doubled_while_that_helps(model, text, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.training.conversion.FEWEST", 128)
    monkeypatch.setattr("bilens.training.conversion.GAIN", 0.0)
    how = ConversionRecipe(length=16)
    made = make_bilinear(model, text, tmp_path / "run", how)
    told = figures(tmp_path / "run")
    assert told["tokens fitted"] in [128 * 2**n for n in range(1, 9)]
    fixed = ConversionRecipe(tokens=told["tokens fitted"], length=16)
    same = make_bilinear(model, text, tmp_path / "fixed", fixed)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), same.parameters(), strict=True))


def test_training_from_there_towards_the_originals_logits(model, text, tmp_path):
    how = ConversionRecipe(tokens=64, length=16, steps=20, distil=True, batch_size=16)
    make_bilinear(model, text, tmp_path / "run", how, quiet=True)
    told = figures(tmp_path / "run")
    assert told["trained"] == pytest.approx(told["before"], abs=0.05)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    divergence = [row["loss"] for row in rows if "loss" in row]
    assert max(divergence) < 0.5 < told["before"]  # of logits, not of tokens
    held = load_text(text, model.tokenizer, 16).valid[:4]["input_ids"]
    theirs = model(held).logits
    ours = theirs + torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0))
    by_hand = (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1).mean()
    told = _divergence(model, {"logits": ours}, {"input_ids": held})
    assert float(told) == pytest.approx(float(by_hand), rel=1e-4)
    assert bilens.load(tmp_path / "run").config.is_exact


def test_the_teacher_is_taken_to_the_pupil_and_the_original_is_not(
    model, text, tmp_path, monkeypatch
):
    moved = []
    to = type(model).to
    monkeypatch.setattr(
        type(model), "to", lambda one, *a, **k: moved.append(one) or to(one, *a, **k)
    )
    how = ConversionRecipe(tokens=64, length=16, steps=1, distil=True, batch_size=16)
    make_bilinear(model, text, tmp_path / "run", how, quiet=True)
    assert moved
    assert not any(one is model for one in moved)


def test_two_processes_fit_the_layers_of_one(whole, folder, text, tmp_path):
    given = ("convert", folder, "--to", "bilinear", "--data", text, "--tokens", 2048)
    done = run_together(tmp_path, *given, "--length", 16, "-o", tmp_path / "two")
    assert done.codes == (0, 0), done.stderr
    assert done.stdout.count("least squares") == 1
    one, two = (bilens.load(run) for run in (whole, tmp_path / "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)
    assert figures(tmp_path / "two")["least squares"] == pytest.approx(
        figures(whole)["least squares"], abs=1e-4
    )


def test_what_cannot_be_converted_is_refused_and_nothing_stays(
    whole, model, folder, text, tmp_path, refuses
):
    run = tmp_path / "run"
    bilinear = bilens.load(whole)
    refuses(ArgumentError, lambda: make_bilinear(bilinear, text, run, FITTED), "not bilinear")
    mute = bilens.load(folder)
    mute.tokenizer = None
    refuses(ArgumentError, lambda: make_bilinear(mute, text, run, FITTED), "tokenizer")
    refuses(FileError, lambda: make_bilinear(model, "nowhere.txt", run, FITTED), "nowhere.txt")
    refuses(FileError, lambda: make_bilinear(model, text, folder, FITTED), "new or empty")
    assert not run.exists()
    shutil.copytree(whole, run)
    other = ConversionRecipe(tokens=1024, length=16)
    refuses(ConfigError, lambda: make_bilinear(model, text, run, other, resume=True), "recipe")


@pytest.mark.parametrize(
    "changes", [{"tokens": 0}, {"steps": -1}, {"learning_rate": float("nan")}, {"length": 0}]
)
def test_a_recipe_that_nothing_could_follow_is_refused(changes, refuses):
    refuses(ConfigError, lambda: ConversionRecipe(**changes), next(iter(changes)))
