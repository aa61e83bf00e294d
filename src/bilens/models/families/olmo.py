"""OLMo, whose LayerNorms have no weights, and OLMo 2, whose norms are over what is written, over
all queries together and over all keys.
"""

from bilens.base.keys import Only
from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts
from bilens.models.transformer.config import TransformerConfig

LAYER = "model.layers.{layer}"
EPS = 1e-5  # of the first, which no key gives
BIAS = {"attention_bias": "attention_bias"}
FIRST = Facts(
    names=BIAS,
    always={"norm": "layer", "rms_norm_eps": EPS, "positions": "rope", "gated": True},
    only={"clip_qkv": Only((None,))},
)
SECOND = Facts(
    names=BIAS,
    always={
        "norm": "rms", "norm_placement": "post", "qk_norm": True, "qk_norm_across_heads": True,
        "positions": "rope", "gated": True,
    },
)  # fmt: skip


def bare_norms(config: TransformerConfig) -> tuple[Weight, ...]:
    """Norms that the files leave out."""
    norms = (f"{LAYER}.input_layernorm", f"{LAYER}.post_attention_layernorm", "model.norm")
    return tuple(Weight(None, (norm,)) for norm in norms)


def out_norms(config: TransformerConfig) -> tuple[Weight, ...]:
    """Norms over what is written."""
    return (
        Weight(f"{LAYER}.post_attention_layernorm", (f"{LAYER}.self_attn_out_norm",)),
        Weight(f"{LAYER}.post_feedforward_layernorm", (f"{LAYER}.mlp_out_norm",)),
    )


OLMO = Family(kinds=("olmo",), config=FIRST.config, weights=bare_norms)
OLMO2 = Family(kinds=("olmo2",), config=SECOND.config, weights=out_norms)
