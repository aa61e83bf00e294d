"""How positions turn: RoPE's parameters as transformers writes them, old keys understood,
everything checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bilens.base.errors import ConfigError
from bilens.base.keys import Flag, Keys, Number, each
from bilens.models.config import SIZE

THETA = 10000.0
ORIGINAL = "original_max_position_embeddings"
FULL, SLIDING = "full_attention", "sliding_attention"  # layers by what their heads see


@dataclass(frozen=True)
class Rope:
    """What a kind of RoPE needs beside its base, and what it may have."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    # of keys that a file may leave out: what they are then, None for the context
    defaults: tuple[tuple[str, Any], ...] = ()


ROPES = {
    "default": Rope(),
    "linear": Rope(("factor",)),
    "dynamic": Rope(("factor",), (ORIGINAL,)),
    "llama3": Rope(
        ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), defaults=((ORIGINAL, None),)
    ),
    "yarn": Rope(
        ("factor", ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        ((ORIGINAL, None),),
    ),
    "longrope": Rope(("short_factor", "long_factor", ORIGINAL), ("factor", "attention_factor")),
}
WHERE = "TransformerConfig.rope_parameters"
PARTIAL = "partial_rotary_factor"
POSITIVE = (
    "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim",
)  # fmt: skip
POSSIBLE = Keys({ORIGINAL: SIZE, "truncate": Flag(), **each(POSITIVE, Number(above=0))})


def rope_parameters(given: Any, theta: Any, context: int) -> dict[str, Any]:
    """``given`` with its kind under ``rope_type`` (older files say ``type``) and its base, every
    value checked; where it has those of full_attention and of sliding_attention apart, each of the
    two.

    ``theta``: the base where ``given`` names none. ``context``: what llama3 and yarn were trained
    at, where ``given`` does not say. Errors: ConfigError for a kind bilens does not have, and a key
    that is missing, left over or impossible.
    """
    if not isinstance(given, Mapping | None):
        raise ConfigError(WHERE, must="be an object", got=repr(given))
    if given and given.keys() <= {FULL, SLIDING}:
        return {kind: rope_parameters(given[kind], theta, context) for kind in given}
    left = {key: value for key, value in (given or {}).items() if value is not None}
    kind = _kind(left)
    found = {"rope_type": kind, "rope_theta": left.pop("rope_theta", theta)}
    part = left.pop(PARTIAL, 1.0)
    if not Number(above=0).allows(part) or part > 1:
        raise ConfigError(f"{WHERE}.{PARTIAL}", must="be above 0, at most 1", got=repr(part))
    if part != 1:
        found[PARTIAL] = part
    rope = ROPES[kind]
    for key, value in rope.defaults:
        left.setdefault(key, context if value is None else value)
    for key in rope.needs:
        if key not in left:
            must = f'be given for rope_type "{kind}"'
            raise ConfigError(f"{WHERE}.{key}", must=must, got="nothing")
        found[key] = left.pop(key)
    found |= {key: left.pop(key) for key in rope.may if key in left}
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
    POSSIBLE.check({key: found[key] for key in found if key in POSSIBLE.allowed}, f"{WHERE}.")
    if "low_freq_factor" in found and found["low_freq_factor"] >= found["high_freq_factor"]:
        must = f"be above low_freq_factor = {found['low_freq_factor']}"
        raise ConfigError(f"{WHERE}.high_freq_factor", must=must, got=found["high_freq_factor"])
    for key in {"short_factor", "long_factor"} & found.keys():
        value = found[key]
        if not isinstance(value, list | tuple) or not all(map(Number(above=0).allows, value)):
            must = "be a list of numbers above 0, one for each pair of dimensions"
            raise ConfigError(f"{WHERE}.{key}", must=must, got=repr(value))
