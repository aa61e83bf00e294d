"""One training run in one folder through Hugging Face ``Trainer``: logged, resumable, never
half-written.

output/training.json        the recipe, the data and the seed, written first; the results are added
                            at the end
output/log.jsonl            one line per logged step
output/checkpoints/         Trainer's checkpoints; one counts only with its ``complete``, which says
                            what every file holds
output/config.json, model.safetensors      the trained model, written last
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn
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

from bilens.base.errors import BilensError, ConfigError, FileError, Interrupted
from bilens.base.files import NEW, held, require_empty, saved_together, write_text, writing
from bilens.base.numerics import is_whole, require_finite
from bilens.base.reading import read_json_object
from bilens.models import hushed
from bilens.training.processes import first_does, on_cpu, processes

ABOUT = "training.json"
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
LOGGED_POINTS = 50  # how many log lines a run has, whatever its length
MOST = 2**31 - 1  # of anything that is counted
LAYER_BYTES = 2**15  # of Python's own for a layer, about
TO_RESUME = "What was saved before is whole: make room, and resume it."
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


def require_whole(who: str, value: object, least: int = 1, most: int = MOST) -> None:
    """Raise ConfigError unless ``value`` is a whole number from ``least`` to ``most``."""
    if not is_whole(value) or value < least:  # type: ignore[operator]
        raise ConfigError(who, must=f"be at least {least}, and a whole number", got=repr(value))
    if value > most:  # type: ignore[operator]
        raise ConfigError(who, must=f"be {least} … {most}", got=value)


def require_number(who: str, value: object) -> None:
    """Raise ConfigError unless ``value`` is a finite number of at least 0."""
    number = (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    )
    if not 0 <= number < float("inf"):
        raise ConfigError(who, must="be finite and ≥ 0", got=repr(value))


def require_flag(who: str, value: object) -> None:
    """Raise ConfigError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(who, must="be true or false", got=repr(value))


def require_room(build: Callable[[int], nn.Module], layers: int) -> None:
    """Raise ConfigError unless the weights of ``build(layers)`` fit into this machine's memory; it
    is not built for that.

    Layers are alike, so two of them tell the size of any number, on a device that holds nothing.
    """
    with torch.device("meta"):
        one, two = (sum(part.numel() for part in build(n).parameters()) for n in (1, 2))
    size = 4 * one + (layers - 1) * (4 * (two - one) + LAYER_BYTES)
    room = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    )
    if size > room:
        must = f"fit into the memory of this machine, {room / 2**30:.1f} GiB"
        raise ConfigError(
            "the model of this recipe", must=must, got=f"{size / 2**30:,.1f} GiB of weights"
        )


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

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            require_whole(name, getattr(self, name))
        for name in ("learning_rate", "weight_decay"):
            require_number(name, getattr(self, name))
        if not is_whole(self.seed) or not 0 <= self.seed < 2**32:
            raise ConfigError("seed", must="be 0 … 4294967295", got=repr(self.seed))

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
        for name, value in self.options.items():
            if name not in known:
                raise ConfigError(
                    f"option {name}", must="be one of TrainingArguments", got="an unknown one"
                )
            if name in decided:
                raise ConfigError(f"option {name}", must="be left to the recipe", got=repr(value))
        if self.options.get("gradient_checkpointing") and not model.supports_gradient_checkpointing:
            kind = type(model).__name__
            raise ConfigError(
                "option gradient_checkpointing", must=f"be left out for a {kind}", got="True"
            )
        smoothing = self.options.get("label_smoothing_factor", 0.0)
        require_number("option label_smoothing_factor", smoothing)
        if smoothing >= 1:
            raise ConfigError(
                "option label_smoothing_factor", must="be 0 … 1, without 1", got=smoothing
            )

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
            "warmup_steps": max(1, self.steps // 20),
            "logging_steps": _logging_steps(self.steps, save_every),
            "eval_strategy": "steps",
            "eval_steps": save_every,
            "save_strategy": "steps",
            "save_steps": save_every,
            "save_total_limit": 2,
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


def read_about(output: Path) -> dict[str, Any]:
    """What training.json says of a run; empty where there is none. Errors: FileError where it is
    damaged.
    """
    file = output / ABOUT
    if not file.is_file():
        return {}
    about = read_json_object(file)
    if not isinstance(about.get("data"), str) or not isinstance(about.get("recipe"), dict):
        raise FileError(
            str(file), must="say the data and the recipe of a run", got="something else"
        )
    return about


@dataclass(frozen=True)
class Run:
    """A run in a folder that is held for it: what it is, where it goes on from, and the steps
    between its checkpoints.
    """

    output: Path
    about: dict[str, Any]
    checkpoint: Path | None
    save_every: int | None

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Write ``figures`` beside what the run is; in one process of several."""
        whole = self.about | {"figures": figures}
        first_does(lambda: write_text(self.output / ABOUT, json.dumps(whole, indent=2) + "\n"))


@contextmanager
def claim(
    output: Path,
    about: dict[str, Any],
    resume: bool,
    save_every: int | None = None,
    default: int | None = None,
) -> Iterator[Run]:
    """Hold ``output`` for the run that ``about`` describes while the block lasts; of several
    processes the first does.

    A run that is refused before it has logged or saved anything leaves the folder as it was, or
    none. Errors: FileError for a folder in use, without ``resume`` for one that holds a run, and
    for one that another process is at work in; ConfigError where it was begun with something else;
    Interrupted for what Ctrl-C stops. ``save_every`` counts as such: data loaders draw random
    numbers for every evaluation, so the weights depend on it. None is what the run began with, at
    first ``default``.
    """
    if save_every is not None:
        require_whole("save_every", save_every)
    with ExitStack() as stack:
        fresh, run = first_does(lambda: _take(stack, output, about, resume, save_every, default))
        try:
            yield run
        except FileError:
            raise
        except Exception:
            if fresh and not _has_begun(output):
                first = processes().is_main_process
                _empty(output) if first else None
            raise
        except KeyboardInterrupt as stop:
            raise _interrupted(stop, f"{output} was stopped") from stop


def _take(
    stack: ExitStack,
    output: Path,
    about: dict[str, Any],
    resume: bool,
    save_every: int | None,
    default: int | None,
) -> tuple[bool, Run]:
    """Hold ``output`` until ``stack`` ends: whether it is a new run, and the run."""
    stack.enter_context(held(output))
    file = output / ABOUT
    begun = file.is_file()
    if not begun or not resume:
        must = NEW + (", or hold a run" if resume else "")
        todo = "Resume it to go on, or name another folder." if begun else "Name another folder."
        require_empty(output, must, todo)
        about = about | {"save_every": save_every or default}
        write_text(file, json.dumps(about, indent=2) + "\n")
        return True, Run(output, about, None, save_every or default)
    stored = read_about(output)
    every = stored.get("save_every") if save_every is None else save_every
    _require_same(stored, about | {"save_every": every}, output)
    if every is not None:
        require_whole(f"{file}: save_every", every)
    with writing(output):
        checkpoint = _last_complete(output / CHECKPOINTS)
    return False, Run(output, about | {"save_every": every}, checkpoint, every)


def _has_begun(output: Path) -> bool:
    """Whether a run has come to anything: a logged line, a checkpoint, activations."""
    log = output / LOG
    logged = log.is_file() and log.stat().st_size > 0
    return logged or any(
        any(output.glob(made)) for made in (f"{CHECKPOINTS}/*/*", "activations/chunk-*")
    )


def _empty(output: Path) -> None:
    """Remove what is in a folder that was empty when this process took it, and has been held since."""
    for left in output.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _interrupted(stop: KeyboardInterrupt, where: str) -> Interrupted:
    return Interrupted(stop.where if isinstance(stop, Interrupted) else where, resume=True)


def train(
    model: PreTrainedModel,
    train_data: Dataset,
    valid_data: Dataset,
    run: Run,
    schedule: Schedule,
    metrics: Any = None,
    quiet: bool = False,
    penalty: Callable[[Any, int], Tensor | None] | None = None,
) -> None:
    """Train ``model`` in place and write it to the run's folder. From a checkpoint it ends at the
    very same weights.

    ``penalty``, of the model and the step, is added to the training loss where it is not None.
    """
    save_every = run.save_every or schedule.interval
    with _possible(schedule):
        trainer = PenalisedTrainer(
            penalty,
            model=model,
            args=schedule.arguments(run.output, save_every, quiet),
            train_dataset=train_data,
            eval_dataset=valid_data,
            data_collator=_as_it_is,
            compute_metrics=metrics,
            callbacks=[MarkComplete()],
        )
    trainer.add_callback(first_does(lambda: JsonLog(run.output / LOG, _step(run.checkpoint))))
    # log.jsonl has the lines; the bar shows them where there is one
    trainer.remove_callback(PrinterCallback)
    if not quiet:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Bar())
    # Trainer would take one step more
    if run.checkpoint is not None and _step(run.checkpoint) >= schedule.steps:
        load_model(model, str(run.checkpoint / "model.safetensors"))
    else:
        _follow(trainer, run, schedule)
    model.eval()
    require_finite("the trained model", **dict(model.named_parameters()))
    first_does(lambda: save_model(model, run.output))


def _follow(trainer: Trainer, run: Run, schedule: Schedule) -> None:
    """All steps that are left."""
    try:
        with hushed(), writing(run.output, TO_RESUME):
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    except KeyboardInterrupt as stop:
        saved = _step(_newest(run.output / CHECKPOINTS))
        where = f"{run.output} stopped after step {trainer.state.global_step} of {schedule.steps}, saved up to step {saved}"
        raise Interrupted(where, resume=True) from stop
    except Exception as error:
        if trainer.state.global_step > _step(run.checkpoint) or isinstance(error, BilensError):
            raise
        _refuse(schedule, error)  # what the first step died of, an option asked for


@contextmanager
def _possible(schedule: Schedule) -> Iterator[None]:
    """One ConfigError for what Trainer cannot do: a reporter that is not installed, bf16 without a
    GPU.
    """
    try:
        yield
    except BilensError:
        raise
    except (ValueError, RuntimeError, ImportError, TypeError) as error:
        _refuse(schedule, error)


def _refuse(schedule: Schedule, error: Exception) -> NoReturn:
    given = {
        name: value
        for name, value in schedule.options.items()
        if value not in (False, None, "none")
    }
    if not given:
        raise error
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    raise ConfigError(
        f"Trainer with {asked}", must="be possible on this machine", got=error
    ) from error


class PenalisedTrainer(Trainer):
    """Trainer, with ``penalty(model, step)`` added to the loss of its training steps.

    Label smoothing is of the next token (Trainer itself smooths towards the token that was read,
    but for the classes that it knows by name), and of training alone: held-out losses stay nats per
    token. A loss is the mean of its own batch.
    """

    def __init__(self, penalty: Callable[[Any, int], Tensor | None] | None, **given: Any) -> None:
        super().__init__(**given)
        self.penalty = penalty
        self.label_smoother = None
        self.model_accepts_loss_kwargs = False  # no model here divides by a count that it is told

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        found: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = found
        if self.args.label_smoothing_factor:
            loss = smoothed_loss(
                outputs["logits"], inputs["labels"], self.args.label_smoothing_factor
            )
        if self.penalty is not None:
            extra = self.penalty(self.accelerator.unwrap_model(model), self.state.global_step)
            loss = loss if extra is None else loss + extra
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer's. torch says RuntimeError for a disk that is full, so in here that is what
        one means.
        """
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # out of memory, a device that failed
                raise
            must = "be writable to the end"
            raise FileError(
                str(self.args.output_dir), must=must, got=str(error), todo=TO_RESUME
            ) from error


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy against labels of which ``smoothing`` is spread over all classes (Szegedy
    et al., arXiv:1512.00567); of texts, (b, t, vocab) and (b, t), the next token is what is
    predicted."""
    if labels.ndim == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def accuracy_metric(prediction: EvalPrediction) -> dict[str, float]:
    """The fraction of right classes, for Trainer."""
    return {
        "accuracy": float(
            (np.asarray(prediction.predictions).argmax(-1) == prediction.label_ids).mean()
        )
    }


def save_model(model: PreTrainedModel, output: Path) -> None:
    """``save_pretrained`` into a temporary folder, then each file renamed into ``output``,
    config.json last.
    """
    with hushed(), saved_together(output, "config.json") as temporary:
        model.save_pretrained(temporary)


class JsonLog(TrainerCallback):
    """Every logged line as JSON in one file; on resuming, lines after the checkpoint are dropped
    first.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        self.path = path
        lines = (
            path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if path.is_file()
            else []
        )
        write_text(path, "".join(line for line in lines if 0 <= _logged_step(line) <= resumed_at))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if state.is_world_process_zero:
            with writing(self.path, TO_RESUME), self.path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"step": state.global_step} | (given.get("logs") or {})) + "\n"
                )


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all processes have written all of it, with what each file holds: a
    kill in the middle, and damage later, are seen."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        processes().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            with writing(checkpoint, TO_RESUME):
                plain = (checkpoint / "trainer_state.json").stat().st_mode
                for file in checkpoint.iterdir():
                    file.chmod(plain)  # safetensors lets no one else read what it wrote
                write_text(
                    checkpoint / COMPLETE, json.dumps(_contents(checkpoint), indent=2) + "\n"
                )


class Bar(ProgressCallback):
    """Trainer's progress bar, with tokens per second beside it where Trainer counts tokens."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        super().on_train_begin(args, state, control, **given)
        self.seen_before = state.num_input_tokens_seen  # by the run that is resumed

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        super().on_step_end(args, state, control, **given)
        bar: Any = self.training_bar
        seen = state.num_input_tokens_seen - self.seen_before
        if bar is not None and seen:
            bar.set_postfix_str(f"{seen / bar.format_dict['elapsed']:,.0f} tokens/s", refresh=False)


def _logging_steps(steps: int, save_every: int) -> int:
    """How often to log: a logged loss is the mean since the last line, so every checkpoint must
    fall on a line.
    """
    wanted = max(1, steps // LOGGED_POINTS)
    return next(n for n in range(min(wanted, save_every), 0, -1) if save_every % n == 0)


def _as_it_is(batch: Any) -> Any:
    """The data sets hand out whole batches, so there is nothing to collate."""
    return batch


def _logged_step(line: str) -> int:
    """The step of a line of the log; −1 for a torn or damaged one."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else -1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -1


def _checkpoints(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints, by step."""
    named = (
        place
        for place in folder.glob("checkpoint-*")
        if re.fullmatch("checkpoint-[0-9]+", place.name)
    )
    return sorted(
        (place for place in named if place.is_dir() and not place.is_symlink()), key=_step
    )


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that is marked complete."""
    return next(
        (place for place in reversed(_checkpoints(folder)) if (place / COMPLETE).is_file()), None
    )


def _last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are removed."""
    whole = None
    for checkpoint in _checkpoints(folder):
        if _is_whole(checkpoint):
            whole = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return whole


def _is_whole(checkpoint: Path) -> bool:
    """Marked complete, and every file holds what it held then."""
    try:
        marked = read_json_object(checkpoint / COMPLETE)
    except FileError:
        return False
    return "model.safetensors" in marked and marked == _contents(checkpoint)


def _contents(checkpoint: Path) -> dict[str, str]:
    """A digest of each file but the mark itself; about a second a GiB."""
    files = (
        file for file in sorted(checkpoint.iterdir()) if file.name != COMPLETE and file.is_file()
    )
    return {file.name: _digest(file) for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content(*arrays: np.ndarray) -> str:
    """A digest of data: shapes, dtypes and all entries. About a second a GiB."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _step(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _require_same(stored: dict[str, Any], about: dict[str, Any], output: Path) -> None:
    for key, value in about.items():
        if stored.get(key) != value:
            must = f"be what the run began with, {stored.get(key)!r}"
            raise ConfigError(
                f"{output}: {key}", must=must, got=repr(value), todo="Name another folder."
            )
