"""What every door carries from one model to another, in one place: type, tying, how text is
generated, tokenizer.
"""

import copy
import warnings
from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from bilens.base.errors import ArgumentError, ConfigError

Model = TypeVar("Model", bound=PreTrainedModel)

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def copied(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of every weight of ``model``, by name. Errors: ArgumentError for what is no tensor."""
    made = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):  # of a quantised layer
            raise ArgumentError(name, must="be a tensor", got=type(value).__name__)
        made[name] = value.detach().clone()
    return made


def sketched(kind: type[Model], config: PreTrainedConfig) -> Model:
    """``kind(config)`` without memory: the names and shapes of its weights, for ``filled``."""
    with torch.device("meta"):
        return kind(config)


def filled(model: Model, weights: dict[str, Tensor]) -> Model:
    """A sketched model with these very tensors as its weights, all of one type; nothing is copied.

    Errors: ConfigError where a name is on one side only, or a shape is another.
    """
    settle_tying(model.config, weights)
    _require_fit(weights, model.state_dict())
    dtype = common_dtype({value.dtype for value in weights.values()})
    model.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)
    model.tie_weights()
    _make_buffers(model)
    model.config.dtype = dtype
    return model


def carry(source: PreTrainedModel, target: Model) -> Model:
    """``target`` with what ``source`` has beside its weights: its name, generation settings,
    tokenizer, training or not.
    """
    target.name_or_path = source.name_or_path
    target.generation_config = copy.deepcopy(source.generation_config)
    tokenizer: Any = getattr(source, "tokenizer", None)
    target.tokenizer = tokenizer
    return target.train(source.training)


def common_dtype(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """The one type that holds all of ``dtypes`` exactly. A warning where there are several: the
    model is computed in it.

    transformers rounds such weights to the type that config.json names, or to that of the first of
    them.
    """
    found = torch.get_default_dtype() if not dtypes else None
    for dtype in dtypes:
        found = dtype if found is None else torch.promote_types(found, dtype)
    assert found is not None
    if len(dtypes) > 1:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        told = str(found).removeprefix("torch.")
        warnings.warn(
            f"the weights are {names}: all became {told}, which holds each of them exactly",
            stacklevel=3,
        )
    return found


def is_tied(config: PreTrainedConfig) -> bool:
    """Whether the embedding and lm_head are said to be one matrix."""
    return bool(getattr(config, "tie_word_embeddings", False))


def settle_tying(config: Any, weights: dict[str, Tensor]) -> None:
    """Make ``weights`` and ``config.tie_word_embeddings`` say the same, as transformers 5 reads
    such files.

    Tied with one of the two missing: it is the other. Tied in name, but both there and different:
    both stay as they are, the model is not tied, and a warning says so.
    """
    if not is_tied(config):
        return
    if EMBED not in weights:
        weights[EMBED] = weights[HEAD]
    if HEAD in weights and not torch.equal(weights[HEAD], weights[EMBED]):
        config.tie_word_embeddings = False
        told = "tie_word_embeddings is true, but lm_head.weight differs from the embedding: "
        told += "they are not tied"
        warnings.warn(told, stacklevel=3)
    else:
        weights[HEAD] = weights[EMBED]


def _require_fit(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in sorted(weights.keys() | wanted.keys()):
        if name not in weights or name not in wanted:
            raise ConfigError(
                "the checkpoint",
                must="hold the weights its config names",
                got=f"{name} on one side only",
            )
        if weights[name].shape != wanted[name].shape:
            must = f"be {tuple(wanted[name].shape)}, as its config says"
            raise ConfigError(f"the checkpoint's {name}", must=must, got=tuple(weights[name].shape))


def _make_buffers(model: PreTrainedModel) -> None:
    """Buffers that no file holds (RoPE's frequencies) were made without memory: make each again, by
    its own module.
    """
    for module in model.modules():
        lost = {
            name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta
        }
        for name, buffer in lost.items():
            setattr(module, name, torch.empty_like(buffer, device=model.device))
        if lost:
            model._init_weights(module)
