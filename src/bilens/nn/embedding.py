"""Token embeddings that are multiplied by a number, as Gemma's are."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ScaledEmbedding(nn.Embedding):
    """Rows of ``weight`` times ``scale``, which is rounded to the type of the weights first."""

    def __init__(self, vocabulary: int, d_model: int, scale: float = 1.0) -> None:
        super().__init__(vocabulary, d_model)
        self.scale = scale

    def forward(self, input: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        rows = super().forward(input)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale).to(rows)

    @property
    def rows(self) -> Float[Tensor, "vocab d"]:
        """What each token writes; ``weight`` itself where the scale is 1. Gradients flow."""
        weight = self.weight
        return weight if self.scale == 1 else weight * torch.tensor(self.scale).to(weight)
