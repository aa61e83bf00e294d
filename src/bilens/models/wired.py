"""How a transformer is wired, for circuits (``nn.expandable.Expandable``)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import is_whole
from bilens.models.blocks import Block, Body
from bilens.nn.expandable import Heads, Layer, Wiring


class Wired:
    """The part of ``Transformer`` that circuits see."""

    model: Body
    lm_head: nn.Linear
    config: Any
    tokenizer: Any

    def wiring(self) -> Wiring:
        """Embeddings, then for each block its heads and its MLP; the final norm and W_U read them all."""
        parts: list[Heads | Layer] = []
        for n, block in enumerate(self.model.blocks):
            parts += _parts(n, block, self.model)
        leaves = ("embed", "pos") if self.config.positions == "learned" else ("embed",)
        return Wiring(leaves, tuple(parts), self.model.norm, self.lm_head.weight, self.lm_head.bias)

    def read(self, inputs: str | Int[Tensor, "*b t"] | Sequence[int]) -> Int[Tensor, "1 t"]:
        """Token ids of one text: a string for the tokenizer, or ids as (t,), (1, t) or a list.

        Errors: ArgumentError for text without a tokenizer, for nothing, for tokens that the model does not have or the
        tokenizer cannot make of the text, and for more of them than the context holds.
        """
        ids = self._encode(inputs) if isinstance(inputs, str) else torch.as_tensor(inputs)
        if ids.numel() == 0:
            raise ArgumentError("inputs", must="hold at least one token", got="none")
        if ids.is_floating_point() or ids.ndim not in (1, 2) or (ids.ndim == 2 and len(ids) != 1):
            raise ShapeError("inputs", must="be one text, or its token ids (t,)", got=f"{ids.dtype} {tuple(ids.shape)}")
        ids = ids.reshape(1, -1).to(self.lm_head.weight.device, torch.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            got = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise ArgumentError("inputs", must=f"be tokens 0 … {self.config.vocab_size - 1}", got=got)
        context = self.config.max_position_embeddings
        if ids.shape[1] > context:
            raise ArgumentError("inputs", must=f"fit the context of {context} tokens", got=ids.shape[1], todo="Shorten it.")
        return ids

    @torch.no_grad()
    def leaves(self, inputs: Int[Tensor, "1 t"]) -> dict[str, Float[Tensor, "t d"]]:
        """Token embeddings, and learned positions where there are some."""
        found = {"embed": self.model.embed_tokens(inputs)[0]}
        if self.config.positions == "learned":
            found["pos"] = self.model.embed_positions.weight[: inputs.shape[1]]
        return found

    def leaf_weights(self) -> dict[str, Float[Tensor, "n d"]]:
        """W_E, and W_pos where positions are learned."""
        found = {"embed": self.model.embed_tokens.weight}
        if self.config.positions == "learned":
            found["pos"] = self.model.embed_positions.weight
        return found

    @torch.no_grad()
    def outputs(self, inputs: Int[Tensor, "1 t"]) -> Float[Tensor, "t vocab"]:
        """The logits at every position, by ``forward``."""
        return self(inputs, use_cache=False).logits[0]  # type: ignore[operator]

    def output_index(self, name: str | int) -> int:
        """A token by its id, or by its text where that is one token (" on" and "on" differ)."""
        if not isinstance(name, str):
            if not is_whole(name) or not 0 <= name < self.config.vocab_size:
                raise ArgumentError("target", must=f"be a token 0 … {self.config.vocab_size - 1}", got=name)
            return int(name)
        ids = self._encode(name).tolist()
        if len(ids) != 1:
            pieces = ", ".join(repr(piece) for piece in self.output_names(ids)) or "nothing"
            raise ArgumentError(f"target {name!r}", must="be one token", got=pieces, todo="Mind the space before a word.")
        return ids[0]

    def output_names(self, indices: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """The text of each token; its id where there is no tokenizer."""
        ids = [int(index) for index in indices]
        return [str(n) if self.tokenizer is None else self.tokenizer.decode([n]) for n in ids]

    def input_names(self, inputs: Int[Tensor, "1 t"]) -> list[str]:
        """The text of each token of ``inputs``."""
        return self.output_names(inputs[0])

    def _encode(self, text: str) -> Int[Tensor, " t"]:
        if self.tokenizer is None:
            todo = "Pass token ids, or set model.tokenizer."
            raise ArgumentError("a text", must="come with a tokenizer beside the model", got="none", todo=todo)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            raise ArgumentError(f"the text {text!r}", must="be made of what the tokenizer knows", got="unknown characters")
        return torch.tensor(ids, dtype=torch.int64)


def _parts(n: int, block: Block, body: Body) -> list[Heads | Layer]:
    parts: list[Heads | Layer] = []
    if block.self_attn is not None:
        parts.append(Heads(f"attn{n}", n, block.input_layernorm, block.self_attn, body.rotary_emb))
    if block.mlp is not None:
        parts.append(Layer(f"mlp{n}", n, block.post_attention_layernorm, block.mlp))
    return parts
