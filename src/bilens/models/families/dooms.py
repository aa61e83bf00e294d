"""The published bilinear language models of tdooms (TinyStories and FineWeb): fused weights, and
two facts that are code.

Attention is added to the residual stream times 1/√(2 · n_layer), and RMSNorm has no weights and eps
1e-8: neither is in the files. Both become part of the weights here: the factor in o_proj, norms of
weight one.
"""

from typing import Any

from bilens.base.keys import Allowed, Anything, Flag, OneOf, Only, Whole, each
from bilens.models.families.family import Family, Shapes, Weight, matrix
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

EPS = 1e-8
WTE = "transformer.wte.weight"
SIZES = ("d_model", "d_hidden", "n_head", "n_layer", "n_ctx")
# What goes over the gated side, or over the only one: no gate is the identity, in both.
ACTIVATIONS = {None: "linear", "silu": "silu", "relu": "relu", "gelu": "gelu"}
PLAIN = "bilens loads the plain published models."
OWN: dict[str, Allowed] = {
    # the last does nothing in their code: they never tie
    **each(("tokenizer", "dataset", "repo", "tie_word_embeddings"), Anything()),
    **each(("bias", "bilinear", "normalization"), Flag()),
    **each(SIZES, Whole(1)),
    "gate": OneOf(tuple(ACTIVATIONS)),
    "scale_attn": Only((True,), PLAIN),
    "attention2": Only((False,), PLAIN),
}
DEFAULTS: dict[str, Any] = {
    "bias": False, "bilinear": True, "gate": None, "normalization": True, "scale_attn": True,
    "attention2": False, **dict.fromkeys(SIZES),
}  # fmt: skip
THEIRS, OURS = "transformer.h.{layer}", "model.layers.{layer}"


def claims(raw: dict[str, Any]) -> bool:
    """Whether a config.json is one of these: it names no model type, but has these sizes."""
    sizes = {"bilinear", "n_layer", "n_head", "d_hidden"}
    return not raw.get("model_type") and sizes <= raw.keys()


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration; the vocabulary is that of wte, which no key gives.

    Errors: ConfigError naming the first key or value that is not understood; FileError where there
    is no wte.
    """
    given = DEFAULTS | raw
    understood(OWN).check(given)
    return TransformerConfig(
        vocab_size=matrix(shapes, WTE)[0],
        hidden_size=given["d_model"],
        intermediate_size=given["d_hidden"],
        num_hidden_layers=given["n_layer"],
        num_attention_heads=given["n_head"],
        max_position_embeddings=given["n_ctx"],
        hidden_act=ACTIVATIONS[given["gate"]],
        gated=given["bilinear"],
        norm="rms" if given["normalization"] else "none",
        mlp_bias=given["bias"],
        # in the older of two vintages
        attention_bias=given["bias"] and "transformer.h.0.attn.qkv.bias" in shapes,
        attention_out_bias=False,
        rms_norm_eps=EPS,
    )


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Queries, keys and values are one matrix, and so are both sides of the MLP."""
    scale = (2 * config.num_hidden_layers) ** -0.5
    queries, keys, values, out = (f"{OURS}.self_attn.{name}_proj" for name in "qkvo")
    gate, up, down = (f"{OURS}.mlp.{name}_proj" for name in ("gate", "up", "down"))
    norms = (f"{OURS}.input_layernorm", f"{OURS}.post_attention_layernorm")
    return (
        Weight("transformer.wte", ("model.embed_tokens",)),
        Weight(f"{THEIRS}.attn.qkv", (queries, keys, values)),
        Weight(f"{THEIRS}.attn.o", (out,), change=lambda o: o * scale),
        Weight(f"{THEIRS}.mlp.w", (gate, up)),
        Weight(f"{THEIRS}.mlp.p", (down,)),
        *(Weight(None, (norm,)) for norm in (*norms, "model.norm")),
    )


DOOMS = Family(
    kinds=(),
    name="tdooms",
    config=config,
    weights=weights,
    claims=claims,
    derived=(".attn.rotary.inv_freq",),
    sizes=("d_model", "d_hidden", "n_head"),
    depth="n_layer",
)
