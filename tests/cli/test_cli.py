"""The command line on digits, end to end; bad input is one line on stderr and exit 2."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from bilens import Eigen, load
from bilens.circuits import Expansion
from bilens.cli import main
from bilens.cli.app import Listed, root_group
from bilens.cli.commands.demo import free_folder
from bilens.decompose import HOSVD
from bilens.features import Dictionary
from bilens.report.worker import Desk
from bilens.training import export, load_images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model trained by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    arguments = [
        "train",
        "image",
        "--output",
        str(folder),
        "--recipe",
        "accuracy",
        "--steps",
        "60",
        "--width",
        "48",
    ]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["bilens", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    title, names, values = out.getvalue().splitlines()
    assert (title, names) == ("Test", "accuracy\tloss\timages")
    assert float(values.split("\t")[0]) > 0.5  # ten classes
    return folder


def test_eval(run, model):
    code, out, _ = run("eval", model, "digits", "--json")
    found = json.loads(out)["rows"][0]
    loaded, images = load(model), load_images("digits").test
    logits = loaded(images.pixel_values).logits.detach()
    assert (code, found["images"]) == (0, len(images))
    assert found["accuracy"] == pytest.approx(
        float((logits.argmax(-1) == images.labels).double().mean()), abs=1e-9
    )
    assert found["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, images.labels)), rel=1e-5
    )
    code, out, _ = run("eval", model, "digits")
    assert (code, out.splitlines()[1]) == (0, "accuracy\tloss\timages")


def test_decompose(run, model, tmp_path):
    code, out, _ = run("decompose", model, "-k", 2)
    assert (code, "10 × 2 eigenpairs" in out, len(out.splitlines())) == (0, True, 2 + 20)
    code, out, _ = run(
        "decompose",
        model,
        "--what",
        "hosvd",
        "-k",
        3,
        "--json",
        "--save",
        tmp_path / "h.safetensors",
    )
    assert code == 0
    assert [row["mode"] for row in json.loads(out)["rows"]] == ["out"] * 3 + ["left"] * 3 + [
        "right"
    ] * 3
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
    monkeypatch.setattr("bilens.report.views.truncation.truncate", lambda *_: 1 / 0)
    code, _, err = run("report", model, "-o", tmp_path)
    assert (code, err) == (
        1,
        "bilens: How many eigenvectors are enough: ZeroDivisionError: division by zero\n",
    )


@pytest.mark.usefixtures("short_pages")
def test_demo(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.cli.commands.demo.STEPS", 20)
    code, out, _ = run("demo", "--output", tmp_path)
    assert (code, "identities hold" in out) == (0, True)
    assert [line.split("/")[-1] for line in out.splitlines()[-2:]] == ["index.html"] * 2
    assert (tmp_path / "index.html").exists()
    about = tmp_path / "model" / "training.json"
    # a run on the same data that is no demo's
    mine = about.read_text().replace('"steps": 20', '"steps": 21')
    demos = about.read_text()
    for change in (lambda: about.write_text(mine), about.unlink):
        change()
        code, _, err = run("demo", "--output", tmp_path)
        assert (code, "must be new or an earlier demo's" in err) == (2, True), err
    about.write_text(demos)
    assert not free_folder(tmp_path / "model").exists()  # an earlier demo makes way for the next


COMMANDS = (
    "approximate",
    "effects",
    "eval",
    "compare",
    "convert",
    "decompose",
    "diff",
    "expand",
    "features",
    "figure",
    "knockout",
    "lens",
    "moments",
    "report",
    "rules",
    "serve",
    "verify",
    "demo",
)
TRAINING = ("image", "tokenizer", "text", "dictionary")


def test_version_and_help(run):
    assert run("--version") == run("-V")
    assert run("-V")[1].strip().count(".") == 2
    for words in (
        (),
        ("train",),
        *((name,) for name in COMMANDS),
        *(("train", name) for name in TRAINING),
    ):
        code, out, err = run(*words, "--help")
        assert (code, "Usage" in out, err) == (0, True, "")
        assert "−" not in out  # a minus that no shell takes for one
    for words, names in (((), (*COMMANDS, "train")), (("train",), TRAINING)):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert {line.split()[0] for line in out.split("Commands:")[1].splitlines() if line} >= set(
            names
        )


PROGRESS = re.compile(r"bilens: [ -~]+: \d+% \(\d+ of \d+\)")  # of what takes long, on a pipe


@pytest.mark.usefixtures("short_pages")
def test_every_command_prints_ascii_where_nothing_else_is_taken(
    run_in_ascii, model, text, tmp_path
):
    box = "tinystories-1l"
    for arguments in (
        (),
        ("eval", model, "digits"),
        ("verify", model),
        ("decompose", model, "-k", 1),
        ("decompose", model, "--what", "svd"),
        ("expand", box, "--prompt", "Once", "--detail", "writes"),
        ("convert", box, "-o", tmp_path / "λ"),
        ("report", box, "-o", tmp_path / "page", "--prompt", "é"),
        ("train", "tokenizer", "--data", text, "--vocab-size", 300, "-o", tmp_path / "words"),
    ):
        code, out, err = run_in_ascii(*arguments)
        assert code == 0, arguments
        assert [line for line in err.splitlines() if not PROGRESS.fullmatch(line)] == [], arguments
        assert out
    code, out, _ = run_in_ascii("decompose", model, "--what", "svd", "--json")
    assert "share of ‖T‖²" in json.loads(out)["rows"][0]
    code, out, err = run_in_ascii("eval", "λ", "digits")
    assert (code, err.startswith("bilens: \\u03bb must be a model folder")) == (2, True)


@pytest.mark.parametrize("hostile", ["\udcff", "a\x1b[31m[/b]\nb\u202e"])
@pytest.mark.parametrize(
    "place", ["MODEL", "--prompt", "--target", "--detail", "--nothing", "command"]
)
def test_hostile_arguments_are_one_harmless_line(run, hostile, place):
    expand = ["expand", "tinystories-1l", "--prompt", "Once", "--target", "a"]
    match place:
        case "MODEL":
            arguments = ["eval", hostile, "digits"]
        case "command":
            arguments = [hostile]
        case "--nothing":
            arguments = [*expand, "--nothing" + hostile]
        case _:
            arguments = [*expand, place, hostile]
    code, out, err = run(*arguments)
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    if place == "--prompt" and hostile[0] == "a":
        assert code in (0, 2)
    else:
        assert (code, out, err.count("\n")) == (2, "", 1)
    if hostile == "\udcff":
        assert err.startswith("bilens: an argument must be text in this locale; got '")
        assert "\\udcff" in err


def test_a_closed_or_full_stdout_is_no_traceback(run, monkeypatch, model, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["bilens", "eval", str(model), "digits"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    said = "stdout must be writable; got No space left on device."
    assert capsys.readouterr().err == f"bilens: {said}\n"


def test_a_full_stderr_changes_no_exit_status(monkeypatch, model):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(sys, "argv", ["bilens", "eval", "nowhere", "digits"])
        with pytest.raises(SystemExit) as ended:
            main()
        monkeypatch.undo()
    assert ended.value.code == 2


@pytest.fixture(params=[False, True], ids=["in one piece", "a line at once"])
def run_unread(request, monkeypatch):
    """Run a command whose ``which``, "stdout" or "stderr", has lost its reader: its exit code."""

    def call(which, *arguments):
        reading, writing = os.pipe()
        os.close(reading)
        monkeypatch.setattr(sys, "argv", ["bilens", *map(str, arguments)])
        at_once = request.param or which == "stderr"
        with os.fdopen(writing, "wb", 0 if at_once else -1) as pipe:
            stream = io.TextIOWrapper(pipe, write_through=at_once)
            with monkeypatch.context() as patch:
                patch.setattr(sys, which, stream)
                with pytest.raises(SystemExit) as ended:
                    main()
            stream.detach()
        return ended.value.code or 0

    return call


def test_a_reader_that_went_away_changes_nothing_else(run_unread, model, tmp_path, monkeypatch):
    """``bilens … | head``: files are written, and a check that fails still does."""
    words = ["expand", "tinystories-1l", "--prompt", "a b", "-k", "300", "--save"]
    for which in ("stdout", "stderr"):
        assert run_unread(which, *words, tmp_path / f"{which}.safetensors") == 0
        assert len(Expansion.load(tmp_path / f"{which}.safetensors").terms) > 0
    assert [run_unread("stdout", *one) for one in (["--version"], [], ["train"])] == [0] * 3
    assert run_unread("stderr", "expand", "nowhere", "--prompt", "a") == 2
    assert run_unread("stdout", "verify", model) == 0
    monkeypatch.setattr("bilens.algebra.CP.swap", lambda self: self * 1.01)
    assert run_unread("stdout", "verify", model) == 1


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
        (
            ("decompose", "MODEL", "--what", "power"),
            "--what must be one of eigen, hosvd, svd, joint",
        ),
        (("train", "image", "--output", "MODEL"), "Resume it to go on, or name another folder"),
        (("train", "image", "--output", "new", "--recipe", "best"), "recipe must be one of"),
        (
            ("train", "image", "--output", "new", "--steps", "-3"),
            "steps must be a whole number ≥ 1",
        ),
        (("train", "image", "--output", "new", "--data", "nowhere"), "nowhere must be"),
        (
            ("train", "image", "--output", "new", "--recipe", "accuracy", "--kept", "3"),
            "--kept must be left out without a",
        ),
        (
            ("train", "text", "--output", "new", "--tokenizer", "x", "--vocab-size", "300"),
            "--vocab-size must be left out with",
        ),
        (("report", "MODEL", "--output", "/dev/null/x"), "--output must be in a folder"),
        (
            ("report", "MODEL", "--output", "new", "--prompt", "a"),
            "--prompt must be left out for a classifier",
        ),
        (
            ("expand", "nowhere", "--prompt", "a", "--detail", "all"),
            "--detail must be one of writes, pairs, paths; got 'all'",
        ),
        (("expand", "nowhere", "--prompt", "a", "-k", "0"), "-k must be a whole number ≥ 1"),
        (
            ("expand", "nowhere", "--prompt", "a", "--max-terms", "0"),
            "--max-terms must be a whole number ≥ 1",
        ),
        (("expand", "nowhere", "--prompt", "a", "--cutoff", "nan"), "--cutoff must be in [0, 1)"),
        (("expand", "nowhere", "--prompt", "a", "--graph", "."), "--graph must be a file"),
        (
            ("expand", "nowhere", "--prompt", "a", "--detail", "writes", "--max-terms", "9"),
            "--max-terms must be left out with --detail writes; got '9'. Nothing reads it there; "
            "it is for pairs, paths.",
        ),
        (
            ("expand", "nowhere", "--prompt", "a", "--detail", "writes", "--dictionary", "x"),
            "--dictionary must be left out",
        ),
        (("report", "MODEL", "--output", "new", "--data", "nowhere"), "nowhere must be"),
        (
            ("report", "MODEL", "--output", "new", "--target", "a"),
            "--target must be left out for a classifier",
        ),
        (("report", "nowhere", "--output", "new", "--versus", "a"), "--versus must come with"),
        (("report", "nowhere", "--output", "new", "--truth", "no.json"), "no.json must"),
        (("serve", "nowhere", "--versus", "a"), "--versus must come with --target"),
        (("serve", "nowhere", "--port", "70000"), "--port must be 0 … 65535"),
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


def test_help_and_bad_options_load_no_torch():
    """Of all commands and of one, and where a line is refused; commands with a recipe load it."""
    code = """
import sys
import bilens.cli.app
def run(*words):
    sys.argv = ["bilens", *words]
    try:
        bilens.cli.main()
    except SystemExit:
        assert not {"torch", "transformers"} & set(sys.modules), words
run(), run("train", "--help"), run("evil"), run("verify")
for name in bilens.cli.app.COMMANDS.keys() - {"compare", "convert"}:
    run(name, "--help")
run("expand", "nowhere", "--prompt", "a", "--detail", "all")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_are_listed_with_their_first_sentence():
    root = root_group()
    for group in (root, root.commands["train"]):
        for listed in group.commands.values():
            if isinstance(listed, Listed):
                whole = listed.load().get_short_help_str(1000)
                assert listed.get_short_help_str(1000) == whole
    assert set(root.commands) == {*COMMANDS, "train"}
    assert set(root.commands["train"].commands) == set(TRAINING)


def test_rooms_load_the_libraries_that_they_need():
    """The algebra no model library, and training Trainer and what it brings when a run begins."""
    code = """
import sys, bilens
bilens.CP, bilens.decompose, bilens.nn
assert "transformers" not in sys.modules
bilens.training.read_about, bilens.training.shared
assert not {"transformers.trainer", "datasets"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("short_pages")
def test_a_language_model_from_end_to_end(run, text, tmp_path):
    (tmp_path / "r.toml").write_text(
        "steps = 5\nbatch_size = 4\n[model]\nhidden_size = 16\nintermediate_size = 16\n"
        "max_position_embeddings = 16\n"
    )
    code, out, err = run(
        "train", "tokenizer", "--data", text, "--vocab-size", 300, "-o", tmp_path / "words"
    )
    assert (code, "300 tokens" in out) == (0, True), err
    arguments = (
        "--config",
        tmp_path / "r.toml",
        "--data",
        text,
        "--tokenizer",
        tmp_path / "words",
        "-o",
        tmp_path / "model",
    )
    code, out, err = run("train", "text", *arguments)
    assert (code, "bits per byte" in out) == (0, True), err
    assert run("convert", tmp_path / "model", "--to", "llama", "-o", tmp_path / "llama")[0] == 0
    answers = [
        json.loads(run("eval", tmp_path / kind, text, "--json")[1])["rows"][0]
        for kind in ("model", "llama")
    ]
    assert answers[0]["loss"] == pytest.approx(answers[1]["loss"], rel=1e-5)
    code, _, err = run("train", "tokenizer", "-o", tmp_path / "words")
    assert (code, "words must be a new or empty folder" in err) == (2, True)
    code, out, err = run("verify", tmp_path / "model")
    assert (code, "identities hold" in out) == (0, True), err
    code, out, err = run("decompose", tmp_path / "model", "--layer", 0)
    assert (code, "eigenpairs" in out) == (0, True), err
    code, _, err = run("convert", tmp_path / "model", "--to", "gpt", "-o", tmp_path / "x")
    assert (code, "--to must be one of bilens, llama, bilinear; got 'gpt'" in err) == (2, True)


def test_expand_prints_a_table_that_ends_with_the_total(run, tmp_path):
    prompt = ("expand", "tinystories-1l", "--prompt", "Once upon a time")
    difference = ("--target", " there", "--versus", ",")
    code, out, err = run(
        *prompt, *difference, "-k", 3, "--graph", tmp_path / "graph.json", "--save", tmp_path / "e"
    )
    assert code == 0, err
    found = Expansion.load(tmp_path / "e")
    _, names, *rows, note = (line.split("\t") for line in out.splitlines())
    assert names == list(found.columns())
    assert [row[0] for row in rows[:3]] == [f"W_U · {term.path}" for term in found.terms[:3]]
    assert [row[1] for row in rows[:3]] == [f"{term.value:.4g}" for term in found.terms[:3]]
    others = len(found.terms) - 3
    assert [row[0] for row in rows[3:]] == [
        f"{others:,} further terms",
        f"remainder: {found.left_out:,} paths not kept",
        "total",
        "forward pass",
    ]
    assert [float(row[1]) for row in rows[3:]] == pytest.approx(
        [sum(term.value for term in found.terms[3:]), found.remainder, found.total, found.forward],
        rel=1e-11,
        abs=1e-12,
    )
    assert note == [f"… {others:,} further rows not printed; -k says how many are."]
    assert "links" in json.loads((tmp_path / "graph.json").read_text())


@pytest.mark.usefixtures("short_pages")
def test_a_half_precision_model_is_shown_as_it_runs_beside_its_explanation(run, tmp_path):
    """The token, its logit in bfloat16, and the same weights' logit in float64."""
    model = load("tinystories-1l").bfloat16()
    export(model, tmp_path / "half")
    ids = model.read("Once upon")
    logits, exact = model.outputs(ids)[-1].double(), model.double().outputs(ids)[-1]
    token = int(exact.argmax())
    code, out, err = run(
        "expand", tmp_path / "half", "--prompt", "Once upon", "--detail", "writes", "--json"
    )
    assert code == 0, err
    found, value = json.loads(out), f"as run in half precision {float(logits[token]):.6g}"
    ends = {row["path"]: row["value"] for row in found["rows"][-4:]}
    assert ends["as run in half precision"] == float(logits[token])
    assert ends["total"] == pytest.approx(float(exact[token]), rel=1e-5)
    assert value in found["summary"]
    code, _, err = run("report", tmp_path / "half", "--prompt", "Once upon", "-o", tmp_path)
    assert code == 0, err
    assert value in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_expand_for_machines_prints_what_is_asked_for_and_counts_the_rest(run):
    prompt = (
        "expand",
        "tinystories-1l",
        "--prompt",
        "Once upon a time",
        "--json",
        "--max-terms",
        50,
    )
    every, three = (json.loads(run(*prompt, *more)[1]) for more in ((), ("-k", 3)))
    assert every["left_out"] == 0
    assert len(three["rows"]) == 3 + 4
    assert three["rows"][:3] == every["rows"][:3]
    assert three["left_out"] == len(every["rows"]) - 4 - 3
    assert three["rows"][3]["path"] == f"{three['left_out']:,} further terms"
    for found in (every, three):
        *parts, total, forward = (row["value"] for row in found["rows"])
        assert sum(parts) == pytest.approx(total, rel=1e-12)
        assert total == pytest.approx(forward, rel=1e-12)


def test_expand_into_the_latents_of_a_dictionary(run, tmp_path):
    g = torch.Generator().manual_seed(0)
    W_enc, W_dec, b_enc, b_dec = (
        torch.randn(shape, generator=g) for shape in ((128, 64), (64, 128), (64,), (128,))
    )
    for n, hook in enumerate(
        ("layers.0.mlp.input", "layers.1.mlp.input", "blocks.1.hook_mlp_in", "")
    ):
        Dictionary(W_enc, W_dec, b_enc, b_dec, architecture="topk", k=4, hook=hook).save(
            tmp_path / str(n)
        )
    command = ("expand", "tinystories-2l", "--prompt", "Once upon a time", "--json")
    code, out, err = run(*command, "--dictionary", tmp_path / "0", "--dictionary", tmp_path / "1")
    assert code == 0, err
    rows = {row["path"]: row["value"] for row in json.loads(out)["rows"]}
    assert "W_U · mlp1(base, error)" in rows
    assert not any(path.startswith(("W_U · mlp0(embed", "W_U · mlp1(embed")) for path in rows)
    assert rows["total"] == pytest.approx(rows["forward pass"], rel=1e-10)
    there = {"hook": "layers.0.mlp.input", "hook_out": "layers.0.mlp.output"}
    coder = Dictionary(W_enc, W_dec, b_enc - 30, b_dec, architecture="transcoder", **there)
    coder.save(tmp_path / "coder")
    code, out, err = run(*command, "--dictionary", tmp_path / "coder")
    assert code == 0, err
    rows = {row["path"]: row["value"] for row in json.loads(out)["rows"]}
    assert {"W_U · mlp0.error", "W_U · mlp0.base"} < rows.keys()
    assert rows["total"] == pytest.approx(rows["forward pass"], rel=1e-10)
    again = ("--dictionary", tmp_path / "0")
    for arguments, text in (
        (again * 2, "--dictionary must name a place once"),
        (("--dictionary", tmp_path / "2"), "got blocks.1.hook_mlp_in"),
        (
            ("--dictionary", tmp_path / "3"),
            "must name the place it reads: hook_name in cfg.json; got none",
        ),
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
        (("--prompt", "a", "--position", 5), "--position must be -1 … 0; got 5"),
    ],
)
def test_a_prompt_that_cannot_be_expanded_is_one_line(run, arguments, text):
    code, out, err = run("expand", "tinystories-1l", *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_report_of_a_language_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.report.views.rules.WORDS", 0)  # a search of seconds
    words = ("--prompt", "Once upon", "--target", " girl", "--versus", " boy")
    code, out, err = run("report", "tinystories-1l", "-o", tmp_path, *words)
    assert (code, "index.html" in out) == (0, True), err
    assert "\\u2423girl" in (tmp_path / "index.html").read_text()
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, "--target", "no such")
    assert (code, "target 'no such' must be one token" in err) == (2, True)
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, "--data", "digits")
    assert (code, "--data must be left out for a language model" in err) == (2, True)
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, "--prompt", "")
    assert (code, "inputs must hold at least one token" in err) == (2, True)
    words = ("--prompt", "Once upon", "--position", 2)
    code, _, err = run("report", "tinystories-1l", "-o", tmp_path, *words)
    assert (code, "position must be -2 … 1" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--prompt", ""), "inputs must hold at least one token"),
        (("--prompt", "Once", "--prompt", ""), "inputs must hold at least one token"),
        (("--prompt", "a b " * 600), "context of 256"),
        (("--prompt", "Once upon", "--position", 2), "position must be -2 … 1"),
        (("--position", 8), "position must be -8 … 7"),
        (("--target", "no such"), "target 'no such' must be one token"),
    ],
    ids=["empty", "second", "long", "position", "of the story", "target"],
)
def test_what_cannot_be_asked_is_not_served(monkeypatch, words, text, run):
    """Refused before there is a page that nothing can be typed into."""
    opened = []

    def desk(serving, port):
        opened.append(Desk(serving))

    monkeypatch.setattr("bilens.report.open_server", desk)
    monkeypatch.setattr("bilens.cli.commands.serve.begin", lambda module: None)
    code, _, err = run("serve", "tinystories-1l", *words)
    assert (code, text in err, opened) == (2, True, []), err


@pytest.mark.parametrize(
    ("flag", "asked"),
    {
        "report": ("--output", ("report", "nowhere", "-o")),
        "moments": ("--output", ("moments", "nowhere", "--data", "topics", "-o")),
        "rules": ("--output", ("rules", "nowhere", "-o")),
        "decompose": ("--save", ("decompose", "nowhere", "--save")),
        "expand": ("--save", ("expand", "nowhere", "--prompt", "a", "--save")),
    }.values(),
)
def test_a_folder_that_is_read_only_is_said_before_the_work(
    flag, asked, run, tmp_path, monkeypatch
):
    """A root may write anywhere, so the system's answer is given here."""
    file, allowed = tmp_path / "new" / "file", os.access
    monkeypatch.setattr(
        os, "access", lambda place, mode: place != tmp_path and allowed(place, mode)
    )
    code, out, err = run(*asked, file)
    place = file if flag == "--output" else file.parent
    told = f"{flag} must be in a folder that can be written; got {place}, and {tmp_path} cannot."
    assert (code, out, err) == (2, "", f"bilens: {told}\n")
    assert not (tmp_path / "new").exists()
