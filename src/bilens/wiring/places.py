"""Places in a model by name: what a part reads, and what it writes."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from bilens.base.errors import ArgumentError
from bilens.wiring.parts import Part

# Llama's names of modules, and the short ones of parts.
MODULES = re.compile(r"(?:model\.)?layers\.(\d+)\.(mlp|self_attn)\.(input|output)")
SHORT = {"mlp": "mlp", "self_attn": "attn"}
PARTS = re.compile(r"(mlp|attn)(\d+)\.(input|output)")
LONG = {short: module for module, short in SHORT.items()}


class Place(NamedTuple):
    """Where in a model: what a part reads, after its norm, or what it writes.

    >>> wiring = model.wiring()
    >>> bilens.wiring.find_place("mlp1.input", wiring.parts).side
    'input'
    """

    part: int
    side: str
    name: str  # "mlp1.input"


def find_place(text: str, parts: Sequence[Part], who: str = "place", todo: str = "") -> Place:
    """The place called ``text``: "mlp1.input", or with the names of modules "layers.1.mlp.input".

    Errors: ArgumentError, of ``who`` and with what ``todo``, where there is no such place; heads
    write one by one, so an attention layer has no output.

    >>> wiring = model.wiring()
    >>> bilens.wiring.find_place("layers.1.mlp.input", wiring.parts).name
    'mlp1.input'
    """
    names = {part.name: n for n, part in enumerate(parts) if part.heard}
    name, _, side = short_name(text).rpartition(".")
    if side not in ("input", "output") or name not in names:
        places = ", ".join(f"{name}.input" for name in names)
        must = f"be one of {places}, or .output of a layer"
        raise ArgumentError(who, must=must, got=text or "no name of a place", todo=todo)
    if side == "output" and parts[names[name]].attention is not None:
        raise ArgumentError(
            who, must="be the output of an mlp", got=text, todo="Heads write one by one."
        )
    return Place(names[name], side, f"{name}.{side}")


def known_place(text: str, parts: Sequence[Part]) -> Place | None:
    """The place called ``text``, which others may have named; None where it is none of the model's.

    >>> wiring = model.wiring()
    >>> bilens.wiring.known_place("blocks.1.hook_mlp_in", wiring.parts) is None
    True
    """
    try:
        return find_place(text, parts)
    except ArgumentError:
        return None


def short_name(text: str) -> str:
    """The short name of a place, "mlp1.input" for "layers.1.mlp.input"; any other text as it is.
    Errors: ArgumentError for what is no text.

    >>> bilens.wiring.short_name("layers.1.mlp.input")
    'mlp1.input'
    """
    _require_name(text)
    found = MODULES.fullmatch(text)
    return f"{SHORT[found[2]]}{found[1]}.{found[3]}" if found else text


def module_name(text: str) -> str:
    """A place with the names of modules, "layers.1.mlp.input" for "mlp1.input"; any other text as
    it is. Errors: ArgumentError for what is no text.

    >>> bilens.wiring.module_name("mlp1.input")
    'layers.1.mlp.input'
    """
    _require_name(text)
    found = PARTS.fullmatch(text)
    return f"layers.{found[2]}.{LONG[found[1]]}.{found[3]}" if found else text


def _require_name(text: object) -> None:
    if not isinstance(text, str):
        raise ArgumentError("place", must="be a name, mlp0.input say", got=type(text).__name__)
