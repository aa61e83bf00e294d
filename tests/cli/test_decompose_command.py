"""``bilens decompose`` on language models, in one process and shared by two."""

import json
import tempfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from bilens import CP, Eigen, load
from bilens.decompose import eigen
from tests.processes_made import run_together

MODEL = "tinystories-2l"


def test_directions_by_token_are_rows_of_the_unembedding(run, tmp_path):
    code, _, _ = run(
        "decompose",
        MODEL,
        "--layer",
        1,
        "--directions",
        " girl, boy",
        "-k",
        3,
        "--save",
        tmp_path / "e",
    )
    assert code == 0
    found, model = Eigen.load(tmp_path / "e"), load(MODEL)
    assert found.labels == ("␣girl", "␣boy")
    rows = model.lm_head.weight[[model.output_index(name) for name in found.labels]].detach()
    truth = eigen(model.blocks[1].mlp.tensor().detach(), rows, 3)
    assert torch.allclose(found.values, truth.values, rtol=1e-5)


def test_every_layer_into_one_folder_and_one_document(run, tmp_path):
    folder = tmp_path / "all"
    code, out, _ = run("decompose", MODEL, "--layer", "all", "-k", 2, "--folder", folder, "--json")
    assert code == 0
    first, second = json.loads(out)
    assert (first["summary"][:7], second["summary"][:7]) == ("layer0:", "layer1:")
    assert len(first["rows"]) == 2 * 128
    assert {place.name for place in folder.iterdir()} == {"layer0", "layer1"}


@pytest.fixture(scope="module")
def spectra():
    """Singular values of layer 0's symmetric part, unfolded along out and along left, from its
    cube.
    """
    T = load(MODEL).blocks[0].mlp.tensor().detach().to(torch.float64)
    cube = torch.einsum("oh,hi,hj->oij", T.out, T.left, T.right)
    cube = (cube + cube.mT) / 2
    modes = {"out": cube, "left": cube.transpose(0, 1)}
    return {mode: torch.linalg.svdvals(cube.flatten(1)) for mode, cube in modes.items()}


@pytest.mark.parametrize(
    ("what", "modes", "total"),
    [
        ("hosvd", ("out", "left", "left"), 3 * 128),
        ("svd", ("out",), 128),
        ("joint", ("left",), 128),
    ],
)
def test_other_decompositions_are_these_to_the_digit(what, modes, total, run, spectra):
    code, out, _ = run("decompose", MODEL, "--layer", 0, "--what", what, "-k", 5, "--json")
    assert code == 0
    found = json.loads(out)
    values = torch.tensor([row["singular value"] for row in found["rows"]], dtype=torch.float64)
    truth = torch.cat([spectra[mode][:5] for mode in modes])
    assert torch.allclose(values, truth, rtol=1e-6)
    assert found["left_out"] == total - len(values)
    assert all(row["kept"] for row in found["rows"])
    code, out, _ = run("decompose", MODEL, "--layer", 0, "--what", what, "-k", 5)
    assert f"{total - len(values):,} further rows not printed" in out


def test_a_tensor_of_ones_own_is_taken_apart(run, tmp_path):
    """As it was saved, and as three matrices of a checkpoint."""
    torch.manual_seed(0)
    T = CP(torch.randn(3, 5), torch.randn(5, 4), torch.randn(5, 4))
    truth = torch.linalg.eigvalsh(T.symmetrise().dense())
    largest = truth.gather(1, truth.abs().argmax(1, keepdim=True))[:, 0]
    T.save(tmp_path / "saved.safetensors")
    named = {"out": T.out, "left": T.left, "right": T.right}
    save_file(named, tmp_path / "plain.safetensors")
    ends = ("down_proj", "gate_proj", "up_proj")
    layer = {
        f"layers.3.mlp.{end}.weight": one for end, one in zip(ends, named.values(), strict=True)
    }
    save_file(layer, tmp_path / "layer.safetensors")
    for name in ("saved", "plain", "layer"):
        code, out, err = run("decompose", tmp_path / f"{name}.safetensors", "-k", 1, "--json")
        assert code == 0, err
        found = {row["of"]: row["value"] for row in json.loads(out)["rows"]}
        assert [found[key] for key in sorted(found)] == pytest.approx(largest.tolist(), rel=1e-5)
    save_file({"a": T.out, "b": T.left, "c": T.right}, tmp_path / "other.safetensors")
    for words, text in (
        (("other.safetensors",), "must hold a saved CP, or three matrices called out, left"),
        (("plain.safetensors", "--layer", 0), "--layer must be left out for one tensor"),
        (("plain.safetensors", "--directions", "unembed"), '--directions must be "all"'),
    ):
        code, out, err = run("decompose", tmp_path / words[0], *words[1:])
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert text in err


def test_a_meeting_place_that_nobody_named_goes_in_the_end(run, tmp_path, monkeypatch):
    """The first of two processes, which makes the one chunk there is."""
    first = SimpleNamespace(
        num_processes=2, process_index=0, is_main_process=True, wait_for_everyone=lambda: None
    )
    monkeypatch.setattr("bilens.training.processes.processes", lambda: first)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = ("decompose", MODEL, "--layer", 0, "--directions", " girl", "-k", 2)
    assert run(*command)[0] == 0
    assert not list(tmp_path.iterdir())
    assert run(*command, "--folder", tmp_path / "mine")[0] == 0
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def one_thread():
    """As many as each of several processes has, so that sums are made in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_write_what_one_does(run, one_thread, tmp_path):
    """gloo on this machine: each takes its share of the chunks and has the whole in the end."""
    alone, together = tmp_path / "one", tmp_path / "two"
    command = ("decompose", MODEL, "--layer", "1", "--directions", "all", "-k", "2")
    command += ("--chunk", "32", "--folder")
    code, out, err = run(*command, alone, "--save", f"{alone}.safetensors")
    assert code == 0, err
    done = run_together(tmp_path, *command, together, "--save", f"{together}.safetensors")
    assert done.codes == (0, 0), done.stderr
    for said in (out, done.stdout):
        assert said.count("128 × 2 eigenpairs") == 1
    one, two = (Eigen.load(f"{folder}.safetensors") for folder in (alone, together))
    for name in ("values", "vectors", "residuals", "converged", "norm"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert len(list(together.glob("chunk-*"))) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), '--layer must be one of 0, 1, or "all"; got none.'),
        (("--layer", "7"), '--layer must be one of 0, 1, or "all"; got 7.'),
        (("--layer", "0", "--directions", "qqqq"), "target 'qqqq' must be one token"),
        (("--layer", "0", "--directions", "²"), "target '²' must be one token"),
        (
            ("--layer", "all", "--save", "x"),
            "--save must be given for one layer; got 2 layers. Use --folder.",
        ),
    ],
)
def test_bad_input_is_one_line(run, arguments, text):
    code, out, err = run("decompose", MODEL, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_a_layer_that_is_not_there_is_told_before_one_that_has_no_tensor(run):
    gated = "tinystories-2l-swiglu"
    for layer, text in (("7", '--layer must be one of 0, 1, or "all"'), ("1", 'act="silu"')):
        code, out, err = run("decompose", gated, "--layer", layer)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--what", "power"), "--what must be one of eigen, hosvd, svd, joint; got 'power'."),
        (("-k", "0"), "-k must be a whole number ≥ 1; got 0."),
        (("--save", "."), "--save must be a file; got the folder .."),
        (
            ("--folder", "/dev/null/x"),
            "--folder must be in a folder; got /dev/null/x, and /dev/null is a file.",
        ),
        *(
            (
                ("--what", what, option, "7"),
                f"{option} must be left out with --what {what}; got '7'. "
                "Nothing reads it there; it is for --what eigen.",
            )
            for what in ("hosvd", "svd", "joint")
            for option in ("--directions", "--folder", "--chunk")
        ),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_read(run, arguments, text, monkeypatch):
    monkeypatch.setattr("bilens.load", None)
    code, out, err = run("decompose", "nowhere", *arguments)
    assert (code, out, err) == (2, "", f"bilens: {text}\n")


def test_a_link_to_nothing_is_said_before_the_model_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.load", None)
    place = tmp_path / "link"
    place.symlink_to("nowhere")
    for option, given in (("--folder", place / "x"), ("--folder", place), ("--save", place / "x")):
        code, out, err = run("decompose", "nowhere", option, given)
        where = place if option == "--save" else given
        said = f"{option} must be in a folder; got {where}, and {place} is a link to nothing."
        assert (code, out, err) == (2, "", f"bilens: {said}\n")
