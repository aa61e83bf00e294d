"""``bilens diff``: what the library says, in tables and files."""

import json

import pytest
import torch

import bilens
from bilens.changes import Diff, Series
from bilens.models import hushed


@pytest.fixture
def run_folder(tmp_path):
    """Three checkpoints of a classifier of the digits' size."""
    torch.manual_seed(0)
    names = dict(enumerate("0123456789"))
    config = bilens.ClassifierConfig(input_shape=[8, 8], hidden_size=6, id2label=names)
    model = bilens.Classifier(config)
    for step in (1, 2, 10):
        with torch.no_grad():
            model.head.weight[4] += 0.5
        with hushed():
            model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    return tmp_path / "run"


def test_two_checkpoints(run, run_folder, tmp_path):
    both = [run_folder / f"checkpoint-{n}" for n in (1, 10)]
    code, out, err = run("diff", *both, "--data", "digits", "-o", tmp_path / "out", "--json")
    assert code == 0, err  # progress, where it takes seconds, is on stderr
    places, classes = json.loads(out)
    found = bilens.diff(*both, data="digits")
    assert places["rows"] == found.rows()
    assert classes["rows"][0]["class"] == found.items[0].names[0]
    saved = Diff.load(tmp_path / "out" / "diff.safetensors")
    assert saved.rows() == found.rows()
    for name in ("places", "classes"):
        assert (tmp_path / "out" / f"{name}.csv").read_text().count("\n") > 1
        assert "plotly" in (tmp_path / "out" / f"{name}.html").read_text()
    code, out, err = run("diff", *both, "-k", 3)
    assert "whole" in out
    assert out.splitlines()[-1].startswith("… 7 further rows")
    assert out.splitlines()[-4].startswith("4\t")  # the class whose row changed


def test_tables_and_the_result_come_together_or_not_at_all(run, run_folder, tmp_path, largest_file):
    both = [run_folder / f"checkpoint-{n}" for n in (1, 10)]
    assert run("diff", *both, "-o", tmp_path / "out")[0] == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with largest_file(100_000):  # tables would have room
        code, _, err = run("diff", *both[::-1], "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "must be a folder that can be written; got File too large" in err
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_features_of_several_dictionaries(run, tmp_path):
    places = [f"tinystories-2l/mlp1.{side}" for side in ("input", "output")]
    both = [word for place in places for word in ("--dictionary", place)]
    code, out, err = run("diff", *["tinystories-2l"] * 2, *both, "-o", tmp_path, "--json")
    assert code == 0, err
    assert [len(one["rows"]) for one in json.loads(out)[2:]] == [1024] * 2
    for side in ("input", "output"):
        assert f"mlp1.{side}.f0" in (tmp_path / f"features-mlp1.{side}.csv").read_text()
    code, out, err = run("diff", *["tinystories-2l"] * 2, *both[:2] * 2)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--dictionary must be one for each place" in err


def test_a_series(run, run_folder, tmp_path):
    code, out, err = run("diff", run_folder, "-o", tmp_path / "out")
    assert code == 0, err  # progress, where it takes seconds, is on stderr
    assert out.startswith("3 checkpoints; similarity to the last moves fast from checkpoint-1 to ")
    assert Series.load(tmp_path / "out" / "diff.safetensors").steps == (1, 2, 10)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tinystories-1l",), "must be given two checkpoints or more"),
        (("tinystories-1l", "tinystories-2l"), "must have num_hidden_layers 1 as tinystories-1l"),
        (("tinystories-1l", "nowhere"), "nowhere must be a model folder"),
        (("tinystories-1l", "tinystories-1l", "-k", 0), "-k must be a whole number"),
        (("tinystories-1l", "tinystories-1l", "--data", "no.txt"), "no.txt must be"),
    ],
    ids=["one", "shapes", "nowhere", "rows", "data"],
)
def test_what_cannot_be_is_one_line(run, words, says):
    code, out, err = run("diff", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
