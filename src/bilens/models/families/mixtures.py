"""Mixtures of experts: Mixtral, Qwen3-MoE and OLMoE."""

from collections.abc import Mapping
from typing import Any

from bilens.base.keys import Only
from bilens.models.families.family import Family, Weight
from bilens.models.families.stock import Facts, windows
from bilens.models.transformer.config import TransformerConfig

LAYER = "model.layers.{layer}"
MIXTRAL_LAYER = f"{LAYER}.block_sparse_moe"
ROUTED = ("num_experts_per_tok", "router_aux_loss_coef")
ALWAYS = {"norm": "rms", "positions": "rope", "gated": True}
# What a router does in training alone, and what it gives beside logits.
FREE = ("output_router_logits", "router_jitter_noise")


def windowed(given: Mapping[str, Any]) -> dict[str, Any]:
    """All layers look back a window where there is one."""
    return {"sliding_windows": windows(given)}


MIXTRAL_FACTS = Facts(
    names={"num_local_experts": "num_local_experts"} | {key: key for key in ROUTED},
    always={**ALWAYS, "norm_topk_prob": True},
    more=windowed,
    free=(*FREE, "sliding_window"),
)
NAMES = {
    "num_experts": "num_local_experts", "num_local_experts": "num_local_experts",
    "norm_topk_prob": "norm_topk_prob",
    "attention_bias": "attention_bias",
} | {key: key for key in ROUTED}  # fmt: skip
QWEN_FACTS = Facts(
    names={**NAMES, "moe_intermediate_size": "intermediate_size"},
    always={**ALWAYS, "qk_norm": True},
    more=windowed,
    free=(*FREE, "sliding_window", "use_sliding_window", "max_window_layers"),
    only={"decoder_sparse_step": Only((1,)), "mlp_only_layers": Only(([], None))},
)
OLMOE_FACTS = Facts(
    names=NAMES,
    always={**ALWAYS, "qk_norm": True, "qk_norm_across_heads": True},
    free=FREE,
    only={"clip_qkv": Only((None,))},
)


def mixtral_weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """The two sides and the output of an expert are numbered."""
    numbered = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    experts = (f"{MIXTRAL_LAYER}.experts.{{expert}}", f"{LAYER}.mlp.experts.{{expert}}")
    return (
        Weight(f"{MIXTRAL_LAYER}.gate", (f"{LAYER}.mlp.gate",)),
        *(
            Weight(f"{experts[0]}.{theirs}", (f"{experts[1]}.{ours}",))
            for theirs, ours in numbered.items()
        ),
    )


MIXTRAL = Family(kinds=("mixtral",), config=MIXTRAL_FACTS.config, weights=mixtral_weights)
QWEN3_MOE = Family(kinds=("qwen3_moe",), config=QWEN_FACTS.config, experts="num_experts")
OLMOE = Family(kinds=("olmoe",), config=OLMOE_FACTS.config, experts="num_experts")
