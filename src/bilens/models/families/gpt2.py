"""GPT-2: transposed weights, queries, keys and values in one, learned positions."""

from collections.abc import Mapping
from typing import Any

from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts

THEIRS, OURS = "transformer.h.{layer}", "model.layers.{layer}"


def more(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hidden units where no key counts them, and how scores are scaled."""
    heads, width = given["n_head"], given["n_embd"]
    scale = (width // heads) ** -0.5 if given["scale_attn_weights"] else 1.0
    found: dict[str, Any] = {"intermediate_size": given["n_inner"] or 4 * width}
    if given["scale_attn_by_inverse_layer_idx"]:
        return found | {"attention_scale": [scale / (n + 1) for n in range(given["n_layer"])]}
    return found if given["scale_attn_weights"] else found | {"attention_scale": scale}


FACTS = Facts(
    names={
        "n_positions": "max_position_embeddings", "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "layer_norm_epsilon": "rms_norm_eps", "activation_function": "hidden_act",
    },
    always={
        "norm": "layer", "positions": "learned", "gated": False, "attention_bias": True,
        "mlp_bias": True,
    },
    more=more,
    free=(
        "n_ctx", "n_inner", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    ),
)  # fmt: skip
# Embeddings and norms, which GPT-Neo has under the same names.
AROUND = (
    Weight("transformer.wte", ("model.embed_tokens",)),
    Weight("transformer.wpe", ("model.embed_positions",)),
    Weight(f"{THEIRS}.ln_1", (f"{OURS}.input_layernorm",)),
    Weight(f"{THEIRS}.ln_2", (f"{OURS}.post_attention_layernorm",)),
    Weight("transformer.ln_f", ("model.norm",)),
)
WEIGHTS = (
    *AROUND,
    Weight(
        f"{THEIRS}.attn.c_attn",
        tuple(f"{OURS}.self_attn.{name}_proj" for name in "qkv"),
        transposed=True,
    ),
    Weight(f"{THEIRS}.attn.c_proj", (f"{OURS}.self_attn.o_proj",), transposed=True),
    Weight(f"{THEIRS}.mlp.c_fc", (f"{OURS}.mlp.up_proj",), transposed=True),
    Weight(f"{THEIRS}.mlp.c_proj", (f"{OURS}.mlp.down_proj",), transposed=True),
)
GPT2 = Family(
    kinds=("gpt2",),
    config=FACTS.config,
    weights=lambda config: WEIGHTS,
    derived=(".attn.bias", ".attn.masked_bias"),
    sizes=("vocab_size", "n_embd", "n_positions", "n_head", "n_inner"),
    depth="n_layer",
    base="transformer.",
)
