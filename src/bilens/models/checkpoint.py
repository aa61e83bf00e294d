"""The weights of a folder, in one file or in shards: their names, shapes and types before any of
them is read.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from bilens.base.errors import FileError
from bilens.base.pickles import pickles_in
from bilens.base.reading import read_json_object
from bilens.base.weights import (
    WEIGHT_TYPES,
    Held,
    Mapped,
    require_type,
    weight_headers,
)

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a folder's files hold, by name: which file, which shape; and the types that occur.
    ``tensors``: the weights themselves, where the files are pickles.
    """

    folder: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: frozenset[torch.dtype]
    tensors: dict[str, Tensor] | None = None

    def mapped(self, dtype: torch.dtype) -> Mapped | Held:
        """All weights by name, memory-mapped, each as ``dtype``: none is read before it is used."""
        return Mapped(self.files, dtype) if self.tensors is None else Held(self.tensors, dtype)

    def place(self, name: str) -> str:
        """How an error names a weight: its file, or where it ought to be, and itself."""
        every = {*self.files.values()}
        whole = every.pop() if len(every) == 1 else self.folder
        return f"{self.files.get(name, whole)}: {name}"

    @property
    def longest(self) -> int:
        """The largest dimension of any weight: no size of the model is above it."""
        return max((size for shape in self.shapes.values() for size in shape), default=0)

    @property
    def entries(self) -> int:
        """How many numbers the files hold."""
        return sum(map(prod, self.shapes.values()))


def files_of(place: Path) -> list[Path]:
    """The files that hold the weights of ``place``, a folder or a file: model.safetensors, or else
    the shards that model.safetensors.index.json names, or else pickles.

    Errors: FileError where there are none, and for shards that are no plain names in this folder.
    """
    if place.is_file():
        return [place]
    if (place / WEIGHTS).exists():
        return [place / WEIGHTS]
    if (place / INDEX).exists():
        return _shards(place)
    found = pickles_in(place)
    if not found:
        raise FileError(str(place), must=f"hold {WEIGHTS}", got="none")
    return found


def open_checkpoint(files: Sequence[Path], derived: tuple[str, ...] = ()) -> Checkpoint:
    """The weights of safetensors ``files``. Names that end as one of ``derived`` are passed over.

    Errors: FileError for files that are missing or damaged, for a weight in two of them, and for an
    index that does not say what its shards hold.
    """
    folder = files[0].parent
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: set[torch.dtype] = set()
    for file in files:
        here = weight_headers(file, derived)
        for name in sorted(here.keys() & where.keys()):
            raise FileError(
                f"{file}: {name}", must="be in one shard", got=f"another in {where[name].name}"
            )
        where |= dict.fromkeys(here, file)
        shapes |= {name: header.shape for name, header in here.items()}
        dtypes |= {header.dtype for header in here.values()}
    if len(files) > 1 or ((folder / INDEX).exists() and not (folder / WEIGHTS).exists()):
        _require_index(folder, where, derived)
    return Checkpoint(folder, where, shapes, frozenset(dtypes))


def held_checkpoint(
    files: Sequence[Path], weights: Mapping[str, Tensor], derived: tuple[str, ...] = ()
) -> Checkpoint:
    """``weights`` that were read from ``files``. Errors: FileError for one of a type that is not
    computed in.
    """
    tensors = {name: value for name, value in weights.items() if not name.endswith(derived)}
    where = dict.fromkeys(tensors, files[0])
    for name, value in tensors.items():
        if value.dtype not in WEIGHT_TYPES.values():
            require_type(f"{files[0]}: {name}", str(value.dtype).removeprefix("torch."))
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    dtypes = frozenset(value.dtype for value in tensors.values())
    return Checkpoint(files[0].parent, where, shapes, dtypes, tensors)


def _shards(folder: Path) -> list[Path]:
    """The shards that the index names. Errors: FileError unless each is a plain file name of this
    very folder.
    """
    named = set(_weight_map(folder).values())
    inside = [folder.resolve()]
    # the hub's cache keeps files once, beside its snapshots
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    for name in sorted(named):
        if not name or Path(name).name != name or "\\" in name or name == "..":
            raise FileError(
                f"{folder / INDEX}: weight_map", must="name files in its own folder", got=repr(name)
            )
        if (
            os.path.islink(folder / name)
            and Path(os.path.realpath(folder / name)).parent not in inside
        ):
            got = "a link that leaves it"
            raise FileError(
                str(folder / name),
                must="lie in its own folder",
                got=got,
                todo="Copy the file there.",
            )
    return [folder / name for name in sorted(named)]


def _weight_map(folder: Path) -> dict[str, str]:
    file = folder / INDEX
    found = read_json_object(file).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise FileError(f"{file}: weight_map", must="be an object of file names", got=repr(found))
    for name, shard in found.items():
        if not isinstance(shard, str):
            raise FileError(
                f"{file}: weight_map",
                must="be an object of file names",
                got=f"{shard!r} for {name}",
            )
    return found


def _require_index(folder: Path, where: dict[str, Path], derived: tuple[str, ...]) -> None:
    """Raise FileError where the index and its shards do not say the same."""
    said = {
        name: shard for name, shard in _weight_map(folder).items() if not name.endswith(derived)
    }
    for name in sorted(said.keys() | where.keys()):
        held = where[name].name if name in where else "no shard"
        if said.get(name) != held:
            must = f"say where {name} is, as the shards do ({held})"
            raise FileError(f"{folder / INDEX}: weight_map", must=must, got=repr(said.get(name)))
