"""Reading weights: types and shapes are looked at in a file's header before anything is made."""

import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bilens.base.errors import FileError
from bilens.base.reading import require_file

# Types of weights that mean a number bilens computes with, by the names in a safetensors header.
WEIGHT_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
TO_CONVERT = (
    "Convert its weights to float32, float16 or bfloat16 first: load it where it was made, "
    ".to(torch.bfloat16), save."
)


class Header(NamedTuple):
    """What a file's header says of one weight."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def weight_shapes(file: Path, but: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a safetensors file, from its header alone; names that end
    as one of ``but`` are passed over.

    Errors: FileError for a file that is missing or damaged, or holds weights of a type that is not
    computed in: integers, booleans, complex and 8-bit floating numbers mean something else than
    their value, and are never cast in silence.
    """
    return {key: header.shape for key, header in weight_headers(file, but).items()}


def weight_headers(file: Path, but: tuple[str, ...] = ()) -> dict[str, Header]:
    """Shapes and types together, by name; ``but`` and errors as ``weight_shapes``."""
    with opened(file) as held:
        keys = (key for key in held.keys() if not key.endswith(but))
        parts = {key: held.get_slice(key) for key in keys}
        kinds = {key: part.get_dtype() for key, part in parts.items()}
        shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
    for key, kind in kinds.items():
        require_type(f"{file}: {key}", kind)
    return {key: Header(shapes[key], WEIGHT_TYPES[kind]) for key, kind in kinds.items()}


def weight_names(file: Path) -> list[str]:
    """The names in a safetensors file, of whatever type. Errors: FileError as ``weight_shapes``."""
    with opened(file) as held:
        return list(held.keys())


@contextmanager
def opened(file: Path, kind: str = "be a file") -> Iterator[Any]:
    """A safetensors file, of which nothing but the header is read until a tensor is asked for.

    Errors: FileError where there is no file, which must be of that ``kind``, or a damaged one.
    """
    require_file(file, kind)
    try:
        with safe_open(file, framework="pt") as held:
            yield held
    except FileError:  # of what the reader found in it
        raise
    except (SafetensorError, OSError, ValueError) as error:
        must = "be an undamaged safetensors file"
        raise FileError(str(file), must=must, got=str(error)) from error


def require_type(who: str, kind: str) -> None:
    """Raise FileError unless ``kind``, as a safetensors header has it, is computed in."""
    if kind not in WEIGHT_TYPES:
        must = f"be of type {', '.join(WEIGHT_TYPES)}"
        raise FileError(who, must=must, got=kind, todo=TO_CONVERT)


def load_weights(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The weights of a safetensors file, checked as ``weight_shapes`` does. Memory: the file's
    size.
    """
    weight_shapes(file)
    try:
        return load_file(file, device=device)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise FileError(
            str(file), must="be an undamaged safetensors file", got=str(error)
        ) from error


@dataclass(frozen=True)
class _Place:
    """Where in a file a weight lies, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class Mapped(Mapping[str, Tensor]):
    """Weights by name, memory-mapped from safetensors files: nothing is read before it is used.

    ``files`` says where each is; ``dtype``: what each becomes, a copy where it is another type in
    the file (None: all stay as they are). A tensor has its own bytes of the file as memory and may
    be written to once all are asked for, which changes no file: to ask for another gives memory
    back, as ``let_go`` does, and what was written is lost. It keeps the file mapped. A file must
    not be cut short or written over in place while it is mapped: the system then ends the process
    (SIGBUS), or the weights change. One that is replaced by a rename, as all files are that bilens
    writes, stays mapped as it was.
    """

    def __init__(self, files: Mapping[str, Path], dtype: torch.dtype | None = None) -> None:
        self.files, self.dtype = files, dtype
        self._maps = {file: _MappedFile(file) for file in sorted(set(files.values()))}

    def __getitem__(self, name: str) -> Tensor:
        self.let_go()
        found = self._maps[self.files[name]].tensor(name)
        return found if self.dtype is None else found.to(self.dtype)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def let_go(self) -> None:
        """Give back the memory of all that was read so far, which is read anew where it is used
        again. What was written to a tensor is lost: for use before anybody does.
        """
        for file in self._maps.values():
            file.let_go()


class Held(Mapping[str, Tensor]):
    """Weights by name that are in memory already, or mapped by whoever read them; as ``Mapped``."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        self.tensors, self.dtype = tensors, dtype

    def __getitem__(self, name: str) -> Tensor:
        found = self.tensors[name]
        return found if self.dtype is None else found.to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def let_go(self) -> None:
        """Nothing to give back."""


class _MappedFile:
    """One safetensors file, mapped as a whole."""

    def __init__(self, file: Path) -> None:
        weight_names(file)  # it is whole
        try:
            with file.open("rb") as opened:
                start = 8 + int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(start - 8))
                self._map = _private(opened.fileno())
        except OSError as error:
            raise FileError(str(file), must="be a file that can be mapped", got=error) from error
        header.pop("__metadata__", None)
        self._places = {
            name: _Place(
                WEIGHT_TYPES[one["dtype"]], tuple(one["shape"]), start + one["data_offsets"][0]
            )
            for name, one in header.items()
            if one["dtype"] in WEIGHT_TYPES
        }

    def tensor(self, name: str) -> Tensor:
        place = self._places[name]
        count = prod(place.shape)
        if not count:
            return torch.empty(place.shape, dtype=place.dtype, device="cpu")
        flat = torch.frombuffer(self._map, dtype=place.dtype, count=count, offset=place.offset)
        return flat.view(place.shape)

    def let_go(self) -> None:
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _private(descriptor: int) -> mmap.mmap:
    """A file in memory, of which what is written stays in this process. Nothing is set aside for
    it, so that it may be larger than the memory.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def alone(tensor: Tensor) -> Tensor:
    """``tensor`` with a storage of its own: its very bytes where they lie together, else a copy."""
    tensor = tensor.detach()
    if not tensor.is_contiguous() or not tensor.numel():
        return tensor.clone(memory_format=torch.contiguous_format)
    start = tensor.storage_offset() * tensor.element_size()
    own = tensor.untyped_storage()[start : start + tensor.numel() * tensor.element_size()]
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return made.set_(own, 0, tensor.shape, tensor.stride())
