"""Records that are made in chunks, written down one by one: a killed run goes on, and several processes share one folder.

folder/about.json                what is computed; another computation is refused
folder/chunk-00000256.safetensors    one finished chunk, by the number of what comes first in it
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens.base.errors import ArgumentError, FileError
from bilens.base.files import write_text
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
    """A file with ``make(start)`` for each of ``starts``, in that order; what is in ``folder`` already is not made again.

    With a ``share`` each process makes every ``share.of``-th chunk, and waits for the others.
    Errors: FileError for a folder that holds something else, or where a chunk cannot be written.
    """
    _claim(folder, about, share)
    files = [folder / f"chunk-{start:08}.safetensors" for start in starts]
    for n, (start, file) in enumerate(zip(starts, files, strict=True)):
        if share is None or n % share.of == share.process:
            if not file.is_file():
                make(start).save(file)
            done()
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


def _claim(folder: Path, about: dict[str, Any], share: Share | None) -> None:
    """Take an empty folder, or go on with one that says the same."""
    file = folder / ABOUT
    if share is not None and share.process > 0:
        share.wait()
    try:
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise FileError(str(folder), must="be a new or empty folder, or hold this very computation", got="files")
            write_text(file, json.dumps(about, indent=2) + "\n")
        _require_same(file, about)
    finally:
        if share is not None and share.process == 0:
            share.wait()


def _require_same(file: Path, about: dict[str, Any]) -> None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(str(file), must="be readable JSON", got=str(error), todo="Name another folder.") from error
    for key, value in about.items():
        if not isinstance(stored, dict) or stored.get(key) != value:
            was = stored.get(key) if isinstance(stored, dict) else stored
            todo = "Name another folder."
            raise FileError(f"{file}: {key}", must=f"be what was begun with, {was!r}", got=repr(value), todo=todo)
