"""What commands read from folders: models of the right kind."""

from pathlib import Path

import bilens
from bilens.base.errors import ArgumentError


def language_model(folder: Path, who: str, todo: str = "") -> "bilens.Transformer":
    """The model in ``folder``. Errors: ArgumentError about ``who`` for one that reads no text."""
    model = bilens.load(str(folder))
    if not isinstance(model, bilens.Transformer):
        got = type(model).__name__
        raise ArgumentError(who, must="be a language model", got=got, todo=todo)
    return model
