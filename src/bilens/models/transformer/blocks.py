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
    Experts,
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
    mlp: GatedMLP | MLP | Experts | None
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
            self.mlp = _mlp(config)

    def forward(self, x: Float[Tensor, "b t d"], **attend: Any) -> tuple[Tensor | None, ...]:
        """The stream (b, t, d) after it; its patterns, None where not asked for; and while a
        mixture of experts is trained, how unequal their shares are.
        """
        x, pattern = self.attended(x, **attend)
        balances = []
        if self.mlp is not None:
            read = self.post_attention_layernorm(x)
            if self.training and isinstance(self.mlp, Experts):
                balances = [self.mlp.balance(read)]
            x = x + self.mlp(read)
        return x, pattern, *balances

    def attended(
        self, x: Float[Tensor, "b t d"], **attend: Any
    ) -> tuple[Float[Tensor, "b t d"], Tensor | None]:
        """The stream between the two parts, and the patterns where they are asked for."""
        if self.self_attn is None:
            return x, None
        written, pattern = self.self_attn(self.input_layernorm(x), **attend)
        return x + written, pattern


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


def _mlp(config: TransformerConfig) -> GatedMLP | MLP | Experts:
    kind, bias = GatedMLP if config.gated else MLP, config.mlp_bias
    made = [
        kind(config.hidden_size, config.intermediate_size, bias, config.hidden_act)
        for _ in range(config.num_local_experts or 1)
    ]
    if not config.num_local_experts:
        return made[0]
    active, normalised = config.num_experts_per_tok, config.norm_topk_prob
    return Experts(made, active, normalised=normalised, bias=bias)


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
