"""Checkpoints on data: the loss of each for every token or image, and what their places read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from bilens.base.errors import ArgumentError
from bilens.base.numerics import holds_several, working_dtype
from bilens.changes.functions import SAMPLES
from bilens.changes.places import Model, before_norm, listened
from bilens.changes.reads import Counts, Read, Vectors
from bilens.measure import Gaussian, Moments, joined, moments_of
from bilens.models import Classifier, Rows, Transformer, evaluating, positions, token_rows
from bilens.training import Images, held_out_ids, load_images_for, read_documents
from bilens.wiring import Prompt, eager, hooked

LOGITS = 2**25  # of one pass: 128 MiB in float32
Data = Any  # a source as training takes it, texts, token ids, or images with their classes


class Passed(NamedTuple):
    """What a pass over the data found: each checkpoint's losses, what was to be predicted, and what
    every place read.
    """

    losses: Float[Tensor, "n items"]
    predicted: Int[Tensor, " items"]
    reads: dict[str, Read]
    batches: Sequence[Any]


def passed(models: Sequence[Model], data: Data, tokens: int) -> Passed:
    """All checkpoints over ``data``. Cost: a pass of each, and i² a token for each place."""
    if isinstance(models[0], Classifier):
        return _images(models, _labelled(models[0], data))  # type: ignore[arg-type]
    return _texts(models, _batches(models[0], data, tokens))  # type: ignore[arg-type]


def require_source(model: Model, data: Data) -> None:
    """Raise FileError or ArgumentError for a source that is not there, or whose images do not fit;
    ``model`` may be without weights.
    """
    if not isinstance(data, str | Path):
        return
    if isinstance(model, Classifier):
        load_images_for(model, str(data))
    else:
        read_documents(str(data))


@dataclass
class _Heard:
    """What one place has read so far, over all checkpoints: its moments, and every so manieth row.

    ``every``: how far apart rows are that are held.
    """

    every: int
    moments: Moments | None = None
    rows: list[Tensor] = field(default_factory=list)
    seen: int = 0

    def add(self, x: Float[Tensor, "n i"]) -> None:
        more = moments_of(x, 0)
        self.moments = more if self.moments is None else joined(self.moments, more)
        self.rows.append(x[-self.seen % self.every :: self.every].double().clone())
        self.seen += len(x)

    def vectors(self) -> Vectors:
        assert self.moments is not None
        return Vectors(Gaussian.from_moments(self.moments), torch.cat(self.rows))


@torch.no_grad()
def _texts(models: Sequence[Transformer], batches: Sequence[Any]) -> Passed:
    rows = [token_rows(batch) for batch in batches]
    total = sum(int(one.real.sum()) for one in rows)
    every = max(1, total * len(models) // SAMPLES)
    names = listened(models[0].wiring())
    heard = {name: _Heard(every) for name in names}
    losses, predicted = [], []
    for model in map(eager, models):
        with evaluating(model):
            each = [_of_text(model, one.to(model.device), heard) for one in _small(rows, model)]
        losses.append(torch.cat([loss for loss, _ in each]))
        predicted = [target for _, target in each]
    if not len(losses[0]):
        todo = "The first token of a text is predicted from nothing."
        raise ArgumentError("data", must="hold a text of two tokens", got="single ones", todo=todo)
    reads: dict[str, Read] = {name: one.vectors() for name, one in heard.items()}
    ids = torch.cat([one.ids[one.real] for one in rows])
    reads["embed"] = Counts(_shares(ids, models[0].config.vocab_size))
    at = torch.cat([positions(one.real)[one.real] for one in rows])
    reads["pos"] = Counts(_shares(at, models[0].config.max_position_embeddings))
    return Passed(torch.stack(losses), torch.cat(predicted), reads, batches)


def _of_text(
    model: Transformer, rows: Rows, heard: dict[str, _Heard]
) -> tuple[Float[Tensor, " items"], Int[Tensor, " items"]]:
    """The loss of each token that has one before it, and the token; ``heard`` hears of what is
    read.
    """
    ids, real = rows
    with ExitStack() as stack:
        for name, (module, norm) in listened(model.wiring()).items():
            tell = partial(_tell, heard[name], before_norm(norm), real)
            stack.enter_context(hooked(module, "input", tell))
        logits = model(**rows.arguments(), use_cache=False).logits
    logits = logits.to(working_dtype(logits.dtype))
    follows = real[:, :-1] & real[:, 1:]
    loss = cross_entropy(logits[:, :-1][follows], ids[:, 1:][follows], reduction="none")
    return loss.double().cpu(), ids[:, 1:][follows].cpu()


def _tell(heard: _Heard, scaled: Callable[[Tensor], Tensor], real: Tensor, x: Tensor) -> None:
    heard.add(scaled(x)[real].cpu())


def _small(rows: Iterable[Rows], model: Transformer) -> Iterator[Rows]:
    """The texts, as many at a time as there is room for their logits."""
    for ids, real in rows:
        size = max(1, LOGITS // (ids.shape[1] * model.config.vocab_size))
        for part in zip(ids.split(size), real.split(size), strict=True):
            yield Rows(*part)


def _shares(entries: Int[Tensor, " n"], size: int) -> Float[Tensor, " size"]:
    return torch.bincount(entries.cpu(), minlength=size).double() / len(entries)


def _batches(model: Transformer, data: Data, tokens: int) -> list[Any]:
    """Batches of token ids: of a source's held-out part, of texts one by one, or as they are."""
    if isinstance(data, str | Path):
        return [held_out_ids(model, str(data), tokens).ids]
    if isinstance(data, Tensor | Mapping | tuple):  # as a tokenizer gives them, or (ids, mask)
        return [data]
    batches = list(data) if holds_several(data) else []
    if not batches:
        must = "be a source as --data of training takes it, texts, or batches of token ids"
        raise ArgumentError("data", must=must, got=type(data).__name__)
    texts = [isinstance(one, str | Prompt) for one in batches]
    if all(texts):
        return [model.read(text) for text in batches]
    return batches


def _labelled(model: Classifier, data: Data) -> Images:
    """Images with their classes: of a source's test part, or as they are."""
    if isinstance(data, str | Path):
        return load_images_for(model, str(data)).test
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data):
        return Images(*data)
    must = "be a source as --data of training takes it, or (images, classes)"
    raise ArgumentError("data", must=must, got=type(data).__name__)


@torch.no_grad()
def _images(models: Sequence[Classifier], images: Images) -> Passed:
    config = models[0].config
    losses, every = [], max(1, len(images) * len(models) // SAMPLES)
    heard = {f"mlp{n}": _Heard(every) for n in range(config.num_hidden_layers)}
    for model in models:
        pixels = images.pixel_values.to(model.device, model.dtype)
        with evaluating(model):
            logits = model(pixels).logits.double().cpu()
        losses.append(cross_entropy(logits, images.labels, reduction="none"))
        for n, one in enumerate(heard.values()):
            x = model.inputs(pixels, n).cpu()
            one.add(x[:, 1:] if config.bias else x)
    reads: dict[str, Read] = {name: one.vectors() for name, one in heard.items()}
    return Passed(torch.stack(losses), images.labels, reads, [])
