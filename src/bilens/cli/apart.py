"""What a command writes lies apart from what it reads: asked before the work, for all commands."""

from collections.abc import Iterator
from itertools import combinations
from os.path import realpath
from pathlib import Path

import typer

from bilens.base.errors import ArgumentError, FileError

WRITTEN = ("output", "save", "graph")  # parameters that name a place to write to


def require_apart(context: typer.Context) -> None:
    """Raise ArgumentError where an output would take the place of another, of a file that the
    command reads, or of a file in a folder that it reads. A result that was saved there before is
    written anew.
    """
    flags = {one.name: one.opts[0] for one in context.command.params}
    written = {
        name: Path(value)
        for name, value in context.params.items()
        if name in WRITTEN and value is not None
    }
    for (one, place), (two, other) in combinations(written.items(), 2):
        if realpath(place) == realpath(other):
            must = f"be another place than {flags[one]}"
            raise ArgumentError(flags[two], must=must, got=other)
    read = [
        place
        for name, value in context.params.items()
        if name not in WRITTEN
        for place in _places(value)
    ]
    for name, place in written.items():
        if place.is_file() and any(_takes(place, source) for source in read):
            must = "be no file of what is read"
            raise ArgumentError(flags[name], must=must, got=place, todo="Name another file.")


def _places(value: object) -> Iterator[Path]:
    """Files and folders that an argument names, if it names any."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(one, str | Path):
            continue
        try:
            if Path(one).exists():
                yield Path(one)
        except (OSError, ValueError):  # a prompt, too long for a name or with a null in it
            continue


def _takes(place: Path, source: Path) -> bool:
    """Whether writing ``place`` would lose something of ``source``."""
    where, whole = Path(realpath(place)), Path(realpath(source))
    if where == whole:
        return True
    return whole.is_dir() and whole in where.parents and not _is_result(place)


def _is_result(place: Path) -> bool:
    from bilens.base.records import kind_of  # needs torch, which takes seconds

    try:
        return bool(kind_of(place))
    except FileError:
        return False
