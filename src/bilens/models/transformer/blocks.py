"""The parts of a transformer: blocks, and the body that stands under ``model.`` in the names of the
weights.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.rope import FULL, ORIGINAL, PARTIAL, SLIDING
from bilens.nn import (
    MLP,
    Attention,
    BuiltNorm,
    Experts,
    GatedMLP,
    RMSNorm,
    Rotary,
    Scores,
    UnitOffsetRMSNorm,
    frequencies,
    make_norm,
)


class ResidualMix(nn.Module):
    """λ₀ x + λ₁ x⁰ of the stream and of what it was before the first block, λ = ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(
        self, x: Float[Tensor, "b t d"], first: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        return self.weight[0] * x + self.weight[1] * first


class Firsts(NamedTuple):
    """What blocks read beside the stream: what it was before the first of them, and that one's
    values, where they mix it in.
    """

    stream: Tensor | None = None
    values: Tensor | None = None


class Block(GradientCheckpointingLayer):
    """x + attention(N(x)), then x + mlp(N(x)), or both of the same x; either part may be absent.
    With norms over what is written, x + N'(attention(N(x))). With scales, a x + b attention(N(x)).
    """

    self_attn: Attention | None
    mlp: GatedMLP | MLP | Experts | None
    input_layernorm: BuiltNorm  # over what attention reads
    post_attention_layernorm: BuiltNorm  # over what the MLP reads
    self_attn_out_norm: RMSNorm | None  # over what attention writes
    mlp_out_norm: RMSNorm | None  # over what the MLP writes

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.keep, self.scale = config.residual_scale, config.write_scale
        self.residual_mix = ResidualMix() if config.residual_mix else None
        self.window, self.rope = config.window(layer), config.rope(layer)
        self.self_attn = self.mlp = None
        if config.num_attention_heads:
            self.input_layernorm, self.self_attn_out_norm = _norms(config)
            self.self_attn = Attention(
                config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
                config.head_dim, bias=config.attention_bias, out_bias=config.attention_out_bias,
                scores=_scores(config, layer), layer=layer, kind=config.attention,
                value_mix=config.value_mix,
            )  # fmt: skip
        if config.intermediate_size:
            self.post_attention_layernorm, self.mlp_out_norm = _norms(config)
            self.mlp = _mlp(config)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        first: Tensor | None = None,
        first_values: Tensor | None = None,
        **attend: Any,
    ) -> tuple[Tensor | None, ...]:
        """The stream (b, t, d) after it; its patterns, None where not asked for; and while a
        mixture of experts is trained, how unequal their shares are.
        """
        x = self.mixed(x, first)
        if first_values is not None:  # an attention of one's own need not know of them
            attend["first_values"] = first_values
        attended, pattern = self.attended(x, **attend)
        if self.mlp is None:
            return attended, pattern
        read = self.post_attention_layernorm(x if self.parallel else attended)
        balances = []
        if self.training and isinstance(self.mlp, Experts):
            balances = [self.mlp.balance(read)]
        written = _normed(self.mlp(read), self.mlp_out_norm)
        return self._added(attended, written), pattern, *balances

    def mixed(self, x: Float[Tensor, "b t d"], first: Tensor | None) -> Float[Tensor, "b t d"]:
        """The stream that its parts read."""
        return x if self.residual_mix is None else self.residual_mix(x, first)

    def attended(
        self,
        x: Float[Tensor, "b t d"],
        **attend: Any,
    ) -> tuple[Float[Tensor, "b t d"], Tensor | None]:
        """The stream after attention, and the patterns where they are asked for."""
        if self.self_attn is None:
            return x, None
        written, pattern = self.self_attn(self.input_layernorm(x), **attend)
        return self._added(x, _normed(written, self.self_attn_out_norm)), pattern

    def _added(
        self, x: Float[Tensor, "b t d"], written: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        if self.keep == 1 and self.scale == 1:
            return x + written
        return self.keep * x + self.scale * written


class Body(nn.Module):
    """Embeddings, blocks and the final norm: what stands under ``model.`` in the names of the
    weights.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale = config.embedding_scale
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config.last_norm, config.hidden_size, config.rms_norm_eps)
        ropes = config.ropes if config.positions == "rope" and config.num_attention_heads else {}
        full, local = ropes.get(FULL), ropes.get(SLIDING)
        self.rotary_emb = _rotary(config, full) if full else None
        # of layers that look back a window, where it is another
        self.rotary_emb_local = _rotary(config, local) if local else None

    @property
    def blocks(self) -> list[Block]:
        """The layers, in order."""
        return list(self.layers)  # type: ignore[arg-type]

    def embedded(self, tokens: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """What tokens write."""
        return self._scaled(self.embed_tokens(tokens))

    @property
    def rows(self) -> Float[Tensor, "vocab d"]:
        """What each token writes; the very weights where they are not scaled. Gradients flow."""
        return self._scaled(self.embed_tokens.weight)

    def _scaled(self, rows: Tensor) -> Tensor:
        """By a number that is rounded to the type of the weights first, as in transformers."""
        return rows if self.scale == 1 else rows * torch.tensor(self.scale, device="cpu").to(rows)

    def firsts(self, x: Float[Tensor, "b t d"]) -> Firsts:
        """What its blocks mix in, where ``x`` is the stream before the first."""
        block = next(iter(self.blocks), None)
        if block is None:
            return Firsts()
        stream, heads = None if block.residual_mix is None else x, block.self_attn
        if heads is None or heads.value_mix is None:
            return Firsts(stream)
        return Firsts(stream, heads.values(block.input_layernorm(block.mixed(x, stream))))

    @property
    def rotaries(self) -> dict[str, Rotary]:
        """What turns heads, by kind of layer; nothing where positions are not RoPE."""
        each = {FULL: self.rotary_emb, SLIDING: self.rotary_emb_local}
        return {kind: rotary for kind, rotary in each.items() if rotary is not None}


def _norms(config: TransformerConfig) -> tuple[BuiltNorm, RMSNorm | None]:
    """The norm over what a part reads, and that over what it writes."""
    size, placed = (config.hidden_size, config.rms_norm_eps), config.norm_placement
    read = make_norm("none" if placed == "post" else config.norm, *size)
    return read, None if placed == "pre" else _rms(config)(*size)


def _rms(config: TransformerConfig) -> type[RMSNorm]:
    """The kind of RMSNorm that is over queries, keys and what is written."""
    return UnitOffsetRMSNorm if config.norm == "rms_unit_offset" else RMSNorm


def _normed(x: Float[Tensor, "b t d"], norm: RMSNorm | None) -> Float[Tensor, "b t d"]:
    return x if norm is None else norm(x)


def _scores(config: TransformerConfig, layer: int) -> Scores:
    """How the scores of a layer are made."""
    return Scores(
        scale=config.score_scale(layer),
        softcap=config.attn_logit_softcapping,
        window=config.window(layer),
        norm=partial(_rms(config), eps=config.rms_norm_eps) if config.qk_norm else None,
        across=config.qk_norm_across_heads,
        normalised=config.attention_normalised,
    )


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


def _rotary(config: TransformerConfig, given: dict[str, Any]) -> Rotary:
    """RoPE as ``given``: the stretched kinds are transformers' own."""
    width, kind = config.head_dim, given["rope_type"]
    assert width is not None
    table = torch.bfloat16 if config.rope_bfloat16 else None
    turns = partial(Rotary, width, reverse=config.rope_reversed, table=table)
    if kind == "default":
        turning = int(width * given.get(PARTIAL, 1.0))
        return turns(inv_freq=frequencies(turning, given["rope_theta"]))
    asked = SimpleNamespace(
        rope_parameters=given,
        head_dim=width,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        standardize_rope_params=lambda: None,
    )

    def at_length(length: int | None = None) -> tuple[Tensor, float]:
        with torch.device("cpu"):  # values are needed where a model is first made without memory
            return ROPE_INIT_FUNCTIONS[kind](cast(Any, asked), torch.device("cpu"), seq_len=length)

    inv_freq, scale = at_length()
    if kind not in ("dynamic", "longrope"):
        return turns(inv_freq=inv_freq, scale=scale)
    short = given.get(ORIGINAL, config.max_position_embeddings)
    return turns(inv_freq=inv_freq, scale=scale, stretch=(short, lambda n: at_length(n)[0]))
