"""What all bilens configurations share: an unknown key is an error, never skipped, and every value
is checked.
"""

import math
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.numerics import is_whole
from bilens.models.keys import is_metadata, require_understood

MOST = 2**31  # no size of a model is beyond it


def require_known_keys(config: PreTrainedConfig, given: dict[str, Any]) -> None:
    """Raise ConfigError where ``config`` is made with a key of ``given`` that it does not have, or
    is another model's.

    What it shares with every model of transformers is checked too: it may say nothing that bilens
    does not do.
    """
    who, kind = type(config).__name__, given.get("model_type", config.model_type)
    if kind != config.model_type:
        todo = "bilens.load reads the other families."
        raise ConfigError(
            f"{who}.model_type", must=f"be {config.model_type!r}", got=repr(kind), todo=todo
        )
    known = {field.name for field in fields(config)}
    for key in given:
        if key not in known and not is_metadata(key):
            annotations = vars(type(config)).get("__annotations__", {})
            own = ", ".join(field.name for field in fields(config) if field.name in annotations)
            raise ConfigError(
                f"{who}.{key}",
                must="be a key it knows",
                got="an unknown one",
                todo=f"Its keys: {own}.",
            )
    shared = {key: getattr(config, key) for key in known if is_metadata(key)}
    require_understood(shared | given, known - shared.keys(), f"{who}.")


def require_count(config: str, key: str, value: Any, least: int = 1) -> None:
    """Raise ConfigError unless ``value`` is a whole number from ``least`` to 2³¹."""
    if not is_whole(value) or not least <= value < MOST:
        raise ConfigError(f"{config}.{key}", must=f"be a whole number ≥ {least}", got=repr(value))


def require_number(
    config: str, key: str, value: Any, least: float = -math.inf, above: float = -math.inf
) -> None:
    """Raise ConfigError unless ``value`` is a finite number, at least ``least`` and above
    ``above``.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < least or value <= above:
        bounds = (
            f" > {above:g}" if above > -math.inf else f" ≥ {least:g}" if least > -math.inf else ""
        )
        raise ConfigError(f"{config}.{key}", must=f"be a finite number{bounds}", got=repr(value))


def require_bool(config: str, key: str, value: Any) -> None:
    """Raise ConfigError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{config}.{key}", must="be true or false", got=repr(value))


def require_tokens(config: Any, vocab_size: int, who: str = "") -> None:
    """Raise ConfigError unless the ids of the special tokens are in the vocabulary; of ends there
    may be several.
    """
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not ends:
        raise ConfigError(
            f"{who}eos_token_id", must="be a token's id, or a list of them", got="an empty list"
        )
    named = [("bos_token_id", config.bos_token_id), ("pad_token_id", config.pad_token_id)]
    for key, value in [*named, *(("eos_token_id", end) for end in ends)]:
        if value is not None and not (is_whole(value) and 0 <= value < vocab_size):
            raise ConfigError(
                f"{who}{key}", must=f"be a token's id, 0 … {vocab_size - 1}", got=repr(value)
            )
