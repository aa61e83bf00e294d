"""A model without softmax, norms or biases as what it is: a polynomial of the embeddings, of which
any kind of paths can be added up.

Where nothing normalises, the model without an edge is exactly the sum of the paths that do not go
through that edge, and the model whose other positions hold nothing is the sum of the paths that
read the given ones alone. So a sum of millions of paths costs one forward pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.models import Transformer
from bilens.nn import rotate

LEGS = ("q1", "k1", "q2", "k2", "v")

Streams = dict[str, Tensor]


@dataclass(frozen=True)
class Paths:
    """A kind of paths: all but those through ``cut``, edges such as "L0H0→L1H0.k1", "mlp0→mlp1" or
    "embed→logits", and those that read a token of ``absent``.
    """

    cut: frozenset[str] = frozenset()
    absent: frozenset[int] = frozenset()

    def without(self, *edges: str) -> "Paths":
        return Paths(self.cut | set(edges), self.absent)


class Polynomial:
    """Logits of the last position, by kinds of paths. One head a layer."""

    def __init__(self, model: Transformer) -> None:
        config = model.config
        assert config.attention == "bilinear"
        assert config.num_attention_heads == 1
        self.model: Any = model
        self.scale = float(config.attention_scale or 1)
        self.sources = ["embed"]
        for n in range(config.num_hidden_layers):
            self.sources += [f"L{n}H0", f"mlp{n}"]

    def edges(self) -> dict[str, list[str]]:
        """Every edge, by the source that it begins at."""
        found: dict[str, list[str]] = {source: [] for source in self.sources}
        for n, reader in enumerate((*self.sources, "logits")):
            ends = [f"{reader}.{leg}" for leg in LEGS] if "H" in reader else [reader]
            for source in self.sources[:n]:
                found[source] += [f"{source}→{end}" for end in ends]
        return found

    @torch.no_grad()
    def __call__(
        self, ids: Int[Tensor, "n t"], paths: Paths | None = None
    ) -> Float[Tensor, "n vocab"]:
        """The sum of ``paths`` (by default all)."""
        paths = paths or Paths()
        there = torch.isin(ids, torch.tensor(sorted(paths.absent), dtype=ids.dtype), invert=True)
        embed = self.model.model.embed_tokens.weight[ids]
        written: Streams = {"embed": embed * there[..., None]}
        for n, block in enumerate(self.model.model.layers):
            head, mlp = f"L{n}H0", f"mlp{n}"
            scale = block.input_layernorm.weight
            legs = {leg: self._read(written, f"{head}.{leg}", paths.cut) * scale for leg in LEGS}
            written[head] = self._attend(block.self_attn, legs)
            sides = self._read(written, mlp, paths.cut) * block.post_attention_layernorm.weight
            gate, up = (sides @ side.weight.mT for side in (block.mlp.gate_proj, block.mlp.up_proj))
            written[mlp] = (gate * up) @ block.mlp.down_proj.weight.mT
        last = self._read({name: x[:, -1] for name, x in written.items()}, "logits", paths.cut)
        return (last * self.model.model.norm.weight) @ self.model.W_U

    def _read(self, written: Streams, reader: str, cut: Iterable[str]) -> Tensor:
        """What a reader, or one leg of it, reads."""
        kept = [x for name, x in written.items() if f"{name}→{reader}" not in cut]
        return torch.stack(kept).sum(0) if kept else torch.zeros_like(written["embed"])

    def _attend(self, attention: Any, legs: Streams) -> Float[Tensor, "n t d"]:
        made = {
            leg: legs[leg] @ getattr(attention, f"{name}_proj").weight.mT
            for leg, name in zip(LEGS, ("q", "k", "q2", "k2", "v"), strict=True)
        }
        cos, sin = self._angles(legs["v"])
        turned = {leg: rotate(made[leg], cos, sin) for leg in LEGS[:4]}
        scores = (turned["q1"] @ turned["k1"].mT) * (turned["q2"] @ turned["k2"].mT)
        pattern = (scores * self.scale).tril()
        return (pattern @ made["v"]) @ attention.o_proj.weight.mT

    def _angles(self, x: Float[Tensor, "n t d"]) -> tuple[Tensor, Tensor]:
        """cos and sin of each position, as the model has them."""
        cos, sin = self.model.model.rotary_emb(torch.arange(x.shape[1])[None], x.dtype)
        return cos.reshape(x.shape[1], -1), sin.reshape(x.shape[1], -1)
