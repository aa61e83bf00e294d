"""The attention-only language models of melephant: patterns that are products of two scores, or
squares of one, over d_head²; each layer adds attn_scale times what it writes.

Their config.json has the model under "model", beside how it was trained. At the end a stream is
multiplied with one number, (running mean energy + 1e-6)^-½, which their files hold.
"""

from collections.abc import Mapping
from typing import Any

from bilens.base.keys import (
    Allowed,
    Anything,
    Flag,
    Number,
    OneOf,
    Only,
    Table,
    Whole,
    each,
    require,
)
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
from bilens.models.families.products import MATRICES, head_weights, said_of
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

THEIRS = "layers.{layer}"
SQUARED = {"q": "q", "k": "k", "v": "v", "o": "o"}
ENERGY = "final_norm.running_mean_energy"
SIZES: tuple[str, ...] = ("vocab_size", "d_model", "n_layers")
PLAIN = "bilens loads those whose norm is one number."
MODEL: dict[str, Allowed] = {
    **each((*SIZES, "n_head", "n_ctx"), Whole(1)),
    **each(("attn_scale", "rope_base"), Number(above=0)),
    "use_bias_qk": Flag(),
    "attn_type": OneOf(("bilinear", "quadratic")),
    "norm_type": Anything(),  # what is left of it at the end is a number, or refused by its name
    "norm_places": Only((["pre_unembed"], [], ("pre_unembed",), None), PLAIN),
    "qk_norm_type": Only(("none", None), PLAIN),
    "use_rmsnorm_qk": Only((False, None), PLAIN),
    "alpha_init": Anything(),
}


def claims(raw: dict[str, Any]) -> bool:
    """Whether a config.json is one of these."""
    model = raw.get("model")
    return isinstance(model, Mapping) and {"n_head", "n_layers", "attn_scale"} <= model.keys()


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError naming the first key or value under "model"
    that is not understood or missing, and a size that the weights contradict; FileError.
    """
    require("model", raw.get("model", {}), Table())
    given = said_of(MODEL, raw)
    understood(MODEL).check(given, "model.")
    vocabulary, width = matrix(shapes, "embed.weight")
    product = given.get("attn_type", "bilinear") == "bilinear"
    queries = f"{THEIRS}.{'q1' if product else 'q'}.weight"
    matrix(shapes, queries.format(layer=0))
    layers = layers_in(shapes, queries)
    require_sizes(given, dict(zip(SIZES, (vocabulary, width, layers), strict=True)), "model.")
    heads = told(given, "n_head")
    head = head_width(width, heads)
    base = given.get("rope_base", 10000.0)
    return TransformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=0,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=told(given, "n_ctx"),
        rope_parameters={"rope_type": "default", "rope_theta": base},
        attention="bilinear" if product else "squared",
        attention_scale=head**-2,
        attention_bias=any(name.endswith(".bias") for name in shapes),
        attention_out_bias=False,
        write_scale=told(given, "attn_scale"),
        norm="none",
        final_norm="scalar" if ENERGY in shapes else None,
    )


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Biases are of queries and keys alone."""
    matrices = MATRICES if config.attention == "bilinear" else SQUARED
    end = Weight(
        "final_norm", ("model.norm",), weight=ENERGY, shape=(1,),
        change=lambda energy: (energy + 1e-6).rsqrt(),
    )  # fmt: skip
    return (
        Weight("embed", ("model.embed_tokens",)),
        Weight("unembed", ("lm_head",)),
        *head_weights(f"{THEIRS}.{{name}}", matrices),
        end,
    )


MELEPHANT = Family(
    kinds=(),
    name="melephant",
    config=config,
    weights=weights,
    claims=claims,
    derived=("num_batches_tracked",),
    base="",
)
