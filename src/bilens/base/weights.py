"""Reading weights: types and shapes are looked at in a file's header before anything is made."""

from pathlib import Path

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


def weight_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a safetensors file, from its header alone.

    Errors: FileError for a file that is missing or damaged, or holds weights of a type that is not
    computed in: integers, booleans, complex and 8-bit floating numbers mean something else than
    their value, and are never cast in silence.
    """
    require_file(file)
    try:
        with safe_open(file, framework="pt") as opened:
            parts = {key: opened.get_slice(key) for key in opened.keys()}
            kinds = {key: part.get_dtype() for key, part in parts.items()}
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            str(file), must="be an undamaged safetensors file", got=str(error)
        ) from error
    for key, kind in kinds.items():
        if kind not in WEIGHT_TYPES:
            must = f"be of type {', '.join(WEIGHT_TYPES)}"
            raise FileError(f"{file}: {key}", must=must, got=kind, todo=TO_CONVERT)
    return shapes


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


def weight_dtypes(file: Path) -> dict[str, torch.dtype]:
    """The type of each weight in a safetensors file, by its name."""
    weight_shapes(file)
    with safe_open(file, framework="pt") as opened:
        return {key: WEIGHT_TYPES[opened.get_slice(key).get_dtype()] for key in opened.keys()}
