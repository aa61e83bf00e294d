"""Records: frozen dataclasses of tensors, other records and plain values, which move, save and load as one.

On disk a record is one safetensors file: its tensors, and in the header's metadata a JSON text with the schema version,
the kind of record and everything that is not a tensor. One file, so that it cannot be half-written or mismatched.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bilens.base.errors import ArgumentError, FileError
from bilens.base.files import atomic_write

SCHEMA = 1
R = TypeVar("R", bound="Record")  # not Self: beartype checks methods one by one


class Record:
    """Base of every value bilens hands out. Subclasses are frozen dataclasses; they add fields and verbs, nothing else."""

    _kinds: ClassVar[dict[str, type["Record"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Record._kinds[cls.__name__] = cls

    def to(self: R, *targets: torch.dtype | torch.device | str) -> R:
        """The same record on another device and/or in another dtype; only floating tensors are cast, all are moved."""

        def move(tensor: Tensor) -> Tensor:
            for target in targets:
                if tensor.is_floating_point() or not isinstance(target, torch.dtype):
                    tensor = tensor.to(target)
            return tensor

        return _map_tensors(self, move)

    def detach(self: R) -> R:
        """The same record cut off from autograd."""
        return _map_tensors(self, Tensor.detach)

    def save(self, path: str | Path) -> None:
        """Write the record to ``path`` (one safetensors file), atomically. Cost: one copy of its tensors."""
        tensors: dict[str, Tensor] = {}
        packed = _pack(self, "", tensors)
        header = {"format": "pt", "bilens": json.dumps({"schema": SCHEMA, "value": packed})}
        with atomic_write(path) as temporary:
            try:
                save_file(tensors, temporary, metadata=header)
            except SafetensorError as error:
                raise FileError(str(path), must="be writable", got=str(error)) from error

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a record that ``save`` wrote. Errors: FileError where the file is missing, damaged or of another kind."""
        try:
            value = _unpack(*_read(Path(path)))
        except (KeyError, TypeError) as error:
            raise FileError(str(path), must="hold a whole record", got=str(error)) from error
        if not isinstance(value, cls):
            raise FileError(
                str(path), must=f"hold a {cls.__name__}", got=type(value).__name__, todo=f"Use {type(value).__name__}.load."
            )
        return value


def _read(path: Path) -> tuple[Any, dict[str, Tensor]]:
    if not path.is_file():
        raise FileError(str(path), must="be a file that .save(path) wrote", got="nothing there")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("bilens", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise FileError(str(path), must="be an undamaged safetensors file", got=str(error)) from error
    if not isinstance(header, dict) or "schema" not in header:
        raise FileError(str(path), must="be a file that .save(path) wrote", got="safetensors without a bilens header")
    if header["schema"] != SCHEMA:
        raise FileError(
            str(path), must=f"have schema {SCHEMA}", got=header["schema"], todo="Read it with the bilens that wrote it."
        )
    return header["value"], tensors


def _map_tensors(value: Any, change: Any) -> Any:
    match value:
        case Tensor():
            return change(value)
        case Record():
            fields = dataclasses.fields(value)  # type: ignore[arg-type]
            changed = {field.name: _map_tensors(getattr(value, field.name), change) for field in fields}
            return dataclasses.replace(value, **changed)  # type: ignore[type-var]
        case dict():
            return {key: _map_tensors(item, change) for key, item in value.items()}
        case _:
            return value


def _pack(value: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go into ``tensors`` under their path."""
    match value:
        case Tensor():
            tensors[at] = value.detach().cpu().contiguous().clone()  # safetensors refuses shared storage
            return {"tensor": at}
        case Record():
            fields = dataclasses.fields(value)  # type: ignore[arg-type]
            packed = {field.name: _pack(getattr(value, field.name), f"{at}.{field.name}", tensors) for field in fields}
            return {"record": type(value).__name__, "fields": packed}
        case dict():
            return {"dict": {key: _pack(item, f"{at}.{key}", tensors) for key, item in value.items()}}
        case tuple() | list():
            return {"tuple": [_pack(item, f"{at}.{n}", tensors) for n, item in enumerate(value)]}
        case None | bool() | int() | float() | str():
            return value
    raise ArgumentError(f"{at} of a record", must="be a tensor, a record or a plain value", got=type(value).__name__)


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    match packed:
        case {"tensor": at}:
            return tensors[at]
        case {"record": kind, "fields": fields}:
            if kind not in Record._kinds:
                raise FileError("a saved record", must=f"be one of {sorted(Record._kinds)}", got=kind)
            return Record._kinds[kind](**{name: _unpack(item, tensors) for name, item in fields.items()})
        case {"dict": items}:
            return {key: _unpack(item, tensors) for key, item in items.items()}
        case {"tuple": items}:
            return tuple(_unpack(item, tensors) for item in items)
    return packed
