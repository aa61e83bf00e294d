"""GPT-Neo, and the TinyStories models: every other layer looks back a window, and scores are not
scaled.
"""

from collections.abc import Mapping
from typing import Any

from bilens.models.families.family import Family, Weight
from bilens.models.families.gpt2 import AROUND, OURS, THEIRS
from bilens.models.families.stock import Facts


def more(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hidden units where no key counts them, and the windows of local layers."""
    window = given["window_size"]
    windows = [window if kind == "local" else None for kind in given["attention_layers"]]
    return {
        "intermediate_size": given["intermediate_size"] or 4 * given["hidden_size"],
        "sliding_windows": windows if any(windows) else None,
    }


FACTS = Facts(
    names={
        "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
        "layer_norm_epsilon": "rms_norm_eps", "activation_function": "hidden_act",
    },
    always={
        "norm": "layer", "positions": "learned", "gated": False, "attention_scale": 1.0,
        "attention_bias": False, "attention_out_bias": True, "mlp_bias": True,
    },
    more=more,
    free=("attention_types", "attention_layers", "window_size"),
)  # fmt: skip
WEIGHTS = (
    *AROUND,
    *(
        Weight(f"{THEIRS}.attn.attention.{name}_proj", (f"{OURS}.self_attn.{name}_proj",))
        for name in "qkv"
    ),
    Weight(f"{THEIRS}.attn.attention.out_proj", (f"{OURS}.self_attn.o_proj",)),
    Weight(f"{THEIRS}.mlp.c_fc", (f"{OURS}.mlp.up_proj",)),
    Weight(f"{THEIRS}.mlp.c_proj", (f"{OURS}.mlp.down_proj",)),
)
GPT_NEO = Family(
    kinds=("gpt_neo",),
    config=FACTS.config,
    weights=lambda config: WEIGHTS,
    derived=(".attn.attention.bias", ".attn.attention.masked_bias"),
    sizes=("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"),
    depth="num_layers",
    base="transformer.",
)
