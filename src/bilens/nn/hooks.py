"""Reading and changing what a module is given or gives, while a model runs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from bilens.base.errors import ArgumentError
from bilens.nn.expandable import Heads, Layer

PLACE = re.compile(r"(?:(attn|mlp)(\d+)|(?:model\.)?layers\.(\d+)\.(mlp|self_attn))\.(input|output)")


class Place(NamedTuple):
    """Where in a model: what a part reads, after its norm, or what it writes."""

    part: int
    side: str
    name: str  # "mlp1.input"


def find_place(text: str, parts: Sequence[Heads | Layer]) -> Place:
    """The place called ``text``: "mlp1.input", or with the names of modules "layers.1.mlp.input".

    Errors: ArgumentError where there is no such place; heads write one by one, so an attention layer has no output.
    """
    side, names = text.rpartition(".")[2], {part.name: n for n, part in enumerate(parts)}
    name = short_name(text).removesuffix(f".{side}")
    if not PLACE.fullmatch(text) or name not in names:
        places = ", ".join(f"{name}.input" for name in names)
        raise ArgumentError("place", must=f"be one of {places}, or .output of a layer", got=text)
    if side == "output" and isinstance(parts[names[name]], Heads):
        raise ArgumentError("place", must="be the output of an mlp", got=text, todo="Heads write one by one.")
    return Place(names[name], side, f"{name}.{side}")


def short_name(text: str) -> str:
    """The short name of a place, "mlp1.input" for "layers.1.mlp.input"; any other text as it is."""
    found = PLACE.fullmatch(text)
    if not found:
        return text
    part = found[1] or {"mlp": "mlp", "self_attn": "attn"}[found[4]]
    return f"{part}{found[2] or found[3]}.{found[5]}"


@contextmanager
def hooked(module: nn.Module, side: str, act: Any) -> Iterator[None]:
    """While it lasts, ``act`` is told of what ``module`` is given or gives, and may give back something in its place."""

    def before(_: nn.Module, given: tuple) -> Any:
        changed = act(given[0])
        return None if changed is None else (changed, *given[1:])

    def after(_: nn.Module, given: tuple, out: Any) -> Any:
        changed = act(out[0] if isinstance(out, tuple) else out)
        return None if changed is None else ((changed, *out[1:]) if isinstance(out, tuple) else changed)

    hook = module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()
