"""What a model's parts read and write over many texts, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bilens.base.errors import ArgumentError
from bilens.base.numerics import working_dtype
from bilens.models.inputs import token_rows
from bilens.models.transformer import Transformer
from bilens.wiring import eager, find_place, hear_each, hooked, require_expandable

HELD = 2**28  # numbers that are held of several layers at once: 1 GiB in float32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While it lasts ``model`` is in evaluation mode: a classifier adds no noise to what it reads.
    Then each of its modules is in its own again.

    >>> with bilens.models.evaluating(model): model.training
    False
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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

    >>> batches = [model.tokenizer(prompt, return_tensors="pt")]
    >>> next(bilens.models.activations(model, batches, "mlp1.input")).shape  # tokens, d
    torch.Size([8, 128])
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

    >>> batches = [model.tokenizer(prompt, return_tensors="pt")]
    >>> [layer for layer, rows in bilens.models.mlp_inputs(model, batches, [0, 1])]
    [0, 1]
    """
    tokens = sum(token_rows(batch).ids.numel() for batch in batches)
    number = max(1, held // max(1, tokens * model.config.hidden_size))
    for start in range(0, len(layers), number):
        group = layers[start : start + number]
        heard = list(_at(model, batches, [f"mlp{n}.input" for n in group]))
        for at, n in enumerate(group):
            yield n, [rows[at] for rows in heard]


@torch.no_grad()
def stream(
    model: Transformer,
    batches: Iterable[Any],
    places: Sequence[str],
    told: Callable[[str, Float[Tensor, "n d"]], Any],
) -> None:
    """Tell of what each of ``places`` holds at every token, batch by batch, while the model runs:
    ``told(place, rows)``, rows as of ``activations``. One place of one batch at a time in memory.

    >>> batches = [model.tokenizer(prompt, return_tensors="pt")]
    >>> told = lambda place, rows: print(place, tuple(rows.shape))
    >>> bilens.models.stream(model, batches, ["mlp0.input"], told)
    mlp0.input (8, 128)
    """
    model = _required(model, batches)
    modules = dict(zip(places, _modules(model, places), strict=True))
    for batch in batches:
        run, real = _prepared(model, batch)

        def tell(place: str, rows: Tensor, real: Tensor = real) -> None:
            told(place, _full(rows.reshape(*real.shape, -1)[real]))

        with ExitStack() as stack:
            for place, (module, side) in modules.items():
                stack.enter_context(hooked(module, side, partial(tell, place)))
            run()


def _at(
    model: Transformer, batches: Iterable[Any], places: Sequence[str]
) -> Iterator[list[Float[Tensor, "n d"]]]:
    """What each of ``places`` holds, from one pass a batch."""
    model = _required(model, batches)
    modules = _modules(model, places)
    for batch in batches:
        run, real = _prepared(model, batch)
        heard = hear_each(modules, run)
        yield [_full(rows.reshape(*real.shape, -1)[real]) for rows in heard]


def _required(model: Transformer, batches: Iterable[Any]) -> Transformer:
    """The model module by module. Errors: ArgumentError where it or the batches are none."""
    require_expandable(model)
    if not isinstance(batches, Iterable) or (isinstance(batches, Tensor) and batches.ndim < 2):
        raise ArgumentError(
            "batches", must="be a list of batches of token ids", got=type(batches).__name__
        )
    return eager(model)


def _modules(model: Transformer, places: Sequence[str]) -> list[tuple[nn.Module, str]]:
    """Where each of ``places`` is heard."""
    parts = model.wiring().parts
    found = [find_place(place, parts) for place in places]
    return [(parts[at.part].passes(at.side), at.side) for at in found]


def _prepared(model: Transformer, batch: Any) -> tuple[Callable[[], Any], Bool[Tensor, "b t"]]:
    """The pass over one batch, without its logits; and which of its tokens are text."""
    if isinstance(batch, str):
        todo = "Tokenise it: model.tokenizer(texts, return_tensors='pt', padding=True)."
        raise ArgumentError(
            "a batch", must="be token ids", got=f"a text or key, {batch!r}", todo=todo
        )
    rows = token_rows(batch).to(model.device)
    return partial(model, **rows.arguments(), use_cache=False, logits_to_keep=1), rows.real


def _full(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Half types in float32, which rounds nothing."""
    return rows.to(working_dtype(rows.dtype))
