"""What a model's parts read and write over many texts, batch by batch."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.models.transformer import Transformer
from bilens.nn.hooks import find_place, hooked


@torch.no_grad()
def activations(model: Transformer, batches: Iterable[Int[Tensor, "b t"]], place: str) -> Iterator[Float[Tensor, "n d"]]:
    """What ``place`` holds at every token of each batch of token ids, n = b · t rows a batch; one batch at a time in memory.

    ``place``: "mlp1.input" or "layers.1.mlp.input" (after the norm), "mlp1.output", "attn0.input".
    Errors: ArgumentError for a place that is not there. Cost: a forward pass without its logits for each batch.
    """
    parts = model.wiring().parts
    at = find_place(place, parts)
    heard: list[Tensor] = []
    for ids in batches:
        with hooked(parts[at.part].module, at.side, lambda x: heard.append(x.detach())):
            model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=1)
        yield heard.pop().flatten(0, -2)
