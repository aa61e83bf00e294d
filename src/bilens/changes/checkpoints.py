"""What a person names as checkpoints: models, folders, a folder of checkpoints. All files are
looked at, and held against one another, before a weight is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilens.base.errors import ArgumentError, FileError
from bilens.changes.data import Data, require_source
from bilens.changes.places import Model
from bilens.models import Classifier, Opened, Transformer, hushed, open_model, read_tokenizer

STEP = re.compile("checkpoint-([0-9]+)")
INSIDE = "checkpoints"  # where a training run keeps its own
# What must be the same for places to be held against one another.
SIZES = {
    Transformer: (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "intermediate_size", "gated", "num_local_experts", "positions", "max_position_embeddings",
        "attention_bias", "mlp_bias",
    ),
    Classifier: (
        "input_shape", "hidden_size", "num_hidden_layers", "intermediate_size", "residual", "bias",
        "labels",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoints:
    """Models of one shape in order, their names, and the training step of each; where one says
    none, their numbers 0, 1, ….
    """

    models: tuple[Model, ...]
    names: tuple[str, ...]
    steps: tuple[int, ...]
    numbered: bool  # whether steps are those of training


def open_checkpoints(given: Sequence[Any], data: Data = None) -> Checkpoints:
    """The checkpoints ``given``: bilens models, folders, names in the box or on the hub; a single
    folder with checkpoint-N in it, or in its checkpoints, is a series by step.

    Errors: those of ``bilens.load`` for what is no model; ArgumentError for fewer than two, and
    for checkpoints of different shapes or vocabularies and for a source of ``data`` that is not
    there, before any weight is read.
    """
    places = _series(given[0]) if len(given) == 1 else list(given)
    if len(places) < 2:
        todo = "Name a second one, or a folder that holds checkpoint-N folders."
        got = _called(places[0]) if places else "none"
        raise ArgumentError("diff", must="be given two checkpoints or more", got=got, todo=todo)
    names = _names(places)
    opened = [_opened(place) for place in places]
    _require_alike(names, [_model(one) for one in opened])
    tokenizers = [_tokenizer(one) for one in opened]
    _require_one_vocabulary(names, tokenizers)
    require_source(_model(opened[0]), data)
    words = next((one for one in tokenizers if one is not None), None)
    with hushed():
        models = [one.whole() if isinstance(one, Opened) else one for one in opened]
    for model, one in zip(models, opened, strict=True):
        if isinstance(model, Transformer) and isinstance(one, Opened) and model.tokenizer is None:
            model.tokenizer = words
    steps = [_step(place) for place in places]
    ordered = [step for step in steps if step is not None]
    numbered = len(ordered) == len(steps) and ordered == sorted(set(ordered))
    numbers = tuple(ordered) if numbered else tuple(range(len(places)))
    return Checkpoints(tuple(models), names, numbers, numbered)


def _series(place: Any) -> list[Any]:
    """The checkpoints of a folder, by step; of anything else itself."""
    if not isinstance(place, str | Path) or not Path(place).is_dir():
        return [place]
    for folder in (Path(place), Path(place) / INSIDE):
        inside = [one for one in folder.glob("checkpoint-*") if _step(one) is not None]
        if inside:
            return sorted((one for one in inside if one.is_dir()), key=lambda one: _step(one) or 0)
    return [place]


def _step(place: Any) -> int | None:
    found = STEP.fullmatch(Path(place).name) if isinstance(place, str | Path) else None
    return int(found[1]) if found else None


def _called(place: Any) -> str:
    return str(place) if isinstance(place, str | Path) else type(place).__name__


def _names(places: Sequence[Any]) -> tuple[str, ...]:
    """The last parts of their paths, as many as tell them apart; A, B, … of models in memory."""
    paths = [Path(place).parts if isinstance(place, str | Path) else () for place in places]
    if not all(paths) or len(set(paths)) < len(paths):
        return tuple(_letter(n) for n in range(len(places)))
    for length in range(1, max(map(len, paths)) + 1):
        short = ["/".join(path[-length:]) for path in paths]
        if len(set(short)) == len(short):
            return tuple(short)
    return tuple(map(str, places))


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"#{n + 1}"


def _opened(place: Any) -> Opened | Model:
    if isinstance(place, Classifier | Transformer):
        return place
    if not isinstance(place, str | Path):
        must = "be bilens models, folders, or names in the box or on the hub"
        raise ArgumentError("checkpoints", must=must, got=type(place).__name__)
    opened = open_model(place)
    if not isinstance(opened.model, Classifier | Transformer):
        raise FileError(str(place), must="hold a model", got=type(opened.model).__name__)
    return opened


def _model(opened: Opened | Model) -> Model:
    """The model, perhaps without its weights."""
    return opened.model if isinstance(opened, Opened) else opened


def _require_alike(names: Sequence[str], models: Sequence[Model]) -> None:
    first = models[0]
    kind = Classifier if isinstance(first, Classifier) else Transformer
    for name, model in zip(names, models, strict=True):
        if not isinstance(model, kind):
            must = f"be a {kind.__name__} as {names[0]} is"
            raise ArgumentError(f"checkpoint {name}", must=must, got=f"a {type(model).__name__}")
        for size in SIZES[kind]:
            mine, theirs = getattr(first.config, size), getattr(model.config, size)
            if mine != theirs:
                must = f"have {size} {mine} as {names[0]} has"
                todo = "Checkpoints are compared place by place: they must be of one shape."
                raise ArgumentError(f"checkpoint {name}", must=must, got=theirs, todo=todo)


def _tokenizer(opened: Opened | Model) -> Any:
    """That of a model; of a checkpoint inside a run, the run's."""
    if isinstance(opened, Classifier):
        return None
    if isinstance(opened, Transformer):
        return opened.tokenizer
    if isinstance(opened.model, Classifier):
        return None
    if opened.tokenizer is not None:
        return opened.tokenizer
    size = opened.model.config.vocab_size
    run = [opened.folder.parent, opened.folder.parent.parent]
    folders = [opened.folder, *(run if _step(opened.folder) is not None else ())]
    read = (read_tokenizer(folder, size) for folder in folders)
    return next((found for found in read if found is not None), None)


def _require_one_vocabulary(names: Sequence[str], tokenizers: Sequence[Any]) -> None:
    there = [(name, one) for name, one in zip(names, tokenizers, strict=True) if one is not None]
    for name, one in there[1:]:
        first = there[0][1]
        if one is not first and one.get_vocab() != first.get_vocab():
            must = f"have the vocabulary of {there[0][0]}"
            todo = "The same token is another word there: losses and embeddings do not compare."
            raise ArgumentError(f"checkpoint {name}", must=must, got="another", todo=todo)
