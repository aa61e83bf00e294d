"""Several processes, one run: what the first of them does alone, and all must hear of."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from bilens.base.errors import BilensError
from bilens.decompose import Share

T = TypeVar("T")


def on_cpu() -> bool:
    """Whether there is nothing but a CPU to train on."""
    return not torch.accelerator.is_available()


def processes() -> PartialState:
    """The processes of this run: those that torchrun or accelerate started, or this one alone."""
    return PartialState(cpu=on_cpu())


def first_does(act: Callable[[], T]) -> T:
    """What ``act`` gives in the first process, handed to all of them; what it refuses is refused in
    all.

    All processes wait here, so what ``act`` has written is there for every one.
    """
    told: list[Any] = [None, None]
    if processes().is_main_process:
        try:
            told[0] = act()
        except BilensError as error:
            told[1] = error
    broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


@contextmanager
def shared(folder: Path | None) -> Iterator[tuple[Share | None, Path | None]]:
    """Which part of the work this process does, and a folder in which all meet.

    One process alone does all of it, in ``folder``, and needs none. For several a folder that
    nobody named is made, and removed in the end.

    >>> with bilens.training.shared(None) as (share, folder): print(share, folder)
    None None
    """
    every = processes()
    if every.num_processes == 1:
        yield None, folder
        return
    meeting = folder or Path(first_does(lambda: tempfile.mkdtemp(prefix="bilens-")))
    try:
        yield Share(every.process_index, every.num_processes, every.wait_for_everyone), meeting
        every.wait_for_everyone()  # until all have read what the others made
    finally:
        if folder is None and every.is_main_process:
            shutil.rmtree(meeting, ignore_errors=True)
