"""The weights of a folder, in one file or in shards: their names, shapes and types before any of
them is read.
"""

import os
import shlex
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from bilens.base.errors import FileError
from bilens.base.reading import read_json_object
from bilens.base.weights import Mapped, weight_dtypes, weight_shapes

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# what else Trainer pickles
NO_WEIGHTS = ("optimizer", "rng_state", "scaler", "scheduler", "training_args")
# where training scripts put the weights
NESTED = ("model_state_dict", "state_dict", "model", "module")


@dataclass(frozen=True)
class Checkpoint:
    """What a folder's safetensors files hold, by name: which file, which shape; and the types that
    occur.
    """

    folder: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: frozenset[torch.dtype]

    def mapped(self, dtype: torch.dtype) -> Mapped:
        """All weights by name, memory-mapped, each as ``dtype``: none is read before it is used."""
        return Mapped(self.files, dtype)

    def place(self, name: str) -> str:
        """How an error names a weight: its file, and itself."""
        return f"{self.files.get(name, self.folder / WEIGHTS)}: {name}"

    @property
    def longest(self) -> int:
        """The largest dimension of any weight: no size of the model is above it."""
        return max((size for shape in self.shapes.values() for size in shape), default=0)

    @property
    def entries(self) -> int:
        """How many numbers the files hold."""
        return sum(map(prod, self.shapes.values()))


def open_checkpoint(folder: Path, derived: tuple[str, ...] = ()) -> Checkpoint:
    """The weights of ``folder``: model.safetensors, or else the shards that
    model.safetensors.index.json names. Names that end as one of ``derived`` are passed over.

    Errors: FileError for a pickle, for files that are missing or damaged, for shards that are no
    plain names in this folder, and for an index that does not say what the shards hold.
    """
    if (folder / WEIGHTS).exists():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        files = _shards(folder)
    else:
        raise _nothing_safe(folder)
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: set[torch.dtype] = set()
    for file in files:
        here = weight_shapes(file)
        for name in sorted(here.keys() & where.keys()):
            raise FileError(
                f"{file}: {name}", must="be in one shard", got=f"another in {where[name].name}"
            )
        here = {name: shape for name, shape in here.items() if not name.endswith(derived)}
        where |= dict.fromkeys(here, file)
        shapes |= here
        dtypes |= {dtype for name, dtype in weight_dtypes(file).items() if name in here}
    if files != [folder / WEIGHTS]:
        _require_index(folder, where, derived)
    return Checkpoint(folder, where, shapes, frozenset(dtypes))


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


def _nothing_safe(folder: Path) -> FileError:
    """The error for a folder without safetensors; with the command that makes them where there are
    pickles.
    """
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES and file.is_file())
    named = [file for file in pickles if not file.name.startswith(NO_WEIGHTS)]
    # the first may be in shards
    weights = [file for file in named if file.name.startswith("pytorch_model")] or named[:1]
    if not weights:
        return FileError(str(folder), must=f"hold {WEIGHTS}", got="none")
    got, todo = "a pickle, which can run code", f"Convert: {conversion(weights, folder / WEIGHTS)}"
    return FileError(str(weights[0]), must="be safetensors", got=got, todo=todo)


def conversion(pickles: list[Path], output: Path) -> str:
    """A line for a shell that writes the weights in ``pickles`` to ``output``, without running what
    else is in them.

    Weights saved on a GPU come to the CPU, tied ones are written twice, and those inside {"model":
    …} are found. Names of folders are quoted twice, for Python and for the shell: nothing in them
    acts.
    """
    read = "torch.load(f, map_location='cpu', weights_only=True)"
    inner = f"next((w[n] for n in {NESTED} if isinstance(w.get(n), dict)), w)"
    files = [str(file) for file in pickles]
    tensors = "k: v.clone().contiguous() for w in parts for k, v in w.items() if torch.is_tensor(v)"
    code = (
        f"import torch, safetensors.torch as s; whole = [{read} for f in {files}]; "
        f"parts = [{inner} for w in whole]; "
        f"s.save_file({{{tensors}}}, "
        f"{str(output)!r}, metadata={{'format': 'pt'}})"
    )
    return f"python -c {shlex.quote(code)}"
