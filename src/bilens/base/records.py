"""Records: frozen dataclasses of tensors, other records and plain values, which move, save and load
as one.

On disk a record is one safetensors file: its tensors, and in the header's metadata a JSON text with
the schema version, the kind of record, everything that is not a tensor, and a checksum of all. One
file, so that it cannot be half-written or mismatched.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bilens.base.errors import ArgumentError, FileError
from bilens.base.fields import misfit
from bilens.base.files import atomic_write
from bilens.base.numerics import dtype_name, require_floating, require_values
from bilens.base.weights import opened

SCHEMA = 2
READ = (1, 2)  # schema 1 named a record by its class alone, without the room
# Where records have lived: a class that moves to another room keeps its name, and its files.
ROOMS = ("algebra", "circuits", "decompose", "features", "models", "report", "training")
SAVED = "be a file that .save(path) wrote"
HEADER = 100_000_000  # bytes: the largest header that a safetensors file may have
_PLAIN = (bool, int, float, str, type(None))
R = TypeVar("R", bound="Record")  # not Self: beartype checks methods one by one


class Record:
    """Base of every value bilens hands out. Subclasses are frozen dataclasses; they add fields and
    verbs, nothing else.
    """

    _kinds: ClassVar[dict[str, type["Record"]]] = {}  # by room and name: "algebra.Eigen"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        key = _key(cls)
        if key in Record._kinds:
            raise ArgumentError(f"class {cls.__name__}",
            must="be its room's only record of that name",
                                got=f"a second {key}",
                                todo="Saved records are told apart by it.")  # fmt: skip
        Record._kinds[key] = cls

    def to(self: R, *targets: torch.dtype | torch.device | str) -> R:
        """The same record on another device and/or in another dtype; only floating tensors are
        cast, all are moved.

        A dtype or a device may be named: ``.to("float32")``, ``.to("cuda")``. Errors: ArgumentError
        for what is neither; ShapeError for tensors without values (on "meta") asked elsewhere.
        """
        return _map_tensors(
            self, partial(_moved, type(self).__name__, [_place(target) for target in targets])
        )

    def clone(self: R) -> R:
        """A copy, with tensors of its own; gradients flow to the first."""
        return _map_tensors(self, torch.clone)

    def detach(self: R) -> R:
        """The same record cut off from autograd."""
        return _map_tensors(self, Tensor.detach)

    def save(self, path: str | Path) -> None:
        """Write the record to ``path`` (one safetensors file), atomically. Cost: one copy of its
        tensors.
        """
        tensors: dict[str, Tensor] = {}
        packed = _pack(self, "", tensors, _on_disk)
        said = {"schema": SCHEMA, "value": packed, "name": Path(path).name}
        said["sum"] = _checksum(json.dumps(packed), tensors)
        header = {"format": "pt", "bilens": json.dumps(said)}
        size = len(json.dumps(header))  # as it stands there: a text within a text
        if size > HEADER:
            todo = "Its labels and other plain values go there: save fewer of them."
            must = f"have a header of at most {HEADER:,} bytes"
            raise FileError(str(path), must=must, got=f"{size:,}", todo=todo)
        with atomic_write(path) as temporary:
            try:
                save_file(tensors, temporary, metadata=header)
            except SafetensorError as error:
                raise FileError(str(path), must="be writable as safetensors", got=error) from error

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a record that ``save`` wrote, and check that its fields are what they are declared
        to be.

        Errors: FileError where the file is missing, damaged or of another kind.
        """
        value = _whole(Path(path))
        if not isinstance(value, cls):
            held = type(value).__name__
            raise FileError(
                str(path), must=f"hold a {cls.__name__}", got=held, todo=f"Use {held}.load."
            )
        return value

    def _settled(self) -> None:
        """Raise where the fields, each as declared, do not go together. Asked of a record that was
        loaded.
        """


def kind_of(path: str | Path) -> str:
    """What kind of record a file holds, by room and name ("algebra.Eigen"), as it says itself; ""
    where it does not. Errors: FileError for what is no file of ``save``.
    """
    with opened(Path(path), SAVED) as file:
        value = _header(Path(path), file.metadata()).get("value")
    name = value.get("record", "") if isinstance(value, dict) else ""
    return name if isinstance(name, str) else ""


def is_known(kind: str) -> bool:
    """Whether a class of that room and name is there, its module being imported."""
    return kind in Record._kinds


class _UnknownError(LookupError):
    """A saved record is of a kind that no class here has."""


def _key(kind: type) -> str:
    """What a kind of record is called in files: its room and name, the whole module outside
    bilens.
    """
    package, _, inside = kind.__module__.partition(".")
    room = inside.partition(".")[0] if package == "bilens" else kind.__module__
    return f"{room}.{kind.__name__}"


def _whole(path: Path) -> "Record":
    """The record in a file, whatever its kind."""
    try:
        header, tensors = _read(path)
        value = _unpack(header.get("value"), tensors)
        if not isinstance(value, Record):
            raise TypeError("no record")
    except FileError:
        raise
    except _UnknownError as error:
        todo = "Import the room or module that defines it first."
        must = "hold a kind of record that is known here"
        raise FileError(str(path), must=must, got=error, todo=todo) from None
    except RecursionError:
        raise _too_deep(path) from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # what the checks of a record's own fields raise, and what its summary does where they do
        # not go together
        got = f"{type(error).__name__}: {error}"
        raise FileError(str(path), must="hold a whole record", got=got) from error
    return value


def _place(target: object) -> torch.dtype | torch.device:
    """What ``target`` names. Errors: ArgumentError for neither a real floating dtype nor a
    device.
    """
    named = (
        getattr(torch, target, None)
        if isinstance(target, str) and target.isidentifier()
        else target
    )
    if isinstance(named, torch.dtype):
        require_floating("to", named)
        return named
    try:
        place = torch.device(target)  # type: ignore[arg-type]
        torch.empty(0, device=place)  # says whether there is such a device here
        return place
    except (RuntimeError, TypeError, AssertionError) as error:
        must = 'be given dtypes and devices that are here, like torch.float32, "float32" or "cpu"'
        raise ArgumentError("to", must=must, got=repr(target)) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, and its tensors. One from before there were checksums has none."""
    with opened(path, SAVED) as file:
        header = _header(path, file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    text = json.dumps(header.get("value"))
    if "sum" in header and header["sum"] != _checksum(text, tensors):
        raise FileError(str(path), must="be undamaged", got="other contents than were saved")
    return header, tensors


def require_as_saved(path: Path) -> None:
    """Raise FileError where a record's file is damaged, or is not the one that was saved by its
    name.
    """
    header, _ = _read(path)
    name = header.get("name", path.name)
    if name != path.name:
        raise FileError(str(path), must="be what was saved by that name", got=f"a copy of {name}")


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """Of all that a file holds, so that what became of it on a disk is seen."""
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), found)
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))  # reshape keeps odd strides
        found = zlib.crc32(flat.view(torch.uint8).numpy().data, found)
    return found


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What the header of a file says, ``value`` of all that is no tensor."""
    try:
        header = json.loads((metadata or {}).get("bilens", "null"))
    except RecursionError:
        raise _too_deep(path) from None
    _require_header(path, header)
    return header


def _too_deep(path: Path) -> FileError:
    return FileError(str(path), must="hold a whole record", got="nesting too deep to read")


def _require_header(path: Path, header: Any) -> None:
    if not isinstance(header, dict) or "schema" not in header:
        raise FileError(str(path), must=SAVED, got="safetensors without a bilens header")
    if header["schema"] not in READ:
        must = f"have schema {' or '.join(map(str, READ))}"
        todo = "Read it with the bilens that wrote it."
        raise FileError(str(path), must=must, got=header["schema"], todo=todo)


def entries(record: "Record") -> int:
    """How many numbers the tensors of a record hold together."""
    held: dict[str, Tensor] = {}
    _pack(record, "", held, lambda tensor: tensor)
    return sum(tensor.numel() for tensor in held.values())


def _map_tensors(value: Any, change: Any) -> Any:
    match value:
        case Tensor():
            return change(value)
        case Record():
            fields = dataclasses.fields(value)  # type: ignore[arg-type]
            changed = {
                field.name: _map_tensors(getattr(value, field.name), change) for field in fields
            }
            return dataclasses.replace(value, **changed)  # type: ignore[type-var]
        case dict():
            return {key: _map_tensors(item, change) for key, item in value.items()}
        case tuple():
            return tuple(_map_tensors(item, change) for item in value)
        case _:
            return value


def _moved(who: str, places: Sequence[torch.dtype | torch.device], tensor: Tensor) -> Tensor:
    for place in places:
        if isinstance(place, torch.device) and place.type != "meta":
            require_values(who, tensor)
        if tensor.is_floating_point() or not isinstance(place, torch.dtype):
            tensor = tensor.to(place)
    return tensor


def _on_disk(tensor: Tensor) -> Tensor:
    require_values("save", tensor)
    return tensor.detach().cpu().contiguous().clone()  # safetensors refuses shared storage


def _pack(
    value: Any, at: str, tensors: dict[str, Tensor], taken: Callable[[Tensor], Tensor]
) -> Any:
    """``value`` as JSON; its tensors go into ``tensors`` under their path, as ``taken`` makes
    them.
    """
    match value:
        case Tensor():
            tensors[at] = taken(value)
            return {"tensor": at}
        case Record():
            names = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
            packed = {
                name: _pack(getattr(value, name), f"{at}.{name}", tensors, taken) for name in names
            }
            return {"record": _key(type(value)), "fields": packed}
        case dict():
            return {
                "dict": {
                    key: _pack(item, f"{at}.{key}", tensors, taken) for key, item in value.items()
                }
            }
        case tuple() | list():
            return {
                "tuple": [_pack(item, f"{at}.{n}", tensors, taken) for n, item in enumerate(value)]
            }
        case None | bool() | int() | float() | str():
            return value
    raise ArgumentError(
        f"{at} of a record", must="be a tensor, a record or a plain value", got=type(value).__name__
    )


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    match packed:
        case {"tensor": at}:
            return tensors[at]
        case {"record": str(name), "fields": dict(fields)}:
            return _made(
                _kind(name), {field: _unpack(item, tensors) for field, item in fields.items()}
            )
        case {"dict": dict(items)}:
            return {key: _unpack(item, tensors) for key, item in items.items()}
        case {"tuple": list(items)}:
            return tuple(_unpack(item, tensors) for item in items)
        case None | bool() | int() | float() | str():
            return packed
    raise TypeError(f"neither a tensor, a record nor a plain value: {packed}")


def _made(kind: Callable[..., Record], fields: dict[str, Any]) -> Record:
    """A record of these fields, each of which must be what ``kind`` declares."""
    wrong = misfit(kind, fields)  # type: ignore[arg-type]
    if wrong is not None:
        raise TypeError(
            f"{kind.__name__}.{wrong} is not what that field holds: {_told(fields[wrong])}"
        )
    made = kind(**fields)
    made._settled()
    return made


def _told(value: Any) -> str:
    """What a field holds, in few words."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value}" if isinstance(value, _PLAIN) else type(value).__name__


def _kind(name: str) -> type[Record]:
    """The class of a saved record: by its room and name, or by its name alone where schema 1 gave
    no room, or it has moved to another since.
    """
    known = Record._kinds
    if name in known:
        return known[name]
    room, _, plain = name.rpartition(".")
    alike = [kind for key, kind in known.items() if key.rpartition(".")[2] == plain]
    ours = [kind for kind in alike if kind.__module__.startswith("bilens.")]
    for kinds in (alike, ours) if not room else (ours,) if room in ROOMS else ():
        if len(kinds) == 1:
            return kinds[0]
    raise _UnknownError(name)
