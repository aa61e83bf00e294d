"""The cores of the experiments run and report what they say they do; their findings stand in
EXPERIMENTS.md.
"""

import json
import math

import numpy as np
import pytest
import torch

from benchmarks import record
from bilens.algebra import CP
from bilens.decompose import eigen
from experiments import faithfulness, modular_addition, superposition
from experiments.modular_addition import P


def test_modular_addition_trains_and_is_read():
    model, test = modular_addition.trained(modular_addition.How(width=16, steps=3), seed=0)
    found = modular_addition.figures(model)
    assert 0 <= test <= 100
    assert 0 <= found["power at the best frequency"] <= 1
    assert -1 <= found["phases turn with the class"] <= 1


@pytest.mark.parametrize(
    ("experiment", "given"),
    [
        (modular_addition, ["--train", "1"]),  # none is held back
        (modular_addition, ["--train", "0.001"]),  # none is shown
        (modular_addition, ["--train", "nan"]),
        (superposition, ["--seeds", "1"]),  # there is no other seed
    ],
)
def test_what_leaves_nothing_to_compare_with_is_refused(experiment, given, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiment", *given, "--steps", "1"])
    monkeypatch.setattr(experiment, "trained", lambda *_: pytest.fail("it went on"))
    with pytest.raises(SystemExit, match="2"):
        experiment.main()
    assert f"{given[0]} must" in capsys.readouterr().err


def known_solution(*frequencies: int) -> CP:
    """Σ_k cos w(a + b − c), written out by the addition theorem as a CP: four products for each
    frequency.
    """
    outs, lefts, rights = [], [], []
    for n, k in enumerate(frequencies):
        angle = 2 * math.pi * k * torch.arange(P, dtype=torch.float64) / P
        cos, sin, none = angle.cos(), angle.sin(), torch.zeros(P, dtype=torch.float64)
        for out, a, b in ((cos, cos, cos), (-cos, sin, sin), (sin, sin, cos), (sin, cos, sin)):
            outs.append(out / (n + 1))  # apart in λ, so that no class mixes frequencies
            lefts.append(torch.cat([a, none]))
            rights.append(torch.cat([none, b]))
    return CP(torch.stack(outs, 1), torch.stack(lefts), torch.stack(rights))


def test_the_known_solution_is_recognised():
    """Waves of one frequency in both halves, phases that turn with the class, and nothing
    beside.
    """
    tensor = known_solution(3, 5)
    found = modular_addition.waves(eigen(tensor, k=None))
    weight = found.values.square() / found.values.square().sum()
    same = found.frequency[:, 0] == found.frequency[:, 1]
    assert bool(same.all())
    assert set(found.frequency.flatten().tolist()) == {3, 5}
    assert float(found.share.min()) == pytest.approx(1.0, abs=1e-9)
    assert modular_addition.turning(found, weight, same) == pytest.approx(1.0, abs=1e-9)
    matrices = tensor.interaction(torch.eye(P, dtype=torch.float64)).dense()
    assert modular_addition.fourier(matrices) == pytest.approx(1.0, abs=1e-9)
    modes = modular_addition.shared_modes(tensor, 8)
    assert [mode["frequency"] for mode in modes] == [3] * 4 + [5] * 4
    assert all(mode["power"] == 1.0 for mode in modes)


def test_rank_correlation_and_its_interval():
    x = np.array([0.1, 2.0, -3.0, 0.5])
    assert faithfulness.spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert faithfulness.spearman(x, -x) == pytest.approx(-1.0)
    low, high = faithfulness.interval(np.array([0.2, 0.4, 0.6, 0.8]), seed=0)
    assert 0.2 <= low < 0.5 < high <= 0.8


def test_a_row_names_the_accelerator_and_needs_no_git(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setenv("PATH", "")
    record.record(tmp_path / "rows.jsonl", loss=1.0)
    row = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8"))
    assert row["hardware"].startswith("NVIDIA H100, ")
    assert (row["commit"], row["loss"]) == ("unknown", 1.0)
