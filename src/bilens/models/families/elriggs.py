"""Elriggs's language models of modded-nanoGPT's lineage: bilinear, gated or ReLU² MLPs; a softmax,
its square or a product of two scores; streams and values mixed with what they began as.

Much of it is code, not data: embeddings, what each part reads, queries and keys are normed without
weights, heads turn by minus the angle from a table in bfloat16, scores are over d_head, and logits
are capped at 30. A squared pattern is over its row's sum, which their published code leaves out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bilens.base.keys import Allowed, Anything, Flag, Only, Whole, each
from bilens.base.numerics import working_dtype
from bilens.models.families.family import (
    Family,
    Shapes,
    Weight,
    head_width,
    layers_in,
    matrix,
    require_sizes,
    told,
)
from bilens.models.families.products import head_weights
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

THEIRS, OURS = "transformer.h.{layer}", "model.layers.{layer}"
WTE, QUERIES = "transformer.wte.weight", f"{THEIRS}.attn.c_q.weight"
FLAGS = ("squared_mlp", "bilinear", "gated", "squared_attn", "bilinear_attn")
SIZES: tuple[str, ...] = ("vocab_size", "n_embd", "n_layer", "expansion_factor")
EPS = torch.finfo(torch.float32).eps
CONTEXT = 1024  # of their training code; no file says it
MATRICES = {"c_q": "q", "c_k": "k", "c_q2": "q2", "c_k2": "k2", "c_v": "v", "c_proj": "o"}
OWN: dict[str, Allowed] = {
    **each((*SIZES, "n_head", "n_ctx"), Whole(1)),
    **each(FLAGS, Flag()),
    "step": Anything(),
}
DIFFERENTIAL = Only((False,), "bilens does not have a difference of two softmaxes.")


def claims(raw: dict[str, Any]) -> bool:
    """Whether a config.json is one of these."""
    return {"squared_attn", "bilinear_attn", "n_embd"} <= raw.keys()


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError naming the first key or value that is not
    understood, and a size that the weights contradict; FileError where weights are missing.
    """
    understood(OWN).check(raw)
    given: dict[str, Any] = dict.fromkeys(FLAGS, False)
    given |= {"expansion_factor": 4, "n_ctx": CONTEXT} | raw
    if given["bilinear_attn"] and not given["squared_attn"]:
        understood({"bilinear_attn": DIFFERENTIAL}).check({"bilinear_attn": True})
    vocabulary, width = matrix(shapes, WTE)
    up = "transformer.h.0.mlp." + ("Left.weight" if given["bilinear"] else "c_fc.weight")
    hidden, layers = matrix(shapes, up)[0], layers_in(shapes, QUERIES)
    sizes = (vocabulary, width, layers, hidden // width)
    require_sizes(given, dict(zip(SIZES, sizes, strict=True)))
    head = head_width(width, told(given, "n_head"))
    kind = "softmax"
    if given["squared_attn"]:
        kind = "bilinear" if given["bilinear_attn"] else "squared"
    return TransformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=given["n_head"],
        max_position_embeddings=given["n_ctx"],
        gated=given["bilinear"],
        hidden_act=_activation(given),
        mlp_bias=True,
        attention=kind,
        attention_scale=None if kind == "softmax" else head**-2,
        attention_normalised=kind == "squared",
        qk_norm=True,
        rope_reversed=True,
        rope_bfloat16=True,
        residual_mix=True,
        value_mix=True,
        final_logit_softcapping=30.0,
        rms_norm_eps=EPS,
    )


def _activation(given: dict[str, Any]) -> str:
    if given["bilinear"]:
        return "silu" if given["gated"] else "linear"
    return "square" if given["squared_mlp"] else "relu2"


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Norms have no weights, and the MLP's only bias is on what it writes."""
    norms = ("input_layernorm", "post_attention_layernorm")
    over = tuple(f"self_attn.{name}_norm" for name in ("q", "k", "q2", "k2"))
    sides = {"Left": "gate", "Right": "up"} if config.gated else {"c_fc": "up"}
    down, bias = ("Down", "{theirs}_bias") if config.gated else ("c_proj", f"{THEIRS}.mlp.bias")
    return (
        Weight("transformer.wte", ("model.embed_tokens",), change=normed),
        *(Weight(None, (f"{OURS}.{name}",)) for name in (*norms, *over)),
        Weight(None, ("model.norm",)),
        Weight(THEIRS, (f"{OURS}.residual_mix",), weight="{theirs}.lambdas"),
        Weight(f"{THEIRS}.attn", (f"{OURS}.self_attn.value_mix",), weight="{theirs}.lamb"),
        *head_weights(f"{THEIRS}.attn.{{name}}", MATRICES),
        *(
            Weight(f"{THEIRS}.mlp.{a}", (f"{OURS}.mlp.{b}_proj",), biased=False)
            for a, b in sides.items()
        ),
        Weight(f"{THEIRS}.mlp.{down}", (f"{OURS}.mlp.down_proj",), bias=bias),
    )


def normed(rows: Tensor) -> Tensor:
    """Rows as they are read: normed, in float32 or better."""
    return functional.rms_norm(rows.to(working_dtype(rows.dtype)), rows.shape[1:], eps=EPS)


ELRIGGS = Family(
    kinds=(),
    name="elriggs",
    config=config,
    weights=weights,
    claims=claims,
    base="",
)
