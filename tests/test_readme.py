"""The README's code runs, and prints what stands below it."""

import re
from pathlib import Path

import pytest
import torch

import bilens

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def parted(text):
    """A text without its numbers and white space, and the numbers."""
    return NUMBER.sub("#", text).split(), [float(number) for number in NUMBER.findall(text)]


def given():
    """What the README takes as the reader's own: two checkpoints, matrices, dictionaries, texts."""
    config = bilens.TransformerConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    model, boxed = bilens.Transformer(config), bilens.load("tinystories-2l")
    torch.manual_seed(0)
    return {
        "A": model,
        "B": model,
        "M": model,
        "down": torch.randn(4, 6),
        "gate": torch.randn(6, 8),
        "up": torch.randn(6, 8),
        "direction": torch.randn(4),
        "T1": boxed.blocks[1].mlp.tensor().detach(),
        "D_in": bilens.features.Dictionary.load("tinystories-2l/mlp1.input"),
        "D_out": bilens.features.Dictionary.load("tinystories-2l/mlp1.output"),
        "texts": ["They went to play in the park."],
    }


def test_the_readmes_code_prints_what_it_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # of a page, not of whatever terminal this runs in
    names, printed = given(), 0
    for code, output in BLOCK.findall(README.read_text(encoding="utf-8")):
        exec(compile(code, "README.md", "exec"), names)
        words, numbers = parted(capsys.readouterr().out)
        said_words, said_numbers = parted(output)
        assert words == said_words
        # rounding differs from machine to machine
        assert numbers == pytest.approx(said_numbers, rel=2e-3, abs=1e-5)
        printed += bool(output)
    assert printed  # a README without outputs would compare nothing
