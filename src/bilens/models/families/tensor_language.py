"""The small language models of tensor_language: patterns that are products of two scores over
d_head², bilinear MLPs, batch norms over queries and keys, and norms of several kinds.

Their files hold weights alone, which tell all but how long a text may be. What is a number or a
linear map once training is over is folded: batch norms into queries and keys, the learned number by
which a part's write is multiplied into its last matrix, a running root mean square into scales.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from bilens.base.keys import Allowed, Whole
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
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig

D_HEAD, EPS = 32, 1e-5
HEADS, MLPS, OURS = "attn_layers.{layer}", "mlp_layers.{layer}", "model.layers.{layer}"
QUERIES = f"{HEADS}.q1.weight"
OWN: dict[str, Allowed] = {"n_ctx": Whole(1)}


def recognises(names: Collection[str]) -> bool:
    """Whether weights of these names are such a model's."""
    return {"embed.weight", "unembed.weight", QUERIES.format(layer=0)} <= set(names)


def fold(files: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without batch norms, running averages and numbers that multiply a write."""
    found = dict(files)
    for name in files:
        at, _, last = name.rpartition(".")
        if last == "running_rms":
            _fold_running(found, at)
        elif last == "running_mean" and at.rpartition(".")[2].startswith("bn_"):
            _fold_batch(found, at)
        elif last == "scale":
            _fold_write(found, at)
    return found


def _fold_running(found: dict[str, Tensor], at: str) -> None:
    """x / (rms + eps) ⊙ w as scales w / (rms + eps), under a name that tells them from a norm's."""
    if f"{at}.weight" in found:
        found[f"{at}.scales"] = found.pop(f"{at}.weight") / (found.pop(f"{at}.running_rms") + EPS)


def _fold_batch(found: dict[str, Tensor], at: str) -> None:
    """(W x − mean) γ / √(var + eps) + β as W' x + b."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    layer, _, name = at.rpartition(".")
    linear = f"{layer}.{name.removeprefix('bn_')}"
    if not {f"{linear}.weight", *(f"{at}.{kind}" for kind in kinds)} <= found.keys():
        return
    gain, bias, mean, var = (found.pop(f"{at}.{kind}") for kind in kinds)
    factor = gain / (var + EPS).sqrt()
    found[f"{linear}.weight"] = factor[:, None] * found[f"{linear}.weight"]
    found[f"{linear}.bias"] = bias - mean * factor


def _fold_write(found: dict[str, Tensor], at: str) -> None:
    """s (W z) as (s W) z."""
    last = f"{at}.{'o' if at.startswith('attn_layers.') else 'D'}.weight"
    if last in found:
        found[last] = found.pop(f"{at}.scale") * found[last]


def config(raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError where nobody says how long a text may be;
    FileError where weights are missing.
    """
    understood(OWN).check(raw)
    vocabulary, width = matrix(shapes, "embed.weight")
    heads = max(1, width // D_HEAD)
    hidden, layers = "mlp_layers.0.L.weight", layers_in(shapes, QUERIES)
    return TransformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=matrix(shapes, hidden)[0] if hidden in shapes else 0,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=told(raw, "n_ctx"),
        attention="bilinear",
        attention_scale=head_width(width, heads) ** -2,
        attention_bias=QUERIES.format(layer=0).replace("weight", "bias") in shapes,
        attention_out_bias=False,
        norm=_norm(shapes, "attn_layers.0.prenorm"),
        final_norm=_norm(shapes, "final_norm"),
        rms_norm_eps=EPS,
    )


def _norm(shapes: Shapes, at: str) -> str:
    """The kind of norm that these weights are of."""
    if f"{at}.scales" in shapes:
        return "channel"
    if f"{at}.bias" in shapes:
        return "layer"
    return "rms" if f"{at}.weight" in shapes else "none"


def weights(config: TransformerConfig) -> tuple[Weight, ...]:
    """Heads and MLPs are two lists."""
    sides = {"L": "gate", "R": "up", "D": "down"}
    before, last = (
        "{theirs}." + ("scales" if kind == "channel" else "weight")
        for kind in (config.norm, config.last_norm)
    )
    return (
        Weight("embed", ("model.embed_tokens",)),
        Weight("unembed", ("lm_head",)),
        *head_weights(f"{HEADS}.{{name}}"),
        *(Weight(f"{MLPS}.{a}", (f"{OURS}.mlp.{b}_proj",)) for a, b in sides.items()),
        Weight(f"{HEADS}.prenorm", (f"{OURS}.input_layernorm",), weight=before),
        Weight(f"{MLPS}.prenorm", (f"{OURS}.post_attention_layernorm",), weight=before),
        Weight("final_norm", ("model.norm",), weight=last),
    )


TENSOR_LANGUAGE = Family(
    kinds=(),
    name="tensor-language",
    config=config,
    weights=weights,
    recognises=recognises,
    derived=("num_batches_tracked",),
    base="",
    fold=fold,
)
