"""The class of transformers that a model of bilens is an instance of, where there is one, with the
very same weights.
"""

from typing import Any, NamedTuple

from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.activations import ACT2FN

from bilens.models import Transformer, TransformerConfig

KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings",
)  # fmt: skip
ALIKE = {"norm": "rms", "positions": "rope", "gated": True, "head_bias": False}


class Family(NamedTuple):
    """A class of transformers, what a configuration must say to be one of it, and what it says
    there itself.
    """

    config: type[PreTrainedConfig]
    must: dict[str, Any]
    keys: tuple[str, ...] = KEYS


def stock(model: Transformer) -> PreTrainedModel | str:
    """``model`` as transformers' own class, in its dtype; or, in words, why there is none. Cost: a
    copy of the weights.
    """
    config = model.config
    missed = [(family, _missed(config, family)) for family in _families(config)]
    family, misses = next((found for found in missed if not found[1]), missed[0])
    if misses:
        return f"no stock class of transformers has {misses}"
    made = AutoModelForCausalLM.from_config(
        family.config(**{key: getattr(config, key) for key in family.keys}), dtype=model.dtype
    )
    made.load_state_dict(model.state_dict())
    return made.to(model.device).eval()


def _families(config: TransformerConfig) -> tuple[Family, ...]:
    """Llama first: what it has not, the others are asked for."""
    same = {"attention_out_bias": config.attention_bias}
    biased = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}
    return (
        Family(LlamaConfig, {"qk_norm": False, **same}, (*KEYS, "attention_bias", "mlp_bias")),
        Family(Qwen2Config, {"qk_norm": False, **biased}),
        Family(
            Qwen3Config, {"qk_norm": True, **same, "mlp_bias": False}, (*KEYS, "attention_bias")
        ),
    )


def _missed(config: TransformerConfig, family: Family) -> str:
    """What of ``config`` the family has not; nothing where it is one of it."""
    for key, value in (ALIKE | family.must).items():
        if getattr(config, key) != value:
            return f"{key} = {getattr(config, key)!r}"
    for key in ("num_attention_heads", "intermediate_size"):
        if not getattr(config, key):
            return f"{key} = 0"
    return "" if config.hidden_act in ACT2FN else f"hidden_act = {config.hidden_act!r}"
