"""One part of a model alone: what the model's own part gives, read from its own weights; and what
opening costs nothing for.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, NotFiniteError
from bilens.models.loading import open_model

SIZES = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
KINDS = {
    "bilinear": {},
    "swiglu, biases": {"hidden_act": "silu", "mlp_bias": True, "attention_bias": True},
    "layer norms": {"norm": "layer", "hidden_act": "gelu", "gated": False},
    "no norms": {"norm": "none"},
    "experts": {"num_local_experts": 3, "hidden_act": "silu"},
    "gemma": {"norm": "rms_unit_offset", "norm_placement": "both", "embedding_scale": 4.0},
    "norms after": {"norm_placement": "post", "final_logit_softcapping": 9.0},
    "side by side": {"parallel_residual": True, "norm": "layer"},
    "tied": {"tie_word_embeddings": True, "qk_norm": True},
}


def saved(folder, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**(SIZES | changes))).to(dtype).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="10KB")
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["layers.1.mlp", "attn2", "lm_head"])
@torch.no_grad()
def test_a_part_alone_is_the_models_own_given_the_scale(tmp_path, kind, name):
    model = saved(tmp_path, **KINDS[kind])
    wiring = model.wiring()
    parts = {part.name: (part.norm, part.module) for part in wiring.parts}
    parts |= {"layers.1.mlp": parts["mlp1"], "lm_head": (wiring.norm, model.lm_head)}
    norm, own = parts[name]
    x = torch.randn(1, 5, 16, dtype=torch.float64) + 0.7
    alone, whole = bilens.load(tmp_path, part=name), own(norm(x))
    got = alone(norm.scale(x) * x)
    if name == "attn2":
        got, whole = got[0], whole[0]
    assert torch.allclose(got, whole, rtol=1e-10, atol=1e-12)
    assert type(alone) is type(own)
    assert not alone.training


@torch.no_grad()
def test_half_types_become_float32_as_in_folded(tmp_path):
    model = saved(tmp_path, torch.bfloat16, num_local_experts=2, hidden_act="silu")
    folded = model.folded().model.layers[1].mlp.experts[1]
    alone = bilens.load(tmp_path, part="mlp1.expert1")
    assert {value.dtype for value in alone.parameters()} == {torch.float32}
    for name, value in folded.named_parameters():
        assert torch.equal(alone.get_parameter(name), value), name
    embedding = bilens.load(tmp_path, part="embed_tokens").weight
    assert torch.equal(embedding, model.model.embed_tokens.weight.float())


def test_other_weights_are_not_read(tmp_path):
    saved(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    own = {name for name in index if ".1.mlp." in name or ".1.post_" in name}
    for file in set(index.values()):
        weights = load_file(tmp_path / file)
        spoilt = {k: v if k in own else torch.full_like(v, torch.nan) for k, v in weights.items()}
        save_file(spoilt, tmp_path / file)
    assert bilens.load(tmp_path, part="mlp1").gate_proj.weight.isfinite().all()
    only = open_model(tmp_path).only("model.layers.1.mlp")
    assert only.model.layers[1].mlp.up_proj.weight.isfinite().all()
    assert only.model.layers[0].mlp.up_proj.weight.is_meta
    for part in (None, "mlp0"):
        with pytest.raises(NotFiniteError, match="NaN or infinite"):
            bilens.load(tmp_path, part=part)


@pytest.mark.parametrize("name", ["mlp3", "layers.0", "", "mlp0.input", "model.norm", 3])
def test_an_unknown_part(refuses, tmp_path, name):
    saved(tmp_path)
    refuses(
        ArgumentError,
        lambda: bilens.load(tmp_path, part=name),
        "part must be one of attn0 … attn2, mlp0 … mlp2, model.embed_tokens, lm_head; got",
        repr(name),
    )


def test_a_part_of_a_classifier(tmp_path):
    config = bilens.ClassifierConfig(input_shape=[2, 3], hidden_size=4, num_hidden_layers=2)
    model = bilens.Classifier(config).eval()
    model.save_pretrained(tmp_path)
    for name in ("layers.1", "mlp1"):
        alone = bilens.load(tmp_path, part=name)
        assert torch.equal(alone.w1.weight, model.layers[1].w1.weight)
    assert torch.equal(bilens.load(tmp_path, part="head").weight, model.head.weight)


def test_what_is_written_to_a_loaded_model_stays_there(tmp_path):
    """Weights are mapped from the files: they are this model's own all the same."""
    model = saved(tmp_path)
    loaded, other = bilens.load(tmp_path), bilens.load(tmp_path)
    with torch.no_grad():
        loaded.lm_head.weight.zero_()
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert torch.equal(bilens.load(tmp_path).lm_head.weight, model.lm_head.weight)
    loaded.save_pretrained(tmp_path, max_shard_size="10KB")
    assert not bilens.load(tmp_path).lm_head.weight.any()
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)


@pytest.mark.bad_input
@pytest.mark.parametrize("path", [None, 3, ["a"], b"tinystories-1l", torch.ones(2)])
def test_what_is_no_path_is_refused(path, refuses):
    for call in (bilens.load, open_model):
        refuses(ArgumentError, lambda call=call: call(path), type(path).__name__)
