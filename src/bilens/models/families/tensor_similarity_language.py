"""Transformers of tensor-similarity: patterns that are products of two scores over d_head²,
bilinear MLPs, and after each part a lerp, x becomes (1 − s) x + s part(x).

Their files hold weights alone: how many heads there are, how long a text may be and what s is must
be said. No norms; queries, keys and what MLPs write may have biases.
"""

from collections.abc import Collection
from typing import Any

from bilens.base.errors import ConfigError
from bilens.base.keys import Allowed, Number, Whole, each
from bilens.models.families.family import (
    Family,
    Shapes,
    Weight,
    head_width,
    layers_in,
    matrix,
    told,
)
from bilens.models.families.products import head_weights
from bilens.models.families.tdooms_image import EMBED, HEAD
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

THEIRS, OURS = "body.{layer}", "model.layers.{layer}"
QUERIES = f"{THEIRS}.attn.q1.weight"
FIRST = QUERIES.format(layer=0)
SCALE = Number(above=0)
OWN: dict[str, Allowed] = {**each(("n_head", "n_ctx"), Whole(1)), "scale": SCALE}


def recognises(names: Collection[str]) -> bool:
    """Whether weights of these names are such a model's."""
    return {EMBED, HEAD, FIRST} <= set(names)


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError naming what nobody says, or a key that is not
    understood; FileError where weights are missing.
    """
    understood(OWN).check(raw)
    (width, vocabulary), heads = matrix(shapes, EMBED), told(raw, "n_head")
    scale = told(raw, "scale")
    if scale >= 1:
        must = "be below 1: at 1 nothing of the stream is kept, which bilens does not have"
        raise ConfigError("scale", must=must, got=scale)
    biased = FIRST.replace("weight", "bias") in shapes
    return TransformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=matrix(shapes, "body.0.mlp.l.weight")[0],
        num_hidden_layers=layers_in(shapes, QUERIES),
        num_attention_heads=heads,
        max_position_embeddings=told(raw, "n_ctx"),
        attention="bilinear",
        attention_scale=head_width(width, heads) ** -2,
        attention_bias=biased,
        attention_out_bias=False,
        mlp_bias=biased,
        residual_scale=1 - scale,
        write_scale=scale,
        norm="none",
    )


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """The embedding is a map, and so the other way about."""
    return (
        Weight("embed", ("model.embed_tokens",), transposed=True),
        Weight("head", ("lm_head",)),
        *head_weights(f"{THEIRS}.attn.{{name}}"),
        Weight(f"{THEIRS}.mlp.l", (f"{OURS}.mlp.gate_proj",), biased=False),
        Weight(f"{THEIRS}.mlp.r", (f"{OURS}.mlp.up_proj",), biased=False),
        Weight(f"{THEIRS}.mlp.d", (f"{OURS}.mlp.down_proj",)),
    )


TENSOR_SIMILARITY_LANGUAGE = Family(
    kinds=(),
    name="tensor-similarity-language",
    config=config,
    weights=weights,
    recognises=recognises,
    base="",
)
