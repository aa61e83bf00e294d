"""Training a language model: a small configuration, one call."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, set_seed

from bilens.base.documents import split_documents
from bilens.base.fields import setting
from bilens.base.keys import Anything, Keys, Table, each, require
from bilens.base.reading import naming, read_toml
from bilens.models import Transformer, TransformerConfig, vocabulary_size
from bilens.training.processes import first_does
from bilens.training.run import Lesson, Run, as_it_is, content
from bilens.training.schedule import OF_TEXT, Schedule, numbering, require_room
from bilens.training.text import Blocks, HeldOut, held_out, load_text, pack
from bilens.training.tokenizer import (
    load_tokenizer,
    require_vocabulary,
    save_tokenizer,
    tokenizer_of,
    train_tokenizer,
)

LENGTH = 512  # tokens of a held-out text that activations are taken on


@dataclass(frozen=True)
class TextRecipe:
    """All that decides a language model but the data and the tokenizer.

    ``model`` holds fields of ``TransformerConfig`` (the vocabulary is the tokenizer's); its
    ``max_position_embeddings`` is the length of a block. ``vocab_size`` counts only where no
    tokenizer is given and one is trained on the same data.

    >>> small = {"hidden_size": 32, "num_hidden_layers": 1}
    >>> bilens.training.TextRecipe(model=small, steps=100).learning_rate
    0.003
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int = setting(1024, "Tokens of a tokenizer trained here.")
    steps: int = setting(3000, "Optimiser steps.")
    batch_size: int = setting(32, "Blocks per step and process.")
    learning_rate: float = setting(3e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.1, "Weight decay of AdamW.")
    seed: int = setting(0, "Seed of every random choice.", min=0, max=2**32 - 1)

    def __post_init__(self) -> None:
        self.schedule({})  # refuses what no run could follow
        require_vocabulary(self.vocab_size)
        require("model", self.model, Table("a table of TransformerConfig's fields"))
        TransformerConfig(**self.model)  # refuses an unknown key before anything is read

    def schedule(self, options: Mapping[str, Any]) -> Schedule:
        """How long and how hard to train, with further TrainingArguments."""
        rates = (self.learning_rate, self.weight_decay)
        size, given = self.batch_size, dict(options)
        return Schedule(self.steps, size, *rates, self.seed, size, given, OF_TEXT)

    @property
    def tokens(self) -> int:
        """The tokens that one process trains on, counted as often as they are seen."""
        return (
            self.steps * self.batch_size * TransformerConfig(**self.model).max_position_embeddings
        )

    def said(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the file of a run with ``options`` says of its recipe."""
        recipe = {**asdict(self), "model": dict(self.model)}
        return {"recipe": recipe, "options": numbering(options)}

    def configure(self, tokenizer: PreTrainedTokenizerFast) -> TransformerConfig:
        """The model of this recipe for the tokens of ``tokenizer``."""
        given: dict[str, Any] = {"vocab_size": vocabulary_size(tokenizer)}
        given |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        return TransformerConfig(**(given | dict(self.model)))


def read_recipe(path: str | Path | None, **changes: Any) -> TextRecipe:
    """A recipe from a TOML file: a table ``[model]``, and the other fields at the top. None as a
    change leaves a field.

    Errors: FileError for a file that is missing or no TOML; ConfigError for an unknown key; what a
    value's own is, with the file's name, for a value that is wrong there.

    >>> bilens.training.read_recipe(None, steps=100).steps
    100
    """
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(_read_file(Path(path)) if path is not None else TextRecipe(), **given)


def _read_file(file: Path) -> TextRecipe:
    """The recipe that a file says. Every error names the file."""
    said = read_toml(file)
    known = sorted(part.name for part in fields(TextRecipe))
    Keys(each(known, Anything()), must=f"be one of {', '.join(known)}").check(said, f"{file}: ")
    with naming(file):
        return TextRecipe(**said)


def train_language(
    source: str,
    output: str | Path,
    how: TextRecipe,
    *,
    tokenizer: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    keep_all: bool = False,
    quiet: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Transformer:
    """Train a language model on ``source`` (see ``read_documents``) into folder ``output``,
    tokenizer and all.

    With ``resume`` a run that was killed goes on from its last complete checkpoint with the same
    losses to the last digit (on the same CPU and threads). ``options`` are further
    TrainingArguments (bf16, torch_compile, report_to). ``keep_all``: every checkpoint stays, not
    the last two alone. Losses in nats per token and in bits per
    byte end up in training.json.

    >>> how = bilens.training.TextRecipe(steps=100)
    >>> model = bilens.training.train_language("topics", "run", how)
    """
    output = Path(output)
    kept = tokenizer or (output if resume and (output / "tokenizer.json").is_file() else None)
    words = (
        load_tokenizer(kept)
        if kept
        else first_does(lambda: train_tokenizer(source, how.vocab_size))
    )
    set_seed(how.seed)
    config, schedule = how.configure(words), how.schedule(options or {})
    require_room(lambda n: Transformer(_with_layers(config, n)), config.num_hidden_layers)
    model = Transformer(config)
    schedule.require_options(model)
    schedule = replace(schedule, keep_all=keep_all)
    data = load_text(source, words, model.config.max_position_embeddings)
    about = {"data": data.name, "content": content(data.train.tokens, data.valid.tokens)}
    about |= how.said(options)
    with Run.claim(output, about, resume, save_every, schedule.interval) as run:
        first_does(lambda: save_tokenizer(words, output))
        run.train(model, Lesson(data.train, data.valid), schedule, quiet)
        model.tokenizer = words
        run.finish({"valid": evaluate_text(model, data.valid)})
    return model


def _with_layers(config: TransformerConfig, layers: int) -> TransformerConfig:
    changed = deepcopy(config)
    changed.num_hidden_layers = layers
    return changed


def evaluate_text(model: Transformer, blocks: Blocks, batch_size: int = 32) -> dict[str, float]:
    """The loss in nats per predicted token and in bits per byte of text, and the number of tokens
    predicted.

    >>> data = bilens.training.load_text("topics", model.tokenizer, 128)
    >>> some = bilens.training.Blocks(data.valid.tokens[:4], 1000)
    >>> sorted(bilens.training.evaluate_text(model, some))
    ['bits per byte', 'loss', 'tokens']
    """
    batches = DataLoader(blocks, batch_size, collate_fn=as_it_is)
    loss = text_loss(model, (batch["input_ids"] for batch in batches))
    predicted = len(blocks) * (blocks.tokens.shape[1] - 1)
    return {"loss": loss, "bits per byte": blocks.bits_per_byte(loss), "tokens": predicted}


@torch.no_grad()
def text_loss(model: Transformer, batches: Iterable[Int[Tensor, "_ t"]]) -> float:
    """Nats a predicted token, over all rows of ``batches``."""
    nats, count = 0.0, 0
    for batch in batches:
        ids = batch.to(model.device)
        loss = model(ids, labels=ids, use_cache=False).loss
        assert loss is not None
        nats, count = nats + float(loss) * len(ids), count + len(ids)
    return nats / count


def evaluate_text_on(model: Transformer, source: str) -> dict[str, float]:
    """``evaluate_text`` on the held-out part of ``source``, packed as in training: documents one
    after another with the tokenizer's end between them, and no BOS in front. Errors: ArgumentError
    for a model without a tokenizer."""
    return evaluate_text(model, _held_out(model, source, model.config.max_position_embeddings))


def held_out_ids(model: Transformer, source: str, tokens: int) -> HeldOut:
    """About the first ``tokens`` held-out tokens of ``source``, packed as in training, in texts of
    LENGTH tokens or what the model reads at most. Errors as in ``evaluate_text_on``.

    >>> bilens.training.held_out_ids(model, "topics", 1000).ids.ndim
    2
    """
    length = min(model.config.max_position_embeddings, LENGTH)
    blocks = _held_out(model, source, length)
    return HeldOut(source, blocks[: max(1, tokens // length)]["input_ids"])


def training_tokens(
    model: Transformer, source: str, tokens: int | None = None
) -> UInt[np.ndarray, "n length"]:
    """The training part of ``source``, or about its first ``tokens`` tokens, packed as in training,
    in texts of LENGTH tokens or what the model reads at most. Errors as in ``load_text``.

    >>> bilens.training.training_tokens(model, "topics", 1000).shape[1] <= 512
    True
    """
    length = min(model.config.max_position_embeddings, LENGTH)
    documents = split_documents(source).train
    found = pack(documents, tokenizer_of(model), length, f"the training text of {source}").tokens
    return found if tokens is None else found[: max(1, tokens // length)]


def _held_out(model: Transformer, source: str, length: int) -> Blocks:
    return held_out(source, tokenizer_of(model), length)
