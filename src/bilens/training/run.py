"""One training run in one folder through Hugging Face ``Trainer``: logged, resumable, never half-written.

output/training.json        the recipe, the data and the seed, written first; the results are added at the end
output/log.jsonl            one line per logged step
output/checkpoints/         Trainer's checkpoints; one counts only once its ``complete`` mark is written
output/config.json, model.safetensors      the trained model, written last
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bilens.base.errors import ConfigError, FileError
from bilens.base.files import write_text
from bilens.base.numerics import require_finite
from bilens.models import hushed
from bilens.training.processes import first_does, on_cpu, processes

ABOUT = "training.json"
COMPLETE = "complete"
SAVING = ".saving-"
LOGGED_POINTS = 50  # how many log lines a run has, whatever its length


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train: AdamW with a linear warm-up over the first 5 % and a cosine down to zero."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    eval_batch_size: int = 2048
    options: Mapping[str, Any] = field(default_factory=dict)  # further TrainingArguments

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(name, must="be at least 1", got=getattr(self, name))
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(name, must="be finite and ≥ 0", got=getattr(self, name))
        if not 0 <= self.seed < 2**32:
            raise ConfigError("seed", must="be 0 … 4294967295", got=self.seed)


def read_about(output: Path) -> dict[str, Any]:
    """What training.json says of a run; empty where there is none. Errors: FileError where it is damaged."""
    file = output / ABOUT
    if not file.is_file():
        return {}
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(str(file), must="be readable JSON", got=str(error)) from error
    if not isinstance(about, dict) or not isinstance(about.get("data"), str) or not isinstance(about.get("recipe"), dict):
        raise FileError(str(file), must="say the data and the recipe of a run", got="something else")
    return about


def claim(output: Path, about: dict[str, Any], resume: bool) -> Path | None:
    """Take ``output`` for a run described by ``about``: the checkpoint to resume from, or None to start afresh.

    Errors: FileError for a folder in use without ``resume``; ConfigError where it was begun with another recipe.
    """
    file = output / ABOUT
    used = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if used and not (resume and file.is_file()):
        can_resume = not resume and file.is_file()
        todo = "Pass --resume to go on, or name another --output." if can_resume else "Name another --output."
        must = "be a new or empty folder" + (", or hold a run" if resume else "")
        raise FileError(str(output), must=must, got="other files" if resume else "files", todo=todo)
    if not used:
        write_text(file, json.dumps(about, indent=2) + "\n")
        return None
    _require_same(read_about(output), about, output)
    return _last_complete(output / "checkpoints")


def train(
    model: PreTrainedModel,
    train_data: Dataset,
    valid_data: Dataset,
    output: Path,
    schedule: Schedule,
    checkpoint: Path | None,
    metrics: Any = None,
    save_every: int | None = None,
    quiet: bool = False,
    penalty: Callable[[Any, int], Tensor | None] | None = None,
) -> None:
    """Train ``model`` in place and write it to ``output``. From ``checkpoint`` it ends at the very same weights.

    ``penalty``, of the model and the step, is added to the training loss where it is not None.
    """
    save_every = save_every or max(1, schedule.steps // 10)
    options: dict[str, Any] = {"report_to": "none"} | dict(schedule.options)
    log = first_does(lambda: JsonLog(output / "log.jsonl", _step(checkpoint)))
    try:
        arguments = TrainingArguments(
            output_dir=str(output / "checkpoints"),
            max_steps=schedule.steps,
            per_device_train_batch_size=schedule.batch_size,
            per_device_eval_batch_size=schedule.eval_batch_size,
            learning_rate=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, schedule.steps // 20),
            logging_steps=_logging_steps(schedule.steps, save_every),
            eval_strategy="steps",
            eval_steps=save_every,
            save_strategy="steps",
            save_steps=save_every,
            save_total_limit=2,
            seed=schedule.seed,
            use_cpu=on_cpu(),
            ddp_find_unused_parameters=False,
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=quiet,
            **options,
        )
        trainer = PenalisedTrainer(
            penalty,
            model=model,
            args=arguments,
            train_dataset=train_data,
            eval_dataset=valid_data,
            data_collator=_as_it_is,
            compute_metrics=metrics,
            callbacks=[log, MarkComplete()],
        )
    except (
        ValueError,
        RuntimeError,
        ImportError,
        TypeError,
    ) as error:  # a reporter that is not installed, bf16 without a GPU
        asked = ", ".join(f"{name}={value!r}" for name, value in schedule.options.items())
        raise ConfigError(f"Trainer with {asked}", must="be possible on this machine", got=error) from error
    trainer.remove_callback(PrinterCallback)  # log.jsonl has the lines; the bar shows them where there is one
    if not quiet:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Bar())
    if checkpoint is not None and _step(checkpoint) >= schedule.steps:  # Trainer would take one step more
        load_model(model, str(checkpoint / "model.safetensors"))
    else:
        with hushed(), _writing(output):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    require_finite("the trained model", **dict(model.named_parameters()))
    first_does(lambda: save_model(model, output))


class PenalisedTrainer(Trainer):
    """Trainer, with ``penalty(model, step)`` added to the loss of its training steps."""

    def __init__(self, penalty: Callable[[Any, int], Tensor | None] | None, **given: Any) -> None:
        super().__init__(**given)
        self.penalty = penalty

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        if not model.training or self.penalty is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss: Any = super().compute_loss(model, inputs, False, num_items_in_batch)
        extra = self.penalty(self.accelerator.unwrap_model(model), self.state.global_step)
        return loss if extra is None else loss + extra


def accuracy_metric(prediction: EvalPrediction) -> dict[str, float]:
    """The fraction of right classes, for Trainer."""
    return {"accuracy": float((np.asarray(prediction.predictions).argmax(-1) == prediction.label_ids).mean())}


def save_model(model: PreTrainedModel, output: Path) -> None:
    """``save_pretrained`` into a temporary folder, then each file renamed into ``output``, config.json last."""
    output.mkdir(parents=True, exist_ok=True)
    for left in output.glob(f"{SAVING}*"):  # by a save that was killed
        shutil.rmtree(left)
    with hushed(), _writing(output), tempfile.TemporaryDirectory(dir=output, prefix=SAVING) as temporary:
        model.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, output / file.name)


class JsonLog(TrainerCallback):
    """Every logged line as JSON in one file; on resuming, lines after the checkpoint are dropped first."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
        write_text(path, "".join(line for line in lines if 0 <= _logged_step(line) <= resumed_at))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step} | (given.get("logs") or {})) + "\n")


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all processes have written all of it, so that a kill in the middle is seen."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        processes().wait_for_everyone()
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class Bar(ProgressCallback):
    """Trainer's progress bar, with tokens per second beside it where Trainer counts tokens."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        super().on_train_begin(args, state, control, **given)
        self.seen_before = state.num_input_tokens_seen  # by the run that is resumed

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        super().on_step_end(args, state, control, **given)
        bar: Any = self.training_bar
        seen = state.num_input_tokens_seen - self.seen_before
        if bar is not None and seen:
            bar.set_postfix_str(f"{seen / bar.format_dict['elapsed']:,.0f} tokens/s", refresh=False)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """One FileError for a disk that is full while a checkpoint or a model is written; what was whole before still is."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        todo = "What was saved before is whole: make room, and pass --resume."
        raise FileError(str(output), must="be writable to the end", got=str(error), todo=todo) from error


def _logging_steps(steps: int, save_every: int) -> int:
    """How often to log: a logged loss is the mean since the last line, so every checkpoint must fall on a line."""
    wanted = max(1, steps // LOGGED_POINTS)
    return next(n for n in range(min(wanted, save_every), 0, -1) if save_every % n == 0)


def _as_it_is(batch: Any) -> Any:
    """The data sets hand out whole batches, so there is nothing to collate."""
    return batch


def _logged_step(line: str) -> int:
    """The step of a line of the log; −1 for a torn or damaged one."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1


def _last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are removed."""
    whole = None
    for checkpoint in sorted(folder.glob("checkpoint-[0-9]*"), key=_step):
        if _is_whole(checkpoint):
            whole = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return whole


def _is_whole(checkpoint: Path) -> bool:
    """Marked complete, with weights that can be opened."""
    try:
        with safe_open(checkpoint / "model.safetensors", framework="pt"):
            return (checkpoint / COMPLETE).is_file()
    except (OSError, SafetensorError):
        return False


def _step(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _require_same(stored: dict[str, Any], about: dict[str, Any], output: Path) -> None:
    for key, value in about.items():
        if stored.get(key) != value:
            raise ConfigError(
                f"--resume of {output}: {key}", must=f"be what the run began with, {stored.get(key)!r}", got=repr(value)
            )
