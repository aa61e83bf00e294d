"""Training a language model: killed and resumed with the same losses, measured as it says, refused where it cannot be."""

import json
import resource
import shutil
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


def test_two_processes_have_the_losses_of_one(tmp_path, text, config):
    body = config.read_text().replace("steps = 300", "steps = 30")
    for name, batch in (("one", 8), ("two", 4)):
        (tmp_path / f"{name}.toml").write_text(body.replace("batch_size = 8", f"batch_size = {batch}"))
    arguments = ["-m", "bilens.cli", "train", "text", "--data", str(text)]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", []), ("two", launch)):
        given = [*arguments, "--config", str(tmp_path / f"{name}.toml"), "--output", str(tmp_path / name)]
        done = subprocess.run([sys.executable, *command, *given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("bits per byte") == 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    checkpoint = tmp_path / "two" / "checkpoints" / "checkpoint-30"
    assert {"complete", "rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in checkpoint.iterdir()}


def test_what_one_process_refuses_all_refuse(tmp_path, text, config):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bilens.cli"]
    given = ["train", "text", "--data", str(text), "--config", str(config), "--output", str(tmp_path / "used")]
    done = subprocess.run([*launch, *given], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "must be a new or empty folder" in done.stderr
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["file"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, text, config):
    """The largest file that the second run may write is smaller than its next checkpoint."""
    arguments = ["train", "text", "--data", str(text), "--config", str(config), "--steps", "30", "--save-every", "10"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "bilens.cli", *arguments, "--output", str(run)]
    subprocess.run(command, check=True, capture_output=True)
    expected = load_file(run / "model.safetensors")
    for file in (run / "model.safetensors", run / "config.json"):
        file.unlink()
    shutil.rmtree(run / "checkpoints" / "checkpoint-30")  # as if it had been stopped after step 20

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    full = subprocess.run([*command, "--resume"], capture_output=True, text=True, preexec_fn=little_room)
    assert full.returncode == 2, full.stderr
    assert "must be writable to the end" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (run / "config.json").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert all(torch.equal(expected[key], value) for key, value in load_file(run / "model.safetensors").items())


def test_options_reach_trainer(tmp_path, text):
    how = read_recipe(None, steps=3, batch_size=4, vocab_size=300, model=SMALL)
    plain = train_language(str(text), tmp_path / "plain", how, quiet=True)
    half = train_language(str(text), tmp_path / "half", how, quiet=True, options={"bf16": True})
    assert not torch.equal(plain.lm_head.weight, half.lm_head.weight)
    assert torch.allclose(plain.lm_head.weight, half.lm_head.weight, atol=0.02)


def test_an_option_that_cannot_be_is_refused(refuses, tmp_path, text):
    how = read_recipe(None, steps=3, batch_size=4, vocab_size=300, model=SMALL)
    for options in ({"report_to": "a_reporter_of_nobody"}, {"no_such_option": 1}):
        refuses(
            ConfigError,
            lambda options=options: train_language(str(text), tmp_path / next(iter(options)), how, options=options),
            "must be possible on this machine",
        )


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
