"""The command line on digits, end to end; bad input is one line on stderr and exit 2."""

import json
import subprocess
import sys

import pytest
import torch

from bilens import Eigen
from bilens.decompose import HOSVD
from bilens.features import Dictionary


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model trained by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    arguments = ["train", "image", "--output", str(folder), "--steps", "150", "--width", "48", "--learning-rate", "4e-3"]
    done = subprocess.run([sys.executable, "-m", "bilens.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    return folder


def test_eval(run, model):
    code, out, _ = run("eval", model, "digits")
    assert (code, "accuracy" in out) == (0, True)
    code, out, _ = run("eval", model, "digits", "--json")
    assert json.loads(out)["rows"][0]["accuracy"] > 0.9


def test_decompose(run, model, tmp_path):
    code, out, _ = run("decompose", model, "-k", 2)
    assert (code, "10 × 2 eigenpairs" in out) == (0, True)
    code, out, _ = run("decompose", model, "--what", "hosvd", "-k", 3, "--json", "--save", tmp_path / "h.safetensors")
    assert code == 0
    assert sum(row["kept"] for row in json.loads(out)["rows"]) == 9
    assert HOSVD.load(tmp_path / "h.safetensors").ranks == (3, 3, 3)
    assert run("decompose", model, "--layer", 0, "--save", tmp_path / "e.safetensors")[0] == 0
    assert Eigen.load(tmp_path / "e.safetensors").labels == tuple("0123456789")


def test_verify(run, model, monkeypatch):
    code, out, _ = run("verify", model, "--json")
    assert code == 0
    assert all(row["holds"] for row in json.loads(out)["rows"])
    monkeypatch.setattr("bilens.algebra.CP.swap", lambda self: self * 1.01)
    assert run("verify", model)[0] == 1


def test_report(run, model, tmp_path):
    code, out, _ = run("report", model, "-o", tmp_path)
    assert (code, out.startswith("Open file://")) == (0, True)
    assert (tmp_path / "index.html").stat().st_size < 6_000_000


def test_a_broken_part_of_the_page_is_named(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.report.classifier_page.truncate", lambda *_: 1 / 0)
    code, _, err = run("report", model, "-o", tmp_path)
    assert (code, err) == (1, "bilens: How many eigenvectors are enough: ZeroDivisionError: division by zero\n")


def test_demo(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.cli.commands.DEMO_STEPS", 20)
    for _ in range(2):  # an earlier demo makes way for the next
        code, out, _ = run("demo", "--output", tmp_path)
        assert (code, "identities hold" in out) == (0, True)
    assert (tmp_path / "index.html").exists()
    mine = tmp_path / "model" / "training.json"  # a run on the same data that is no demo's
    mine.write_text(mine.read_text().replace('"steps": 20', '"steps": 21'))
    code, _, err = run("demo", "--output", tmp_path)
    assert (code, "must be new or an earlier demo's" in err) == (2, True)
    mine.unlink()
    code, _, err = run("demo", "--output", tmp_path)
    assert (code, "must be new or an earlier demo's" in err) == (2, True)


def test_version_and_help(run):
    assert run("--version")[1].strip().count(".") == 2
    for words in ((), ("train",), ("train", "image"), ("eval",), ("decompose",), ("report",), ("verify",), ("demo",)):
        code, out, _ = run(*words, "--help")
        assert (code, "Usage" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("eval", "nowhere", "digits"), "nowhere must be a model folder, or one in the box"),
        (("eval", "MODEL", "nowhere"), 'nowhere must be "digits" or a folder of idx files'),
        (("eval",), "Missing argument"),
        (("evil",), "No such command 'evil'"),
        (("decompose", "MODEL", "-k", "0"), "k must be a whole number ≥ 1"),
        (("decompose", "MODEL", "-k", "two"), "Invalid value for '-k'"),
        (("decompose", "MODEL", "--layer", "7"), '--layer must be one of 0, or "all"; got 7'),
        (("decompose", "MODEL", "--what", "power"), "--what must be one of eigen, hosvd, svd, joint"),
        (("train", "image", "--output", "MODEL"), "Pass --resume to go on"),
        (("train", "image", "--output", "new", "--recipe", "best"), "recipe must be one of"),
        (("train", "image", "--output", "new", "--steps", "-3"), "steps must be at least 1"),
        (("train", "image", "--output", "new", "--data", "nowhere"), "nowhere must be"),
        (("report", "MODEL", "--output", "new", "--data", "nowhere"), "nowhere must be"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, model, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*(model if word == "MODEL" else word for word in arguments))
    assert code == 2
    assert err.startswith("bilens: ")
    assert err.count("\n") == 1
    assert text in err
    assert not list(tmp_path.iterdir())


def test_help_and_import_load_no_torch():
    code = "import sys, bilens, bilens.cli.commands; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_algebra_loads_no_model_library():
    code = "import sys, bilens; bilens.CP, bilens.decompose, bilens.nn; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_language_model_from_end_to_end(run, tmp_path):
    (tmp_path / "r.toml").write_text(
        "steps = 5\nbatch_size = 4\n[model]\nhidden_size = 16\nintermediate_size = 16\nmax_position_embeddings = 16\n"
    )
    code, out, err = run("train", "tokenizer", "--vocab-size", 300, "-o", tmp_path / "words")
    assert (code, "300 tokens" in out) == (0, True), err
    arguments = ("--config", tmp_path / "r.toml", "--tokenizer", tmp_path / "words", "-o", tmp_path / "model")
    code, out, err = run("train", "text", *arguments)
    assert (code, "bits per byte" in out) == (0, True), err
    assert run("convert", tmp_path / "model", "--to", "llama", "-o", tmp_path / "llama")[0] == 0
    answers = [json.loads(run("eval", tmp_path / kind, "topics", "--json")[1])["rows"][0] for kind in ("model", "llama")]
    assert answers[0]["loss"] == pytest.approx(answers[1]["loss"], rel=1e-5)
    code, _, err = run("train", "tokenizer", "-o", tmp_path / "words")
    assert (code, "words must be a new or empty folder" in err) == (2, True)
    code, out, err = run("verify", tmp_path / "model")
    assert (code, "identities hold" in out) == (0, True), err
    code, out, err = run("decompose", tmp_path / "model", "--layer", 0)
    assert (code, "eigenpairs" in out) == (0, True), err
    code, _, err = run("convert", tmp_path / "model", "--to", "gpt", "-o", tmp_path / "x")
    assert (code, '--to must be "bilens" or "llama"' in err) == (2, True)


def test_expand_prints_a_table_that_ends_with_the_total(run, tmp_path):
    prompt = ("expand", "tinystories-1l", "--prompt", "Once upon a time")
    code, out, err = run(*prompt, "--target", " there", "--versus", ",", "-k", 3, "--graph", tmp_path / "graph.json")
    assert code == 0, err
    lines = [line.strip() for line in out.splitlines()]
    assert lines[-1].startswith("forward pass")
    assert lines[-2].startswith("total")
    assert "links" in json.loads((tmp_path / "graph.json").read_text())
    code, out, err = run(*prompt, "--json", "--max-terms", 50)
    rows = {row["path"]: row["value"] for row in json.loads(out)["rows"]}
    terms = sum(value for path, value in rows.items() if path.startswith("W_U"))
    remainder = next(value for path, value in rows.items() if path.startswith("remainder"))
    assert rows["total"] == pytest.approx(terms + remainder, rel=1e-12)
    assert rows["total"] == pytest.approx(rows["forward pass"], rel=1e-12)


def test_expand_into_the_latents_of_a_dictionary(run, tmp_path):
    g = torch.Generator().manual_seed(0)
    W_enc, W_dec, b_enc, b_dec = (torch.randn(shape, generator=g) for shape in ((128, 64), (64, 128), (64,), (128,)))
    for n, hook in enumerate(("layers.0.mlp.input", "layers.1.mlp.input", "blocks.1.hook_mlp_in", "")):
        Dictionary(W_enc, W_dec, b_enc, b_dec, architecture="topk", k=4, hook=hook).save(tmp_path / str(n))
    command = ("expand", "tinystories-2l", "--prompt", "Once upon a time", "--json")
    code, out, err = run(*command, "--dictionary", tmp_path / "0", "--dictionary", tmp_path / "1")
    assert code == 0, err
    rows = {row["path"]: row["value"] for row in json.loads(out)["rows"]}
    assert "W_U · mlp1(base, error)" in rows
    assert not any(path.startswith(("W_U · mlp0(embed", "W_U · mlp1(embed")) for path in rows)
    assert rows["total"] == pytest.approx(rows["forward pass"], rel=1e-10)
    again = ("--dictionary", tmp_path / "0")
    for arguments, text in (
        (again * 2, "--dictionary must name a place once"),
        (("--dictionary", tmp_path / "2"), "got blocks.1.hook_mlp_in"),
        (("--dictionary", tmp_path / "3"), "must name the place it reads: hook_name in cfg.json; got none"),
        (("--dictionary", tmp_path / "none"), str(tmp_path / "none")),
    ):
        code, out, err = run(*command, *arguments)
        assert (code, out, text in err, err.count("\n")) == (2, "", True, 1), err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--prompt", ""), "inputs must hold at least one token; got none"),
        (("--prompt", "a " * 300), "inputs must fit the context of 256 tokens"),
        (("--prompt", "a", "--target", "xylophone"), "target 'xylophone' must be one token"),
        (("--prompt", "a", "--versus", "b"), "--versus must come with --target"),
        (("--prompt", "a", "--position", 5), "position must be -1 … 0; got 5"),
    ],
)
def test_a_prompt_that_cannot_be_expanded_is_one_line(run, arguments, text):
    code, out, err = run("expand", "tinystories-1l", *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_report_of_a_language_model(run, tmp_path):
    code, out, err = run("report", "tinystories-1l", "-o", tmp_path, "--prompt", "Once upon")
    assert (code, "index.html" in out) == (0, True), err
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, "--data", "digits")
    assert (code, "--data must be left out for a language model" in err) == (2, True)
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, "--prompt", "")
    assert (code, "inputs must hold at least one token" in err) == (2, True)
