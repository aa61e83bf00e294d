"""Comparing MLPs: equal sizes, the same numbers as separate runs, gone on with where it was
stopped.
"""

import math
import sys
from dataclasses import replace

import pytest

import bilens
from bilens.base.errors import ArgumentError, ConfigError, Interrupted
from bilens.training import Comparison, compare, load_tokenizer, read_about, read_recipe
from bilens.training.compare import VARIANTS, standard_error, with_mlp

comparing = sys.modules["bilens.training.compare"]  # the function has its name
TWICE = {"gradient_accumulation_steps": 2}
MODEL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def hear(told):
    return lambda *now: told.append(now)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Small: most of a run of four steps is reading its text and measuring what is held out."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(
        "\n<|endoftext|>\n".join(f"There were {n} cats and {n + 1} dogs." for n in range(300))
    )
    return str(file)


@pytest.fixture(scope="module")
def how():
    return read_recipe(
        None, steps=4, batch_size=2, vocab_size=300, model=MODEL | {"max_position_embeddings": 16}
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory, how, text):
    folder, told = tmp_path_factory.mktemp("compared"), []
    names = ("ReLU", "bilinear", "SwiGLU")
    given = {"variants": names, "seeds": 2, "options": TWICE, "quiet": True}
    return folder, compare(text, folder, how, **given, progress=hear(told)), told


def test_all_have_as_many_parameters(how):
    sizes = {
        bilens.Transformer(bilens.TransformerConfig(**with_mlp(how, name).model)).num_parameters()
        for name in VARIANTS
    }
    assert len(sizes) == 1


def test_numbers_are_those_of_the_runs(compared, how):
    folder, found, told = compared
    assert found.variants == ("ReLU", "bilinear", "SwiGLU")
    runs = [f"{name}, seed {seed}" for seed in range(2) for name in found.variants]
    assert [(done, of, what) for done, of, _, what in told] == [
        (n + 1, 6, what) for n, what in enumerate(runs)
    ]
    for name, losses in zip(found.variants, found.loss, strict=True):
        assert losses == tuple(
            read_about(folder / f"{name}-{seed}")["figures"]["valid"]["loss"] for seed in (0, 1)
        )
    assert found.tokens == 4 * 2 * 2 * 16
    assert bilens.load(folder / "SwiGLU-1").config.hidden_act == "silu"


def test_rows_say_mean_and_standard_error(compared):
    _, found, _ = compared
    row = found.rows()[0]
    one, two = found.loss[0]
    assert row["loss"] == pytest.approx((one + two) / 2)
    assert row["±"] == pytest.approx(abs(one - two) / 2)  # s/√n of two
    gaps = [loss - base for loss, base in zip(found.loss[0], found.loss[1], strict=True)]
    assert row["over bilinear"] == pytest.approx(sum(gaps) / 2)
    assert found.rows()[1]["over bilinear"] == 0
    assert math.isnan(standard_error([1.0]))
    assert found.plot().data
    assert "lowest loss" in found.summary()


def test_it_goes_on_where_it_was_stopped(compared, how, text, tmp_path):
    folder, found, _ = compared
    (folder / "SwiGLU-1" / "training.json").unlink()
    (folder / "SwiGLU-1" / "training.json").write_text(
        (folder / "SwiGLU-0" / "training.json")
        .read_text()
        .partition(',\n  "figures"')[0]
        .replace('"seed": 0', '"seed": 1')
        + "}"
    )
    told = []
    given = {"variants": found.variants, "seeds": 2, "options": TWICE, "quiet": True}
    again = compare(text, folder, how, **given, progress=hear(told))
    assert [(now[0], now[3]) for now in told] == [(6, "SwiGLU, seed 1")]
    assert again.loss == found.loss
    again.save(tmp_path / "c.safetensors")
    assert Comparison.load(tmp_path / "c.safetensors").rows() == again.rows()


def test_runs_of_something_else_are_not_gone_on_with(compared, how, text, refuses):
    """An MLP that has no run there yet would be given the tokenizer of the others."""
    folder, _, _ = compared
    for source, recipe, options, words in (
        ("topics", how, TWICE, "data must be what the comparison began with"),
        (text, replace(how, vocab_size=280), TWICE, "recipe.vocab_size must be"),
        (text, how, {}, "options.gradient_accumulation_steps must be"),
    ):
        refuses(
            ConfigError,
            lambda given=(source, folder, recipe), options=options: compare(
                *given, variants=["GELU"], seeds=1, options=options
            ),
            words,
        )
    assert not (folder / "GELU-0").exists()


def test_a_tokenizer_of_no_run_is_not_used(how, text, tmp_path, monkeypatch):
    """One that was stopped before its first run began leaves a tokenizer alone."""

    def stopped(*_, **given):
        raise Interrupted("here")

    monkeypatch.setattr(comparing, "train_language", stopped)
    for size in (300, 280):
        with pytest.raises(Interrupted):
            compare(text, tmp_path, replace(how, vocab_size=size), seeds=1)
        assert len(load_tokenizer(tmp_path / "tokenizer")) == size


@pytest.mark.parametrize(
    ("variants", "seeds"),
    [((), 1), (("ReLU", "ReLU"), 1), (("ReLU",), 0), (("ReLU",), 1.5), (("Tanh",), 1)],
)
def test_nothing_to_compare_is_refused(refuses, tmp_path, how, variants, seeds):
    refuses(
        ArgumentError,
        lambda: compare("topics", tmp_path / "x", how, variants=variants, seeds=seeds),
        "must be",
    )
    assert not (tmp_path / "x").exists()
