"""How a transformer is wired, for circuits (``wiring.Expandable``)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import is_whole
from bilens.models.inputs import token_rows
from bilens.models.tokens import require_unicode, vocabulary
from bilens.models.transformer.blocks import Block, Body
from bilens.nn import Experts
from bilens.wiring import (
    EMBEDDING,
    POSITION,
    Heads,
    Layer,
    Mixture,
    Part,
    Prompt,
    Renormed,
    Source,
    Wiring,
)


class Wired:
    """The part of ``Transformer`` that circuits see."""

    model: Body
    lm_head: nn.Linear
    config: Any
    tokenizer: Any

    def wiring(self) -> Wiring:
        """Embeddings, then for each block its heads and its MLP; the final norm and W_U read them
        all.
        """
        parts: list[Part] = []
        for n, block in enumerate(self.model.blocks):
            parts += _parts(n, block, self.model)
        leaves = [Source("embed", EMBEDDING)]
        if self.config.positions == "learned":
            leaves.append(Source("pos", POSITION))
        readout = (self.lm_head.weight, self.lm_head.bias)
        cap = self.config.final_logit_softcapping
        return Wiring(tuple(leaves), tuple(parts), self.model.norm, *readout, soft_cap=cap)

    def read(self, inputs: Any) -> Int[Tensor, "1 t"]:
        """Token ids of one text: what ``model(**tokenizer(text))`` reads.

        ``inputs``: a string, with the special tokens that the tokenizer adds of itself (BOS); a
        ``Prompt``, which says whether it does; ids as (t,), (1, t) or a list, each of them read as
        it is; or what a tokenizer returns (input_ids and attention_mask), whose padding is left out
        and counts as no position.

        Errors: ArgumentError for text without a tokenizer, for nothing, for tokens that the model
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
        return ids[0]

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
            todo = "Pass token ids, or set model.tokenizer."
            raise ArgumentError(
                "a text", must="come with a tokenizer beside the model", got="none", todo=todo
            )
        plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown, written = self.tokenizer.unk_token_id, self.tokenizer.unk_token or ""
        if unknown is not None and unknown in plain and written not in text:
            must = "be made of what the tokenizer knows"
            raise ArgumentError(f"the text {text!r}", must=must, got="unknown characters")
        return self.tokenizer(text)["input_ids"] if prompt.special_tokens else plain


def _parts(n: int, block: Block, body: Body) -> list[Part]:
    parts: list[Part] = []
    if block.self_attn is not None:
        rotary = body.rotaries.get(block.rope)
        heads = Heads(f"attn{n}", n, block.input_layernorm, block.self_attn, rotary=rotary)
        parts.append(Renormed.of(heads, block.self_attn_out_norm))
    if block.mlp is not None:
        name, norm, mlp = f"mlp{n}", block.post_attention_layernorm, block.mlp
        beside = len(parts) if block.parallel else 0
        of_many = isinstance(mlp, Experts)
        part = Mixture.of(name, n, norm, mlp) if of_many else Layer(name, n, norm, mlp)
        parts.append(Renormed.of(replace(part, beside=beside), block.mlp_out_norm))
    return parts
