"""How a long job says how far it has come: one shape of callback for all of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from bilens.base.errors import ArgumentError

NO_FIGURES: Mapping[str, float] = MappingProxyType({})


@runtime_checkable
class Progress(Protocol):
    """What hears of every step: ``done`` of ``of`` things are done.

    ``figures``: what the last one came to. ``what`` the things are: directions, steps, runs. A job
    that has neither to say passes the first two alone.
    """

    def __call__(
        self, done: int, of: int, figures: Mapping[str, float] = NO_FIGURES, what: str = ""
    ) -> Any: ...


def require_progress(who: str, value: object) -> None:
    """Raise ArgumentError unless ``value`` can be called, or is None: asked before the work."""
    if value is not None and not callable(value):
        must = "be a function that hears of each step, or None"
        raise ArgumentError(who, must=must, got=type(value).__name__)
