"""Each benchmark at a size that takes no time: its sides agree, and it records what it says. Its
figures stand in benchmarks/results.
"""

import importlib
import json
import sys
from pathlib import Path

import pytest

import bilens
from benchmarks import record

TINY = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
STEP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SIZES = {
    "composition": {"WIDTH": 16, "HEADS": 2, "HIDDEN": 32},
    "effects": {"LARGE": TINY},
    "eigen": {"D": 64, "H": 128, "DIRECTIONS": 8, "DENSE": 2},
    "expansion": {"LARGE": TINY, "SMALL": TINY, "VOCABULARY": 50, "BUDGETS": ()},
    "hosvd": {"D": 16, "H": 32, "RUNS": 1},
    "interactions": {"D": 32, "H": 64, "F": 128, "K": 10, "REPEATS": 1},
    "nearest": {},
    "page": {"ROUNDS": 1},
    "similarity": {"RUNS": 1},
    "size": {"WIDTH": 128, "HIDDEN": 64, "KEYS": 32, "TOKENS": 200},
    "top_entries": {"SHAPES": [(16, 16, 8)], "ROUNDS": 1},
    "transformer_step": {"SHAPES": {"tiny": (STEP, 1)}},
}
OPTIONS = {
    "composition": "--layers 2 --pairs 2",
    "effects": "--runs 1",
    "expansion": "--runs 1",
    "nearest": "--dense --width 32 --hidden 64",
    "page": "--only boxed",
    "similarity": "--sizes 36 8 8",
    "transformer_step": "--runs 1",
}


def test_none_is_missing_here():
    every = {file.stem for file in Path(record.__file__).parent.glob("*.py")}
    assert every - {"record", "startup"} == set(SIZES)  # startup runs commands that others test


@pytest.mark.parametrize("name", SIZES)
def test_benchmark_runs(name, monkeypatch, tmp_path):
    module = importlib.import_module(f"benchmarks.{name}")
    for constant, size in SIZES[name].items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, size)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.jsonl")
    if name == "top_entries":
        config = bilens.TransformerConfig(vocab_size=64, **TINY)
        bilens.Transformer(config).save_pretrained(tmp_path)
        monkeypatch.setattr(module, "MODEL", str(tmp_path))
    options = OPTIONS.get(name, "").split()
    if name == "size":
        run(module, monkeypatch, ["make", str(tmp_path / "model"), "--layers", "2"])
        options = ["approximate", str(tmp_path / "model")]
    run(module, monkeypatch, options)
    rows = [json.loads(line) for line in module.RESULTS.read_text().splitlines()]
    assert rows
    for row in rows:
        assert {"date", "commit", "hardware"} < set(row)


def run(module, monkeypatch, options):
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()
