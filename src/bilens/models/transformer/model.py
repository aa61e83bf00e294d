"""A transformer whose MLPs are bilinear: Llama's family, so that stock transformers runs its
checkpoints, and the toys.

    x⁰ = W_E t (+ W_pos)     x^mid = x + Σ_h head_h(N(x))     x' = x^mid + m(N(x^mid))
    logits = W_U N(x_L)

Attention-only models have ``intermediate_size=0``, MLP-only ones ``num_attention_heads=0``.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import working_dtype
from bilens.base.reading import naming
from bilens.models.arguments import IGNORED, cross_entropy, require_known, switch, whole_numbers
from bilens.models.carry import carry, common_dtype, copied, filled, sketched
from bilens.models.families.llama import config_from_llama, config_to_llama
from bilens.models.surgery.folding import fold, folded_config, padded
from bilens.models.transformer.blocks import Block, Body
from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.masking import CACHE, one_cache, seen_by
from bilens.models.transformer.masking import attention_mask as mask_of
from bilens.models.transformer.wired import Wired
from bilens.nn import Attention, soft_cap


class Transformer(Wired, PreTrainedModel, GenerationMixin):
    """A causal language model as ``TransformerConfig`` says. ``generate``, ``labels`` → loss,
    ``save_pretrained`` as usual.

    Weights by TransformerLens's names, shapes and row-vector convention: ``W_E``, ``W_pos``,
    ``W_Q[l]`` … ``W_U``.

    >>> config = bilens.TransformerConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    >>> bilens.Transformer(config)(input_ids=torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 50])
    """

    config_class = TransformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is the mean over the batch it is given
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache"]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  transformers reads it so
    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.tokenizer: Any = None
        self.gradient_checkpointing = False  # transformers sets it, here and in every block
        self.post_init()

    def _get_name(self) -> str:
        """What Trainer goes by where it shifts labels: every subclass predicts the next token."""
        return Transformer.__name__

    def __repr__(self) -> str:
        return type(self).__name__ + super().__repr__().removeprefix(self._get_name())

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of the configured width, zero biases; norms and RoPE stand as made."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#b t"] | None = None,
        cache: Any = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache_position: Int[Tensor, " t"] | None = None,
        shift_labels: Int[Tensor, "b t"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        past_key_values: Any = None,
        **unknown: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, t, vocab), and the next-token cross-entropy in nats where there are
        ``labels``.

        Arguments mean what they mean to every model of transformers; ``past_key_values`` is what
        ``cache`` was called before its version 5.24. ``attention_mask``: real
        tokens (b, s), or (b, head, query, key) as ``models.masking.attention_mask`` says. Positions
        count from the first token, padding included, unless ``position_ids`` say otherwise
        (``generate`` makes them from the mask). Labels of −100 do not count; ``shift_labels`` are
        already those of the token after. The loss is the mean, or the sum over
        ``num_items_in_batch``; while a mixture of experts is trained, and then alone, with
        ``router_aux_loss_coef`` times the mean ``balance`` of its layers (of all tokens of one
        process, padding included).
        ``output_hidden_states``: the stream before each block, and last the normed one that lm_head
        reads. ``output_attentions``: the patterns of each layer, (b, head, query, key), by the
        eager path, which ``attn_implementation="eager"`` takes always. Errors: ArgumentError for
        token ids out of range, a text longer than the context, an argument that is not known;
        ShapeError for no tokens, and for masks or labels that do not fit.
        """
        require_known(self, unknown)
        x = self._embed(input_ids, inputs_embeds)
        given = one_cache(cache, past_key_values)
        if position_ids is None and cache_position is None and given is not None:
            self._require_counted()
        cache = self._cache(given, use_cache)
        config = self.config
        patterns = switch("output_attentions", output_attentions, config.output_attentions)
        hidden = switch("output_hidden_states", output_hidden_states, config.output_hidden_states)
        if position_ids is None and cache_position is not None:
            position_ids = cache_position[None]
        heads, queries = config.num_attention_heads, (x.shape[0], x.shape[1])
        seen = (attention_mask, queries, heads, x.device, cache, position_ids)
        masks = {window: mask_of(*seen, window) for window in self._windows}
        x, turns = self._placed(x, position_ids, seen_by(cache))
        eager = patterns or config._attn_implementation == "eager"
        firsts = self.model.firsts(x)
        beside = firsts if any(one is not None for one in firsts) else ()  # blocks of one's own
        streams, found, balances = [], [], []
        for block in self.blocks:
            if hidden:  # held only where asked for: memory that is freed is used again
                streams.append(x)
            turn, mask = turns.get(block.rope), masks[block.window]
            attend = {"turn": turn, "mask": mask, "cache": cache, "patterns": eager}
            x, pattern, *balance = block(x, *beside, **attend)
            found.append(pattern)
            balances += balance
        x = self.model.norm(x)
        logits = self._capped(self.lm_head(_kept(x, logits_to_keep)))
        loss = next_token_loss(logits, labels, shift_labels, num_items_in_batch)
        if loss is not None and balances and config.router_aux_loss_coef:
            loss = loss + config.router_aux_loss_coef * torch.stack(balances).mean()
        return CausalLMOutputWithPast(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            **{CACHE: cache},  # type: ignore[arg-type]
            hidden_states=(*streams, x) if hidden else None,  # type: ignore[arg-type]
            attentions=tuple(found) if patterns else None,  # type: ignore[arg-type]
        )

    def begin(
        self, ids: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Callable[[Block], dict[str, Any]]]:
        """The stream before the first block, and what a block is called with, for whoever goes
        through texts block by block.
        """
        x, turns = self._placed(self._embed(ids, None), None, 0)
        mixed = zip(("first", "first_values"), self.model.firsts(x), strict=True)
        same = {name: value for name, value in mixed if value is not None}
        same |= {"cache": None, "patterns": False}
        return x, lambda block: {"turn": turns.get(block.rope), **same}

    def end(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b vocab"]:
        """The logits of the stream after the last block."""
        return self._capped(self.lm_head(self.model.norm(x)))

    @classmethod
    def from_llama(cls, model: PreTrainedModel) -> "Transformer":
        """A bilens model with the very weights of a Llama-family one (Llama, Mistral, Qwen2,
        Qwen3), dtype and device too.

        With ``hidden_act: "linear"`` it is bilinear; with any other gate its MLPs are not exact
        (``config.is_exact``). Errors: ConfigError naming the first config key that is not
        understood; nothing is skipped.
        """
        source = model.name_or_path  # the folder it was read from, or nothing
        with naming(Path(source) / "config.json") if source else nullcontext():
            made = sketched(cls, config_from_llama(model.config))
        return carry(model, filled(made, copied(model)))

    def to_llama(self) -> LlamaForCausalLM:
        """The model as a plain LlamaForCausalLM with the very same weights, for whatever runs
        those.

        Errors: ConfigError naming the first key by which this model is outside Llama's family.
        """
        made = sketched(LlamaForCausalLM, config_to_llama(self.config))
        return carry(self, filled(made, copied(self)))

    def folded(self) -> "Transformer":
        """A new model, same logits, whose norm weights are folded into what reads them; LayerNorms
        have become RMSNorms.

        ``config.folded`` remembers it. Embeddings that were tied are tied no more. A model of a
        half type becomes float32, which holds products of its weights exactly. Cost: one copy of
        the weights.
        """
        made = type(self)(folded_config(self.config))
        dtype = common_dtype({parameter.dtype for parameter in self.parameters()})
        nn.Module.to(made, self.device, working_dtype(dtype))
        made.load_state_dict(padded(self.state_dict(), made.state_dict()))
        fold(self.model, made.model, made.lm_head)
        return carry(self, made)

    # Weights by TransformerLens's names: x @ W, heads and layers first.

    @property
    def W_E(self) -> Float[Tensor, "vocab d"]:
        """What each token writes: times ``embedding_scale``."""
        return self.model.rows

    @property
    def W_pos(self) -> Float[Tensor, "context d"]:
        if self.config.positions != "learned":
            raise ArgumentError(
                "W_pos",
                must="be asked of a model with learned positions",
                got=self.config.positions,
            )
        return self.model.embed_positions.weight

    @property
    def W_U(self) -> Float[Tensor, "d vocab"]:
        return self.lm_head.weight.mT

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        return (
            torch.zeros_like(self.lm_head.weight[:, 0])
            if self.lm_head.bias is None
            else self.lm_head.bias
        )

    @property
    def W_Q(self) -> Float[Tensor, "layer head d d_head"]:
        return self._per_head("q_proj")

    @property
    def W_K(self) -> Float[Tensor, "layer head d d_head"]:
        """Keys for every query head: grouped heads are repeated."""
        return self._per_head("k_proj")

    @property
    def W_Q2(self) -> Float[Tensor, "layer head d d_head"]:
        """Queries of the second score of bilinear attention."""
        return self._per_head(self._second("W_Q2", "q2_proj"))

    @property
    def W_K2(self) -> Float[Tensor, "layer head d d_head"]:
        """Keys of the second score of bilinear attention."""
        return self._per_head(self._second("W_K2", "k2_proj"))

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
    def b_Q2(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head(self._second("b_Q2", "q2_proj"))

    @property
    def b_K2(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head(self._second("b_K2", "k2_proj"))

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        return self._bias_per_head("v_proj")

    @property
    def b_O(self) -> Float[Tensor, "layer d"]:
        outs = [attention.o_proj for attention in self._attentions]
        return torch.stack(
            [torch.zeros_like(out.weight[:, 0]) if out.bias is None else out.bias for out in outs]
        )

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
            raise ArgumentError(
                "attention weights", must="be asked of a model with heads", got="none"
            )
        return found

    def _second(self, who: str, name: str) -> str:
        """``name``, where heads have a second score."""
        if self.config.attention != "bilinear":
            must = 'be asked of a model with attention = "bilinear"'
            raise ArgumentError(who, must=must, got=repr(self.config.attention))
        return name

    def _per_head(self, name: str) -> Tensor:
        return torch.stack([attention.per_head(name) for attention in self._attentions])

    def _bias_per_head(self, name: str) -> Tensor:
        return torch.stack([attention.bias_per_head(name) for attention in self._attentions])

    def _mlp_weights(self, name: str) -> Tensor:
        if not self.config.intermediate_size or (name == "gate_proj" and not self.config.gated):
            raise ArgumentError(name, must="be asked of a model with such weights", got="none")
        if self.config.num_local_experts:
            must, todo = "be asked of one expert", f"model.layers[0].mlp.experts[0].{name}, say."
            got = f"{self.config.num_local_experts} a layer"
            raise ArgumentError(name, must=must, got=got, todo=todo)
        return torch.stack([getattr(block.mlp, name).weight.mT for block in self.blocks])

    def _embed(self, tokens: Tensor | None, embedded: Tensor | None) -> Float[Tensor, "b t d"]:
        if (tokens is None) == (embedded is None):
            must = "be given either input_ids or inputs_embeds"
            raise ArgumentError("Transformer", must=must, got="both or neither")
        if embedded is not None:
            width = self.config.hidden_size
            if embedded.ndim != 3 or embedded.shape[2] != width or embedded.numel() == 0:
                must = f"be (batch, tokens, {width}) with at least one token"
                raise ShapeError("inputs_embeds", must=must, got=tuple(embedded.shape))
            return embedded
        assert tokens is not None
        if tokens.ndim != 2 or tokens.numel() == 0:
            must = "be (batch, tokens) with at least one token"
            raise ShapeError("input_ids", must=must, got=tuple(tokens.shape))
        return self.model.embedded(whole_numbers("input_ids", tokens, self.config.vocab_size))

    def _cache(self, given: Cache | None, use: bool | None) -> Cache | None:
        """The cache of this pass: the one given, or a new one where one is wanted."""
        replayed = self.gradient_checkpointing and self.training
        if replayed and (given is not None or use):
            todo = "Pass use_cache=False, or switch one of them off."
            got = "a cache, which the second pass would fill again"
            raise ArgumentError(
                "gradient checkpointing", must="go without a cache", got=got, todo=todo
            )
        use = self.config.use_cache and not self.training if use is None else use
        return DynamicCache() if use and given is None else given

    def _require_counted(self) -> None:
        """A cache tells how many tokens came before only where heads fill it."""
        if self.config.positions == "learned" and not self.config.num_attention_heads:
            raise ArgumentError(
                "position_ids", must="be given where no head fills a cache", got="none"
            )

    def _placed(
        self, x: Float[Tensor, "b t d"], positions: Tensor | None, seen: int | Tensor
    ) -> tuple[Float[Tensor, "b t d"], dict[str, tuple[Tensor, Tensor]]]:
        """The stream with its learned positions, and the turns of RoPE by kind of layer."""
        context = self.config.max_position_embeddings
        self._require_room(x.shape[1], seen)
        if positions is None:
            positions = (torch.arange(x.shape[1], device=x.device) + seen)[None]
        elif (
            positions.ndim != 2
            or positions.shape[0] not in (1, len(x))
            or positions.shape[1] != x.shape[1]
        ):
            must = f"be {tuple(x.shape[:2])}, or (1, {x.shape[1]})"
            raise ShapeError("position_ids", must=must, got=tuple(positions.shape))
        if self.config.positions == "learned":
            positions = whole_numbers("position_ids", positions, context)
            x = x + self.model.embed_positions(positions)
        rotaries = self.model.rotaries.items()
        return x, {kind: rotary(positions, x.dtype) for kind, rotary in rotaries}

    @property
    def _windows(self) -> set[int | None]:
        """How far back heads look, of all layers."""
        return {block.window for block in self.blocks}

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.final_logit_softcapping
        return logits if cap is None else soft_cap(logits, cap)

    def _require_room(self, length: int, seen: int | Tensor) -> None:
        if isinstance(seen, Tensor) and (
            torch.compiler.is_compiling() or seen.device.type != "cpu"
        ):
            return  # a static cache, whose own length bounds it: asking would stall the device
        context, length = self.config.context, int(seen) + length
        if length > context:
            must = f"fit the context of {context} tokens"
            raise ArgumentError("the text", must=must, got=length, todo="Shorten it.")


def next_token_loss(
    logits: Float[Tensor, "*b vocab"],
    labels: Int[Tensor, "*b"] | None,
    shifted: Int[Tensor, "*b"] | None = None,
    items: Tensor | int | None = None,
) -> Float[Tensor, ""] | None:
    """Cross-entropy of each token given those before it, in nats; None without labels.

    The mean, or the sum over ``items``. ``shifted``: at each position the label of the one after.
    """
    if labels is None and shifted is None:
        return None
    name, given = ("labels", labels) if shifted is None else ("shift_labels", shifted)
    assert given is not None
    if given.shape != logits.shape[:-1]:
        must = f"be {tuple(logits.shape[:-1])}, as the logits are"
        raise ShapeError(name, must=must, got=tuple(given.shape))
    given = whole_numbers(name, given, logits.shape[-1], IGNORED).to(logits.device)
    if shifted is None:  # the last has none after it; cutting logits would copy them
        given = nn.functional.pad(given[..., 1:], (0, 1), value=IGNORED)
    return cross_entropy(logits, given, items)


def _kept(x: Float[Tensor, "b t d"], keep: int | Tensor) -> Float[Tensor, "*b d"]:
    """What logits are made of: the last ``keep`` positions (0: all), or those named.

    Positions (n,) for every row, (b, n) row by row, or a boolean (b, t), which flattens.
    """
    if isinstance(keep, int):
        return x[:, slice(-keep, None)]
    if keep.ndim < 2:
        return x[:, keep]
    return x[keep] if keep.dtype == torch.bool else x.take_along_dim(keep[..., None], dim=1)


# Trainer's label smoothing shifts labels for the classes named here, and for no other. It asks
# _get_name, which every subclass therefore answers alike.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[TransformerConfig.model_type] = Transformer.__name__
AutoConfig.register(TransformerConfig.model_type, TransformerConfig)
AutoModelForCausalLM.register(TransformerConfig, Transformer)
