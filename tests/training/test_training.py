"""Training: folders are claimed once, damage is passed over, figures and penalties are as by
hand.
"""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import set_seed

import bilens
from bilens.algebra import CP
from bilens.base.errors import ConfigError, FileError, NotFiniteError
from bilens.base.files import held
from bilens.decompose import eigen
from bilens.models import Classifier
from bilens.training import (
    checkpoints,
    evaluate_on,
    load_images,
    recipe,
    schedule,
    train_classifier,
)
from bilens.training.classify import TAIL_EVERY, configure, tail_penalty


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


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
    refuses(
        FileError,
        lambda: train_classifier("digits", tmp_path, quick),
        "must be a new or empty folder; got files",
    )
    refuses(
        FileError,
        lambda: train_classifier("digits", tmp_path, quick, resume=True),
        "or hold the run; got files",
    )
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_resuming_with_another_recipe_is_refused(refuses, tmp_path, quick):
    train_classifier("digits", tmp_path, quick, quiet=True)
    other = recipe(steps=6, batch_size=32, hidden_size=8, seed=9)
    refuses(
        ConfigError,
        lambda: train_classifier("digits", tmp_path, other, resume=True),
        "recipe.seed must be what the run began with, ",
    )


def test_data_that_are_not_there_leave_no_folder(refuses, tmp_path, quick):
    refuses(
        FileError, lambda: train_classifier("no/such", tmp_path / "run", quick), "no/such must be"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.bad_input
def test_recipes(refuses):
    assert recipe().weight_decay > recipe("accuracy").weight_decay
    assert recipe(steps=None).steps == recipe().steps
    refuses(ConfigError, lambda: recipe("best"), "recipe must be one of interpretable, accuracy")
    refuses(ConfigError, lambda: recipe(widht=3), "recipe.widht must be a field of ImageRecipe")
    refuses(ConfigError, lambda: recipe(steps=0), "steps must be a whole number ≥ 1")
    refuses(
        ConfigError,
        lambda: recipe(learning_rate=float("nan")),
        "learning_rate must be a finite number ≥ 0",
    )
    for name in ("steps", "batch_size", "hidden_size", "num_hidden_layers", "kept"):
        for wrong in (1.5, True, "3", -1, math.nan, 2**31):
            refuses(
                ConfigError,
                lambda name=name, wrong=wrong: recipe(**{name: wrong}),
                f"{name} must be",
            )
    for name in ("learning_rate", "weight_decay", "input_noise", "tail_penalty"):
        for wrong in ("3", True, -1, math.inf):
            refuses(
                ConfigError,
                lambda name=name, wrong=wrong: recipe(**{name: wrong}),
                f"{name} must be a finite number",
            )
    refuses(ConfigError, lambda: recipe(bias=1), "bias must be true or false")


def test_resuming_a_finished_run_changes_nothing(tmp_path, quick):
    train_classifier("digits", tmp_path, quick, save_every=3, quiet=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / ".saving-killed").mkdir()
    for _ in range(2):
        train_classifier("digits", tmp_path, quick, resume=True, save_every=3, quiet=True)
        assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == [
        "checkpoint-3",
        "checkpoint-6",
    ]
    assert not (tmp_path / ".saving-killed").exists()
    train_classifier("digits", tmp_path / "all", quick, save_every=2, keep_all=True, quiet=True)
    steps = sorted(file.name for file in (tmp_path / "all" / "checkpoints").iterdir())
    assert steps == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick):
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_classifier("digits", folder, quick, save_every=3, quiet=True)
    return folder


def truncated(file):
    file.write_bytes(file.read_bytes()[:-9])


def flipped(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


DAMAGES = {
    "model.safetensors": lambda file: file.write_bytes(b""),
    "optimizer.pt": truncated,
    "scheduler.pt": flipped,
    "rng_state.pth": lambda file: file.unlink(),
    "trainer_state.json": lambda file: file.write_text('{"global_step": 5}'),
    "training_args.bin": flipped,
    "complete": lambda file: file.write_text("[" * 50_000),
}


def test_damaged_checkpoints_are_passed_over(tmp_path, quick, trained):
    """Each damage is seen; from the checkpoint before it, the run ends at the same weights."""
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-6"
    shutil.copytree(trained, tmp_path / "run")
    whole = tmp_path / "whole"
    shutil.copytree(newest, whole)
    assert checkpoints.is_whole(newest)
    for name, damage in DAMAGES.items():
        damage(newest / name)
        assert not checkpoints.is_whole(newest), name
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    truncated(newest / "optimizer.pt")
    (newest.parent / "checkpoint-old").mkdir()
    (newest.parent / "checkpoint-7x").mkdir()
    log = '{"step": 1, "loss": 2}\nnot json\n{"step": 1e999}\n' + "[" * 50_000 + '\n{"step": 2, "lo'
    (tmp_path / "run" / "log.jsonl").write_text(log)
    with pytest.warns(UserWarning, match="checkpoint-6 is not what was saved: it is removed"):
        train_classifier("digits", tmp_path / "run", quick, resume=True, quiet=True)
    same = [(folder / "model.safetensors").read_bytes() for folder in (trained, tmp_path / "run")]
    assert same[0] == same[1]
    assert all(
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    )


def test_a_checkpoint_that_was_never_whole_goes_without_a_word(tmp_path, trained, recwarn):
    """A kill while it was written is no damage."""
    shutil.copytree(trained / "checkpoints", tmp_path / "made")
    (tmp_path / "made" / "checkpoint-6" / checkpoints.COMPLETE).unlink()
    assert checkpoints.last_complete(tmp_path / "made").name != "checkpoint-6"
    assert not (tmp_path / "made" / "checkpoint-6").exists()
    assert not recwarn.list


@pytest.mark.bad_input
def test_intervals_of_checkpoints_on_resuming(refuses, tmp_path, quick, trained):
    """They are what the run began with; its weights depend on them."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-6")
    text = "save_every must be what the run began with, 3; got 2"
    for wrong, words in (
        (2, text),
        (0, "save_every must be a whole number ≥ 1"),
        (1.5, "whole number"),
    ):
        given = {"resume": True, "save_every": wrong}
        refuses(
            ConfigError,
            lambda given=given: train_classifier("digits", folder, quick, **given),
            words,
        )
    train_classifier("digits", folder, quick, resume=True, quiet=True)
    assert {place.name for place in (folder / "checkpoints").iterdir()} == {
        "checkpoint-3",
        "checkpoint-6",
    }
    assert (folder / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()


def test_other_data_under_the_same_name_are_refused(refuses, tmp_path, quick, monkeypatch):
    train_classifier("digits", tmp_path, quick, quiet=True)
    data = load_images("digits")
    data.test.labels[3] = (data.test.labels[3] + 1) % 10
    monkeypatch.setattr("bilens.training.classify.load_images", lambda source: data)
    text = "content must be what the run began with; got other data."
    refuses(ConfigError, lambda: train_classifier("digits", tmp_path, quick, resume=True), text)


def test_a_run_that_is_at_work_is_let_alone(refuses, tmp_path, quick, trained):
    with held(tmp_path / "new"):
        refuses(
            FileError,
            lambda: train_classifier("digits", tmp_path / "new", quick),
            "another run at work in it",
        )
    with held(trained):
        refuses(
            FileError,
            lambda: train_classifier("digits", trained, quick, resume=True),
            "another run at work in it",
        )


@pytest.mark.parametrize("existing", [False, True])
def test_what_dies_at_once_leaves_the_folder_as_it_was(tmp_path, quick, monkeypatch, existing):
    def fails(*_):
        raise ZeroDivisionError

    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True) if existing else None
    monkeypatch.setattr("bilens.training.classify.tail_penalty", fails)
    with pytest.raises(ZeroDivisionError):
        train_classifier("digits", folder, quick, quiet=True)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "a", folder] if existing else [])


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 5}', "[" * 50_000])
def test_a_damaged_training_json_is_refused(refuses, tmp_path, quick, text):
    (tmp_path / "training.json").write_text(text)
    refuses(
        FileError,
        lambda: train_classifier("digits", tmp_path, quick, resume=True),
        "training.json must",
    )


def test_a_recipe_that_cannot_be_built_leaves_no_folder(refuses, tmp_path):
    how = recipe(hidden_size=10**6, num_hidden_layers=10**6)
    text = "the model of this recipe must fit into the memory of this machine"
    refuses(ConfigError, lambda: train_classifier("digits", tmp_path / "run", how), text)
    refuses(ConfigError, lambda: recipe(seed=-1), "seed must be 0 … 4294967295; got -1")
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_leaves_no_model(refuses, tmp_path):
    how = recipe(steps=30, batch_size=32, hidden_size=8, learning_rate=1e6, bias=True)
    for name, penalty in (("with", 20.0), ("without", 0.0)):
        asked = replace(how, tail_penalty=penalty)
        run = tmp_path / name
        refuses(
            NotFiniteError,
            lambda: train_classifier("digits", run, asked, quiet=True),  # noqa: B023
            "must be finite",
        )
        assert not (run / "model.safetensors").exists()


def test_a_run_ends_where_its_loss_does(refuses, tmp_path):
    """The log says that it is not a number, and no checkpoint is written over those before."""
    how = recipe(steps=60, batch_size=32, hidden_size=8, learning_rate=1e5, tail_penalty=0.0)
    refuses(
        NotFiniteError,
        lambda: train_classifier("digits", tmp_path, how, save_every=1, keep_all=True, quiet=True),
        "the loss at step",
        "must be finite",
    )
    losses = {row["step"]: row["loss"] for row in logged(tmp_path) if "loss" in row}
    *before, last = losses.values()
    assert all(map(math.isfinite, before))
    assert not math.isfinite(last)
    assert len(losses) < 60
    saved = {int(place.name.split("-")[1]) for place in (tmp_path / "checkpoints").iterdir()}
    assert saved == set(range(1, max(losses)))


def test_a_run_of_one_step_takes_it(tmp_path):
    """The first step of AdamW is as long as the learning rate, in every entry."""
    how = recipe(steps=1, batch_size=32, hidden_size=8, weight_decay=0.0, learning_rate=0.01)
    after = train_classifier("digits", tmp_path, how, quiet=True).head.weight
    set_seed(how.seed)
    before = Classifier(configure(load_images("digits"), how)).head.weight
    taken = (after - before).abs()
    assert float(taken.detach().median()) == pytest.approx(0.01, rel=1e-3)


def test_the_tail_penalty_leaves_little_beyond_the_kept(tmp_path):
    """With it two eigenvectors a class carry more of ‖Q‖² than without."""
    how = recipe(steps=120, batch_size=100, hidden_size=32, kept=2)
    shares = {}
    for penalty in (0.0, 20.0):
        run = replace(how, tail_penalty=penalty)
        tensor = (
            train_classifier("digits", tmp_path / str(penalty), run, quiet=True).tensor().detach()
        )
        values = eigen(tensor, k=None).values.square()
        shares[penalty] = float((values[:, 2:].sum(-1) / values.sum(-1)).mean())
    assert shares[20.0] < shares[0.0] / 5


def test_figures_are_as_by_numpy(tmp_path, quick):
    model = train_classifier("digits", tmp_path / "run", quick, quiet=True)
    about = json.loads((tmp_path / "run" / "training.json").read_text())
    for part in ("valid", "test"):
        images = getattr(load_images("digits"), part)
        with torch.no_grad():
            logits = model(images.pixel_values).logits.double().numpy()
        labels, figures = images.labels.numpy(), about["figures"][part]
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert figures["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels), rel=1e-12)
        assert figures["loss"] == pytest.approx(
            -log[np.arange(len(labels)), labels].mean(), rel=1e-5
        )
        assert figures["images"] == len(labels)


def test_figures_do_not_depend_on_batches(trained):
    """Neither a part of a batch nor its size weighs more."""
    model, images = bilens.load(trained), load_images("digits").valid
    one, many = (run_figures(model, images, size) for size in (len(images), 7))
    assert one == pytest.approx(many, rel=1e-5)


def run_figures(model, images, size):
    return bilens.training.evaluate(model, images, size)


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0), (30, 0), (31, 0), (36, 0.2), (44, 14 / 30), (60, 1), (100, 1)]
)
def test_the_penalty_sets_in_by_and_by(step, weight):
    """The share of ‖Q‖² beyond the kept, by eigvalsh; from 30 % of the run to 60 % it grows to its
    whole weight.
    """
    how = recipe(steps=100, tail_penalty=3.0, kept=2, hidden_size=5)
    torch.manual_seed(0)
    model = bilens.Classifier(bilens.ClassifierConfig(input_shape=[2, 3], hidden_size=5)).double()
    found = tail_penalty(how, model, step)
    if weight == 0 or step % TAIL_EVERY:
        assert found is None
        return
    values = (
        torch.linalg.eigvalsh(symmetric(model.tensor().detach()))
        .square()
        .sort(-1, descending=True)
        .values
    )
    share = (values[:, 2:].sum(-1) / values.sum(-1)).mean()
    assert float(found.detach()) == pytest.approx(
        TAIL_EVERY * weight * 3.0 * float(share), rel=1e-9
    )


def symmetric(tensor: CP):
    cube = torch.einsum("oh,hi,hj->oij", tensor.out, tensor.left, tensor.right)
    return (cube + cube.mT) / 2


def test_the_penalty_is_not_won_by_a_larger_total():
    """Its gradient is that of what is beyond, over a total that stands still."""
    how = recipe(steps=100, tail_penalty=3.0, kept=2, hidden_size=5)
    torch.manual_seed(0)
    model = bilens.Classifier(bilens.ClassifierConfig(input_shape=[2, 3], hidden_size=5)).double()
    tail_penalty(how, model, 100).backward()
    got = model.head.weight.grad.clone()
    model.zero_grad()
    values = (
        torch.linalg.eigvalsh(symmetric(model.tensor())).square().sort(-1, descending=True).values
    )
    beyond, total = values[:, 2:].sum(-1), values.sum(-1).detach()
    (TAIL_EVERY * 3.0 * (beyond / total).mean()).backward()
    torch.testing.assert_close(got, model.head.weight.grad, rtol=1e-7, atol=1e-9)


def test_the_schedule(trained, tmp_path):
    """A line up over a twentieth of the steps, and half a cosine down to nothing."""
    how = recipe(steps=60, batch_size=8, hidden_size=4, tail_penalty=0.0, learning_rate=1e-3)
    train_classifier("digits", tmp_path, how, save_every=60, quiet=True)
    rates = {row["step"]: row["learning_rate"] for row in logged(tmp_path) if "loss" in row}
    assert list(rates) == list(range(1, 61))
    for step, rate in rates.items():  # as it was for that step, the first of which is 0
        now = step - 1
        truth = now / 3 if now < 3 else (1 + math.cos(math.pi * (now - 3) / 57)) / 2
        assert rate == pytest.approx(1e-3 * truth, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "every", "logged"),
    [(1000, 100, 20), (1000, 30, 15), (10, 1, 1), (500, 7, 7), (2640, 264, 44), (3, 3, 1)],
)
def test_every_checkpoint_falls_on_a_line_of_the_log(steps, every, logged):
    assert schedule.logging_steps(steps, every) == logged
