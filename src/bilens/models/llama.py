"""Doors between bilens and Llama-family checkpoints: name by name, refusing what is not understood."""

from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

from bilens.base.errors import ConfigError
from bilens.models.transformer_config import TransformerConfig

FAMILY = ("llama", "mistral", "qwen2", "qwen3")

# Keys that mean the same on both sides, and are copied.
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings",
    "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
BIASES = ("attention_bias", "mlp_bias")
# Keys whose value must be one of these, because any other changes the function in a way bilens does not have.
ONLY: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0, 0.0, None),
    "pretraining_tp": (1, None),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
    "max_window_layers": (),
    "layer_types": (),
}
FREE = ("max_window_layers",)  # read only where a sliding window is used
# Keys of transformers' own base class that do not change the function.
NEUTRAL = {
    "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id", "model_type",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype", "transformers_version",
    "_name_or_path", "num_labels", "per_layer_config", "tie_last_hidden_states",
}  # fmt: skip


def config_from_llama(config: PreTrainedConfig) -> TransformerConfig:
    """The bilens configuration of a Llama-family one. Errors: ConfigError naming the first key that is not understood."""
    raw = config.to_dict()
    kind = raw.get("model_type")
    if kind not in FAMILY:
        raise ConfigError("model_type", must=f"be one of {', '.join(FAMILY)}", got=repr(kind))
    for key, value in raw.items():
        _require_understood(key, value)
    given = {key: raw[key] for key in SHARED if raw.get(key) is not None}
    given |= {key: raw.get(key, False) for key in BIASES}
    if kind == "qwen2":  # its q, k and v have biases that no key tells of
        given |= {"attention_bias": True, "attention_out_bias": False}
    return TransformerConfig(**given, qk_norm=kind == "qwen3", dtype=raw.get("dtype"))


def config_to_llama(config: TransformerConfig) -> LlamaConfig:
    """The Llama configuration of a bilens one. Errors: ConfigError naming the first key that Llama does not have."""
    wanted = {
        "norm": "rms", "positions": "rope", "gated": True, "qk_norm": False, "head_bias": False,
        "attention_out_bias": config.attention_bias,
    }  # fmt: skip
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise ConfigError(f"to_llama: {key}", must=f"be {value!r}, as in every Llama", got=repr(getattr(config, key)))
    for key in ("num_attention_heads", "intermediate_size"):
        if not getattr(config, key):
            raise ConfigError(f"to_llama: {key}", must="be at least 1, as in every Llama", got=0)
    return LlamaConfig(**{key: getattr(config, key) for key in (*SHARED, *BIASES)})


def _require_understood(key: str, value: Any) -> None:
    known = {*SHARED, *BIASES, *NEUTRAL, *FREE}
    if key == "layer_types":
        if set(value or ()) - {"full_attention"}:
            raise ConfigError(key, must="be full_attention in every layer", got=sorted(set(value)))
        return
    if key in ONLY and key not in FREE and value not in ONLY[key]:
        raise ConfigError(key, must=f"be {ONLY[key][0]!r}", got=repr(value), todo="bilens does not have what it asks for.")
    if key not in known and key not in ONLY:
        raise ConfigError(key, must="be a key bilens understands", got=repr(value), todo="Nothing is skipped on import.")


@torch.no_grad()
def copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Every weight of ``source`` into ``target``, name by name. Errors: ConfigError where a name is on one side only."""
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    for name in sorted({*missing, *unexpected}):
        raise ConfigError("the checkpoint", must="hold the weights its config names", got=f"{name} on one side only")
