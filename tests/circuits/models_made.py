"""A small model around parts of a test's own: embeddings, parts one after another, a readout."""

import torch
from torch import nn

from bilens.nn import NoNorm
from bilens.wiring import EMBEDDING, Source, Wiring

D, V = 6, 7  # its width, and its tokens


class Handmade(nn.Module):
    """``parts``: the kind of each, its name and its module, each behind a ``norm``."""

    def __init__(self, parts, norm=NoNorm, head_bias=True) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, D), nn.Linear(D, V, bias=head_bias)
        self.kinds = [(kind, name) for kind, name, _ in parts]
        self.blocks = nn.ModuleList([module for *_, module in parts])
        places = range(len(parts) + 1)
        self.norms = nn.ModuleList([norm() if norm is NoNorm else norm(D) for _ in places])

    def wiring(self):
        each = zip(self.kinds, self.norms, self.blocks, strict=False)
        parts = tuple(kind(name, int(name[-1]), norm, m) for (kind, name), norm, m in each)
        leaves = (Source("embed", EMBEDDING),)
        return Wiring(leaves, parts, self.norms[-1], self.head.weight, self.head.bias)

    def read(self, inputs):
        return torch.as_tensor(inputs).reshape(1, -1)

    def leaves(self, inputs):
        return {"embed": self.embed(inputs[0])}

    def leaf_weights(self):
        return {"embed": self.embed.weight}

    def outputs(self, inputs):
        x = self.embed(inputs[0])
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + block(norm(x))
        return self.head(self.norms[-1](x))

    def output_index(self, name):
        return int(name)

    def output_names(self, indices):
        return [str(int(n)) for n in indices]

    def input_names(self, inputs):
        return self.output_names(inputs[0])
