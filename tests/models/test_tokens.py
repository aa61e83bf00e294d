"""Tokens in words, of tokenizers that are not of the tokenizers library."""

import pytest
import torch
from transformers import ByT5Tokenizer

import bilens
from bilens.base.errors import ArgumentError
from bilens.training.text import load_text


@pytest.fixture
def model(tmp_path):
    """A folder with a tokenizer written in Python: its token n + 3 is byte n."""
    sizes = {"vocab_size": 384, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    bilens.Transformer(bilens.TransformerConfig(**sizes)).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    return bilens.load(tmp_path)


def test_a_tokenizer_written_in_python_names_its_tokens(model, tmp_path, refuses):
    found = bilens.expand(model, "hé", "o")
    ids = [ord("h") + 3, *(byte + 3 for byte in "é".encode()), 1]
    assert model.output_names([*ids[:1], ord(" ") + 3, ord("o") + 3]) == ["h", "␣", "o"]
    logits = model(torch.tensor([ids])).logits[0, -1].detach()
    assert found.forward == pytest.approx(float(logits[ord("o") + 3]), abs=1e-6)
    (tmp_path / "text.txt").write_text("words " * 99)
    says = "tokenizer must be byte-level and have an eos_token; got ByT5Tokenizer"
    source = str(tmp_path / "text.txt")
    refuses(ArgumentError, lambda: load_text(source, model.tokenizer, 8), says)
