"""``bilens compare``: the numbers of its runs, a row for each MLP, gone on with by the same
command.
"""

import json

import pytest

from bilens.training import Comparison, read_about

SIZES = "hidden_size = 16\nintermediate_size = 24\nnum_hidden_layers = 1\nnum_attention_heads = 2\n"
RECIPE = (
    f"steps = 2\nbatch_size = 2\nvocab_size = 300\n[model]\n{SIZES}max_position_embeddings = 16\n"
)


def test_rows_are_those_of_the_runs(run, text, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    given = ("compare", "-o", tmp_path / "out", "--config", tmp_path / "r.toml", "--seeds", 1)
    given += ("--data", text)
    chosen = ("--mlp", "ReLU", "--mlp", "bilinear", "--json", "--save", tmp_path / "saved")
    code, out, err = run(*given, *chosen)
    assert code == 0, err
    rows = {row["mlp"]: row for row in json.loads(out)["rows"]}
    losses = {
        name: read_about(tmp_path / "out" / f"{name}-0")["figures"]["valid"]["loss"]
        for name in rows
    }
    assert list(rows) == ["ReLU", "bilinear"]
    for name, row in rows.items():
        assert row["loss"] == pytest.approx(losses[name], rel=1e-12)
        assert row["over bilinear"] == pytest.approx(losses[name] - losses["bilinear"], abs=1e-12)
    assert Comparison.load(tmp_path / "saved").loss == ((losses["ReLU"],), (losses["bilinear"],))
    code, again, err = run(*given, *chosen)
    assert (code, again) == (0, out), err
    code, _, err = run(*given, "--mlp", "Tanh")
    assert (code, "variant must be one of ReLU, GELU" in err, err.count("\n")) == (2, True, 1)
