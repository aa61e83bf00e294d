"""What all bilens configurations share: an unknown key is an error, never skipped."""

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.numerics import is_whole

MOST = 2**31  # no size of a model is beyond it

# Keys that transformers itself writes or passes and handles in its own base class.
HANDLED = {
    "_attn_implementation_internal", "_commit_hash", "_experts_implementation_internal", "_name_or_path",
    "attn_implementation", "experts_implementation", "label2id", "model_type", "name_or_path", "num_labels",
    "output_attentions", "per_layer_config", "torch_dtype", "use_cache",
}  # fmt: skip


def require_known_keys(config: type[PreTrainedConfig], given: dict[str, Any]) -> None:
    """Raise ConfigError naming the first key of ``given`` that ``config`` does not have."""
    known = {field.name for field in fields(config)}
    for key in given:
        if key not in known | HANDLED:
            own = ", ".join(field.name for field in fields(config) if field.name in vars(config).get("__annotations__", {}))
            raise ConfigError(
                f"{config.__name__}.{key}", must="be a key it knows", got="an unknown one", todo=f"Its keys: {own}."
            )


def require_count(config: str, key: str, value: Any, least: int = 1) -> None:
    """Raise ConfigError unless ``value`` is a whole number from ``least`` to 2³¹."""
    if not is_whole(value) or not least <= value < MOST:
        raise ConfigError(f"{config}.{key}", must=f"be a whole number ≥ {least}", got=repr(value))


def require_bool(config: str, key: str, value: Any) -> None:
    """Raise ConfigError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{config}.{key}", must="be true or false", got=repr(value))
