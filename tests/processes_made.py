"""Two processes of one command, as torchrun starts them: forked, so that none imports torch
anew. (One test of training goes through torchrun itself.)
"""

import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import bilens.cli

COUNT, SECONDS = 2, 200


class Done(NamedTuple):
    """What the processes said, one after another, and the exit status of each."""

    codes: tuple[int | None, ...]
    stdout: str
    stderr: str


def run_together(folder: Path, *arguments: object) -> Done:
    """``bilens`` with ``arguments`` in two processes of one run; what they print goes through
    files in ``folder``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(word) for word in arguments]
    context = multiprocessing.get_context("fork")
    files = [(folder / f"stdout-{rank}", folder / f"stderr-{rank}") for rank in range(COUNT)]
    started = [
        context.Process(target=_command, args=(rank, port, words, files[rank]))
        for rank in range(COUNT)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
        process.kill()
    out, err = ("".join(file.read_text() for file in side) for side in zip(*files, strict=True))
    return Done(tuple(process.exitcode for process in started), out, err)


def _command(rank: int, port: int, words: Sequence[str], files: tuple[Path, Path]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w"), line_buffering=True) for number in (1, 2)
    )
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "LOCAL_WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    for state in (PartialState, AcceleratorState, GradientState):
        state._shared_state.clear()  # of the process that this one was forked from
    sys.argv = ["bilens", *words]
    code = 1
    try:
        bilens.cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
