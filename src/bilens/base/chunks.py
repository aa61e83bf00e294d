"""Records that are made in chunks, written down one by one: a killed run goes on, and several
processes share one folder.

folder/about.json                what is computed; another computation is refused
folder/chunk-00000256.safetensors    one finished chunk, by the number of what comes first in it
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens.base.errors import ArgumentError, FileError, Interrupted
from bilens.base.files import NEW, held, require_empty, write_text
from bilens.base.reading import read_json
from bilens.base.records import Record

ABOUT = "about.json"


@dataclass(frozen=True)
class Share:
    """Which process this is ``of`` how many, and how to wait until all have come so far."""

    process: int
    of: int
    wait: Callable[[], Any]

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.of:
            raise ArgumentError("Share.process", must=f"be 0 … {self.of - 1}", got=self.process)


def write_chunks(
    folder: Path,
    about: dict[str, Any],
    starts: Sequence[int],
    make: Callable[[int], Record],
    done: Callable[[], Any],
    share: Share | None = None,
) -> list[Path]:
    """A file with ``make(start)`` for each of ``starts``, in that order; what is in ``folder``
    already is not made again.

    With a ``share`` each process makes every ``share.of``-th chunk, and waits for the others. The
    folder is held meanwhile: by the first process for all that share the work. Errors: FileError
    for a folder that holds something else or that others are at work in, or where a chunk cannot be
    written; Interrupted, which says how far it came.
    """
    files = [folder / f"chunk-{start:08}.safetensors" for start in starts]
    with _claimed(folder, about, share):
        try:
            for n, (start, file) in enumerate(zip(starts, files, strict=True)):
                if share is None or n % share.of == share.process:
                    if not file.is_file():
                        make(start).save(file)
                    done()
        except KeyboardInterrupt as stop:
            made = sum(file.is_file() for file in files)
            raise Interrupted(f"{folder} stopped with {made} of {len(files)} chunks done") from stop
        if share is not None:
            share.wait()
    return files


def fingerprint(**tensors: Tensor) -> str:
    """A digest of names, shapes, dtypes and all bytes of ``tensors``; about a second a GiB."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for row in tensor.detach().reshape(1, -1) if tensor.ndim < 2 else tensor.detach():
            digest.update(row.contiguous().cpu().double().numpy().data)
    return digest.hexdigest()


@contextmanager
def _claimed(folder: Path, about: dict[str, Any], share: Share | None) -> Iterator[None]:
    """Hold an empty folder, or one that says the same. Of several processes the first does, and the
    others wait for it.
    """
    with ExitStack() as stack:
        if share is not None and share.process > 0:
            share.wait()
            _require_same(folder / ABOUT, about)
        else:
            try:
                stack.enter_context(held(folder))
                _begin(folder, about)
            finally:
                if share is not None:
                    share.wait()
        yield


def _begin(folder: Path, about: dict[str, Any]) -> None:
    file = folder / ABOUT
    if file.is_file():
        _require_same(file, about)
    else:
        require_empty(folder, f"{NEW}, or hold this very computation")
        write_text(file, json.dumps(about, indent=2) + "\n")


def _require_same(file: Path, about: dict[str, Any]) -> None:
    stored = read_json(file)
    for key, value in about.items():
        if not isinstance(stored, dict) or stored.get(key) != value:
            was = stored.get(key) if isinstance(stored, dict) else stored
            todo = "Name another folder."
            raise FileError(
                f"{file}: {key}",
                must=f"be what was begun with, {was!r}",
                got=repr(value),
                todo=todo,
            )
