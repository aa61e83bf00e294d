"""Training a language model: full disks, options as they are meant, measured as it says, refused
where it cannot be.
"""

import json
import os
import subprocess
from dataclasses import replace

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, ConfigError, FileError
from bilens.training import evaluate_text_on, load_text, read_recipe, train_language
from tests.documents_made import stories
from tests.processes_made import run_by_torchrun, run_together

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
    file.write_text(stories(end=", and λ ran."), encoding="utf-8")
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


def test_two_processes_have_the_losses_of_one(tmp_path, text, config):
    body = config.read_text().replace("steps = 300", "steps = 30")
    for name, batch in (("one", 8), ("two", 4)):
        (tmp_path / f"{name}.toml").write_text(
            body.replace("batch_size = 8", f"batch_size = {batch}")
        )
    train_language(str(text), tmp_path / "one", read_recipe(tmp_path / "one.toml"), quiet=True)
    given = ("train", "text", "--data", text, "--config", tmp_path / "two.toml")
    done = run_by_torchrun(tmp_path, *given, "--output", tmp_path / "two")
    assert done.codes == (0, 0), done.stderr
    assert done.stdout.count("bits per byte") == 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    checkpoint = tmp_path / "two" / "checkpoints" / "checkpoint-30"
    assert {"complete", "rng_state_0.pth", "rng_state_1.pth"} <= {
        file.name for file in checkpoint.iterdir()
    }


def test_what_one_process_refuses_all_refuse(tmp_path, text, config):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    used = tmp_path / "used"
    given = ("train", "text", "--data", text, "--config", config, "--output", used)
    done = run_together(tmp_path, *given)
    assert done.codes == (2, 2)
    assert done.stderr.count("must be a new or empty folder") == 2
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["file"]


@pytest.fixture(scope="module")
def short():
    return read_recipe(None, steps=6, batch_size=4, vocab_size=300, model=SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text, short):
    """A run with plenty of room, and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    return train_language(str(text), folder, short, quiet=True, save_every=2).state_dict()


@pytest.mark.parametrize("room", [8_000, 40_000, 60_000])
def test_a_file_that_grows_too_large_leaves_the_last_good_checkpoint(
    refuses, tmp_path, text, short, whole, room, largest_file
):
    """Of a tokenizer, of weights, of what the optimiser holds."""
    run = tmp_path / "run"
    with largest_file(room):
        refuses(
            FileError,
            lambda: train_language(str(text), run, short, quiet=True, save_every=2),
            "must be writable",
        )
    assert not (run / "config.json").exists()
    again = train_language(str(text), run, short, quiet=True, save_every=2, resume=run.exists())
    assert all(torch.equal(whole[name], value) for name, value in again.state_dict().items())


@pytest.mark.parametrize("room", [16, 128, 256])
def test_a_full_disk_is_one_error(refuses, tmp_path, text, short, whole, room):
    """Wherever it is met: while the folder is claimed, at a checkpoint's weights, its optimiser,
    the model in the end.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    try:
        run = disk / "run"
        refuses(
            FileError,
            lambda: train_language(str(text), run, short, quiet=True, save_every=2),
            "must be writable",
        )
        assert not (run / "config.json").exists()
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        again = train_language(
            str(text), run, short, quiet=True, save_every=2, resume=(run / "training.json").exists()
        )
        assert all(torch.equal(whole[name], value) for name, value in again.state_dict().items())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_options_reach_trainer(tmp_path, text, short):
    plain = train_language(str(text), tmp_path / "plain", short, quiet=True)
    half = train_language(str(text), tmp_path / "half", short, quiet=True, options={"bf16": True})
    assert not torch.equal(plain.lm_head.weight, half.lm_head.weight)
    assert torch.allclose(plain.lm_head.weight, half.lm_head.weight, atol=0.02)


@pytest.mark.parametrize(
    ("options", "text_of"),
    [
        ({"report_to": "a_reporter_of_nobody"}, "must be possible on this machine"),
        ({"optim": "no_such_optimiser"}, "must be possible on this machine"),
        ({"optim": "adamw_bnb_8bit"}, "must be possible on this machine"),
        ({"no_such_option": 1}, "option no_such_option must be one of TrainingArguments"),
        ({"max_steps": 5}, "option max_steps must be left to the recipe; got 5"),
        ({"num_train_epochs": 5}, "option num_train_epochs must be left to the recipe"),
        ({"prediction_loss_only": False}, "must be left to the recipe"),
        ({"gradient_accumulation_steps": 0}, "with gradient_accumulation_steps=0 must be possible"),
        ({"label_smoothing_factor": 1.5}, "label_smoothing_factor must be 0 … 1"),
        ({"label_smoothing_factor": "much"}, "label_smoothing_factor must be 0 … 1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_and_leaves_nothing(
    refuses, tmp_path, text, short, options, text_of
):
    run = tmp_path / "run"
    refuses(
        ConfigError,
        lambda: train_language(str(text), run, short, quiet=True, options=options),
        text_of,
    )
    assert not run.exists()


def test_gradient_checkpointing_works_or_is_refused(refuses, tmp_path, text, short, whole):
    given = {"quiet": True, "save_every": 2, "options": {"gradient_checkpointing": True}}
    if not bilens.Transformer.supports_gradient_checkpointing:
        words = "option gradient_checkpointing must be left out for a Transformer"
        refuses(
            ConfigError, lambda: train_language(str(text), tmp_path / "run", short, **given), words
        )
        assert not (tmp_path / "run").exists()
        return
    same = train_language(str(text), tmp_path / "run", short, **given).state_dict()
    assert all(torch.allclose(whole[name], value, atol=1e-6) for name, value in same.items())


@pytest.mark.parametrize("experts", [0, 3])
def test_label_smoothing_is_of_the_next_token(tmp_path, text, short, monkeypatch, experts):
    """The logged loss of a batch is torch's own, of the model before that step, and what experts'
    unequal shares add to it; held-out losses are not smoothed, and nothing is added.
    """
    seen, forward = [], bilens.Transformer.forward

    def heard(self, *given, **named):
        found = forward(self, *given, **named)
        if self.training:
            extra = 0.5 * unequal.pop().item() if experts else 0.0  # of its one layer
            seen.append((named["input_ids"], found.logits.detach().double(), extra))
        return found

    unequal, balance = [], bilens.nn.Experts.balance
    monkeypatch.setattr(
        bilens.nn.Experts,
        "balance",
        lambda self, x: unequal.append(balance(self, x)) or unequal[-1],
    )
    monkeypatch.setattr(bilens.Transformer, "forward", heard)
    model = {**SMALL, "num_local_experts": experts, "router_aux_loss_coef": 0.5}
    how = replace(short, steps=2, model=model)
    train_language(str(text), tmp_path, how, quiet=True, options={"label_smoothing_factor": 0.3})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    truth = []
    for ids, logits, extra in seen:
        log = logits[:, :-1].log_softmax(-1)
        right = log.gather(-1, ids[:, 1:, None])[..., 0]
        truth.append(extra - float((0.7 * right + 0.3 * log.mean(-1)).mean()))
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(truth, rel=1e-5)
    held_out = [row["eval_loss"] for row in rows if "eval_loss" in row][-1]
    assert held_out == pytest.approx(
        evaluate_text_on(bilens.load(tmp_path), str(text))["loss"], rel=1e-5
    )


def test_accumulated_gradients_are_those_of_one_batch(tmp_path, text, short):
    """Two halves, and their mean: nothing is counted twice."""
    logs = []
    for name, size, parts in (("one", 8, 1), ("two", 4, 2)):
        how = replace(short, steps=3, batch_size=size)
        train_language(
            str(text),
            tmp_path / name,
            how,
            quiet=True,
            options={"gradient_accumulation_steps": parts},
        )
        logs.append(losses(tmp_path / name))
    assert [loss for _, loss in logs[1]] == pytest.approx([loss for _, loss in logs[0]], abs=1e-5)


def test_other_text_under_the_same_name_is_refused(refuses, tmp_path, text, short):
    copy = tmp_path / "text.txt"
    copy.write_bytes(text.read_bytes())
    train_language(str(copy), tmp_path / "run", short, quiet=True)
    copy.write_bytes(copy.read_bytes().replace(b"dogs", b"cows"))
    words = "content must be what the run began with; got other data. Name another folder."
    refuses(
        ConfigError, lambda: train_language(str(copy), tmp_path / "run", short, resume=True), words
    )


def test_the_figures_are_those_of_the_saved_model(tmp_path, text):
    how = read_recipe(None, steps=5, batch_size=4, vocab_size=300, model=SMALL)
    train_language(str(text), tmp_path, how, quiet=True)
    model = bilens.load(tmp_path)
    figures = evaluate_text_on(model, str(text))
    assert json.loads((tmp_path / "training.json").read_text())["figures"][
        "valid"
    ] == pytest.approx(figures)
    blocks = load_text(str(text), model.tokenizer, 16).valid
    tokens = torch.as_tensor(blocks.tokens.astype("int64"))
    log = model(tokens).logits[:, :-1].log_softmax(-1)
    by_hand = -log.gather(-1, tokens[:, 1:, None]).mean()
    assert figures["loss"] == pytest.approx(float(by_hand), rel=1e-5)
    assert figures["tokens"] == len(tokens) * 15
    assert model.tokenizer.decode(
        model.generate(**model.tokenizer("Once", return_tensors="pt"), max_new_tokens=3)[0]
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("steps = 0", ConfigError, "steps must be a whole number ≥ 1"),
        ("stesp = 3", ConfigError, "stesp must be one of batch_size, learning_rate"),
        (
            "[model]\nhiden_size = 3",
            ConfigError,
            "TransformerConfig.hiden_size must be a key it knows",
        ),
        ("steps = ", FileError, "must be readable TOML"),
        ('steps = "many"', ConfigError, "steps must be a whole number ≥ 1; got 'many'"),
        ("steps = nan", ConfigError, "steps must be"),
        ("steps = 1.5", ConfigError, "steps must be"),
        ("steps = true", ConfigError, "steps must be"),
        ("steps = 9999999999", ConfigError, "steps must be 1 … 2147483647"),
        ("batch_size = -1", ConfigError, "batch_size must be"),
        ('learning_rate = "fast"', ConfigError, "learning_rate must be a finite number"),
        ("learning_rate = inf", ConfigError, "learning_rate must be a finite number"),
        ("weight_decay = true", ConfigError, "weight_decay must be a finite number"),
        ("seed = 1.0", ConfigError, "seed must be"),
        ("model = 3", ConfigError, "model must be a table"),
        ("[steps]\na = 1", ConfigError, "steps must be"),
        ("vocab_size = 1000000000000", ArgumentError, "vocab_size must be"),
        ("vocab_size = true", ArgumentError, "vocab_size must be"),
        ("steps = " + "[" * 50_000, FileError, "nesting too deep"),
    ],
)
def test_a_wrong_recipe_is_refused(refuses, tmp_path, body, kind, text):
    file = tmp_path / "r.toml"
    file.write_text(body)
    refuses(kind, lambda: read_recipe(file), str(file), text)


def test_a_recipe_that_is_not_there(refuses, tmp_path):
    refuses(FileError, lambda: read_recipe(tmp_path / "no.toml"), "no.toml must be a file")


def test_a_run_goes_on_in_the_precision_it_began_with(refuses, tmp_path, text, short):
    """bf16 and the like change the weights: the run's file says them, and another is refused."""
    place = tmp_path / "run"
    train_language(str(text), place, short, quiet=True, options={"report_to": "none"})
    assert json.loads((place / "training.json").read_text())["options"] == {}
    for options, words in (
        ({"bf16": True}, "None; got True"),
        ({"max_grad_norm": 0.5}, "got 0.5"),
        ({"max_grad_norm": 0.0}, "got 0.0"),  # off, where it is on by default
    ):
        name = next(iter(options))
        refuses(
            ConfigError,
            lambda options=options: train_language(
                str(text), place, short, resume=True, options=options
            ),
            f"options.{name} must be what the run began with",
            words,
        )


def test_a_run_from_before_files_said_options_goes_on(tmp_path, text, short):
    place = tmp_path / "run"
    train_language(str(text), place, short, quiet=True)
    about = json.loads((place / "training.json").read_text())
    del about["options"]
    (place / "training.json").write_text(json.dumps(about))
    train_language(str(text), place, short, quiet=True, resume=True)
