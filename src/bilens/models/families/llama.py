"""Doors between bilens and Llama-family checkpoints: name by name, refusing what is not understood."""

from typing import Any

from transformers import LlamaConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from bilens.base.errors import ConfigError
from bilens.models.keys import require_understood
from bilens.models.transformer.config import TransformerConfig

FAMILY = ("llama", "mistral", "qwen2", "qwen3")

# Keys that mean the same on both sides, and are copied.
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "initializer_range", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip
BIASES = ("attention_bias", "mlp_bias")
# Keys whose value must be one of these, because any other changes the function in a way bilens does
# not have.
ONLY: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0, 0.0, None),
    "pretraining_tp": (1, None),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
}
FREE = ("max_window_layers", "layer_types")  # the first is read only where a sliding window is used


def config_from_llama(config: PreTrainedConfig) -> TransformerConfig:
    """The bilens configuration of a Llama-family one. Errors: ConfigError naming the first key that
    is not understood.
    """
    raw = config.to_dict()
    kind = raw.get("model_type")
    if kind not in FAMILY:
        raise ConfigError("model_type", must=f"be one of {', '.join(FAMILY)}", got=repr(kind))
    _require_family(raw)
    given = {key: raw[key] for key in SHARED if raw.get(key) is not None}
    given |= {key: raw.get(key, False) for key in BIASES}
    if kind == "qwen2":  # its q, k and v have biases that no key tells of
        given |= {"attention_bias": True, "attention_out_bias": False}
    return TransformerConfig(**given, qk_norm=kind == "qwen3", dtype=raw.get("dtype"))


def config_to_llama(config: TransformerConfig) -> LlamaConfig:
    """The Llama configuration of a bilens one. Errors: ConfigError naming the first key that Llama
    does not have.
    """
    wanted = {
        "norm": "rms", "positions": "rope", "gated": True, "qk_norm": False, "head_bias": False,
        "attention_out_bias": config.attention_bias,
    }  # fmt: skip
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise ConfigError(
                f"to_llama: {key}",
                must=f"be {value!r}, as in every Llama",
                got=repr(getattr(config, key)),
            )
    for key in ("num_attention_heads", "intermediate_size"):
        if not getattr(config, key):
            raise ConfigError(f"to_llama: {key}", must="be at least 1, as in every Llama", got=0)
    if config.hidden_act not in ACT2FN:
        raise ConfigError(
            "to_llama: hidden_act", must="be one transformers has", got=repr(config.hidden_act)
        )
    try:
        return LlamaConfig(**{key: getattr(config, key) for key in (*SHARED, *BIASES)})
    except Exception as error:  # its strict dataclass raises kinds of its own
        raise ConfigError("to_llama", must="be of sizes that Llama can have", got=error) from error


def _require_family(raw: dict[str, Any]) -> None:
    """Raise ConfigError for the first key of ``raw`` that means something bilens does not have."""
    require_understood(raw, {*SHARED, *BIASES, *ONLY, *FREE})
    for key, allowed in ONLY.items():
        if raw.get(key, allowed[0]) not in allowed:
            todo = "bilens does not have what it asks for."
            raise ConfigError(key, must=f"be {allowed[0]!r}", got=repr(raw[key]), todo=todo)
    kinds = raw.get("layer_types") or ()
    if any(kind != "full_attention" for kind in kinds):
        raise ConfigError("layer_types", must="be full_attention in every layer", got=kinds)
