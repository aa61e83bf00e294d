"""How a long job says how far it has come: one shape of report for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """``done`` of ``of`` things (``what``: directions, steps, runs), and figures of the last
    one.
    """

    done: int
    of: int
    what: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


Progress = Callable[[Step], Any]  # what a caller passes to hear of every step
