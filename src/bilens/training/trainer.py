"""Hugging Face ``Trainer`` as bilens uses it: a penalty on the loss, a log of JSON lines, and
checkpoints that say what they hold.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bilens.base.errors import FileError, NotFiniteError
from bilens.base.files import reason, write_text, writing
from bilens.training.checkpoints import COMPLETE, TO_RESUME, contents
from bilens.training.processes import processes


class PenalisedTrainer(Trainer):
    """Trainer, with ``penalty(model, step)`` added to the loss of its training steps, which is
    ``aim(outputs, inputs)`` where there is one.

    Label smoothing is of the next token (Trainer itself smooths towards the token that was read,
    but for the classes that it knows by name), and of training alone: held-out losses stay nats per
    token. A loss is the mean of its own batch.
    """

    def __init__(
        self,
        penalty: Callable[[Any, int], Tensor | None] | None,
        aim: Callable[[Any, Any], Tensor] | None = None,
        **given: Any,
    ) -> None:
        super().__init__(**given)
        self.penalty, self.aim = penalty, aim
        self.label_smoother = None
        self.model_accepts_loss_kwargs = False  # no model here divides by a count that it is told

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        found: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = found
        if self.aim is not None:
            loss = self.aim(outputs, inputs)
        elif smoothing := self.args.label_smoothing_factor:
            given = outputs["logits"], inputs["labels"]
            # what else the model's own loss holds stays in it: how unequal experts' shares are
            loss = loss - smoothed_loss(*given, 0.0) + smoothed_loss(*given, smoothing)
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
            must, got = "be writable to the end", _of_the_disk(error)
            raise FileError(
                str(self.args.output_dir), must=must, got=got, todo=TO_RESUME
            ) from error


def _of_the_disk(error: BaseException) -> str:
    """What the disk said where torch could not write, whose own words are of its archives."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return reason(cause)
        cause = cause.__cause__ or cause.__context__
    return "a file that broke off, as on a full disk"


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy against labels of which ``smoothing`` is spread over all classes (Szegedy
    et al., arXiv:1512.00567); of texts, (b, t, vocab) and (b, t), the next token is what is
    predicted."""
    if labels.ndim == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


class JsonLog(TrainerCallback):
    """Every logged line as JSON in one file; on resuming, lines after the checkpoint are dropped
    first. A loss that is not finite is the last: NotFiniteError, before anything is saved of it.
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
        logs = given.get("logs") or {}
        if state.is_world_process_zero:
            with writing(self.path, TO_RESUME), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step} | logs) + "\n")
        if not math.isfinite(loss := logs.get("loss", 0.0)):
            who, todo = f"the loss at step {state.global_step}", "Lower the learning rate."
            raise NotFiniteError(who, must="be finite", got=loss, todo=todo)


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
                write_text(checkpoint / COMPLETE, json.dumps(contents(checkpoint), indent=2) + "\n")


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


def _logged_step(line: str) -> int:
    """The step of a line of the log; −1 for a torn or damaged one."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else -1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -1
