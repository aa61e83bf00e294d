"""``bilens decompose`` on language models, in one process and shared by two."""

import json
import os
import subprocess
import sys

import pytest
import torch

from bilens import Eigen, load
from bilens.decompose import eigen

MODEL = "tinystories-2l"


def test_directions_by_token_are_rows_of_the_unembedding(run, tmp_path):
    code, _, _ = run("decompose", MODEL, "--layer", 1, "--directions", " girl, boy", "-k", 3, "--save", tmp_path / "e")
    assert code == 0
    found, model = Eigen.load(tmp_path / "e"), load(MODEL)
    assert found.labels == (" girl", " boy")
    rows = model.lm_head.weight[[model.output_index(name) for name in found.labels]].detach()
    truth = eigen(model.blocks[1].mlp.tensor().detach(), rows, 3)
    assert torch.allclose(found.values, truth.values, rtol=1e-5)


def test_every_layer_into_one_folder(run, tmp_path):
    code, out, _ = run("decompose", MODEL, "--layer", "all", "-k", 2, "--folder", tmp_path / "all", "--json")
    assert code == 0
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["summary"][:7], second["summary"][:7]) == ("layer0:", "layer1:")
    assert {place.name for place in (tmp_path / "all").iterdir()} == {"layer0", "layer1"}


@pytest.mark.parametrize("what", ["hosvd", "svd", "joint"])
def test_other_decompositions(run, what):
    code, out, _ = run("decompose", MODEL, "--layer", 0, "--what", what, "-k", 3, "--json")
    assert (code, len(json.loads(out)["rows"]) > 0) == (0, True)


def test_two_processes_write_what_one_does(tmp_path):
    """gloo on this machine: each takes its share of the chunks, and each has the whole in the end."""
    alone, together = tmp_path / "one", tmp_path / "two"
    command = ["-m", "bilens.cli", "decompose", MODEL, "--layer", "1", "--directions", "all", "-k", "2", "--chunk", "32"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, folder in (([], alone), (launch, together)):
        arguments = [sys.executable, *start, *command, "--folder", folder, "--save", f"{folder}.safetensors"]
        done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("128 × 2 eigenpairs") == 1
    one, two = (Eigen.load(f"{folder}.safetensors") for folder in (alone, together))
    for name in ("values", "vectors", "residuals", "converged", "norm"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert len(list(together.glob("chunk-*"))) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), '--layer must be one of 0, 1, or "all"; got none.'),
        (("--layer", "7"), '--layer must be one of 0, 1, or "all"; got 7.'),
        (("--layer", "0", "--what", "power"), "--what must be one of eigen, hosvd, svd, joint; got 'power'."),
        (("--layer", "0", "--directions", "qqqq"), "target 'qqqq' must be one token"),
        (("--layer", "all", "--save", "x"), "--save must be given for one layer; got 2 layers. Use --folder."),
    ],
)
def test_bad_input_is_one_line(run, arguments, text):
    code, _, err = run("decompose", MODEL, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert text in err
