"""Transformers whose patterns are products of scores: caches, saving, training, verify."""

import json

import pytest
import torch

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ConfigError
from bilens.models import from_state_dict

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
KINDS = {
    "bilinear": {"attention": "bilinear", "norm": "none"},
    "squared": {"attention": "squared", "attention_scale": [1 / 16, -0.3], "norm": "none"},
    "normed": {
        "attention": "bilinear", "attention_bias": True, "qk_norm": True, "rope_reversed": True,
    },
    "normalised": {"attention": "squared", "attention_normalised": True, "qk_norm": True},
}  # fmt: skip


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return Transformer(TransformerConfig(**(SMALL | changes))).double().eval()


def ids(batch=2, length=9, seed=1):
    return torch.randint(3, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_cache_gives_the_full_pass(kind, close):
    made, text = model(**KINDS[kind]), ids()
    full = made(text).logits
    begun = made(text[:, :4], use_cache=True)
    rest = [made(text[:, t : t + 1], past_key_values=begun.past_key_values) for t in range(4, 9)]
    close(torch.cat([begun.logits, *(step.logits for step in rest)], 1), full)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0  # padding in front is not read
    places = mask.cumsum(-1).sub(1).clamp(min=0)
    padded = made(text, attention_mask=mask, position_ids=places).logits[0, 3:]
    close(padded, made(text[:1, 3:]).logits[0])
    said = [
        made.generate(text, max_new_tokens=5, do_sample=False, **how)
        for how in ({}, {"use_cache": False}, {"cache_implementation": "static"})
    ]
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


@pytest.mark.bad_input  # the checks of shapes cannot be compiled
@torch.no_grad()
def test_compiles(close):
    made, text = model(**KINDS["normed"]), ids()
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    close(compiled(text, use_cache=False).logits, made(text).logits)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_saved_loaded_and_by_state_dict(kind, close, tmp_path):
    made = model(**KINDS[kind])
    made.save_pretrained(tmp_path)
    loaded = bilens.load(tmp_path)
    close(loaded(ids()).logits, made(ids()).logits)
    assert json.loads((tmp_path / "config.json").read_text())["attention"] == made.config.attention
    again = from_state_dict(made.state_dict(), made.config)
    close(again(ids()).logits, made(ids()).logits)
    folded = made.folded()
    close(folded(ids()).logits, made(ids()).logits)
    text, patterns = ids(1), made(ids(1), output_attentions=True).attentions
    assert patterns[1].shape == (1, 4, 9, 9)
    expansion = bilens.expand(made, text, target=5, max_terms=50)
    assert expansion.error < 1e-10


@torch.no_grad()
def test_weights_of_both_scores_by_name(make, close):
    made, x = model(**KINDS["bilinear"]), make.randn(9, 16)
    pattern = made.blocks[1].self_attn(x[None], patterns=True)[1]
    scores = [(x @ q[1]) @ (x @ k[1]).mT for q, k in ((made.W_Q, made.W_K), (made.W_Q2, made.W_K2))]
    close(pattern[0], (scores[0] * scores[1] / 4).tril())
    assert made.b_Q2.abs().sum() == made.b_K2.abs().sum() == 0


def test_what_is_refused(refuses):
    squared = model(**KINDS["squared"])
    refuses(
        ArgumentError, lambda: squared.W_Q2, 'W_Q2 must be asked of a model with attention = "b'
    )
    for changes, text in (
        ({"attention": "linear"}, "attention must be one of softmax, bilinear, squared"),
        ({"attention_normalised": True}, "attention_normalised must be false where a softmax"),
        ({"attention": "squared", "attn_logit_softcapping": 5.0}, "must be none of squared att"),
        ({"attention": "squared", "attention_scale": 0}, "for each of 2 layers, other than 0"),
        ({"attention_scale": -1.0}, "for each of 2 layers, above 0; got -1.0"),
        ({"attention": "bilinear", "head_dim": 5}, "head_dim must be even for rotary positions"),
    ):
        refuses(ConfigError, lambda given=changes: TransformerConfig(**(SMALL | given)), text)
    refuses(ConfigError, squared.to_llama, "to_llama: norm must be 'rms'")
    rms = model(attention="bilinear")
    refuses(ConfigError, rms.to_llama, "to_llama: attention must be 'softmax'")


@pytest.mark.bad_input  # for speed
def test_training_moves_both_scores_and_verify_holds():
    made = model(**KINDS["bilinear"])
    optimizer, text = torch.optim.Adam(made.parameters(), lr=3e-3), ids(8, 16)
    losses = []
    for _ in range(20):
        loss = made(text, labels=text).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    assert made.blocks[0].self_attn.q2_proj.weight.grad.abs().sum() > 0
    found = bilens.verify(made.eval())
    assert found.passed, found
