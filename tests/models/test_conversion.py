"""Bilinear MLPs in place of others: exact where the others are quadratic, else the best by least
squares.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ShapeError
from bilens.models import bilinear_frame, converted_layers
from bilens.models.surgery import conversion

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}


def model_of(**changes):
    torch.manual_seed(0)
    made = Transformer(TransformerConfig(**SIZES | changes)).double().eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return made


def ids(seed, texts):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SIZES["vocab_size"], (texts, 16), generator=generator)


def converted(model, texts, others, **given):
    made = bilinear_frame(model)
    return made, list(converted_layers(model, made, texts, others, **given))


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_quadratic_mlp_is_converted_exactly(norm, bias):
    how = {"hidden_act": "square", "gated": False, "mlp_bias": bias}
    model = model_of(norm=norm, positions="learned", **how)
    made, layers = converted(model, ids(1, 24), ids(2, 6))
    assert made.config.is_exact
    assert made.config.intermediate_size == 12 + 8
    torch.testing.assert_close(made(ids(3, 2)).logits, model(ids(3, 2)).logits, atol=1e-6, rtol=0)
    assert max(layer.missed for layer in layers) < 1e-9


@torch.no_grad()
def test_layers_are_least_squares_aimed_at_the_stock_models_stream(monkeypatch):
    monkeypatch.setattr(conversion, "RIDGES", (1e-12,))
    torch.manual_seed(0)
    stock = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="silu")).double().eval()
    model, texts = Transformer.from_llama(stock), ids(1, 12)
    made, layers = converted(model, texts, texts)
    streams = stock(texts, output_hidden_states=True).hidden_states
    writes, clipped = mlp_writes(stock, texts), False
    x = made.model.embed_tokens(texts)
    _, given = made.begin(texts)
    for n, (block, layer) in enumerate(zip(made.blocks, layers, strict=True)):
        middle, _ = block.attended(x, **given(block))
        # the last of stock's hidden states is normed
        after = streams[n + 1] if n + 1 < len(layers) else stock_stream(stock, texts)
        root = after.flatten(0, 1).square().mean(1, keepdim=True) ** -0.25
        # of what is missing at most as much as the layer itself writes
        missing = after - middle - writes[n]
        most = writes[n].norm(dim=-1) / missing.norm(dim=-1)
        due = root * (writes[n] + missing * most.clamp(max=1)[..., None]).flatten(0, 1)
        clipped |= bool((most < 1).any())
        read = block.post_attention_layernorm(middle).flatten(0, 1)
        pairs = (block.mlp.gate_proj(read) * block.mlp.up_proj(read)).detach()
        features = root * torch.cat([pairs, torch.ones_like(read[:, :1])], 1)
        best = torch.linalg.lstsq(features, due.detach()).solution
        least = float((due - features @ best).square().sum() / due.square().sum())
        assert layer.missed == pytest.approx(least, rel=1e-4)
        assert 1e-4 < least < 0.5
        x = middle + block.mlp(read).view_as(middle)
    assert clipped


def mlp_writes(stock, texts):
    heard = []
    hooks = [
        layer.mlp.register_forward_hook(lambda _, given, out: heard.append(out))
        for layer in stock.model.layers
    ]
    stock(texts)
    for hook in hooks:
        hook.remove()
    return heard


def stock_stream(stock, texts):
    heard = []
    handle = stock.model.norm.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    stock(texts)
    handle.remove()
    return heard[0]


@torch.no_grad()
def test_losses_are_those_of_the_first_layers_bilinear_and_the_rest_the_original():
    model, others = model_of(hidden_act="silu"), ids(2, 6)
    made, layers = converted(model, ids(1, 12), others)
    mixed = copy.deepcopy(model)
    for layer, own, new in zip(layers, mixed.blocks, made.blocks, strict=True):
        own.mlp = new.mlp
        assert layer.loss == pytest.approx(float(mixed(others, labels=others).loss), abs=1e-10)
    stock = made.to_llama()
    assert layers[-1].loss == pytest.approx(float(stock(others, labels=others).loss), abs=1e-6)


def test_begun_layers_stand_and_processes_add_up():
    model, texts, others = model_of(hidden_act="gelu", gated=False), ids(1, 8), ids(2, 4)
    _, layers = converted(model, texts, others)
    again = bilinear_frame(model)
    layers[0].put(again.blocks[0])
    (second,) = converted_layers(model, again, texts, others, begin=1)
    assert torch.equal(second.down, layers[1].down)
    twice, _ = converted(model, torch.cat([texts, texts]), others)
    shared, _ = converted(model, texts, others, total=lambda own: 2 * own)
    for name, weight in shared.state_dict().items():
        torch.testing.assert_close(weight, twice.state_dict()[name], atol=1e-8, rtol=1e-8)


def test_a_half_model_is_computed_in_float32():
    model = model_of(hidden_act="silu").to(torch.bfloat16)
    made, layers = converted(model, ids(1, 8), ids(2, 4))
    assert made.dtype == layers[0].down.dtype == torch.float32
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "changes", [{"intermediate_size": 0}, {"hidden_act": "linear"}, {"num_local_experts": 3}]
)
def test_nothing_to_convert_is_refused(changes, refuses):
    model = model_of(**{"hidden_act": "silu"} | changes)
    refuses(ArgumentError, lambda: bilinear_frame(model), "the model must have")


def test_ridge_of_least_loss_elsewhere_is_taken_and_pulls_to_the_closed_form(monkeypatch):
    model, texts, others = model_of(hidden_act="silu"), ids(1, 3), ids(2, 12)
    every = {}
    for ridge in (1e-2, 1.0, 1e12):
        monkeypatch.setattr(conversion, "RIDGES", (ridge,))
        every[ridge] = converted(model, texts, others)[1][0]
    monkeypatch.setattr(conversion, "RIDGES", tuple(every))
    chosen = converted(model, texts, others)[1][0]
    assert chosen.loss == min(layer.loss for layer in every.values())
    assert len({layer.loss for layer in every.values()}) == 3
    block = model.blocks[0]
    x, given = model.begin(texts)
    read = block.post_attention_layernorm(block.attended(x, **given(block))[0]).flatten(0, 1)
    closed = bilens.approximate(block.mlp, bilens.Gaussian.from_batches([read.detach()])).tensor
    torch.testing.assert_close(every[1e12].down[:, :12], closed.out[:, :12], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("losses", "best", "asked"),
    [
        ((4, 3, 2, 1), 3, [2, 1, 3]),
        ((1, 2, 3, 4), 0, [2, 1, 0]),
        ((4, 1, 2, 3), 1, [2, 1, 0]),
        ((4, 3, 1, 2), 2, [2, 1, 3]),
        ((4, 3, 1, math.nan), 2, [2, 1, 3]),
        ((1, math.nan, math.nan, 2), 3, [2, 1, 3]),
        ((1, "singular", 3, 2), 3, [2, 1, 3]),
        (("singular", 2, 3, 1), 1, [2, 1, 0]),
    ],
)
def test_ridges_are_tried_downhill(losses, best, asked):
    layer = converted(model_of(hidden_act="silu"), ids(1, 4), ids(2, 4))[1][0]
    heard = []

    def tried(ridge):
        heard.append(conversion.RIDGES.index(ridge))
        if losses[heard[-1]] == "singular":
            torch.linalg.cholesky(-torch.eye(2))
        return replace(layer, ridge=ridge, loss=float(losses[heard[-1]]))

    assert conversion._downhill(tried).ridge == conversion.RIDGES[best]
    assert heard == asked


@pytest.mark.parametrize("shape", [(4, 1), (0, 16), (16,)])
def test_texts_that_say_nothing_are_refused(shape, refuses):
    model, whole = model_of(hidden_act="silu"), ids(1, 4)
    nothing = torch.zeros(shape, dtype=torch.int64)
    for given in ((nothing, whole), (whole, nothing)):
        refuses(ShapeError, lambda given=given: converted(model, *given), "of two tokens or more")
