"""Training: killed and resumed runs end at the same weights; folders are claimed once; nothing is half-written."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import bilens
from bilens.base.errors import ConfigError, FileError, NotFiniteError
from bilens.decompose import eigen
from bilens.training import evaluate_on, load_images, recipe, train_classifier

ARGUMENTS = ["--steps", "500", "--batch-size", "64", "--width", "24", "--save-every", "25", "--seed", "3", "--bias"]


def command(output, *more):
    return [sys.executable, "-m", "bilens.cli", "train", "image", "--output", str(output), *ARGUMENTS, *more]


def log(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def test_kill_and_resume_end_at_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, capture_output=True)
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "checkpoints" / "checkpoint-50" / "complete").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    torn = killed / "checkpoints" / "checkpoint-475"  # as if the kill had hit in the middle of saving
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    subprocess.run(command(killed, "--resume"), check=True, capture_output=True)
    expected, got = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert log(whole) == log(killed)
    assert log(whole)[-1][0] == 500


@pytest.fixture(scope="module")
def quick():
    return recipe(steps=6, batch_size=32, hidden_size=8)


def test_a_run_leaves_what_it_promises(tmp_path, quick):
    model = train_classifier("digits", tmp_path / "run", quick, quiet=True)
    about = json.loads((tmp_path / "run" / "training.json").read_text())
    assert about["data"] == "digits"
    assert about["recipe"]["steps"] == 6
    assert about["figures"]["test"] == evaluate_on(bilens.load(tmp_path / "run"), "digits")
    pixels = load_images("digits").test.pixel_values
    assert torch.equal(bilens.load(tmp_path / "run")(pixels).logits, model(pixels).logits)
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]


def test_the_seed_decides(tmp_path, quick):
    def weights(name, seed):
        how = recipe(steps=6, batch_size=32, hidden_size=8, seed=seed)
        return train_classifier("digits", tmp_path / name, how, quiet=True).head.weight

    first = weights("a", 1)
    assert torch.equal(first, weights("b", 1))
    assert not torch.equal(first, weights("c", 2))


def test_a_folder_in_use_is_refused(refuses, tmp_path, quick):
    (tmp_path / "note.txt").write_text("mine")
    refuses(FileError, lambda: train_classifier("digits", tmp_path, quick), "must be a new or empty folder; got files")
    refuses(FileError, lambda: train_classifier("digits", tmp_path, quick, resume=True), "or hold a run; got other files")
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_resuming_with_another_recipe_is_refused(refuses, tmp_path, quick):
    train_classifier("digits", tmp_path, quick, quiet=True)
    other = recipe(steps=6, batch_size=32, hidden_size=8, seed=9)
    refuses(
        ConfigError,
        lambda: train_classifier("digits", tmp_path, other, resume=True),
        "recipe must be what the run began with",
    )


def test_data_that_are_not_there_leave_no_folder(refuses, tmp_path, quick):
    refuses(FileError, lambda: train_classifier("no/such", tmp_path / "run", quick), "no/such must be")
    assert not (tmp_path / "run").exists()


def test_recipes(refuses):
    assert recipe().weight_decay > recipe("accuracy").weight_decay
    assert recipe(steps=None).steps == recipe().steps
    refuses(ConfigError, lambda: recipe("best"), "recipe must be one of interpretable, accuracy")
    refuses(ConfigError, lambda: recipe(widht=3), "recipe.widht must be a field of ImageRecipe")
    refuses(ConfigError, lambda: recipe(steps=0), "steps must be at least 1")
    refuses(ConfigError, lambda: recipe(learning_rate=float("nan")), "learning_rate must be finite and ≥ 0")


def test_resuming_a_finished_run_changes_nothing(tmp_path, quick):
    train_classifier("digits", tmp_path, quick, save_every=3, quiet=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / ".saving-killed").mkdir()
    for _ in range(2):
        train_classifier("digits", tmp_path, quick, resume=True, save_every=3, quiet=True)
        assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-6"]
    assert not (tmp_path / ".saving-killed").exists()


def test_a_damaged_checkpoint_is_passed_over(tmp_path, quick):
    train_classifier("digits", tmp_path, quick, save_every=3, quiet=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors").write_bytes(b"")
    (tmp_path / "checkpoints" / "checkpoint-old").mkdir()
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\nnot json\n{"step": 2, "lo')
    train_classifier("digits", tmp_path, quick, resume=True, save_every=3, quiet=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert all(json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines())


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 5}'])
def test_a_damaged_training_json_is_refused(refuses, tmp_path, quick, text):
    (tmp_path / "training.json").write_text(text)
    refuses(FileError, lambda: train_classifier("digits", tmp_path, quick, resume=True), "training.json must")


def test_a_recipe_that_cannot_be_built_leaves_no_folder(refuses, tmp_path):
    how = recipe(hidden_size=0)
    refuses(ConfigError, lambda: train_classifier("digits", tmp_path / "run", how), "hidden_size must be a whole number ≥ 1")
    refuses(ConfigError, lambda: recipe(seed=-1), "seed must be 0 … 4294967295; got -1")
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_leaves_no_model(refuses, tmp_path):
    how = recipe(steps=30, batch_size=32, hidden_size=8, learning_rate=1e6, bias=True)
    for name, penalty in (("with", 20.0), ("without", 0.0)):
        asked = replace(how, tail_penalty=penalty)
        run = tmp_path / name
        refuses(NotFiniteError, lambda: train_classifier("digits", run, asked, quiet=True), "must be finite")  # noqa: B023
        assert not (run / "model.safetensors").exists()


def test_the_tail_penalty_leaves_little_beyond_the_kept(tmp_path):
    """With it two eigenvectors a class carry more of ‖Q‖² than without."""
    how = recipe(steps=120, batch_size=100, hidden_size=32, kept=2)
    shares = {}
    for penalty in (0.0, 20.0):
        run = replace(how, tail_penalty=penalty)
        tensor = train_classifier("digits", tmp_path / str(penalty), run, quiet=True).tensor().detach()
        values = eigen(tensor, k=None).values.square()
        shares[penalty] = float((values[:, 2:].sum(-1) / values.sum(-1)).mean())
    assert shares[20.0] < shares[0.0] / 5
