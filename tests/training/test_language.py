"""Training a language model: killed and resumed with the same losses, measured as it says, refused where it cannot be."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import bilens
from bilens.base.errors import ConfigError, FileError
from bilens.training import evaluate_text_on, load_text, read_recipe, train_language

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    stories = [f"Once upon a time there were {n} cats. They saw {n + 1} dogs, and λ ran." for n in range(400)]
    file.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "small.toml"
    table = "\n".join(f"{key} = {value}" for key, value in SMALL.items())
    file.write_text(f"steps = 300\nbatch_size = 8\nvocab_size = 300\nseed = 5\n[model]\n{table}\n")
    return file


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def test_kill_and_resume_have_the_same_losses(tmp_path, text, config):
    arguments = ["train", "text", "--data", str(text), "--config", str(config), "--save-every", "20"]
    command = [sys.executable, "-m", "bilens.cli", *arguments, "--output"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run([*command, str(whole)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "checkpoints" / "checkpoint-40" / "complete").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(killed), "--resume"], check=True, capture_output=True)
    assert losses(whole) == losses(killed)
    expected, got = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_the_figures_are_those_of_the_saved_model(tmp_path, text):
    how = read_recipe(None, steps=5, batch_size=4, vocab_size=300, model=SMALL)
    train_language(str(text), tmp_path, how, quiet=True)
    model = bilens.load(tmp_path)
    figures = evaluate_text_on(model, str(text))
    assert json.loads((tmp_path / "training.json").read_text())["figures"]["valid"] == pytest.approx(figures)
    blocks = load_text(str(text), model.tokenizer, 16).valid
    tokens = torch.as_tensor(blocks.tokens.astype("int64"))
    log = model(tokens).logits[:, :-1].log_softmax(-1)
    by_hand = -log.gather(-1, tokens[:, 1:, None]).mean()
    assert figures["loss"] == pytest.approx(float(by_hand), rel=1e-5)
    assert figures["tokens"] == len(tokens) * 15
    assert model.tokenizer.decode(model.generate(**model.tokenizer("Once", return_tensors="pt"), max_new_tokens=3)[0])


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("steps = 0", ConfigError, "steps must be at least 1"),
        ("stesp = 3", ConfigError, "stesp must be one of batch_size, learning_rate"),
        ("[model]\nhiden_size = 3", ConfigError, "TransformerConfig.hiden_size must be a key it knows"),
        ("steps = ", FileError, "must be a TOML file"),
        ('steps = "many"', ConfigError, "must hold usable values"),
    ],
)
def test_a_wrong_recipe_is_refused(refuses, tmp_path, body, kind, text):
    file = tmp_path / "r.toml"
    file.write_text(body)
    refuses(kind, lambda: read_recipe(file), text)


def test_a_recipe_that_is_not_there(refuses, tmp_path):
    refuses(FileError, lambda: read_recipe(tmp_path / "no.toml"), "no.toml must be a TOML file")
