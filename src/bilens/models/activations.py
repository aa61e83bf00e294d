"""What a model's parts read and write over many texts, batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError
from bilens.base.numerics import working_dtype
from bilens.models.inputs import positions, token_rows
from bilens.models.transformer import Transformer
from bilens.wiring import eager, find_place, hear_each, require_expandable

HELD = 2**28  # numbers that are held of several layers at once: 1 GiB in float32


@torch.no_grad()
def activations(
    model: Transformer, batches: Iterable[Any], place: str
) -> Iterator[Float[Tensor, "n d"]]:
    """What ``place`` holds at every token of each batch of texts, n rows a batch; one batch at a
    time in memory.

    ``batches``: token ids (b, t); or (ids, mask), or what a tokenizer returns: padding gives no
    rows, and the others are those of the texts alone. Ids without a mask are read as they are,
    padding too.
    ``place``: "mlp1.input" or "layers.1.mlp.input" (after the norm), "mlp1.output", "attn0.input".
    A half-precision model runs as it is; its rows come in float32, which rounds nothing. Errors:
    ArgumentError for a place that is not there, and for what is no token ids. Cost: a forward pass
    without its logits for each batch.
    """
    for (rows,) in _at(model, batches, [place]):
        yield rows


@torch.no_grad()
def mlp_inputs(
    model: Transformer, batches: Sequence[Any], layers: Sequence[int], held: int = HELD
) -> Iterator[tuple[int, list[Float[Tensor, "_ d"]]]]:
    """What the MLP of each of ``layers`` reads at every token: the layer's number, and its
    ``activations`` batch by batch.

    The model runs over the texts once for as many layers as there is room for among ``held``
    numbers: for all of them, but where tokens × width × layers are very many.
    """
    tokens = sum(token_rows(batch).ids.numel() for batch in batches)
    number = max(1, held // max(1, tokens * model.config.hidden_size))
    for start in range(0, len(layers), number):
        group = layers[start : start + number]
        heard = list(_at(model, batches, [f"mlp{n}.input" for n in group]))
        for at, n in enumerate(group):
            yield n, [rows[at] for rows in heard]


def _at(
    model: Transformer, batches: Iterable[Any], places: Sequence[str]
) -> Iterator[list[Float[Tensor, "n d"]]]:
    """What each of ``places`` holds, from one pass a batch."""
    require_expandable(model)
    if not isinstance(batches, Iterable) or (isinstance(batches, Tensor) and batches.ndim < 2):
        raise ArgumentError(
            "batches", must="be a list of batches of token ids", got=type(batches).__name__
        )
    model = eager(model)
    parts = model.wiring().parts
    found = [find_place(place, parts) for place in places]
    modules = [(parts[at.part].passes(at.side), at.side) for at in found]
    for batch in batches:
        if isinstance(batch, str):
            todo = "Tokenise it: model.tokenizer(texts, return_tensors='pt', padding=True)."
            raise ArgumentError(
                "a batch", must="be token ids", got=f"a text or key, {batch!r}", todo=todo
            )
        ids, real = (part.to(model.device) for part in token_rows(batch))
        padded = (
            {}
            if bool(real.all())
            else {"attention_mask": real.long(), "position_ids": positions(real)}
        )
        run = partial(model, input_ids=ids, **padded, use_cache=False, logits_to_keep=1)
        heard = hear_each(modules, run)
        yield [_full(rows.reshape(*real.shape, -1)[real]) for rows in heard]


def _full(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Half types in float32, which rounds nothing."""
    return rows.to(working_dtype(rows.dtype))
