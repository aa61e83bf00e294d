"""The transformers of bilinear-vpd: one head a layer whose pattern is a product of two scores over
d_head, bilinear MLPs, no biases, and learned scales, norms or nothing before each part.

Their config.json has the sizes under "model", beside how data were made and how it was trained.
What the shapes of the weights say is taken from these, and held against it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from bilens.base.keys import Allowed, Anything, Flag, Number, OneOf, Table, Whole, each
from bilens.models.families.family import (
    Family,
    Shapes,
    Weight,
    layers_in,
    matrix,
    require_sizes,
    told,
)
from bilens.models.families.products import head_weights, said_of
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

THEIRS, OURS = "blocks.{layer}", "model.layers.{layer}"
FIRST = "blocks.0.attn.q1_proj.weight"
SIZES: tuple[str, ...] = ("vocab_size", "d_model", "d_head", "d_mlp", "n_layers")
NORMS = {"none": "none", "scalar": "scalar", "channel": "channel", "rmsnorm": "rms"}
MODEL: dict[str, Allowed] = {
    **each((*SIZES, "seq_len"), Whole(1)),
    "rope_base": Number(above=0),
    "norm_type": OneOf(tuple(NORMS)),
    "use_rmsnorm": Flag(),  # how older ones say it
    **each(("init_std", "norm_init"), Anything()),
}
OWN: dict[str, Allowed] = {
    **MODEL, "model": Table(), **each(("dgp", "train", "out_dir"), Anything()),
}  # fmt: skip
SCALES = {
    f"{THEIRS}.norm_attn": f"{OURS}.input_layernorm",
    f"{THEIRS}.norm_mlp": f"{OURS}.post_attention_layernorm",
    "final_norm": "model.norm",
}
SIDES = {"w_m": "gate", "w_n": "up", "w_proj": "down"}
MODULES = {
    "embed": "model.embed_tokens",
    "unembed": "lm_head",
    **{f"{THEIRS}.mlp.{a}": f"{OURS}.mlp.{b}_proj" for a, b in SIDES.items()},
}


def claims(raw: dict[str, Any]) -> bool:
    """Whether a config.json is one of these."""
    model = raw.get("model")
    return isinstance(model, Mapping) and {"d_head", "d_mlp", "n_layers"} <= model.keys()


def recognises(names: Collection[str]) -> bool:
    """Whether weights of these names are such a model's."""
    return {FIRST, "blocks.0.mlp.w_m.weight"} <= set(names)


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError for a key that is not understood, for one that
    no file holds (the context, RoPE's base, the kind of norm), and for a size that the weights
    contradict; FileError where weights are missing.
    """
    understood(OWN).check(raw)
    understood(MODEL).check(raw.get("model", {}), "model.")
    given = said_of(MODEL, raw)
    (vocabulary, width), (head, _) = matrix(shapes, "embed.weight"), matrix(shapes, FIRST)
    hidden, layers = matrix(shapes, "blocks.0.mlp.w_m.weight")[0], layers_in(shapes, _FIRST_OF)
    sizes = dict(zip(SIZES, (vocabulary, width, head, hidden, layers), strict=True))
    require_sizes(given, sizes, "model.")
    return TransformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        head_dim=head,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=1,
        attention="bilinear",
        attention_scale=1 / head,
        max_position_embeddings=told(given, "seq_len"),
        rope_parameters={"rope_type": "default", "rope_theta": told(given, "rope_base")},
        norm=_norm(given, shapes),
        rms_norm_eps=1e-6,
    )


_FIRST_OF = FIRST.replace("0", "{layer}")


def _norm(given: Mapping[str, Any], shapes: Shapes) -> str:
    """The kind of norm: as it is said, or as scales among the weights say it."""
    if "norm_type" in given:
        return NORMS[given["norm_type"]]
    if "use_rmsnorm" in given:
        return "rms" if given["use_rmsnorm"] else "none"
    scale = shapes.get("final_norm.scale")
    if scale is None:
        return NORMS[told(given, "norm_type")]
    return "channel" if len(scale) == 1 else "scalar"


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Queries and keys of the second score beside those of the first; norms have no weights."""
    bare = config.norm == "rms"
    norms = (
        Weight(None if bare else theirs, (ours,), weight="{theirs}.scale")
        for theirs, ours in SCALES.items()
    )
    modules = (Weight(theirs, (ours,)) for theirs, ours in MODULES.items())
    return *modules, *head_weights(f"{THEIRS}.attn.{{name}}_proj"), *norms


BILINEAR_VPD = Family(
    kinds=(),
    name="bilinear-vpd",
    config=config,
    weights=weights,
    claims=claims,
    recognises=recognises,
    derived=("rope_cos", "rope_sin", "causal_mask"),
    base="",
)
