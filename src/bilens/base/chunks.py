"""Records that are made in chunks, written down one by one: a killed run goes on, and several
processes share one folder.

folder/about.json                what is computed; another computation is refused
folder/chunk-00000256.safetensors    one finished chunk, by the number of what comes first in it
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bilens.base.errors import ArgumentError, Interrupted
from bilens.base.files import Job, claim
from bilens.base.numerics import GIB, require_count
from bilens.base.progress import Progress, require_progress
from bilens.base.records import Record, require_as_saved

ABOUT = "about.json"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Share:
    """Which process this is ``of`` how many, and how to wait until all have come so far."""

    process: int
    of: int
    wait: Callable[[], Any]

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.of:
            raise ArgumentError("Share.process", must=f"be 0 … {self.of - 1}", got=self.process)


@dataclass(frozen=True)
class Chunks:
    """How a long job is cut up, written down, shared and reported.

    size: things (directions, blocks of text) in a chunk at most.
    max_bytes: the memory that one chunk may take, where the job knows what it takes.
    folder: where every finished chunk is written, so that a run that was begun is continued; or
    None.
    share: this process's part of the work, where several see one ``folder``.
    progress: called with (things done, all) after each chunk.
    Errors: ArgumentError for a ``size`` or ``max_bytes`` below 1, for a ``progress`` that cannot be
    called, or a ``share`` without a folder.
    """

    size: int = 256  # directions in lock step: enough for GEMMs at full speed
    max_bytes: int = GIB
    folder: str | Path | None = None
    share: Share | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_count("Chunks.size", self.size)
        require_count("Chunks.max_bytes", self.max_bytes)
        require_progress("Chunks.progress", self.progress)
        if self.share is not None and self.folder is None:
            must = "come with a folder that all processes see"
            raise ArgumentError("Chunks.share", must=must, got="none")

    def within(self, bytes_each: int) -> "Chunks":
        """The same with no more in a chunk than fit in ``max_bytes``, and at least one."""
        return replace(self, size=max(1, min(self.size, self.max_bytes // bytes_each)))

    def under(self, name: str) -> "Chunks":
        """The same in a folder ``name`` inside the folder, for one part of a job."""
        return self if self.folder is None else replace(self, folder=Path(self.folder) / name)

    def starts(self, total: int) -> range:
        """The number of the first thing in each chunk."""
        return range(0, total, self.size)

    def tell(self, count: int, total: int) -> None:
        """Report that ``count`` chunks are done."""
        if self.progress is not None:
            self.progress(min(count * self.size, total), total)


def require_chunks(value: object) -> None:
    """Raise ArgumentError unless ``value`` is a Chunks."""
    if not isinstance(value, Chunks):
        raise ArgumentError("chunks", must="be a Chunks(size=…, folder=…)", got=repr(value))


def make_chunks(chunks: Chunks, total: int, make: Callable[[int], Made]) -> list[Made]:
    """``make(start)`` for each chunk of ``total`` things, in order and in memory."""
    every = []
    for count, start in enumerate(chunks.starts(total), 1):
        every.append(make(start))
        chunks.tell(count, total)
    return every


def write_chunks(
    chunks: Chunks, total: int, about: dict[str, Any], make: Callable[[int], Record]
) -> list[Path]:
    """A file with ``make(start)`` for each chunk of ``total`` things, in order; what is in the
    folder already is not made again.

    With a share each process makes every ``share.of``-th chunk, and waits for the others. The
    folder is held meanwhile: by the first process for all that share the work. Errors: FileError
    for a folder that holds something else than ``about`` or that others are at work in, or where a
    chunk cannot be written, or one that is there is damaged or another's; Interrupted, which says
    how far it came.
    """
    if chunks.folder is None:
        raise ArgumentError("Chunks.folder", must="be where chunks are written", got=None)
    folder, share, starts = Path(chunks.folder), chunks.share, chunks.starts(total)
    files = [folder / f"chunk-{start:08}.safetensors" for start in starts]
    every = list(zip(starts, files, strict=True))
    own = every if share is None else every[share.process :: share.of]
    with claimed(folder, about, share):
        try:
            for count, (start, file) in enumerate(own, 1):
                if file.is_file():
                    require_as_saved(file)
                else:
                    make(start).save(file)
                chunks.tell(count, total)
        except KeyboardInterrupt as stop:
            done = sum(file.is_file() for file in files)
            raise Interrupted(f"{folder} stopped with {done} of {len(files)} chunks done") from stop
        if share is not None:
            share.wait()
    return files


def fingerprint(**tensors: Tensor) -> str:
    """A digest of names, shapes, dtypes and all bytes of ``tensors``; about a second a GiB."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for row in tensor.detach().reshape(1, -1) if tensor.ndim < 2 else tensor.detach():
            digest.update(_plain(row.contiguous().cpu()).numpy().data)
    return digest.hexdigest()


def _plain(row: Tensor) -> Tensor:
    """The very bits of half types, which are many; all others as float64."""
    return row.view(torch.int16) if row.dtype.itemsize == 2 else row.double()


@contextmanager
def claimed(folder: Path, about: dict[str, Any], share: Share | None) -> Iterator[None]:
    """Hold an empty folder, or one that says ``about``. Of several processes the first does, and
    the others wait for it.
    """
    job = Job(ABOUT, about)
    with ExitStack() as stack:
        if share is not None and share.process > 0:
            share.wait()
            job.resumed(folder)
        else:
            try:
                stack.enter_context(claim(folder, job))
            finally:
                if share is not None:
                    share.wait()
        yield
