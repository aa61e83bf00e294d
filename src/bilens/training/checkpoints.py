"""Checkpoints that count only when they are whole: each says in ``complete`` what every file
holds.
"""

import hashlib
import re
import shutil
import warnings
from pathlib import Path

from bilens.base.errors import FileError
from bilens.base.reading import read_json_object

COMPLETE = "complete"
TO_RESUME = "What was saved before is whole: make room, and resume it."


def step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _named(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints, by step."""
    named = (
        place
        for place in folder.glob("checkpoint-*")
        if re.fullmatch("checkpoint-[0-9]+", place.name)
    )
    return sorted(
        (place for place in named if place.is_dir() and not place.is_symlink()), key=step_of
    )


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is marked complete."""
    return next((place for place in reversed(_named(folder)) if (place / COMPLETE).is_file()), None)


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are removed, with a warning where one
    was whole once.
    """
    whole = None
    for checkpoint in _named(folder):
        if is_whole(checkpoint):
            whole = checkpoint
            continue
        if (checkpoint / COMPLETE).is_file():
            said = "is not what was saved: it is removed, and the run goes on without it"
            warnings.warn(f"{checkpoint} {said}", stacklevel=2)
        shutil.rmtree(checkpoint)
    return whole


def is_whole(checkpoint: Path) -> bool:
    """Marked complete, and every file holds what it held then."""
    try:
        marked = read_json_object(checkpoint / COMPLETE)
    except FileError:
        return False
    return "model.safetensors" in marked and marked == contents(checkpoint)


def contents(checkpoint: Path) -> dict[str, str]:
    """A digest of each file but the mark itself; about a second a GiB."""
    files = (
        file for file in sorted(checkpoint.iterdir()) if file.name != COMPLETE and file.is_file()
    )
    return {file.name: _digest(file) for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
