"""The published bilinear language models of tdooms (TinyStories and FineWeb): fused weights, and
two facts that are code.

Attention is added to the residual stream times 1/√(2 · n_layer), and RMSNorm has no weights and eps
1e-8: neither is in the files. Both become part of the weights here: the factor in o_proj, norms of
weight one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilens.base.errors import ConfigError, FileError
from bilens.base.numerics import is_whole
from bilens.models.keys import require_understood
from bilens.models.transformer.config import TransformerConfig

EPS = 1e-8
WTE = "transformer.wte.weight"
KEYS = {"bias", "bilinear", "d_hidden", "d_model", "gate", "n_ctx", "n_head", "n_layer", "tokenizer", "dataset",
        "normalization", "scale_attn", "attention2", "repo",
        "tie_word_embeddings"}  # fmt: skip  # the last does nothing in their code: they never tie
DEFAULTS: dict[str, Any] = {
    "bias": False,
    "bilinear": True,
    "gate": None,
    "normalization": True,
    "scale_attn": True,
    "attention2": False,
}


def is_dooms(config: dict[str, Any]) -> bool:
    """Whether a config.json is one of these: it names no model type, but has these sizes."""
    return (
        not config.get("model_type")
        and {"bilinear", "n_layer", "n_head", "d_hidden"} <= config.keys()
    )


def config_from_dooms(
    raw: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> TransformerConfig:
    """The bilens configuration; the vocabulary is that of wte, which no key gives.

    Errors: ConfigError naming the first key or value that is not understood; FileError where there
    is no wte.
    """
    require_understood(raw, KEYS)
    given = DEFAULTS | raw
    for key, value in {"scale_attn": True, "attention2": False}.items():
        if given[key] is not value:
            raise ConfigError(
                key,
                must=f"be {value}",
                got=repr(given[key]),
                todo="bilens loads the plain published models.",
            )
    for key in ("bias", "bilinear", "normalization"):
        if not isinstance(given[key], bool):
            raise ConfigError(
                key,
                must="be true or false",
                got=repr(given[key]),
                todo="Fold it into the weights first.",
            )
    if len(shapes.get(WTE, ())) != 2:
        raise FileError(
            WTE, must="be in the checkpoint, tokens by width", got=shapes.get(WTE, "nothing")
        )
    return TransformerConfig(
        vocab_size=shapes[WTE][0],
        hidden_size=_size(given, "d_model"),
        intermediate_size=_size(given, "d_hidden"),
        num_hidden_layers=_size(given, "n_layer"),
        num_attention_heads=_size(given, "n_head"),
        max_position_embeddings=_size(given, "n_ctx"),
        hidden_act=_act(given),
        gated=given["bilinear"],
        norm="rms" if given["normalization"] else "none",
        mlp_bias=given["bias"],
        # in the older of two vintages
        attention_bias=given["bias"] and "transformer.h.0.attn.qkv.bias" in shapes,
        attention_out_bias=False,
        rms_norm_eps=EPS,
    )


def shapes_of_dooms(
    wanted: Mapping[str, tuple[int, ...]], config: TransformerConfig
) -> dict[str, tuple[int, ...]]:
    """What the files must hold, by their own names."""
    d, hidden = config.hidden_size, config.intermediate_size
    fused = (2 if config.gated else 1) * hidden
    found: dict[str, tuple[int, ...]] = {
        WTE: (config.vocab_size, d),
        "lm_head.weight": (config.vocab_size, d),
    }
    for layer in range(config.num_hidden_layers):
        at = f"transformer.h.{layer}"
        found |= {f"{at}.attn.qkv.weight": (3 * d, d), f"{at}.attn.o.weight": (d, d)}
        found |= {f"{at}.mlp.w.weight": (fused, d), f"{at}.mlp.p.weight": (d, hidden)}
        if config.mlp_bias:
            found |= {f"{at}.mlp.w.bias": (fused,), f"{at}.mlp.p.bias": (d,)}
        if config.attention_bias:
            found[f"{at}.attn.qkv.bias"] = (3 * d,)
    return found


def weights_from_dooms(weights: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The weights under bilens's names: qkv and left/right split, the attention factor in o_proj."""
    found = {"model.embed_tokens.weight": weights[WTE], "lm_head.weight": weights["lm_head.weight"]}
    for layer in range(config.num_hidden_layers):
        old, new = f"transformer.h.{layer}", f"model.layers.{layer}"
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            qkv = weights[f"{old}.attn.qkv.{kind}"].chunk(3)
            found |= {
                f"{new}.self_attn.{name}_proj.{kind}": part
                for name, part in zip("qkv", qkv, strict=True)
            }
        scale = (2 * config.num_hidden_layers) ** -0.5
        found[f"{new}.self_attn.o_proj.weight"] = weights[f"{old}.attn.o.weight"] * scale
        names = ("gate_proj", "up_proj") if config.gated else ("up_proj",)
        for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
            parts = weights[f"{old}.mlp.w.{kind}"].chunk(len(names))
            found |= {
                f"{new}.mlp.{name}.{kind}": part for name, part in zip(names, parts, strict=True)
            }
            found[f"{new}.mlp.down_proj.{kind}"] = weights[f"{old}.mlp.p.{kind}"]
    if config.norm == "rms":
        one = torch.ones_like(weights[WTE][0])
        blocks = [f"layers.{layer}." for layer in range(config.num_hidden_layers)]
        norms = [
            at + norm for at in blocks for norm in ("input_layernorm", "post_attention_layernorm")
        ]
        found |= {f"model.{norm}.weight": one for norm in (*norms, "norm")}
    return {name: value.clone() for name, value in found.items()}


def _size(given: dict[str, Any], key: str) -> int:
    """A size by its name here, so that an error names what the file says."""
    value: Any = given.get(key)
    if not is_whole(value) or value < 1:
        raise ConfigError(key, must="be a whole number ≥ 1", got=repr(value))
    return value


def _act(given: dict[str, Any]) -> str:
    """What goes over the gated side, or over the only one: no gate is the identity, in both."""
    gates = {None: "linear", "silu": "silu", "relu": "relu", "gelu": "gelu"}
    if not isinstance(given["gate"], str | None) or given["gate"] not in gates:
        raise ConfigError(
            "gate",
            must=f"be one of {', '.join(str(gate) for gate in gates)}",
            got=repr(given["gate"]),
        )
    return gates[given["gate"]]
