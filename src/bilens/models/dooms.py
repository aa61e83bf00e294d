"""The published bilinear language models of tdooms (TinyStories and FineWeb): fused weights, and two facts that are code.

Attention is added to the residual stream times 1/√(2 · n_layer), and RMSNorm has no weights and eps 1e-8: neither is in the
files. Both become part of the weights here: the factor in o_proj, norms of weight one.
"""

from typing import Any

import torch
from torch import Tensor

from bilens.base.errors import ConfigError, FileError
from bilens.models.transformer_config import TransformerConfig

EPS = 1e-8
KEYS = {"bias", "bilinear", "d_hidden", "d_model", "gate", "n_ctx", "n_head", "n_layer", "tokenizer", "dataset",
        "normalization", "scale_attn", "attention2"}  # fmt: skip
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
    return "model_type" not in config and {"bilinear", "n_layer", "n_head", "d_hidden"} <= config.keys()


def config_from_dooms(raw: dict[str, Any], vocab_size: int) -> TransformerConfig:
    """The bilens configuration. Errors: ConfigError naming the first key or value that is not understood."""
    for key in raw:
        if key not in KEYS:
            raise ConfigError(key, must="be a key of these models", got=repr(raw[key]), todo="Nothing is skipped on import.")
    given = DEFAULTS | raw
    for key in ("normalization", "scale_attn"):
        if given[key] is not True:
            raise ConfigError(key, must="be true", got=repr(given[key]), todo="bilens loads the plain published models.")
    for key in ("bias", "attention2"):
        if given[key]:
            raise ConfigError(key, must="be false", got=repr(given[key]), todo="bilens loads the plain published models.")
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=given["d_model"],
        intermediate_size=given["d_hidden"],
        num_hidden_layers=given["n_layer"],
        num_attention_heads=given["n_head"],
        max_position_embeddings=given["n_ctx"],
        hidden_act=_act(given),
        gated=bool(given["bilinear"]),
        rms_norm_eps=EPS,
    )


def weights_from_dooms(weights: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The weights under bilens's names: qkv and left/right split, the attention factor in o_proj.

    Errors: FileError naming the first weight that is missing or left over.
    """
    left_over = dict(weights)

    def take(name: str, *shape: int) -> Tensor:
        if name not in left_over or tuple(left_over[name].shape) != shape:
            got = tuple(left_over[name].shape) if name in left_over else "nothing"
            raise FileError(name, must=f"be in the checkpoint, of shape {shape}", got=got)
        return left_over.pop(name)

    d, hidden, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    found = {
        "model.embed_tokens.weight": take("transformer.wte.weight", vocab, d),
        "lm_head.weight": take("lm_head.weight", vocab, d),
    }
    one = torch.ones_like(found["lm_head.weight"][0])
    found["model.norm.weight"] = one
    for layer in range(config.num_hidden_layers):
        old, new = f"transformer.h.{layer}", f"model.layers.{layer}"
        left_over.pop(f"{old}.attn.rotary.inv_freq", None)  # a buffer that follows from the config
        qkv = take(f"{old}.attn.qkv.weight", 3 * d, d).chunk(3)
        found |= {f"{new}.self_attn.{name}_proj.weight": part for name, part in zip("qkv", qkv, strict=True)}
        found[f"{new}.self_attn.o_proj.weight"] = take(f"{old}.attn.o.weight", d, d) * (2 * config.num_hidden_layers) ** -0.5
        names = ("gate_proj", "up_proj") if config.gated else ("up_proj",)
        parts = take(f"{old}.mlp.w.weight", len(names) * hidden, d).chunk(len(names))
        found |= {f"{new}.mlp.{name}.weight": part for name, part in zip(names, parts, strict=True)}
        found[f"{new}.mlp.down_proj.weight"] = take(f"{old}.mlp.p.weight", d, hidden)
        found |= {f"{new}.{norm}.weight": one for norm in ("input_layernorm", "post_attention_layernorm")}
    if left_over:
        raise FileError(
            min(left_over), must="be a weight bilens understands", got="one more", todo="Nothing is skipped on import."
        )
    return {name: value.clone() for name, value in found.items()}


def _act(given: dict[str, Any]) -> str:
    gates = {None: "linear" if given["bilinear"] else "relu", "silu": "silu", "relu": "relu", "gelu": "gelu"}
    if given["gate"] not in gates:
        raise ConfigError("gate", must=f"be one of {', '.join(str(gate) for gate in gates)}", got=repr(given["gate"]))
    return gates[given["gate"]]
