"""Several processes, one run: what the first of them does alone, and all must hear of."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from bilens.base.errors import BilensError

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
