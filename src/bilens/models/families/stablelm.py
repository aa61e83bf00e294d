"""StableLM: a gated MLP behind LayerNorms; where attention and MLP read the same stream, through
the same norm.
"""

from collections.abc import Mapping
from typing import Any

from bilens.base.errors import ConfigError
from bilens.base.keys import Only
from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts
from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.rope import PARTIAL

LAYER = "model.layers.{layer}"


def even(given: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing more. Errors: ConfigError where an odd number of a head's dimensions would turn: of
    one, transformers' class makes two.
    """
    width, part = given["hidden_size"] // given["num_attention_heads"], given["rope_parameters"]
    if int(width * part[PARTIAL]) % 2:
        must = f"turn an even number of {width} dimensions"
        raise ConfigError(f"rope_parameters.{PARTIAL}", must=must, got=part[PARTIAL])
    return {}


FACTS = Facts(
    partial=True,
    names={
        "layer_norm_eps": "rms_norm_eps", "use_parallel_residual": "parallel_residual",
        "use_qkv_bias": "attention_bias",
    },
    always={"norm": "layer", "positions": "rope", "gated": True, "attention_out_bias": False},
    more=even,
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
