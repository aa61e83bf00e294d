"""Gemma, Gemma 2 and Gemma 3: norms of gain 1 + w, embeddings times √d; then norms over what is
written too, soft-caps, and layers that look back a window, with a RoPE of their own in the third.
"""

from collections.abc import Mapping
from typing import Any

from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import BIDIRECTIONAL, Facts, windows
from bilens.models.transformer.config import TransformerConfig

LAYER = "model.layers.{layer}"
ALWAYS = {"norm": "rms_unit_offset", "positions": "rope", "gated": True}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def scaled(given: Mapping[str, Any]) -> dict[str, Any]:
    """What embeddings are multiplied with."""
    return {"embedding_scale": given["hidden_size"] ** 0.5}


def windowed(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the second and the third have beside."""
    scale = given["query_pre_attn_scalar"] ** -0.5
    return scaled(given) | {"attention_scale": scale, "sliding_windows": windows(given)}


FIRST = Facts(
    names={"attention_bias": "attention_bias"},
    always=ALWAYS,
    more=scaled,
    free=("hidden_activation",),
    only=BIDIRECTIONAL,
)
SECOND = Facts(
    names={"hidden_activation": "hidden_act", "attention_bias": "attention_bias"}
    | {key: key for key in CAPS},
    always=ALWAYS | {"norm_placement": "both"},
    more=windowed,
    free=(
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
        "hidden_act",
        "cache_implementation",
    ),
    only=BIDIRECTIONAL,
)
THIRD = Facts(  # which never hands a cap of its scores on
    names={key: ours for key, ours in SECOND.names.items() if key != "attn_logit_softcapping"},
    always={**SECOND.always, "qk_norm": True},
    more=windowed,
    free=(
        *SECOND.free, "attn_logit_softcapping", "sliding_window_pattern",
        "_sliding_window_pattern", "rope_local_base_freq", "rope_scaling", "rope_theta",
    ),
    only=BIDIRECTIONAL,
)  # fmt: skip
NORMS = (
    Weight(f"{LAYER}.post_attention_layernorm", (f"{LAYER}.self_attn_out_norm",)),
    Weight(f"{LAYER}.pre_feedforward_layernorm", (f"{LAYER}.post_attention_layernorm",)),
    Weight(f"{LAYER}.post_feedforward_layernorm", (f"{LAYER}.mlp_out_norm",)),
)


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Four norms a layer, under the names of three of others."""
    return NORMS


GEMMA = Family(kinds=("gemma",), config=FIRST.config)
GEMMA2 = Family(kinds=("gemma2",), config=SECOND.config, weights=weights)
GEMMA3 = Family(kinds=("gemma3_text",), config=THIRD.config, weights=weights)
