"""No command writes over what it reads, or one output over another."""

import shutil
from pathlib import Path

import pytest

import bilens

BOX = Path(bilens.models.__file__).parent / "box" / "tinystories-1l"
ASKED = ("--prompt", "Once upon", "-k", "1")
COMMANDS = {
    "expand": ASKED,
    "effects": ASKED,
    "lens": ("--prompt", "Once upon"),
    "knockout": ("mlp0", "--prompt", "Once upon"),
    "decompose": ("--layer", "0", "-k", "2"),
}


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(BOX, tmp_path / "model")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_of_the_model_is_not_written_over(name, model, run):
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        place, before = model / file, (model / file).read_bytes()
        code, out, err = run(name, model, *COMMANDS[name], "--save", place)
        assert (code, out) == (2, "")
        said = f"bilens: --save must be no file of what is read; got {place}. Name another file."
        assert err.strip() == said
        assert place.read_bytes() == before


def test_nor_by_another_name(model, run, tmp_path):
    (tmp_path / "link").symlink_to(model / "config.json")
    code, _, err = run("expand", model, *ASKED, "--graph", tmp_path / "link")
    assert code == 2
    assert "--graph must be no file of what is read" in err


def test_two_outputs_are_two_files(model, run, tmp_path):
    one = tmp_path / "one"
    code, _, err = run("expand", model, *ASKED, "--save", one, "--graph", f"{tmp_path}/./one")
    assert code == 2
    assert "--graph must be another place than --save; got" in err
    assert not one.exists()


def test_a_result_beside_the_model_is_written_anew(model, run):
    place = model / "result.safetensors"
    for _ in range(2):
        assert run("decompose", model, *COMMANDS["decompose"], "--save", place)[0] == 0
