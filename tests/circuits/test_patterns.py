"""Where heads look, beside what a stock model of transformers says of itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import AttentionPatterns, attention_patterns
from tests.circuits.transformers_made import tiny

IDS = torch.tensor([[1, 4, 2, 2, 7, 0]])


@pytest.fixture(scope="module")
def stock():
    torch.manual_seed(0)
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
    config = LlamaConfig(**sizes, **heads, attn_implementation="eager")
    return LlamaForCausalLM(config).double().eval()


def test_patterns_are_those_that_a_stock_model_puts_out(stock, close):
    truth = torch.stack(stock(IDS, output_attentions=True).attentions)[:, 0]
    model = bilens.models.from_transformers(stock)
    found = attention_patterns(model, IDS)
    close(found.weights, truth.flatten(0, 1), tol=1e-6)  # its softmax is in float32
    assert found.heads == tuple(f"L{layer}H{head}" for layer in (0, 1) for head in range(4))
    assert found.layers == (0, 0, 0, 0, 1, 1, 1, 1)
    one = attention_patterns(model, IDS, layer=1, head=2)
    assert one.heads == ("L1H2",)
    close(one.weights, truth[1, 2:3], tol=1e-6)
    assert attention_patterns(model, IDS, layer=0).heads == found.heads[:4]
    row = next(row for row in one.rows() if (row["query"], row["key"]) == (4, 1))
    assert row["weight"] == float(one.weights[0, 4, 1])
    assert (row["layer"], row["query token"], row["key token"]) == (1, "7", "4")
    assert len(one.rows()) == 6 * 7 // 2


def test_heads_come_by_what_they_look_at_that_is_neither_near_nor_first():
    weights = torch.zeros(2, 4, 4, dtype=torch.float64)
    weights[0] = torch.eye(4)
    weights[1, 3, 1] = weights[1, 0, 0] = weights[1, 1, 0] = weights[1, 2, 0] = 1.0
    tokens = ("␣a", "b", "c", "d")
    found = bilens.circuits.AttentionPatterns(("L0H0", "L0H1"), (0, 0), tokens, weights)
    first, second = found.answer()
    assert first["strongest look"] == "3 d → 1 b: 1.00"
    shares = ("elsewhere", "itself", "token before", "first token")
    assert [first[name] for name in shares] == [0.25, 0.25, 0.25, 0.25]
    assert [second[name] for name in shares] == [0.0, 1.0, 0.0, 0.0]
    assert second["strongest look"] == ""
    figure = found.figure()
    assert figure["data"][0]["z"][1] == [0.0, 1.0, None, None]  # nothing ahead
    assert figure["layout"]["yaxis"]["ticktext"] == ["0 ␣a", "1 b", "2 c", "3 d"]


def test_the_strongest_look_may_be_negative():
    weights = torch.zeros(1, 4, 4)
    weights[0, 3, 1], weights[0, 3, 0] = -2.0, 1.0
    found = AttentionPatterns(("L0H0",), (0,), ("a", "b", "c", "d"), weights)
    assert found.answer()[0]["strongest look"] == "3 d → 1 b: -2.00"


def test_weights_of_either_sign_are_drawn_with_their_sign():
    weights = torch.tensor([[[0.5, 0.0], [-3.0, 2.0]], [[1.0, 0.0], [0.5, 0.5]]])
    for heads, end in (((0,), 3.0), ((1,), 1.0), ((0, 1), 3.0)):
        names = tuple(f"L0H{n}" for n in heads)
        found = AttentionPatterns(names, (0,) * len(heads), ("a", "b"), weights[list(heads)])
        cells = found.figure()["data"][0]
        assert cells["zmax"] == end
        assert cells["zmin"] == (-end if end == 3 else 0)


@pytest.mark.bad_input
def test_what_is_not_there_is_refused(refuses):
    model = tiny("linear", True)
    refuses(ArgumentError, lambda: attention_patterns(model, IDS, 2), "layer", "0, 1")
    refuses(ArgumentError, lambda: attention_patterns(model, IDS, True), "layer")
    refuses(ArgumentError, lambda: attention_patterns(model, IDS, 0, 2), "head", "0 … 1")
    refuses(ArgumentError, lambda: attention_patterns(model, IDS, head=0), "head", "layer")
    classifier = bilens.Classifier(bilens.ClassifierConfig(input_shape=(2, 2), hidden_size=3))
    image = torch.rand(1, 4)
    refuses(ArgumentError, lambda: attention_patterns(classifier, image), "attention heads")
