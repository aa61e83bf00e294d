"""A tensor of one's own, from a file of factors."""

from pathlib import Path

from bilens.algebra import CP
from bilens.base.errors import FileError
from bilens.base.records import kind_of
from bilens.base.weights import load_weights, weight_names

# by which names three matrices of a file are a layer's: out, left, right
FACTORS = (("out", "left", "right"), ("down_proj", "gate_proj", "up_proj"))


def read_tensor(file: Path) -> CP:
    """The tensor in a safetensors file: a ``CP`` as it was saved, or three matrices by name.

    Errors: FileError for a damaged file, and one that holds neither.
    """
    names = weight_names(file)
    by_end = {name.removesuffix(".weight").rpartition(".")[2]: name for name in names}
    found = next((factors for factors in FACTORS if set(factors) == set(by_end)), None)
    if found is not None and len(names) == len(found):
        if found == FACTORS[0] and by_end["out"] == "out" and _is_record(file):
            return CP.load(file)
        weights = load_weights(file)
        out, left, right = (weights[by_end[name]] for name in found)
        return CP(out, left, right)
    wanted = " or ".join(", ".join(factors) for factors in FACTORS)
    must = f"hold a saved CP, or three matrices called {wanted}"
    raise FileError(str(file), must=must, got=", ".join(names[:6]) or "no tensors")


def _is_record(file: Path) -> bool:
    """Whether ``save`` wrote the file, or somebody put three matrices in it."""
    try:
        return bool(kind_of(file))
    except FileError:
        return False
