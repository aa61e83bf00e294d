"""A model without softmax, norms or biases as what it is: a polynomial of the embeddings, of which
any kind of paths can be added up.

Where nothing normalises, the model without an edge is exactly the sum of the paths that do not go
through that edge, and the model whose other positions hold nothing is the sum of the paths that
read the given ones alone. So a sum of millions of paths costs one forward pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.models import Transformer

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
        self.model = model
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
        embed, called_with = self.model.begin(ids)
        written: Streams = {"embed": embed * there[..., None]}
        for n, block in enumerate(self.model.blocks):
            assert block.self_attn is not None
            assert block.mlp is not None
            head, mlp = f"L{n}H0", f"mlp{n}"
            reads = [self._read(written, f"{head}.{leg}", paths.cut) for leg in LEGS]
            legs = [block.input_layernorm(x) for x in reads]
            turn = called_with(block)["turn"]
            written[head] = block.self_attn.by_head(legs[-1], turn, legs)[0][:, 0]
            read = self._read(written, mlp, paths.cut)
            written[mlp] = block.mlp(block.post_attention_layernorm(read))
        last = self._read({name: x[:, -1] for name, x in written.items()}, "logits", paths.cut)
        return self.model.end(last)

    def _read(self, written: Streams, reader: str, cut: Iterable[str]) -> Tensor:
        """What a reader, or one leg of it, reads."""
        kept = [x for name, x in written.items() if f"{name}→{reader}" not in cut]
        return torch.stack(kept).sum(0) if kept else torch.zeros_like(written["embed"])
