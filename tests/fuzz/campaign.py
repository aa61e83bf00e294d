"""Mutated files at every door: each is refused by one line that names it, at once, with nothing
left behind, or works.

A worker process runs one case after another under a limit of memory; the parent waits for each
answer and no longer.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bilens.base.errors import BilensError
from tests.fuzz.artefacts import make_all
from tests.fuzz.doors import DOORS, Door, RefusedError
from tests.fuzz.mutations import mutate

SECONDS = 5.0  # for one case
BYTES = 2 * 2**30  # beyond what the worker holds at first
LONGEST = 1500  # characters of a message, the names of files included


class Fault(NamedTuple):
    """A case that was neither refused as it must be nor let in to work."""

    case: int
    door: str
    change: str
    what: str


@dataclass
class Outcome:
    refused: int = 0
    let_in: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.refused + self.let_in + len(self.faults)

    def table(self) -> str:
        kinds = Counter((fault.door, fault.what[:110]) for fault in self.faults)
        lines = [f"{count:4} × {door}: {what}" for (door, what), count in kinds.most_common()]
        head = f"{self.cases} cases: {self.refused} refused, {self.let_in} let in and used, "
        head += f"{len(self.faults)} faults"
        return "\n".join([head, *lines])


def run(cases: int, seed: int, first: int = 0) -> Outcome:
    """``cases`` mutated artefacts, the same for the same ``seed``; case n does not depend on those
    before it.
    """
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name)
        make_all(root / "sound")
        worker = _Worker(root, seed)
        for case in range(first, first + cases):
            _count(outcome, case, seed, worker.ask(case))
        worker.end()
    return outcome


def _count(outcome: Outcome, case: int, seed: int, answer: tuple[str, str, str]) -> None:
    kind, change, what = answer
    if kind == "fault":
        outcome.faults.append(Fault(case, _door(case, seed)[0].name, change, what))
    elif kind == "refused":
        outcome.refused += 1
    else:
        outcome.let_in += 1


def _door(case: int, seed: int) -> tuple[Door, random.Random]:
    rng = random.Random(f"{seed} {case}")
    return rng.choices(DOORS, [door.weight for door in DOORS])[0], rng


class _Worker:
    """A child that answers cases; started anew after one that it did not survive."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.start()

    def start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=_work, args=(theirs, self.root, self.seed), daemon=True
        )
        self.process.start()
        theirs.close()

    def ask(self, case: int) -> tuple[str, str, str]:
        self.pipe.send(case)
        try:
            if self.pipe.poll(SECONDS + 2):
                return self.pipe.recv()
            what = f"no answer in {SECONDS:.0f} s"
        except EOFError:
            what = "the process died"
        self.end()
        self.start()
        return "fault", "", what

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, root: Path, seed: int) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, held + BYTES))
    signal.signal(signal.SIGALRM, _too_slow)
    while True:
        case = pipe.recv()
        pipe.send(_answer(case, root, seed))


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS:.0f} s")


def _answer(case: int, root: Path, seed: int) -> tuple[str, str, str]:
    door, rng = _door(case, seed)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"case{case}-") as name:
        folder, output = Path(name) / "in", Path(name) / "output"
        shutil.copytree(root / "sound" / door.kind, folder)
        output.mkdir()
        change = mutate(folder, rng)
        before = _listing(folder)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            door.call(folder, output)
            kind, what = "let in", ""
        except (BilensError, RefusedError) as error:
            kind, what = "refused", str(error)
        except BaseException as error:  # everything else is what the campaign looks for
            kind, what = "fault", f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if kind == "refused" and (wrong := _wrong_with(what, name, folder, before)):
            kind, what = "fault", wrong
    return kind, change, what


def _wrong_with(message: str, name: str, folder: Path, before: dict[str, int]) -> str:
    """What a refusal lacks, or leaves behind."""
    if name not in message:
        return f"names no file: {message[:200]}"
    if "\n" in message or not message.isprintable():
        return f"is no safe single line: {message[:200]!r}"
    if len(message) > LONGEST:
        return f"is {len(message)} characters long: {message[:100]}"
    if _listing(folder) != before and "chunks" not in before:
        return "refused, and the folder was changed"
    return ""


def _listing(folder: Path) -> dict[str, int]:
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = path.lstat().st_size if not path.is_dir() else 0
    return found
