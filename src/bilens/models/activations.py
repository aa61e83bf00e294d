"""What a model's parts read and write over many texts, batch by batch."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.numerics import working_dtype
from bilens.models.transformer import Transformer
from bilens.nn.expandable import eager
from bilens.nn.hooks import find_place, hear


@torch.no_grad()
def activations(model: Transformer, batches: Iterable[Int[Tensor, "b t"]], place: str) -> Iterator[Float[Tensor, "n d"]]:
    """What ``place`` holds at every token of each batch of token ids, n = b · t rows a batch; one batch at a time in memory.

    ``place``: "mlp1.input" or "layers.1.mlp.input" (after the norm), "mlp1.output", "attn0.input".
    Errors: ArgumentError for a place that is not there. Cost: a forward pass without its logits for each batch.
    """
    model = eager(model)
    parts = model.wiring().parts
    at = find_place(place, parts)
    for ids in batches:
        given = {"input_ids": ids.to(model.device)}
        run = partial(model, **given, use_cache=False, logits_to_keep=1)
        yield _full(hear(parts[at.part].module, at.side, run).flatten(0, -2))


def _full(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Half types in float32, which rounds nothing."""
    return rows.to(working_dtype(rows.dtype))
