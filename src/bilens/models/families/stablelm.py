"""StableLM: a gated MLP behind LayerNorms; where attention and MLP read the same stream, through
the same norm.
"""

from bilens.base.keys import Only
from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts
from bilens.models.transformer.config import TransformerConfig

LAYER = "model.layers.{layer}"
FACTS = Facts(
    partial=True,
    names={
        "layer_norm_eps": "rms_norm_eps", "use_parallel_residual": "parallel_residual",
        "use_qkv_bias": "attention_bias",
    },
    always={"norm": "layer", "positions": "rope", "gated": True, "attention_out_bias": False},
    free=("partial_rotary_factor", "rope_theta", "rope_scaling"),
    only={"qk_layernorm": Only((False,))},
)  # fmt: skip


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """One norm for both parts becomes two."""
    if not config.parallel_residual:
        return ()
    norm = f"{LAYER}.input_layernorm"
    return Weight(norm, (norm,)), Weight(norm, (f"{LAYER}.post_attention_layernorm",))


STABLELM = Family(kinds=("stablelm",), config=FACTS.config, weights=weights)
