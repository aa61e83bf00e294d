"""What all bilens configurations share: an unknown key is an error, never skipped, and every value is checked."""

import math
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.numerics import is_whole
from bilens.models.keys import is_metadata, require_understood

MOST = 2**31  # no size of a model is beyond it


def require_known_keys(config: type[PreTrainedConfig], given: dict[str, Any]) -> None:
    """Raise ConfigError naming the first key of ``given`` that ``config`` does not have, or another model's type."""
    known = {field.name for field in fields(config)}
    for key in given:
        if key not in known and not is_metadata(key):
            own = ", ".join(field.name for field in fields(config) if field.name in vars(config).get("__annotations__", {}))
            raise ConfigError(
                f"{config.__name__}.{key}", must="be a key it knows", got="an unknown one", todo=f"Its keys: {own}."
            )
    require_understood(given, known, f"{config.__name__}.")
    kind = given.get("model_type", config.model_type)
    if kind != config.model_type:
        todo = "bilens.load reads the other families."
        raise ConfigError(f"{config.__name__}.model_type", must=f"be {config.model_type!r}", got=repr(kind), todo=todo)


def require_count(config: str, key: str, value: Any, least: int = 1) -> None:
    """Raise ConfigError unless ``value`` is a whole number from ``least`` to 2³¹."""
    if not is_whole(value) or not least <= value < MOST:
        raise ConfigError(f"{config}.{key}", must=f"be a whole number ≥ {least}", got=repr(value))


def require_number(config: str, key: str, value: Any, least: float = -math.inf, above: float = -math.inf) -> None:
    """Raise ConfigError unless ``value`` is a finite number, at least ``least`` and above ``above``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < least or value <= above:
        bounds = f" > {above:g}" if above > -math.inf else f" ≥ {least:g}" if least > -math.inf else ""
        raise ConfigError(f"{config}.{key}", must=f"be a finite number{bounds}", got=repr(value))


def require_bool(config: str, key: str, value: Any) -> None:
    """Raise ConfigError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{config}.{key}", must="be true or false", got=repr(value))


def require_token(config: str, key: str, value: Any, vocab_size: int) -> None:
    """Raise ConfigError unless ``value`` is None or a token's id below ``vocab_size``."""
    if value is not None and not (is_whole(value) and 0 <= value < vocab_size):
        raise ConfigError(f"{config}.{key}", must=f"be a token's id, 0 … {vocab_size - 1}", got=repr(value))
