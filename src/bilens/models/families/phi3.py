"""Phi-3: queries, keys and values are one matrix, and so are both sides of the MLP."""

from collections.abc import Mapping
from typing import Any

from bilens.base.keys import Only
from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts, windows

LAYER = "model.layers.{layer}"


def more(given: Mapping[str, Any]) -> dict[str, Any]:
    """All layers look back a window where there is one."""
    return {"sliding_windows": windows(given)}


FACTS = Facts(
    partial=True,
    always={"norm": "rms", "positions": "rope", "gated": True},
    more=more,
    only={"attention_bias": Only((False, None))},
    free=(
        "original_max_position_embeddings",
        "sliding_window",
        "partial_rotary_factor",
        "rope_theta",
    ),
)
WEIGHTS = (
    Weight(
        f"{LAYER}.self_attn.qkv_proj", tuple(f"{LAYER}.self_attn.{name}_proj" for name in "qkv")
    ),
    Weight(f"{LAYER}.mlp.gate_up_proj", (f"{LAYER}.mlp.gate_proj", f"{LAYER}.mlp.up_proj")),
)
PHI3 = Family(kinds=("phi3",), config=FACTS.config, weights=lambda config: WEIGHTS)
