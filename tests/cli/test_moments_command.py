"""``bilens moments``: its files are the library's, and what cannot be is one line."""

import json

import pytest

import bilens
from bilens.models import activations
from bilens.training import training_tokens

MODEL = "tinystories-1l"


def test_a_file_of_each_place(run, tmp_path):
    words = ("--data", "topics", "--tokens", 1500, "--places", "mlp0.input, mlp0.output", "--json")
    code, out, err = run("moments", MODEL, *words, "-o", tmp_path / "out")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["place"] for row in rows] == ["mlp0.input", "mlp0.output"]
    model = bilens.load(MODEL)
    ids = training_tokens(model, "topics", 1500).astype("int64").tolist()
    (x,) = activations(model, [ids], "mlp0.input")
    found, cov = bilens.Gaussian.load(rows[0]["file"]), x.double().T.cov()
    assert found.count == len(x) == rows[0]["tokens"]
    assert found.cov.numpy() == pytest.approx(cov.numpy(), rel=1e-5, abs=1e-6 * float(cov.max()))
    assert rows[0]["spread"] == pytest.approx(float(cov.trace()) ** 0.5, rel=1e-5)
    assert rows[0]["mean"] == pytest.approx(float(x.double().mean(0).norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--places", "mlp7.input"), '--places must be "all" or some of attn0.input, mlp0.input'),
        (("--tokens", 0), "--tokens must be a whole number"),
        (("--data", "nowhere.txt"), "nowhere.txt must be"),
    ],
    ids=["place", "tokens", "data"],
)
def test_what_cannot_be_is_one_line(run, tmp_path, words, says):
    data = () if "--data" in words else ("--data", "topics")
    code, out, err = run("moments", MODEL, "-o", tmp_path / "out", *data, *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "out").exists()
