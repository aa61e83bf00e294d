"""What commands read from folders: models of the right kind."""

from pathlib import Path

import bilens
from bilens.base.errors import ArgumentError, FileError
from bilens.base.records import kind_of
from bilens.base.weights import load_weights, weight_names

# by which names three matrices of a file are a layer's: out, left, right
FACTORS = (("out", "left", "right"), ("down_proj", "gate_proj", "up_proj"))


def language_model(folder: Path, who: str, todo: str = "") -> "bilens.Transformer":
    """The model in ``folder``. Errors: ArgumentError about ``who`` for one that reads no text."""
    model = bilens.load(str(folder))
    if not isinstance(model, bilens.Transformer):
        got = type(model).__name__
        raise ArgumentError(who, must="be a language model", got=got, todo=todo)
    return model


def explained_model(folder: Path, todo: str = "") -> "bilens.Transformer":
    """The language model in ``folder`` in float64; a half-precision one as it is, since it is
    explained in float32, beside what it gives as it is.
    """
    loaded = language_model(folder, str(folder), todo)
    return loaded if bilens.wiring.is_half(loaded) else loaded.double()


def tensor_in(file: Path) -> "bilens.CP":
    """The tensor in a safetensors file: a ``CP`` as it was saved, or three matrices by name.

    Errors: FileError for a damaged file, and one that holds neither.
    """
    names = weight_names(file)
    by_end = {name.removesuffix(".weight").rpartition(".")[2]: name for name in names}
    if len(names) == len(by_end) == 3:
        for factors in FACTORS:
            if set(factors) == set(by_end):
                if factors[0] == by_end[factors[0]] == "out":
                    return _saved(file)
                weights = load_weights(file)
                return bilens.CP(*(weights[by_end[name]] for name in factors))
    wanted = " or ".join(", ".join(factors) for factors in FACTORS)
    must = f"hold a saved CP, or three matrices called {wanted}"
    raise FileError(str(file), must=must, got=", ".join(names[:6]) or "no tensors")


def _saved(file: Path) -> "bilens.CP":
    """A saved tensor; where the file is nobody's record, that of the three matrices in it."""
    try:
        kind_of(file)
    except FileError:
        weights = load_weights(file)
        return bilens.CP(weights["out"], weights["left"], weights["right"])
    return bilens.CP.load(file)
