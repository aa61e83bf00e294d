"""Commands in processes of their own: forked, so that none imports torch anew."""

import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import bilens.cli

COUNT, SECONDS = 2, 200
_fork = multiprocessing.get_context("fork")


class Done(NamedTuple):
    """What the processes said, one after another, and the exit status of each."""

    codes: tuple[int | None, ...]
    stdout: str
    stderr: str


class Begun(NamedTuple):
    """A command that runs, the leader of a group of processes, and the files it writes to."""

    process: ForkProcess
    stdout: Path
    stderr: Path


def begin(folder: Path, *arguments: object) -> Begun:
    """``bilens`` with ``arguments``, which goes on by itself."""
    made = Begun(_process(_alone, folder, arguments), *_files(folder, 0))
    made.process.start()
    return made


def run_together(folder: Path, *arguments: object) -> Done:
    """``bilens`` with ``arguments`` in two processes of one run, as torchrun starts them; what they
    print goes through files in ``folder``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [_process(_one_of_two, folder, rank, arguments, port) for rank in range(COUNT)]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
        process.kill()
    return _done(folder, (process.exitcode for process in started))


def run_by_torchrun(folder: Path, *arguments: object) -> Done:
    """The same by torchrun's own agent, which may take a second or two more."""
    how = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=COUNT, start_method="fork", max_restarts=0,
        run_id=folder.name, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
    )  # fmt: skip
    codes = elastic_launch(how, _by_agent)(folder, arguments)
    return _done(folder, codes.values())


def _files(folder: Path, rank: int) -> tuple[Path, Path]:
    return folder / f"stdout-{rank}", folder / f"stderr-{rank}"


def _done(folder: Path, codes: Iterable[int | None]) -> Done:
    files = zip(*(_files(folder, rank) for rank in range(COUNT)), strict=True)
    out, err = ("".join(file.read_text() for file in side) for side in files)
    return Done(tuple(codes), out, err)


def _process(start: Callable[..., None], *given: object) -> ForkProcess:
    return _fork.Process(target=start, args=given)


def _alone(folder: Path, words: Sequence[object]) -> None:
    os.setsid()
    os._exit(_command(folder, 0, words))


def _one_of_two(folder: Path, rank: int, words: Sequence[object], port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "LOCAL_WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os._exit(_command(folder, rank, words))


def _by_agent(folder: Path, words: Sequence[object]) -> int:
    return _command(folder, int(os.environ["RANK"]), words)


def _command(folder: Path, rank: int, words: Sequence[object]) -> int:
    for number, file in enumerate(_files(folder, rank), start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w"), line_buffering=True) for number in (1, 2)
    )
    torch.set_num_threads(1)
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()  # of the process that this one was forked from
    sys.argv = ["bilens", *map(str, words)]
    try:
        bilens.cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
