"""``bilens knockout``, ``effects`` and ``lens``: what the library says, and one line where it
cannot.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import bilens
from bilens.circuits import recording
from bilens.cli.commands.expand import GIVEN
from bilens.cli.commands.features import RANKINGS

PROMPT = "Once upon a time there was a little"
ASK = ("tinystories-2l", "--prompt", PROMPT, "--target", " girl", "--versus", " boy")


@pytest.fixture(scope="module")
def model():
    return bilens.load("tinystories-2l").double()


def document(run, *words):
    code, out, err = run(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_effects_are_the_librarys(run, model, tmp_path):
    file = tmp_path / "e.safetensors"
    found = document(run, "effects", *ASK, "--pairs", 3, "-k", 4, "--save", file)
    truth = bilens.circuits.effects(model, PROMPT, (" girl", " boy"), pairs=3)
    assert [row["what"] for row in found["rows"]] == [row["what"] for row in truth.rows()[:4]]
    assert found["rows"][0]["effect"] == pytest.approx(truth.rows()[0]["effect"], rel=1e-12)
    assert found["left_out"] == len(truth.rows()) - 4
    assert len(bilens.circuits.Effects.load(file).rows()) == len(truth.rows())


def test_a_knock_out_is_the_librarys(run, model):
    other = "Once upon a time there was a big"
    what = ["mlp1(mlp0, L1H3)", "L0H2->L1H0.K", "L0H1@3", "2"]
    found = document(run, "knockout", *ASK, *what, "--with", other)["rows"]
    truth = bilens.circuits.knockout(
        model, PROMPT, [*what[:3], 2], (" girl", " boy"), with_=other
    ).rows()
    assert [row["replaced by"] for row in found] == [row["replaced by"] for row in truth]
    for row, same in zip(found, truth, strict=True):
        assert row["effect"] == pytest.approx(same["effect"], abs=1e-12)
    once = document(run, "knockout", *ASK, "mlp1", "--with", "zero", "--at", 7, "--at", 6)["rows"]
    at = bilens.circuits.knockout(model, PROMPT, "mlp1", (" girl", " boy"), with_="zero", at=[6, 7])
    assert [row["after"] for row in once] == pytest.approx([at.after], rel=1e-12)


def test_lenses_are_the_librarys(run, model):
    found = document(run, "lens", *ASK, "-k", 5)["rows"]
    truth = bilens.circuits.lens(model, PROMPT, (" girl", " boy")).rows()[:5]
    assert [row["says"] for row in found] == [row["says"] for row in truth]
    assert [row["value"] for row in found] == pytest.approx([row["value"] for row in truth])
    layer = document(run, "lens", *ASK, "--layer", "mlp1", "-k", 2)["rows"]
    same = bilens.circuits.quadratic_lens(model, PROMPT, "mlp1", (" girl", " boy"), k=2).rows()
    assert [row["reads"] for row in layer] == [row["reads"] for row in same]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("effects", *ASK[:3], "--versus", " boy"), "--versus must come with --target"),
        (("effects", *ASK, "-k", "0"), "-k must be a whole number"),
        (("effects", *ASK, "--pairs", "-1"), "--pairs must be a whole number"),
        (("effects", *ASK, "--with", "Once"), "--with must be"),
        (("knockout", *ASK, "mlp7"), "what must be among embed, L0H0"),
        (("knockout", *ASK, "mlp0", "--save", "/"), "--save must be a file"),
        (("knockout", *ASK, "--", "--5"), "what must be among embed, L0H0"),
        (("lens", *ASK, "--position", "2"), "--position must be left out without --layer"),
        (("lens", *ASK, "--layer", "attn0"), "--layer must be quadratic"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_one_line(run, words, text):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("expand m --detail pa", ["pairs", "paths"]),
        ("expand m --given f", ["first score"]),
        ("approximate m --fit ", ["closed", "units", "output"]),
        ("decompose m --what j", ["joint"]),
        ("features m --by l", ["largest"]),
        ("exp", ["expand"]),
    ],
)
def test_a_shell_completes_commands_and_choices(words, offered):
    """As the script that typer writes for bash asks, and before anything is loaded."""
    line = f"bilens {words}"
    asked = {"_BILENS_COMPLETE": "complete_bash", "COMP_WORDS": line}
    asked["COMP_CWORD"] = str(len(line.split(" ")) - 1)
    program = Path(sys.executable).with_name("bilens")
    found = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True)
    assert found.stdout.split("\n")[: len(offered)] == offered, found.stderr


def test_what_is_known_before_they_are_loaded_is_theirs():
    assert get_args(bilens.features.By) == RANKINGS
    assert recording.GIVEN == GIVEN
