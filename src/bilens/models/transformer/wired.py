"""How a transformer is wired, for circuits (``wiring.Expandable``)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, NotExactError, ShapeError
from bilens.base.numerics import is_whole
from bilens.models.inputs import token_rows
from bilens.models.tokens import require_unicode, vocabulary
from bilens.models.transformer.blocks import Block, Body, ResidualMix
from bilens.nn import Experts, NoNorm, RMSNorm, rescaled
from bilens.wiring import (
    EMBEDDING,
    POSITION,
    Again,
    Heads,
    Layer,
    Mixture,
    Part,
    Prompt,
    Renormed,
    Source,
    Wiring,
)

NUMBER = re.compile(r"[0-9]{1,18}")  # of a token, where there is no tokenizer


class Wired:
    """The part of ``Transformer`` that circuits see."""

    model: Body
    lm_head: nn.Linear
    config: Any
    tokenizer: Any

    def wiring(self) -> Wiring:
        """Embeddings, then for each block its heads and its MLP; the final norm and W_U read them
        all.

        The stream that circuits add up is the model's over c, where parts make a x + b part(x), or
        blocks λ₀ x + λ₁ x⁰, of the model's stream x: c is the product of all a and λ₀ so far. Parts
        read it through N(c x), and write b / c times what their modules do; λ₁ x⁰ / c is a part of
        its own ("again1"). Nothing is given by that, and outputs are the model's.

        Where values of the first layer are mixed into those of others, heads write these as sources
        of their own ("L1H0.first"), of what the first layer reads.

        Errors: NotExactError where a block drops the stream (λ₀ = 0).
        """
        parts: list[Part] = []
        times: float | Tensor = 1.0  # the model's stream over the sum of what is written
        each: list[float | Tensor] = [times]  # before all parts and after each
        for n, block in enumerate(self.model.blocks):
            if block.residual_mix is not None:
                times = _mixed(n, block.residual_mix, parts, times, self.config.hidden_size)
                each += [times] * (1 + len(parts) - len(each))
            first = parts[0].attention if parts else None
            made, after = _parts(n, block, self.model, times, first)
            parts, times = parts + made, after[-1]
            each += after[1:]
        leaves = [Source("embed", EMBEDDING)]
        if self.config.positions == "learned":
            leaves.append(Source("pos", POSITION))
        readout = (self.lm_head.weight, self.lm_head.bias)
        cap = self.config.final_logit_softcapping
        norm, each[-1] = rescaled(self.model.norm, times), times
        ends = tuple(leaves), tuple(parts), norm, *readout
        return Wiring(*ends, soft_cap=cap, times=tuple(each))

    def read(self, inputs: Any) -> Int[Tensor, "1 t"]:
        """Token ids of one text: what ``model(**tokenizer(text))`` reads.

        ``inputs``: a string, with the special tokens that the tokenizer adds of itself (BOS), or
        where there is none, the numbers of tokens, "5 3 7"; a
        ``Prompt``, which says whether it does; ids as (t,), (1, t) or a list, each of them read as
        it is; or what a tokenizer returns (input_ids and attention_mask), whose padding is left out
        and counts as no position.

        Errors: ArgumentError for words without a tokenizer, for nothing, for tokens that the model
        does not have or the tokenizer cannot make of the text, and for more of them than the
        context holds.
        """
        ids, context = self._ids(inputs), self.config.context
        if ids.shape[1] > context:
            must = f"fit the context of {context} tokens"
            raise ArgumentError("inputs", must=must, got=ids.shape[1], todo="Shorten it.")
        return ids

    def contexts(self, inputs: Any) -> list[Int[Tensor, "1 _"]]:
        """Token ids of one text of any length, as ``read`` gives them, cut where the context ends:
        special tokens in front stand in the first piece alone. Errors: those of ``read``.
        """
        return list(self._ids(inputs).split(self.config.context, dim=1))

    def text(self, inputs: Int[Tensor, "1 t"]) -> str:
        """What was written to get ``inputs``: special tokens left out; ids where there is no
        tokenizer.
        """
        if self.tokenizer is None:
            return " ".join(self.input_names(inputs))
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return self.tokenizer.decode(inputs[0].tolist(), **plain)

    @torch.no_grad()
    def leaves(self, inputs: Int[Tensor, "1 t"]) -> dict[str, Float[Tensor, "t d"]]:
        """Token embeddings, and learned positions where there are some."""
        found = {"embed": self.model.embedded(inputs)[0]}
        if self.config.positions == "learned":
            found["pos"] = self.model.embed_positions.weight[: inputs.shape[1]]
        return found

    def leaf_weights(self) -> dict[str, Float[Tensor, "n d"]]:
        """W_E, and W_pos where positions are learned."""
        found = {"embed": self.model.rows}
        if self.config.positions == "learned":
            found["pos"] = self.model.embed_positions.weight
        return found

    @torch.no_grad()
    def outputs(self, inputs: Int[Tensor, "1 t"]) -> Float[Tensor, "t vocab"]:
        """The logits at every position, by ``forward``."""
        return self(inputs, use_cache=False).logits[0]  # type: ignore[operator]

    def output_index(self, name: str | int) -> int:
        """A token by its id, by its text where that is one token (" on" and "on" differ), or by its
        name as shown.
        """
        if not isinstance(name, str):
            if not is_whole(name) or not 0 <= name < self.config.vocab_size:
                raise ArgumentError(
                    "target", must=f"be a token 0 … {self.config.vocab_size - 1}", got=repr(name)
                )
            return int(name)
        require_unicode("target", name)
        words = (
            None if self.tokenizer is None else vocabulary(self.tokenizer, self.config.vocab_size)
        )
        if words is not None and name in words.by_text:
            return words.by_text[name]
        if words is not None and name in words.by_name:
            return words.by_name[name]
        ids = self._encode(Prompt(name, special_tokens=False))
        if len(ids) != 1:
            pieces = ", ".join(map(repr, self.output_names(ids))) or "nothing"
            todo = "Mind the space before a word."
            raise ArgumentError(f"target {name!r}", must="be one token", got=pieces, todo=todo)
        return self.output_index(ids[0])

    def output_names(self, indices: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """Each token's text as it is shown (␣ and ⏎ visible, its id beside a text that other tokens
        have too); its id where there is no tokenizer."""
        ids = [int(index) for index in indices]
        if self.tokenizer is None:
            return [str(n) for n in ids]
        names = vocabulary(self.tokenizer, self.config.vocab_size).names
        return [names[n] for n in ids]

    def input_names(self, inputs: Int[Tensor, "1 t"]) -> list[str]:
        """The text of each token of ``inputs``."""
        return self.output_names(inputs[0])

    def _ids(self, inputs: Any) -> Int[Tensor, "1 t"]:
        """Token ids of one text, however long."""
        rows = token_rows(self._written(Prompt(inputs) if isinstance(inputs, str) else inputs))
        if len(rows.ids) != 1:
            got = f"{rows.ids.dtype} {tuple(rows.ids.shape)}"
            raise ShapeError("inputs", must="be one text, or its token ids (t,)", got=got)
        ids = rows.ids[rows.real][None].to(self.lm_head.weight.device)
        if not ids.numel():
            raise ArgumentError("inputs", must="hold at least one token", got="padding alone")
        low, high = map(int, ids.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            must = f"be tokens 0 … {self.config.vocab_size - 1}"
            raise ArgumentError("inputs", must=must, got=low if low < 0 else high)
        return ids

    def _written(self, inputs: Any) -> Any:
        """A prompt as the tokenizer's ids; anything else as it is."""
        return self._encode(inputs) if isinstance(inputs, Prompt) else inputs

    def _encode(self, prompt: Prompt) -> list[int]:
        text = prompt.text
        require_unicode("the text", text)
        if self.tokenizer is None:
            return _numbered(text)
        plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown, written = self.tokenizer.unk_token_id, self.tokenizer.unk_token or ""
        if unknown is not None and unknown in plain and written not in text:
            must = "be made of what the tokenizer knows"
            raise ArgumentError(f"the text {text!r}", must=must, got="unknown characters")
        return self.tokenizer(text)["input_ids"] if prompt.special_tokens else plain


def _numbered(text: str) -> list[int]:
    """Tokens by number, as they are shown where there is no tokenizer."""
    words = text.split()
    if not words or not all(map(NUMBER.fullmatch, words)):
        todo = 'Pass token ids ("5 3 7"), or set model.tokenizer.'
        raise ArgumentError(
            "a text", must="come with a tokenizer beside the model", got="none", todo=todo
        )
    return [int(word) for word in words]


def _mixed(
    n: int, mix: ResidualMix, parts: list[Part], times: float | Tensor, width: int
) -> float | Tensor:
    """How many times the sum of what is written the stream is, after it was mixed with what it
    began as; that is then among ``parts``.
    """
    keep, first = mix.weight
    if not parts:  # it is still what it began as
        return _kept(n, times * (keep + first))
    after = _kept(n, times * keep)
    factor = first / after
    parts.append(Again(f"again{n}", n, NoNorm(), mix, factor, width, beside=len(parts)))
    return after


def _kept(n: int, times: Tensor) -> Tensor:
    if times.device.type != "meta" and not float(times.detach()):
        must = "keep some of the stream"
        raise NotExactError(f"layers.{n}.residual_mix", must=must, got="0")
    return times


def _parts(
    n: int, block: Block, body: Body, times: float | Tensor, first: Heads | None
) -> tuple[list[Part], list[float | Tensor]]:
    """The parts of a block, whose stream is ``times`` the sum of what is written, and how many
    times it is before them and after each. ``first``: the first layer's heads.
    """
    parts: list[Part] = []
    each = [times]
    if block.self_attn is not None:
        rotary, norm = body.rotaries.get(block.rope), rescaled(block.input_layernorm, times)
        own = first is None or block.self_attn.value_mix is None or first.module.value_mix is None
        mixed = None if own else first
        heads = Heads(f"attn{n}", n, norm, block.self_attn, rotary=rotary, first=mixed)
        times = block.keep * times
        parts.append(_written(heads, block, block.self_attn_out_norm, times))
        each.append(times)
    if block.mlp is not None:
        name, mlp = f"mlp{n}", block.mlp
        norm = rescaled(block.post_attention_layernorm, times)
        beside = len(parts) if block.parallel else 0
        of_many = isinstance(mlp, Experts)
        part = Mixture.of(name, n, norm, mlp) if of_many else Layer(name, n, norm, mlp)
        times = block.keep * times
        parts.append(_written(replace(part, beside=beside), block, block.mlp_out_norm, times))
        each.append(times)
    return parts, each


def _written(part: Part, block: Block, norm: RMSNorm | None, times: float | Tensor) -> Part:
    """A part that writes b / ``times`` of what it makes, through the norm over it."""
    share = block.scale / times
    if norm is None and isinstance(share, float) and share == 1:
        return part
    return Renormed.of(part, rescaled(norm or NoNorm(), after=share))
