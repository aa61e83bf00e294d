"""How positions turn: RoPE's parameters as transformers writes them, old keys understood,
everything checked.
"""

from collections.abc import Mapping
from typing import Any

from bilens.base.errors import ConfigError
from bilens.base.keys import Keys, Number, each
from bilens.models.config import SIZE

THETA = 10000.0
# The kinds whose angles do not depend on the length of the text, and what each needs beside its
# base.
ROPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
WHERE = "TransformerConfig.rope_parameters"
POSSIBLE = Keys(
    {
        "original_max_position_embeddings": SIZE,
        **each(("rope_theta", "factor", "low_freq_factor", "high_freq_factor"), Number(above=0)),
    }
)


def rope_parameters(given: Any, theta: Any, context: int) -> dict[str, Any]:
    """``given`` with its kind under ``rope_type`` (older files say ``type``) and its base, every
    value checked.

    ``theta``: the base where ``given`` names none. ``context``: what llama3 was trained at, where
    ``given`` does not say. Errors: ConfigError for a kind bilens does not have, and a key that is
    missing, left over or impossible.
    """
    if not isinstance(given, Mapping | None):
        raise ConfigError(WHERE, must="be an object", got=repr(given))
    left = dict(given or {})
    kind = _kind(left)
    found = {"rope_type": kind, "rope_theta": left.pop("rope_theta", None) or theta}
    if left.pop("partial_rotary_factor", None) not in (None, 1, 1.0):
        raise ConfigError(
            f"{WHERE}.partial_rotary_factor", must="be 1: whole heads turn", got=repr(given)
        )
    if kind == "llama3" and left.get("original_max_position_embeddings") is None:
        left["original_max_position_embeddings"] = context
    for key in ROPES[kind]:
        if key not in left:
            raise ConfigError(
                f"{WHERE}.{key}", must=f'be given for rope_type "{kind}"', got="nothing"
            )
        found[key] = left.pop(key)
    for key, value in left.items():
        raise ConfigError(f"{WHERE}.{key}", must=f'be a key of rope_type "{kind}"', got=repr(value))
    _require_possible(found)
    return found


def _kind(left: dict[str, Any]) -> str:
    """The kind of RoPE, taken out of ``left``."""
    named = {left.pop(key) for key in ("rope_type", "type") if isinstance(left.get(key), str)}
    for key in ("rope_type", "type"):
        if left.pop(key, None) is not None:
            raise ConfigError(f"{WHERE}.{key}", must=f"be one of {', '.join(ROPES)}", got="no text")
    if len(named) > 1 or not named <= ROPES.keys():
        got = " and ".join(sorted(named))
        raise ConfigError(f"{WHERE}.rope_type", must=f"be one of {', '.join(ROPES)}", got=repr(got))
    return named.pop() if named else "default"


def _require_possible(found: dict[str, Any]) -> None:
    POSSIBLE.check({key: found[key] for key in found if key != "rope_type"}, f"{WHERE}.")
    if "low_freq_factor" in found and found["low_freq_factor"] >= found["high_freq_factor"]:
        must = f"be above low_freq_factor = {found['low_freq_factor']}"
        raise ConfigError(f"{WHERE}.high_freq_factor", must=must, got=found["high_freq_factor"])
