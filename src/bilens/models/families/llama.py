"""Llama and its relatives: the same names of weights, and a few facts apart that no key tells
of.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.activations import ACT2FN

from bilens.base.errors import ConfigError
from bilens.base.keys import Allowed, Anything, OneOf, Only, each
from bilens.models.families.family import Family, Shapes
from bilens.models.families.stock import SHARED, activation, require_whole_heads, windows
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.rope import FULL, PARTIAL, SLIDING

BIASES = ("attention_bias", "mlp_bias")
WINDOWED = ("layer_types", "max_window_layers", "sliding_window", "use_sliding_window")
OWN: dict[str, Allowed] = {
    **each((*SHARED, *BIASES, *WINDOWED), Anything()),
    # any other value changes the function in a way that bilens does not have
    "attention_dropout": Only((0, None)),
    "pretraining_tp": Only((1, None)),
}
# What every model of the family is, in the fields of bilens's configuration.
ALIKE = {
    "norm": "rms", "positions": "rope", "gated": True, "num_local_experts": 0, "head_bias": False,
    "norm_placement": "pre", "parallel_residual": False, "sliding_windows": None,
    "attention_scale": None, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "embedding_scale": 1.0, "qk_norm_across_heads": False, "attention": "softmax",
    "rope_reversed": False, "rope_bfloat16": False, "final_norm": None,
    "residual_scale": 1.0, "write_scale": 1.0,
    "residual_mix": False, "value_mix": False,
}  # fmt: skip


@dataclass(frozen=True)
class Relative:
    """A class of the family. ``biases``: the keys by which its config.json tells of biases.
    ``always``: what each of its models is, in the fields of bilens's configuration. ``windows``:
    those of its layers, as the stock class reads its config.json.
    """

    config: type[PreTrainedConfig]
    biases: tuple[str, ...]
    always: Mapping[str, Any]
    windows: Callable[[Mapping[str, Any]], list[int | None] | None] = windows


def no_windows(given: Mapping[str, Any]) -> None:
    """Of a class that has none, whatever is given."""


# Llama first: what it does not have, the others are asked for.
RELATIVES = {
    "llama": Relative(LlamaConfig, BIASES, {"qk_norm": False}, no_windows),
    "mistral": Relative(MistralConfig, (), {"qk_norm": False}),
    "qwen2": Relative(
        Qwen2Config, (), {"qk_norm": False, "attention_bias": True, "attention_out_bias": False}
    ),
    "qwen3": Relative(Qwen3Config, ("attention_bias",), {"qk_norm": True}),
}


def config_from_llama(config: PreTrainedConfig) -> TransformerConfig:
    """The bilens configuration of a Llama-family one. Errors: ConfigError naming the first key that
    is not understood.
    """
    raw = config.to_dict()
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in RELATIVES:
        raise ConfigError("model_type", must=OneOf(tuple(RELATIVES)).must(kind), got=repr(kind))
    understood(OWN).check(raw)
    layers = raw.get("layer_types") or ()
    if not {*layers} <= {FULL, SLIDING}:
        raise ConfigError("layer_types", must=f"be {FULL} or {SLIDING} each", got=layers)
    require_whole_heads(raw)
    given = {key: raw[key] for key in SHARED if raw.get(key) is not None}
    given |= {"hidden_act": activation(raw["hidden_act"])}
    given |= {key: raw.get(key, False) for key in BIASES}
    given |= {"sliding_windows": RELATIVES[kind].windows(raw)}
    return TransformerConfig(**(given | dict(RELATIVES[kind].always)), dtype=raw.get("dtype"))


def config_to_llama(config: TransformerConfig) -> LlamaConfig:
    """The Llama configuration of a bilens one. Errors: ConfigError naming the first key that Llama
    does not have.
    """
    missed = _missed(config, RELATIVES["llama"])
    if missed is not None:
        key, must = missed
        must = f"be {must}, as in every Llama"
        raise ConfigError(f"to_llama: {key}", must=must, got=repr(getattr(config, key)))
    if config.hidden_act not in ACT2FN:
        must = "be one transformers has"
        raise ConfigError("to_llama: hidden_act", must=must, got=repr(config.hidden_act))
    made = _made(config, RELATIVES["llama"])
    assert isinstance(made, LlamaConfig)
    return made


def stock(config: TransformerConfig) -> PreTrainedConfig | str:
    """The configuration of the first class of the family that has all of ``config``; in words, what
    of it Llama does not have where none does.
    """
    for relative in RELATIVES.values():
        if _missed(config, relative) is None and config.hidden_act in ACT2FN:
            return _made(config, relative)
    missed = _missed(config, RELATIVES["llama"])
    key = "hidden_act" if missed is None else missed[0]
    return f"{key} = {getattr(config, key)!r}"


def _missed(config: TransformerConfig, relative: Relative) -> tuple[str, str] | None:
    """The first field of ``config`` that no model of that class has, and what it is there."""
    for key, value in {**ALIKE, **_always(config, relative)}.items():
        if getattr(config, key) != value:
            return key, repr(value)
    for key in ("num_attention_heads", "intermediate_size"):
        if not getattr(config, key):
            return key, "at least 1"
    rope = config.rope_parameters or {}
    if rope.keys() & {PARTIAL, FULL, SLIDING}:  # a part of each head, or layers apart
        return "rope_parameters", "those of whole heads and of all layers"
    return None


def _always(config: TransformerConfig, relative: Relative) -> dict[str, Any]:
    """What each model of that class is: no biases where no key tells of them, and o_proj's as those
    of the others.
    """
    untold = {key: False for key in BIASES if key not in relative.biases}
    found = {**relative.always, **untold, "attention_out_bias": config.attention_bias}
    return found | dict(relative.always)


def _made(config: TransformerConfig, relative: Relative) -> PreTrainedConfig:
    keys = (*SHARED, *relative.biases)
    try:
        # copies: what is made may complete its own
        return relative.config(**{key: copy.deepcopy(getattr(config, key)) for key in keys})
    except Exception as error:  # its strict dataclass raises kinds of its own
        raise ConfigError("to_llama", must="be of sizes that Llama can have", got=error) from error


def _config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    return config_from_llama(CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw)))


LLAMA = Family(
    kinds=tuple(RELATIVES),
    config=_config,
    derived=(".rotary_emb.inv_freq",),
    stock=stock,
    unread={"mistral": ("layer_types",)},  # of a file with them transformers makes a Ministral
)
