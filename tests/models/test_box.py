"""The models in the box: small, able to speak, their own layers, and as their cards say."""

import re

import pytest
import torch
from torch.nn.functional import gelu, linear, silu

import bilens
from bilens.models.loading import BOX, boxed

KINDS = {
    "tinystories-1l": "A bilinear transformer",
    "tinystories-2l": "A bilinear transformer",
    "tinystories-2l-gelu": "A transformer with GELU MLPs",
    "tinystories-2l-swiglu": "A transformer with SwiGLU MLPs",
}


def test_there_is_a_box():
    assert boxed() == list(KINDS)


def test_twins_are_of_one_size():
    twins = [bilens.load(name) for name in KINDS if name.startswith("tinystories-2l")]
    assert len(twins) == 3
    assert len({twin.num_parameters() for twin in twins}) == 1
    assert all(twin.tokenizer.get_vocab() == twins[0].tokenizer.get_vocab() for twin in twins)


@pytest.mark.parametrize("name", boxed())
def test_a_boxed_model(name):
    model = bilens.load(name)
    size = sum(file.stat().st_size for file in (BOX / name).iterdir())
    assert size < 4_000_000
    assert model.config.is_exact == ("bilinear" in KINDS[name])
    prompt = model.tokenizer("Once upon a time", return_tensors="pt")
    told = model.tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0])
    assert told.startswith("Once upon a time")
    assert "there was" in told
    card = (BOX / name / "README.md").read_text(encoding="utf-8")
    assert f'{KINDS[name]}, `bilens.load("{name}")`' in card
    assert re.search(r"validation \d\.\d+ nats per token", card)
    assert f"--only {name}" in card


@pytest.mark.parametrize("name", boxed())
def test_a_boxed_model_in_float64_is_its_layers(name):
    """Every MLP from its tensor, where it has one, and every head from its weights, in float64."""
    model = bilens.load(name).double()
    text = model.tokenizer("One day, a big dog", return_tensors="pt")["input_ids"]
    output = model(text, output_attentions=True)
    x = model.W_E[text]
    for layer, block in enumerate(model.blocks):
        seen, pattern = block.input_layernorm(x), output.attentions[layer]
        values = torch.einsum("btd,hde->bhte", seen, model.W_V[layer])
        x = x + torch.einsum("bhts,bhse,hed->btd", pattern, values, model.W_O[layer])
        x = x + written(name, block.mlp, block.post_attention_layernorm(x))
    torch.testing.assert_close(
        model.model.norm(x) @ model.W_U, output.logits, rtol=1e-10, atol=1e-10
    )


def written(name, mlp, x):
    """What an MLP writes: by its tensor, or by its weights one after another."""
    if name.endswith("swiglu"):
        hidden = silu(linear(x, mlp.gate_proj.weight)) * linear(x, mlp.up_proj.weight)
    elif name.endswith("gelu"):
        hidden = gelu(linear(x, mlp.up_proj.weight))
    else:
        return mlp.tensor()(x)
    return linear(hidden, mlp.down_proj.weight)
