"""GPT-NeoX, and the Pythia models: attention and MLP read the same stream, part of each head turns,
and queries, keys and values are fused head by head.
"""

from collections.abc import Mapping
from typing import Any

from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts
from bilens.models.transformer.config import TransformerConfig

THEIRS, OURS = "gpt_neox.layers.{layer}", "model.layers.{layer}"


def more(given: Mapping[str, Any]) -> dict[str, Any]:
    """There are as many keys as queries."""
    return {"num_key_value_heads": given["num_attention_heads"]}


FACTS = Facts(
    partial=True,
    names={
        "layer_norm_eps": "rms_norm_eps", "use_parallel_residual": "parallel_residual",
        "attention_bias": "attention_bias",
    },
    always={"norm": "layer", "positions": "rope", "gated": False, "mlp_bias": True},
    more=more,
    free=("rotary_pct", "rotary_emb_base", "partial_rotary_factor", "rope_theta"),
)  # fmt: skip


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Queries, keys and values: a head of each below the other, head after head."""
    fused = tuple(f"{OURS}.self_attn.{name}_proj" for name in "qkv")
    heads = config.num_attention_heads
    return (
        Weight("gpt_neox.embed_in", ("model.embed_tokens",)),
        Weight(f"{THEIRS}.input_layernorm", (f"{OURS}.input_layernorm",)),
        Weight(f"{THEIRS}.post_attention_layernorm", (f"{OURS}.post_attention_layernorm",)),
        Weight(f"{THEIRS}.attention.query_key_value", fused, blocks=heads),
        Weight(f"{THEIRS}.attention.dense", (f"{OURS}.self_attn.o_proj",)),
        Weight(f"{THEIRS}.mlp.dense_h_to_4h", (f"{OURS}.mlp.up_proj",)),
        Weight(f"{THEIRS}.mlp.dense_4h_to_h", (f"{OURS}.mlp.down_proj",)),
        Weight("gpt_neox.final_layer_norm", ("model.norm",)),
        Weight("embed_out", ("lm_head",)),
    )


GPT_NEOX = Family(
    kinds=("gpt_neox",),
    config=FACTS.config,
    weights=weights,
    derived=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    sizes=("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"),
    base="gpt_neox.",
    renamed=True,
)
