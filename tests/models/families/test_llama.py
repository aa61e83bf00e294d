"""transformers' own Llama, Mistral and Qwen as the truth: the same weights, the same logits, and
back.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bilens import Transformer, TransformerConfig
from bilens.base.errors import ConfigError
from bilens.models.families.llama import config_from_llama

SMALL = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip


def exact_norm(self, x):
    """transformers rounds to float32 inside its norm, which hides float64; this is the same formula
    without it.
    """
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


@pytest.fixture(autouse=True)
def _float64_norms(monkeypatch):
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    for name in (
        "mistral.modeling_mistral.MistralRMSNorm",
        "qwen2.modeling_qwen2.Qwen2RMSNorm",
        "qwen3.modeling_qwen3.Qwen3RMSNorm",
    ):
        monkeypatch.setattr(f"transformers.models.{name}.forward", exact_norm)


def llama(seed=0, kind=(LlamaConfig, LlamaForCausalLM), **changes):
    torch.manual_seed(seed)
    model = kind[1](kind[0](**(SMALL | {"hidden_act": "linear"} | changes))).double().eval()
    with torch.no_grad():
        # norms of all ones and biases of zero would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(length=11, batch=3, seed=0):
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    layers=some.integers(0, 3), kv=some.sampled_from([1, 2, 4]), tied=some.booleans(),
    attention_bias=some.booleans(),
    mlp_bias=some.booleans(), length=some.integers(1, 13),
    head_dim=some.sampled_from([None, 2, 10]),
    act=some.sampled_from(["linear", "silu", "gelu"]), theta=some.sampled_from([1e2, 1e4, 5e5]),
)  # fmt: skip
def test_any_llama(layers, kv, tied, attention_bias, mlp_bias, length, head_dim, act, theta):
    truth = llama(
        num_hidden_layers=layers, num_key_value_heads=kv, tie_word_embeddings=tied,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias, head_dim=head_dim, hidden_act=act,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    model, text = Transformer.from_llama(truth), tokens(length)
    torch.testing.assert_close(model(text).logits, truth(text).logits, rtol=1e-10, atol=1e-10)
    back = model.to_llama()
    assert back.config.hidden_act == act
    assert all(
        torch.equal(value, back.state_dict()[name]) for name, value in truth.state_dict().items()
    )
    assert torch.equal(back(text).logits, truth(text).logits)


def test_in_float32_with_nothing_patched(monkeypatch):
    monkeypatch.undo()
    truth = llama().float()
    torch.testing.assert_close(
        Transformer.from_llama(truth)(tokens()).logits, truth(tokens()).logits, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
         "original_max_position_embeddings": 16},
    ],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_stretched_rotary_positions(rope):
    truth = llama(rope_parameters=rope)
    torch.testing.assert_close(
        Transformer.from_llama(truth)(tokens()).logits,
        truth(tokens()).logits,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize(
    "kind",
    [
        (MistralConfig, MistralForCausalLM),
        (Qwen2Config, Qwen2ForCausalLM),
        (Qwen3Config, Qwen3ForCausalLM),
    ],
    ids=["mistral", "qwen2", "qwen3"],
)
def test_the_rest_of_the_family(kind):
    changes = {"sliding_window": None} if kind[0] is MistralConfig else {}
    truth = llama(kind=kind, head_dim=6, **changes)
    torch.testing.assert_close(
        Transformer.from_llama(truth)(tokens()).logits,
        truth(tokens()).logits,
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("act", ["swish", "gelu_new", "gelu_fast"])
def test_an_activation_by_another_of_its_names(act):
    truth = llama(hidden_act=act)
    found = Transformer.from_llama(truth)(tokens()).logits
    torch.testing.assert_close(found, truth(tokens()).logits, rtol=1e-10, atol=1e-10)


def test_a_nonlinear_gate_is_marked_not_exact():
    assert config_from_llama(LlamaConfig(**SMALL, hidden_act="linear")).is_exact
    assert not config_from_llama(LlamaConfig(**SMALL, hidden_act="silu")).is_exact


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (LlamaConfig(**SMALL, attention_dropout=0.1), "attention_dropout"),
        (LlamaConfig(**SMALL, hidden_act="mish"), "hidden_act"),
        (LlamaConfig(**SMALL, logit_softcap=30.0), "logit_softcap"),
        (
            LlamaConfig(**SMALL, rope_parameters={"rope_type": "proportional", "rope_theta": 1e4}),
            "rope_type",
        ),
        (
            LlamaConfig(**SMALL, rope_parameters={"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (LlamaConfig(**SMALL, layer_types=["linear_attention"] * 2), "layer_types"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_is_refused_by_name(config, key):
    with pytest.raises(ConfigError, match=key):
        config_from_llama(config)


def test_what_is_not_understood_is_said_of_the_file_it_stands_in(tmp_path, refuses):
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, attention_dropout=0.1)
    made, says = LlamaForCausalLM(config), "attention_dropout must be 0; got 0.1."
    refuses(ConfigError, lambda: Transformer.from_llama(made), says)
    made.save_pretrained(tmp_path)
    read = LlamaForCausalLM.from_pretrained(tmp_path)
    refuses(ConfigError, lambda: Transformer.from_llama(read), f"{tmp_path}/config.json: {says}")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"norm": "none"}, "norm"),
        ({"positions": "learned"}, "positions"),
        ({"gated": False, "hidden_act": "square"}, "gated"),
        ({"qk_norm": True}, "qk_norm"),
        ({"head_bias": True}, "head_bias"),
        ({"attention_bias": True, "attention_out_bias": False}, "attention_out_bias"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0}, "num_attention_heads"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "rope_parameters"),
    ],
)
def test_what_llama_has_not_is_refused_by_name(changes, key):
    model = Transformer(TransformerConfig(**(SMALL | changes)))
    said = model.config.to_dict()
    with pytest.raises(ConfigError, match=f"to_llama: {key}"):
        model.to_llama()
    assert model.config.to_dict() == said
