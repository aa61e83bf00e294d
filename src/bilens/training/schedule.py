"""How long and how hard to train: what Trainer is told, and what it may be told beside."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from bilens.base.errors import ConfigError
from bilens.base.keys import MOST, Allowed, Anything, Between, Keys, Number, Whole, each
from bilens.training.processes import on_cpu

CHECKPOINTS = "checkpoints"
REPORTING = ("report_to", "disable_tqdm", "logging_dir", "run_name")  # options no number hangs on
# TrainingArguments that go with a language model
OF_TEXT = {"include_num_input_tokens_seen": "all", "prediction_loss_only": True}
LOGGED_POINTS = 50  # how many log lines a run has, whatever its length
LAYER_BYTES = 2**15  # of Python's own for a layer, about
# TrainingArguments that nobody would read: the recipe decides, or they are for scripts around
# Trainer.
UNREAD = (
    "num_train_epochs",
    "warmup_ratio",
    "do_train",
    "do_eval",
    "do_predict",
    "resume_from_checkpoint",
    "save_only_model",  # nothing to resume from
)


def require_room(build: Callable[[int], nn.Module], layers: int) -> None:
    """Raise ConfigError unless the weights of ``build(layers)`` fit into this machine's memory; it
    is not built for that.

    Layers are alike, so two of them tell the size of any number, on a device that holds nothing.
    """
    with torch.device("meta"):
        one, two = (sum(part.numel() for part in build(n).parameters()) for n in (1, 2))
    size = 4 * one + (layers - 1) * (4 * (two - one) + LAYER_BYTES)
    require_memory("the model of this recipe", size)


def require_memory(who: str, size: int) -> None:
    """Raise ConfigError unless ``size`` bytes of weights fit into this machine's memory."""
    room = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    )
    if size > room:
        must = f"fit into the memory of this machine, {room / 2**30:.1f} GiB"
        raise ConfigError(who, must=must, got=f"{size / 2**30:,.1f} GiB of weights")


FIELDS = Keys(
    {
        **each(("steps", "batch_size"), Whole(1, MOST)),
        **each(("learning_rate", "weight_decay"), Number(least=0)),
        "seed": Between(0, 2**32 - 1),
    }
)


@dataclass(frozen=True)
class Decided(Allowed):
    """What the recipe decides: no option."""

    def allows(self, value: Any) -> bool:
        return False

    def must(self, value: Any) -> str:
        return "be left to the recipe"


@dataclass(frozen=True)
class Lacking(Allowed):
    """What a kind of model cannot do: no more than switched off."""

    kind: str

    def allows(self, value: Any) -> bool:
        return not value

    def must(self, value: Any) -> str:
        return f"be left out for a {self.kind}"


def numbering(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of a run's further options that its numbers may hang on (bf16, torch_compile), as its
    file says them: all that are on or are switched off though they are on by default, but for
    where it reports to.
    """
    default = {part.name: part.default for part in dataclasses.fields(TrainingArguments)}
    return {
        key: value if isinstance(value, bool | int | float | str) else repr(value)
        for key, value in (options or {}).items()
        if key not in REPORTING and (value or value != default.get(key))
    }


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train: AdamW with a linear warm-up over the first 5 % and a cosine
    down to zero.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    eval_batch_size: int = 2048
    options: Mapping[str, Any] = field(default_factory=dict)  # further TrainingArguments
    # TrainingArguments that go with the kind of model
    fixed: Mapping[str, Any] = field(default_factory=dict)
    keep_all: bool = False  # every checkpoint, not the last two: what ``bilens.diff`` reads

    def __post_init__(self) -> None:
        FIELDS.check_fields(self)

    @property
    def interval(self) -> int:
        """Steps between checkpoints where nobody says: a tenth of the run."""
        return max(1, self.steps // 10)

    def arguments(self, output: Path, save_every: int, quiet: bool) -> TrainingArguments:
        """What Trainer is told. Errors: whatever TrainingArguments raises for an option it cannot
        follow.
        """
        return TrainingArguments(**self._settled(output, save_every, quiet) | dict(self.options))

    def require_options(self, model: PreTrainedModel) -> None:
        """Raise ConfigError for an option that Trainer does not know, that the recipe decides, or
        that ``model`` lacks.
        """
        known = {part.name for part in dataclasses.fields(TrainingArguments) if part.init}
        decided = {*self._settled(Path(), 1, True), *UNREAD} - {"report_to"}
        options = each(known, Anything()) | each(decided, Decided())
        options |= {"label_smoothing_factor": Number(0, below=1)}
        if not model.supports_gradient_checkpointing:
            options |= {"gradient_checkpointing": Lacking(type(model).__name__)}
        Keys(options, must="be one of TrainingArguments").check(self.options, "option ")

    def _settled(self, output: Path, save_every: int, quiet: bool) -> dict[str, Any]:
        """The TrainingArguments that are the recipe's and this module's."""
        return {
            "output_dir": str(output / CHECKPOINTS),
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.eval_batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "lr_scheduler_type": "cosine",
            # at the first step the rate is 0, which may not be the only one
            "warmup_steps": min(self.steps - 1, max(1, self.steps // 20)),
            "logging_steps": logging_steps(self.steps, save_every),
            "logging_nan_inf_filter": False,  # it would log 0 for what diverged
            "eval_strategy": "steps",
            "eval_steps": save_every,
            "save_strategy": "steps",
            "save_steps": save_every,
            "save_total_limit": None if self.keep_all else 2,
            "seed": self.seed,
            "use_cpu": on_cpu(),
            "ddp_find_unused_parameters": False,
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "dataloader_pin_memory": torch.cuda.is_available(),
            "disable_tqdm": quiet,
            "report_to": "none",
            **self.fixed,
        }


def logging_steps(steps: int, save_every: int) -> int:
    """How often to log: a logged loss is the mean since the last line, so every checkpoint must
    fall on a line.
    """
    wanted = max(1, steps // LOGGED_POINTS)
    return next(n for n in range(min(wanted, save_every), 0, -1) if save_every % n == 0)
