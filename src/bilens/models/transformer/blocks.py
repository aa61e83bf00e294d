"""The parts of a transformer: blocks, and the body that stands under ``model.`` in the names of the
weights.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bilens.models.transformer.config import TransformerConfig
from bilens.nn import (
    MLP,
    Attention,
    GatedMLP,
    LayerNorm,
    NoNorm,
    RMSNorm,
    Rotary,
    frequencies,
    make_norm,
)


class Block(GradientCheckpointingLayer):
    """x + attention(N(x)), then x + mlp(N(x)); either part may be absent."""

    self_attn: Attention | None
    mlp: GatedMLP | MLP | None
    input_layernorm: RMSNorm | LayerNorm | NoNorm
    post_attention_layernorm: RMSNorm | LayerNorm | NoNorm

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = self.mlp = None
        if config.num_attention_heads:
            self.input_layernorm = make_norm(config.norm, d, eps)
            self.self_attn = Attention(
                d, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
                bias=config.attention_bias, out_bias=config.attention_out_bias,
                qk_norm_eps=eps if config.qk_norm else None, layer=layer,
            )  # fmt: skip
        if config.intermediate_size:
            self.post_attention_layernorm = make_norm(config.norm, d, eps)
            kind = GatedMLP if config.gated else MLP
            self.mlp = kind(d, config.intermediate_size, config.mlp_bias, config.hidden_act)

    def forward(
        self, x: Float[Tensor, "b t d"], **attend: Any
    ) -> tuple[Float[Tensor, "b t d"], Tensor | None]:
        pattern = None
        if self.self_attn is not None:
            written, pattern = self.self_attn(self.input_layernorm(x), **attend)
            x = x + written
        if self.mlp is not None:
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x, pattern


class Body(nn.Module):
    """Embeddings, blocks and the final norm: what stands under ``model.`` in the names of the
    weights.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config.norm, config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = _rotary(config)

    @property
    def blocks(self) -> list[Block]:
        """The layers, in order."""
        return list(self.layers)  # type: ignore[arg-type]


def _rotary(config: TransformerConfig) -> Rotary | None:
    if config.positions != "rope" or not config.num_attention_heads:
        return None
    inv_freq, scale = _frequencies(config)
    assert config.head_dim is not None
    return Rotary(config.head_dim, inv_freq=inv_freq, scale=scale)


def _frequencies(config: TransformerConfig) -> tuple[Tensor, float]:
    """RoPE's frequencies and scale: transformers' own for the stretched kinds."""
    assert config.rope_parameters is not None
    assert config.head_dim is not None
    kind, theta = config.rope_parameters["rope_type"], config.rope_parameters["rope_theta"]
    if kind == "default":
        return frequencies(config.head_dim, theta), 1.0
    with torch.device("cpu"):  # values are needed where a model is first made without memory
        return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
