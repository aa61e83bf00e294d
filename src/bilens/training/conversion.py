"""A language model made bilinear: its MLPs one after another by least squares, then all of it by
training.

output/training.json                what is converted, on which text and how, written first; the
                                    figures are added at the end
output/layers-N/layer-….safetensors the layers fitted on N tokens, each as soon as it stands, and
                                    until the end
output/log.jsonl, checkpoints/      those of the training, see ``run``
output/config.json, model.safetensors      the model, written last; a plain Llama where Llama has
                                    all of it
"""

import copy
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from bilens.base.errors import ConfigError
from bilens.base.fields import setting
from bilens.base.keys import MOST, Flag, Keys, Whole, require
from bilens.base.progress import Progress, require_progress
from bilens.models import (
    ConvertedLayer,
    Transformer,
    bilinear_frame,
    converted_layers,
    load,
)
from bilens.training.language import text_loss
from bilens.training.processes import first_does, processes
from bilens.training.run import Lesson, Run, content, content_of, read_about, save_model
from bilens.training.schedule import FIELDS as SCHEDULED
from bilens.training.schedule import OF_TEXT, Schedule, numbering
from bilens.training.text import Blocks, TextData, load_text
from bilens.training.tokenizer import save_tokenizer, tokenizer_of

FEWEST = 16_384  # tokens that are tried first
GAIN = 0.01  # nats a token: twice the tokens are tried while they bring as much
CHOOSING, MEASURING = 8, 32  # held-out texts on which is chosen, and on which is measured
BATCH = 4  # texts at a time
FIELDS = Keys(
    {**SCHEDULED.allowed, "length": Whole(1, MOST), "steps": Whole(0, MOST), "distil": Flag()}
)


@dataclass(frozen=True)
class ConversionRecipe:
    """How a language model is made bilinear: on how many tokens its layers are fitted, and how it
    is trained from there.

    >>> bilens.training.ConversionRecipe(steps=100, distil=True).batch_size
    8
    """

    tokens: int | None = setting(
        None, "Tokens that layers are fitted on (default: 16,384, doubled while it helps).", min=1
    )
    steps: int = setting(0, "Optimiser steps of training afterwards.", min=0)
    distil: bool = setting(False, "Train towards the original's logits, not towards the text.")
    length: int = setting(512, "Tokens of a text, at most the model's context.", min=2)
    batch_size: int = setting(8, "Texts per step and process.", min=1)
    learning_rate: float = setting(3e-4, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.0, "Weight decay of AdamW.")
    seed: int = setting(0, "Seed of every random choice.", min=0, max=2**32 - 1)

    def __post_init__(self) -> None:
        FIELDS.check_fields(self)
        if self.tokens is not None:
            require("tokens", self.tokens, Whole(1, MOST))

    def schedule(self, options: Mapping[str, Any]) -> Schedule:
        """How long and how hard to train, with further TrainingArguments."""
        rates = (self.learning_rate, self.weight_decay)
        size, given = self.batch_size, dict(options)
        return Schedule(self.steps, size, *rates, self.seed, size, given, OF_TEXT)


def make_bilinear(
    model: Transformer,
    source: str,
    output: str | Path,
    how: ConversionRecipe,
    *,
    resume: bool = False,
    save_every: int | None = None,
    quiet: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """``model`` with a bilinear MLP in the place of each of its own, in folder ``output``.

    First layer after layer by least squares on the training part of ``source`` (see
    ``models.converted_layers``); without ``how.tokens`` on 16,384 of them, then on twice as many as
    long as that brings .01 nats on held-out texts. Then ``how.steps`` of training. What it costs is
    measured on other held-out texts, before and after each stage, and with the layers up to each
    bilinear; it ends up in training.json. ``model`` stays as it is.

    With ``resume`` a conversion that was stopped goes on after its last layer or checkpoint.
    Several processes share the texts. Errors: ArgumentError for a model without a tokenizer,
    without MLPs, or with bilinear ones; FileError for a folder in use; ConfigError for ``resume``
    of another model's conversion, or with another text or recipe.

    >>> how = bilens.training.ConversionRecipe(steps=100)
    >>> gated = bilens.load("tinystories-2l-swiglu")
    >>> made = bilens.training.make_bilinear(gated, "topics", "run", how)
    """
    require_progress("progress", progress)
    output, plan = Path(output), how.schedule(options or {}) if how.steps else None
    made = bilinear_frame(model)
    if plan is not None:
        plan.require_options(made)
    data = _text(model, source, how.length)
    about = {"model": content_of(model), "data": data.name}
    about |= {"content": content(data.train.tokens, data.valid.tokens), "recipe": asdict(how)}
    about |= {"options": numbering(options)}
    default = None if plan is None else plan.interval
    with Run.claim(output, about, resume, save_every, default) as run:
        if "figures" not in read_about(output):  # else it was finished before
            model = model.eval()
            first_does(lambda: save_tokenizer(model.tokenizer, output))
            figures = _fit(model, made, data, run, how, progress)
            if plan is not None:
                # a copy, as the teacher goes to where the other is trained
                aim = partial(_divergence, copy.deepcopy(model)) if how.distil else None
                run.train(made, Lesson(data.train, data.valid, aim=aim), plan, quiet)
                figures["trained"] = text_loss(made, _held_out(data.valid)[1].split(BATCH))
            first_does(lambda: save_model(_plain(made), output))
            run.finish(figures)
        first_does(lambda: _clear(output))
    return load(output)


def _text(model: Transformer, source: str, length: int) -> TextData:
    length = min(length, model.config.max_position_embeddings)
    return load_text(source, tokenizer_of(model), length)


def _fit(
    model: Transformer,
    made: Transformer,
    data: TextData,
    run: Run,
    how: ConversionRecipe,
    progress: Progress | None,
) -> dict[str, Any]:
    """Put the best layers into ``made``: what they are, and what they cost."""
    length, every = data.train.tokens.shape[1], len(data.train)
    choosing, measuring = _held_out(data.valid)
    texts = min(every, max(1, (how.tokens or FEWEST) // length))
    layers = _layers(model, made, _spread(data.train, texts), choosing, run, progress)
    while how.tokens is None and 2 * texts <= every:
        more = _layers(model, made, _spread(data.train, 2 * texts), choosing, run, progress)
        if more[-1].loss > layers[-1].loss:
            break
        gain, layers, texts = layers[-1].loss - more[-1].loss, more, 2 * texts
        if gain < GAIN:
            break
    for layer, block in zip(layers, made.blocks, strict=True):
        layer.put(block)
    rows = [
        {"layer": n, "missed": layer.missed, "ridge": layer.ridge, "loss": layer.loss}
        for n, layer in enumerate(layers)
    ]
    return {
        "tokens fitted": texts * length,
        "tokens measured": measuring[:, 1:].numel(),
        "before": text_loss(model, measuring.split(BATCH)),
        "least squares": text_loss(made, measuring.split(BATCH)),
        "layers": rows,
    }


def _layers(
    model: Transformer,
    made: Transformer,
    texts: Int[Tensor, "n t"],
    others: Int[Tensor, "m t"],
    run: Run,
    progress: Progress | None,
) -> list[ConvertedLayer]:
    """All layers fitted on ``texts``; those that a run before saved are read."""
    every, folder = processes(), run.output / f"layers-{texts.numel()}"
    first_does(lambda: folder.mkdir(exist_ok=True))
    files = [folder / f"layer-{n:03}.safetensors" for n in range(len(made.blocks))]
    begin = first_does(lambda: sum(file.is_file() for file in files))
    for file, block in zip(files[:begin], made.blocks, strict=False):
        ConvertedLayer.load(file).put(block)
    if begin < len(files):
        own = texts[every.process_index :: every.num_processes]
        fitted = converted_layers(model, made, own, others, begin, _total)
        for file, layer in zip(files[begin:], fitted, strict=True):
            first_does(partial(layer.save, file))
            if progress is not None:
                told = {"nats": layer.loss}
                progress(files.index(file) + 1, len(files), told, f"layers, {texts.numel()} tokens")
    return [ConvertedLayer.load(file) for file in files]


def _total(own: Tensor) -> Tensor:
    """The sum over all processes."""
    return cast(Tensor, reduce(own, "sum"))


def _spread(blocks: Blocks, count: int) -> Int[Tensor, "n t"]:
    """``count`` of the texts, evenly over all of them."""
    at = torch.linspace(0, len(blocks) - 1, count, device="cpu").long().tolist()
    return blocks.__getitems__(at)["input_ids"]


def _held_out(blocks: Blocks) -> tuple[Int[Tensor, "n t"], Int[Tensor, "m t"]]:
    """Held-out texts to choose by, and others to measure on; the same where there is but one."""
    texts = _spread(blocks, min(len(blocks), 2 * MEASURING))
    return texts[::2][:CHOOSING], texts[1::2] if len(texts) > 1 else texts


def _divergence(teacher: Transformer, outputs: Any, inputs: Any) -> Float[Tensor, ""]:
    """KL of what ``outputs`` predict from what ``teacher`` predicts, in nats a token (Hinton et
    al., arXiv:1503.02531, at temperature 1).
    """
    logits = outputs["logits"]
    with torch.no_grad():
        wanted = teacher.to(logits.device)(inputs["input_ids"], use_cache=False).logits
    ours, theirs = (log_softmax(each.float().flatten(0, 1), -1) for each in (logits, wanted))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _plain(model: Transformer) -> Any:
    """A Llama, which stock transformers runs, where Llama has all of it."""
    with suppress(ConfigError):
        return model.to_llama()
    return model


def _clear(output: Path) -> None:
    for folder in output.glob("layers-*"):
        shutil.rmtree(folder, ignore_errors=True)
