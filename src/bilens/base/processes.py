"""Processes of one's own, which know nothing of this one, and do not hear Ctrl-C."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from bilens.base.garbage import uncollected


class Started(NamedTuple):
    """A process, and the line to it."""

    process: BaseProcess
    line: Connection


# How OpenMP is told that a thread which waits for another sleeps: one that spins takes the core
# that the other needs where the machine has something else to do.
PATIENT = ("OMP_WAIT_POLICY", "PASSIVE")

_begun: dict[str, Started] = {}


def is_first() -> bool:
    """Whether this is the one of several processes of torchrun that speaks: all found the same."""
    return os.environ.get("RANK", "0") == "0"


def begin(module: str) -> None:
    """Start the process that the next ``started`` gives, and go on while it imports ``module``."""
    _begun[module] = _start(module)


def started(module: str) -> Started:
    """A process that runs ``work(line, what)`` of ``module``, ``what`` being what it is sent first.
    It ends with this one.
    """
    return _begun.pop(module, None) or _start(module)


def _start(module: str) -> Started:
    context = multiprocessing.get_context("spawn")
    line, far = context.Pipe()
    process = context.Process(target=_work, args=(far, module), daemon=True)
    with _uninterrupted(), _patient():
        process.start()
    far.close()
    return Started(process, line)


def _work(line: Connection, module: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uncollected():
        work = import_module(module).work
    try:
        what = line.recv()
    except EOFError:  # the other end is gone
        return
    work(line, what)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started in here does not hear Ctrl-C, which a terminal sends to all: it is for the
    one that ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signal, where it starts in here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _patient() -> Iterator[None]:
    """What is started in here has threads that sleep while they wait, unless someone said else."""
    name, value = PATIENT
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
