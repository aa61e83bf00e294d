"""What commands read from folders: models of the right kind."""

from pathlib import Path
from typing import Any

import bilens
from bilens.base.errors import ArgumentError


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


def in_the_place(given: str | None, special_tokens: bool) -> Any:
    """What stands in the place of what is taken out."""
    if given is None or given in ("zero", "mean"):
        return given
    return bilens.circuits.Prompt(given, special_tokens)
