"""What kind of language model this is, and its held-out loss where a record says it."""

from functools import partial
from typing import Any

from bilens.models import Transformer, TransformerConfig
from bilens.report.view import Block, Query, View, is_language_model
from bilens.wiring import is_half

RECIPE = ("steps", "batch_size", "learning_rate", "weight_decay", "seed")
NORMS = {"rms": "RMSNorm", "layer": "LayerNorm"}  # others go by their own name


def _build(model: Transformer, query: Query) -> list[Block]:
    return [Block("model", "The model", partial(_facts, model, query))]


def _facts(model: Transformer, query: Query) -> dict[str, Any]:
    config, parameters = model.config, f"{model.num_parameters():,}"
    heads = f"{config.num_hidden_layers} layers of {config.num_attention_heads} heads"
    facts = {
        "Kind": f"transformer, {heads}",
        "MLP": _mlp(config),
        "Width": f"{config.hidden_size}, hidden {config.intermediate_size}",
        "Attention": config.attention,
        "Norm": NORMS.get(config.norm, config.norm),
        "Positions": config.positions,
        "Context": f"{config.max_position_embeddings} tokens of {config.vocab_size}",
        "Parameters": parameters,
        "Explained in": _explained_in(query.exact(model)),
    }
    facts |= {"Data": str(query.about["data"])} if "data" in query.about else {}
    facts |= query.recipe(RECIPE)
    valid = query.about.get("figures", {}).get("valid", {})
    if not valid:
        return {"headline": parameters, "beside": "parameters", "facts": facts}
    beside = f"nats per held-out token, {valid['bits per byte']:.4f} bits per byte"
    return {"headline": f"{valid['loss']:.4f}", "beside": beside, "facts": facts}


def _explained_in(model: Transformer) -> str:
    """The numbers that the page reckons with: how far sums of paths are from the model's own pass
    stands beside them.
    """
    return "float32, on weights of half precision" if is_half(model) else str(model.dtype)[6:]


def _mlp(config: TransformerConfig) -> str:
    if config.gated and config.is_exact:
        return "bilinear, exactly a tensor"
    kind = f"act({config.hidden_act}), " + ("gated" if config.gated else "not gated")
    if not config.num_local_experts:
        return kind
    active, experts = config.num_experts_per_tok, config.num_local_experts
    return f"{kind}, {active} of {experts} experts for each token"


VIEW = View("language_facts", is_language_model, _build)
