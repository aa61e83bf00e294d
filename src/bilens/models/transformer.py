"""A transformer whose MLPs are bilinear: Llama's family, so that stock transformers runs its checkpoints, and the toys.

    x⁰ = W_E t (+ W_pos)     x^mid = x + Σ_h head_h(N(x))     x' = x^mid + m(N(x^mid))     logits = W_U N(x_L)

Attention-only models have ``intermediate_size=0``, MLP-only ones ``num_attention_heads=0``.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import working_dtype
from bilens.models.blocks import Block, Body, frequencies
from bilens.models.folding import fold, folded_config, padded
from bilens.models.llama import config_from_llama, config_to_llama, copy_weights
from bilens.models.transformer_config import TransformerConfig
from bilens.models.wired import Wired
from bilens.nn import Attention, Rotary
from bilens.nn.attention import causal_mask


class Transformer(Wired, PreTrainedModel, GenerationMixin):
    """A causal language model as ``TransformerConfig`` says. ``generate``, ``labels`` → loss, ``save_pretrained`` as usual.

    Weights by TransformerLens's names, shapes and row-vector convention: ``W_E``, ``W_pos``, ``W_Q[l]`` … ``W_U``.
    """

    config_class = TransformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is the mean over the batch it is given
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  transformers reads it so
    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.tokenizer: Any = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of the configured width, zero biases; norms and RoPE stand as made."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Rotary):  # not in checkpoints, and lost where a model is first made without memory
            nn.init.constant_(module.inv_freq, 0)
            module.inv_freq.copy_(frequencies(self.config)[0].to(module.inv_freq.device))

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Int[Tensor, "b s"] | None = None,
        position_ids: Int[Tensor, "b t"] | None = None,
        past_key_values: Any = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, t, vocab), and the mean next-token cross-entropy in nats where ``labels`` are given (−100: ignored).

        ``output_attentions`` gives the patterns of each layer, (b, head, query, key), by the eager path.
        Errors: ArgumentError for token ids out of range or a text longer than the context; ShapeError for no tokens.
        """
        x = self._embed(input_ids, inputs_embeds)
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        self._require_room(seen + x.shape[1])
        if position_ids is None:
            position_ids = torch.arange(seen, seen + x.shape[1], device=x.device)[None]
        if self.config.positions == "learned":
            x = x + self.model.embed_positions(position_ids)
        attend = {
            "turn": None if self.model.rotary_emb is None else self.model.rotary_emb(position_ids, x.dtype),
            "mask": _mask(attention_mask, x.shape[1], seen),
            "cache": past_key_values,
            "patterns": bool(output_attentions),
        }
        streams, patterns = [x] if output_hidden_states else [], []
        for block in self.blocks:
            x, pattern = block(x, **attend)
            patterns.append(pattern)
            if output_hidden_states:  # held only where asked for: memory that is freed is used again
                streams.append(x)
        x = self.model.norm(x)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, keep])
        loss = None if labels is None else next_token_loss(logits, labels)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(streams) if output_hidden_states else None,  # type: ignore[arg-type]
            attentions=tuple(patterns) if output_attentions else None,  # type: ignore[arg-type]
        )

    @classmethod
    def from_llama(cls, model: PreTrainedModel) -> "Transformer":
        """A bilens model with the very weights of a Llama-family one (Llama, Mistral, Qwen2, Qwen3), dtype and device too.

        With ``hidden_act: "linear"`` it is bilinear; with any other gate its MLPs are not exact (``config.is_exact``).
        Errors: ConfigError naming the first config key that is not understood; nothing is skipped.
        """
        made = cls(config_from_llama(model.config)).to(model.device, model.dtype)  # type: ignore[arg-type]
        copy_weights(model, made)
        return made.train(model.training)

    def to_llama(self) -> LlamaForCausalLM:
        """The model as a plain LlamaForCausalLM with the very same weights, for whatever runs those.

        Errors: ConfigError naming the first key by which this model is outside Llama's family.
        """
        made = LlamaForCausalLM(config_to_llama(self.config)).to(self.device, self.dtype)  # type: ignore[arg-type]
        copy_weights(self, made)
        return made.train(self.training)

    def folded(self) -> "Transformer":
        """A new model, same logits, whose norm weights are folded into what reads them; LayerNorms have become RMSNorms.

        ``config.folded`` remembers it. Embeddings that were tied are tied no more. Cost: one copy of the weights.
        """
        made = type(self)(folded_config(self.config))
        nn.Module.to(made, self.device, self.dtype)
        made.load_state_dict(padded(self.state_dict(), made.state_dict()))
        fold(self.model, made.model, made.lm_head)
        made.tokenizer = self.tokenizer
        return made.train(self.training)

    # Weights by TransformerLens's names: x @ W, heads and layers first.

    @property
    def W_E(self) -> Float[Tensor, "vocab d"]:
        return self.model.embed_tokens.weight

    @property
    def W_pos(self) -> Float[Tensor, "context d"]:
        if self.config.positions != "learned":
            raise ArgumentError("W_pos", must="be asked of a model with learned positions", got=self.config.positions)
        return self.model.embed_positions.weight

    @property
    def W_U(self) -> Float[Tensor, "d vocab"]:
        return self.lm_head.weight.mT

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        return torch.zeros_like(self.lm_head.weight[:, 0]) if self.lm_head.bias is None else self.lm_head.bias

    @property
    def W_Q(self) -> Float[Tensor, "layer head d d_head"]:
        return self._per_head("q_proj")

    @property
    def W_K(self) -> Float[Tensor, "layer head d d_head"]:
        """Keys for every query head: grouped heads are repeated."""
        return self._per_head("k_proj")

    @property
    def W_V(self) -> Float[Tensor, "layer head d d_head"]:
        return self._per_head("v_proj")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d"]:
        return self._per_head("o_proj")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head("q_proj")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head("k_proj")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head("v_proj")

    @property
    def b_O(self) -> Float[Tensor, "layer d"]:
        outs = [attention.o_proj for attention in self._attentions]
        return torch.stack([torch.zeros_like(out.weight[:, 0]) if out.bias is None else out.bias for out in outs])

    @property
    def W_gate(self) -> Float[Tensor, "layer d hidden"]:
        return self._mlp_weights("gate_proj")

    @property
    def W_in(self) -> Float[Tensor, "layer d hidden"]:
        return self._mlp_weights("up_proj")

    @property
    def W_out(self) -> Float[Tensor, "layer hidden d"]:
        return self._mlp_weights("down_proj")

    @property
    def blocks(self) -> list[Block]:
        """The layers, in order."""
        return self.model.blocks

    # How.

    @property
    def _attentions(self) -> list[Attention]:
        found = [block.self_attn for block in self.blocks if block.self_attn is not None]
        if not found:
            raise ArgumentError("attention weights", must="be asked of a model with heads", got="none")
        return found

    def _per_head(self, name: str) -> Tensor:
        return torch.stack([attention.per_head(name) for attention in self._attentions])

    def _bias_per_head(self, name: str) -> Tensor:
        return torch.stack([attention.bias_per_head(name) for attention in self._attentions])

    def _mlp_weights(self, name: str) -> Tensor:
        if not self.config.intermediate_size or (name == "gate_proj" and not self.config.gated):
            raise ArgumentError(name, must="be asked of a model with such weights", got="none")
        return torch.stack([getattr(block.mlp, name).weight.mT for block in self.blocks])

    def _embed(self, tokens: Tensor | None, embedded: Tensor | None) -> Tensor:
        if (tokens is None) == (embedded is None):
            raise ArgumentError("Transformer", must="be given either input_ids or inputs_embeds", got="both or neither")
        if embedded is not None:
            return embedded
        assert tokens is not None
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise ShapeError("input_ids", must="be (batch, tokens) with at least one token", got=tuple(tokens.shape))
        if not torch.compiler.is_compiling() and tokens.device.type == "cpu":  # elsewhere a check would stall the device
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.config.vocab_size:
                got = low if low < 0 else high
                raise ArgumentError("input_ids", must=f"be tokens 0 … {self.config.vocab_size - 1}", got=got)
        return self.model.embed_tokens(tokens)

    def _require_room(self, length: int) -> None:
        context = self.config.max_position_embeddings
        if length > context:
            raise ArgumentError("the text", must=f"fit the context of {context} tokens", got=length, todo="Shorten it.")


def next_token_loss(logits: Float[Tensor, "b t vocab"], labels: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of each token given those before it, in nats. Labels of −100 do not count; half types work in
    float32, float64 stays."""
    scores = logits.flatten(0, 1).to(working_dtype(logits.dtype))
    following = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)  # the last has none; cutting logits would copy them
    return nn.functional.cross_entropy(scores, following.flatten())


def _mask(attention_mask: Tensor | None, queries: int, seen: int) -> Bool[Tensor, "b 1 t s"] | None:
    """True where a query may look: at earlier real tokens and always at itself, so that padding stays finite."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[1] != seen + queries:
        raise ShapeError("attention_mask", must=f"be (batch, {seen + queries})", got=tuple(attention_mask.shape))
    causal = causal_mask(queries, seen + queries, attention_mask.device)
    itself = torch.zeros_like(causal)
    itself[torch.arange(queries), torch.arange(seen, seen + queries)] = True
    return (causal & attention_mask.bool()[:, None, None, :]) | itself


AutoConfig.register(TransformerConfig.model_type, TransformerConfig)
AutoModelForCausalLM.register(TransformerConfig, Transformer)
