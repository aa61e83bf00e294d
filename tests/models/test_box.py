"""The models in the box: small, exact, able to speak, and as their cards say."""

import re

import pytest
import torch

import bilens
from bilens.models.loading import BOX, boxed


def test_there_is_a_box():
    assert boxed() == ["tinystories-1l", "tinystories-2l"]


@pytest.mark.parametrize("name", boxed())
def test_a_boxed_model(name):
    model = bilens.load(name)
    size = sum(file.stat().st_size for file in (BOX / name).iterdir())
    assert size < 4_000_000
    assert model.config.is_exact
    prompt = model.tokenizer("Once upon a time", return_tensors="pt")
    told = model.tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0])
    assert told.startswith("Once upon a time")
    assert "there was" in told
    card = (BOX / name / "README.md").read_text(encoding="utf-8")
    assert re.search(r"validation \d\.\d+ nats per token", card)
    assert f"--only {name}" in card


@pytest.mark.parametrize("name", boxed())
def test_a_boxed_model_in_float64_is_its_layers(name):
    """Every MLP from its tensor and every head from its weights, in float64."""
    model = bilens.load(name).double()
    text = model.tokenizer("One day, a big dog", return_tensors="pt")["input_ids"]
    output = model(text, output_attentions=True)
    x = model.W_E[text]
    for layer, block in enumerate(model.blocks):
        seen, pattern = block.input_layernorm(x), output.attentions[layer]
        values = torch.einsum("btd,hde->bhte", seen, model.W_V[layer])
        x = x + torch.einsum("bhts,bhse,hed->btd", pattern, values, model.W_O[layer])
        x = x + block.mlp.tensor()(block.post_attention_layernorm(x))
    torch.testing.assert_close(
        model.model.norm(x) @ model.W_U, output.logits, rtol=1e-10, atol=1e-10
    )
