"""One training run in one folder through Hugging Face ``Trainer``: logged, resumable, never
half-written.

output/training.json        the recipe, the data and the seed, written first; the results are added
                            at the end
output/log.jsonl            one line per logged step
output/checkpoints/         Trainer's checkpoints; one counts only with its ``complete``, which says
                            what every file holds
output/config.json, model.safetensors      the trained model, written last
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from safetensors.torch import load_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback

from bilens.base.chunks import fingerprint
from bilens.base.errors import BilensError, ConfigError, FileError, Interrupted
from bilens.base.files import Job, empty, saved_together, write_text, writing
from bilens.base.files import claim as claim_folder
from bilens.base.keys import MOST, Whole, require
from bilens.base.numerics import require_finite
from bilens.base.reading import read_json_object
from bilens.models import hushed
from bilens.training.checkpoints import TO_RESUME, last_complete, newest, step_of
from bilens.training.processes import first_does, processes
from bilens.training.schedule import CHECKPOINTS, Schedule

if TYPE_CHECKING:
    from transformers import Trainer

T = TypeVar("T")
ABOUT = "training.json"
LOG = "log.jsonl"


def read_about(output: Path) -> dict[str, Any]:
    """What training.json says of a run; empty where there is none. Errors: FileError where it is
    damaged.

    >>> from pathlib import Path
    >>> bilens.training.read_about(Path("no/such/run"))
    {}
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
class Lesson:
    """What a model is to learn: the data it is trained on and held against.

    ``metrics``: what Trainer reports of held-out predictions beside their loss. ``penalty``, of the
    model and the step, is added to the training loss where it is not None. ``aim``, of the model's
    outputs and its inputs, stands in the training loss's place.
    """

    train: Dataset
    valid: Dataset
    metrics: Callable[[Any], dict[str, float]] | None = None
    penalty: Callable[[Any, int], Tensor | None] | None = None
    aim: Callable[[Any, Any], Tensor] | None = None


@dataclass(frozen=True)
class Run:
    """A run in a folder that is held for it: what it is, where it goes on from, and the steps
    between its checkpoints.
    """

    output: Path
    about: dict[str, Any]
    checkpoint: Path | None
    save_every: int | None

    @classmethod
    @contextmanager
    def claim(
        cls,
        output: Path,
        about: dict[str, Any],
        resume: bool,
        save_every: int | None = None,
        default: int | None = None,
    ) -> "Iterator[Run]":
        """Hold ``output`` for the run that ``about`` describes while the block lasts; of several
        processes the first does.

        A run that is refused before it has logged or saved anything leaves the folder as it was, or
        none. Errors: FileError for a folder in use, without ``resume`` for one that holds a run,
        and for one that another process is at work in; ConfigError where it was begun with
        something else; Interrupted for what Ctrl-C stops. ``save_every`` counts as such: data
        loaders draw random numbers for every evaluation, so the weights depend on it. None is what
        the run began with, at first ``default``.
        """
        if save_every is not None:
            require("save_every", save_every, Whole(1, MOST))
        about = about | {"save_every": save_every}
        job = Job(ABOUT, about, {"save_every": default}, "the run", ConfigError)
        with ExitStack() as stack:
            fresh, run = first_does(lambda: _take(stack, output, job, resume))
            try:
                yield run
            except FileError:
                raise
            except Exception:
                if fresh and not _has_begun(output) and processes().is_main_process:
                    empty(output)  # as it was when this process took it
                raise
            except KeyboardInterrupt as stop:
                where = stop.where if isinstance(stop, Interrupted) else f"{output} was stopped"
                raise Interrupted(where, resume=True) from stop

    def train(
        self, model: PreTrainedModel, lesson: Lesson, schedule: Schedule, quiet: bool = False
    ) -> None:
        """Train ``model`` in place and write it to the folder. From a checkpoint it ends at the
        very same weights.
        """
        trainer = self._trainer(model, lesson, schedule, quiet)
        # Trainer would take one step more
        if self.checkpoint is not None and step_of(self.checkpoint) >= schedule.steps:
            load_model(model, str(self.checkpoint / "model.safetensors"))
        else:
            self._follow(trainer, schedule)
        model.eval()
        require_finite("the trained model", **dict(model.named_parameters()))
        first_does(lambda: save_model(model, self.output))

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Write ``figures`` beside what the run is; in one process of several."""
        whole = self.about | {"figures": figures}
        first_does(lambda: write_text(self.output / ABOUT, json.dumps(whole, indent=2) + "\n"))

    def _trainer(
        self, model: PreTrainedModel, lesson: Lesson, schedule: Schedule, quiet: bool
    ) -> "Trainer":
        # Trainer takes a second or more of start-up, which whoever only reads a run need not pay
        from bilens.training.trainer import Bar, JsonLog, MarkComplete, PenalisedTrainer

        every = self.save_every or schedule.interval
        with _possible(schedule):
            trainer = PenalisedTrainer(
                lesson.penalty,
                lesson.aim,
                model=model,
                args=schedule.arguments(self.output, every, quiet),
                train_dataset=lesson.train,
                eval_dataset=lesson.valid,
                data_collator=as_it_is,
                compute_metrics=lesson.metrics,
                callbacks=[MarkComplete()],
            )
        log = first_does(lambda: JsonLog(self.output / LOG, step_of(self.checkpoint)))
        trainer.add_callback(log)
        # log.jsonl has the lines; the bar shows them where there is one
        trainer.remove_callback(PrinterCallback)
        if not quiet:
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(Bar())
        return trainer

    def _follow(self, trainer: "Trainer", schedule: Schedule) -> None:
        """All steps that are left."""
        begun = step_of(self.checkpoint)
        try:
            with hushed(), writing(self.output, TO_RESUME):
                trainer.train(
                    resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None
                )
        except KeyboardInterrupt as stop:
            saved = step_of(newest(self.output / CHECKPOINTS))
            step = max(begun, trainer.state.global_step)  # it may not have read the checkpoint yet
            reached = f"step {step} of {schedule.steps}"
            where = f"{self.output} stopped after {reached}, saved up to step {saved}"
            raise Interrupted(where, resume=True) from stop
        except Exception as error:
            if trainer.state.global_step > begun or isinstance(error, BilensError):
                raise
            _refuse(schedule, error)  # what the first step died of, an option asked for


def save_model(model: PreTrainedModel, output: Path) -> None:
    """``save_pretrained`` into a temporary folder, then each file renamed into ``output``,
    config.json last.
    """
    with hushed(), saved_together(output, "config.json") as temporary:
        model.save_pretrained(temporary)


def content_of(model: PreTrainedModel) -> str:
    """A digest of the weights of ``model``."""
    return fingerprint(**dict(model.named_parameters()))


def content(*arrays: np.ndarray) -> str:
    """A digest of data: shapes, dtypes and all entries. About a second a GiB."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _take(stack: ExitStack, output: Path, job: Job, resume: bool) -> tuple[bool, Run]:
    """Hold ``output`` until ``stack`` ends: whether it is a new run, and the run."""
    if resume:
        read_about(output)  # refuses what no run wrote
    fresh, about = stack.enter_context(claim_folder(output, job, resume))
    every = about["save_every"]
    if every is not None:
        require(f"{output / ABOUT}: save_every", every, Whole(1, MOST))
    with writing(output):
        checkpoint = None if fresh else last_complete(output / CHECKPOINTS)
    return fresh, Run(output, about, checkpoint, every)


def as_it_is(batch: T) -> T:
    """How batches are collated: the data sets hand out whole ones."""
    return batch


def _has_begun(output: Path) -> bool:
    """Whether a run has come to anything: a logged line, a checkpoint, activations."""
    log = output / LOG
    logged = log.is_file() and log.stat().st_size > 0
    return logged or any(
        any(output.glob(made))
        for made in (f"{CHECKPOINTS}/*/*", "activations/chunk-*", "layers-*/*")
    )


@contextmanager
def _possible(schedule: Schedule) -> Iterator[None]:
    """One ConfigError for what Trainer cannot do: a reporter that is not installed, bf16 without a
    GPU.
    """
    try:
        yield
    except BilensError:
        raise
    except Exception as error:  # of whatever kind its parts and their libraries raise
        _refuse(schedule, error)


def _refuse(schedule: Schedule, error: Exception) -> NoReturn:
    given = {
        name: value
        for name, value in schedule.options.items()
        if not (value is None or value is False or value == "none")
    }
    if not given:
        raise error
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    raise ConfigError(
        f"Trainer with {asked}", must="be possible on this machine", got=error
    ) from error
