"""``bilens approximate``: its figures are those of the library, and what cannot be is one line."""

import json

import pytest
import torch

import bilens
from bilens.models import activations
from bilens.report.views import nearest_tensors
from bilens.training import load_text, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("there")
    text = "\n<|endoftext|>\n".join(f"There were {n} cats and {n * n} dogs." for n in range(400))
    (folder / "text.txt").write_text(text)
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_act="silu",
        initializer_range=0.5,
    )
    bilens.Transformer(config).save_pretrained(folder / "model")
    save_tokenizer(train_tokenizer(str(folder / "text.txt"), 300), folder / "model")
    return folder


def test_figures_are_the_librarys(run, there, tmp_path):
    words = (there / "model", "--data", there / "text.txt", "--tokens", 320, "--json")
    code, out, err = run("approximate", *words)
    assert code == 0, err
    (document,) = [json.loads(out)]
    rows = document["rows"]
    assert [row["layer"] for row in rows] == [0, 1]
    model = bilens.load(there / "model")
    ids = load_text(str(there / "text.txt"), model.tokenizer, 16).valid[:20]["input_ids"]
    x = list(activations(model, [ids], "mlp1.input"))
    found = bilens.approximate(
        model.model.layers[1].mlp, bilens.Gaussian.from_batches(x), data=torch.cat(x)
    )
    assert rows[1]["unexplained"] == pytest.approx(float(found.unexplained.value), rel=1e-6)
    assert rows[1]["worst 1 %"] == pytest.approx(found.tail(), rel=1e-6)
    shares = [rows[1][f"degree {n}"] for n in range(5)] + [rows[1]["beyond"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx(found.degrees.shares.tolist(), rel=1e-6)


def test_one_layer_is_saved(run, there, tmp_path):
    words = ("--data", there / "text.txt", "--tokens", 320, "--layer", 1, "--fit", "units")
    code, out, err = run("approximate", there / "model", *words, "--save", tmp_path / "near")
    assert (code, "unexplained" in out) == (0, True), err
    found = bilens.nearest.Approximation.load(tmp_path / "near")
    assert found.fit == "units"
    model = bilens.load(there / "model")
    assert bilens.expand(model, [1, 2], 3, replacements={"mlp1": found}).opaque == ("mlp1.error",)


def test_a_report_takes_a_text(run, there, tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.report.writing.VIEWS", (nearest_tensors.VIEW,))
    words = ("report", there / "model", "-o", tmp_path)
    code, _, err = run(*words, "--data", there / "text.txt")
    assert code == 0, err
    assert "held-out tokens of" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert run(*words)[0] == 0  # without a record of its training
    assert nearest_tensors.NO_TEXT in (tmp_path / "index.html").read_text(encoding="utf-8")
    code, _, err = run(*words, "--data", there / "gone.txt")
    assert (code, "gone.txt must be" in err) == (2, True)
    record = there / "model" / "training.json"
    record.write_text(json.dumps({"data": str(there / "text.txt"), "recipe": {}}))
    assert run(*words)[0] == 0
    assert "held-out tokens of" in (tmp_path / "index.html").read_text(encoding="utf-8")
    record.unlink()


def test_experts_are_taken_one_by_one(run, there, tmp_path):
    """On the tokens that are routed to each; without figures where there are none."""
    torch.manual_seed(0)
    old = bilens.load(there / "model")
    said = {key: getattr(old.config, key) for key in ("vocab_size", "max_position_embeddings")}
    model = bilens.Transformer(
        bilens.TransformerConfig(
            **said,
            hidden_size=8,
            intermediate_size=6,
            num_hidden_layers=1,
            num_attention_heads=2,
            hidden_act="silu",
            mlp_bias=True,
            num_local_experts=3,
            initializer_range=0.5,
        )
    )
    with torch.no_grad():
        model.model.layers[0].mlp.gate.bias[2] = -1e4
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(old.tokenizer, tmp_path / "model")
    words = (tmp_path / "model", "--data", there / "text.txt", "--tokens", 320, "--json")
    code, out, err = run("approximate", *words)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["layer"] for row in rows] == ["0.expert0", "0.expert1", "0.expert2"]
    assert [row["tokens"] for row in rows] == [320, 320, 0]
    assert rows[2]["unexplained"] is None
    ids = load_text(str(there / "text.txt"), old.tokenizer, 16).valid[:20]["input_ids"]
    x = torch.cat(list(activations(model, [ids], "mlp0.input")))
    mlp, measure = model.model.layers[0].mlp, bilens.Gaussian.from_batches([x])
    found = bilens.approximate(mlp.experts[1], measure, data=x)
    assert rows[1]["unexplained"] == pytest.approx(float(found.unexplained.value), rel=1e-5)
    code, out, err = run("approximate", *words, "--layer", "0.expert2", "--save", tmp_path / "near")
    assert (code, len(err.splitlines())) == (2, 1), err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--fit", "best"), "--fit must be one of closed, units, output; got 'best'"),
        (("--layer", "7"), "--layer must be \"all\" or one of 0, 1; got '7'"),
        (("--tokens", "0"), "--tokens must be a whole number ≥ 1; got 0"),
        (("--save", "near"), "--save must be given for one layer; got 2"),
    ],
)
def test_what_cannot_be_is_one_line(run, there, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("approximate", there / "model", "--data", there / "text.txt", *more)
    assert (code, said in err, len(err.splitlines())) == (2, True, 1), err
    assert not list(tmp_path.iterdir())
