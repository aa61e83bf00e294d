"""What is told of a language model as a whole."""

import pytest
import torch

import bilens
from bilens.report.view import Query
from bilens.report.views.language_facts import VIEW


@pytest.mark.parametrize(
    ("dtype", "most", "said"),
    [
        (torch.float32, 1_000_000, "float64"),
        (torch.float32, 10, "float32"),
        (torch.float64, 10, "float64"),
        (torch.bfloat16, 1_000_000, "float32, on weights of half precision"),
    ],
    ids=["small", "large", "double", "half"],
)
def test_it_says_in_which_numbers_the_page_reckons(monkeypatch, dtype, most, said):
    monkeypatch.setattr("bilens.report.answers.EXACT", most)
    config = bilens.TransformerConfig(vocab_size=50, hidden_size=16, intermediate_size=8)
    (block,) = VIEW.build(bilens.Transformer(config).to(dtype), Query())
    assert block.make()["facts"]["Explained in"] == said
