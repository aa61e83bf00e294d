"""What all bilens configurations share: an unknown key is an error, never skipped, and every value
is checked.
"""

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.keys import Anything, Keys, Whole, each
from bilens.base.numerics import is_whole
from bilens.models.keys import METADATA, understood

MOST = 2**31 - 1  # no size of a model is beyond it
SIZE, SIZE_OR_NONE = Whole(1, MOST), Whole(0, MOST)


def require_known_keys(config: PreTrainedConfig, given: dict[str, Any]) -> None:
    """Raise ConfigError where ``config`` is made with a key of ``given`` that it does not have, or
    is another model's.

    What it shares with every model of transformers is checked too: it may say nothing that bilens
    does not do.
    """
    who, kind = type(config).__name__, given.get("model_type", config.model_type)
    if kind != config.model_type:
        todo = "bilens.load reads the other families."
        must = f"be {config.model_type!r}"
        raise ConfigError(f"{who}.model_type", must=must, got=repr(kind), todo=todo)
    known = {field.name for field in fields(config)}
    annotations = vars(type(config)).get("__annotations__", {})
    own = ", ".join(field.name for field in fields(config) if field.name in annotations)
    Keys(
        METADATA | each(known, Anything()), must="be a key it knows", todo=f"Its keys: {own}."
    ).check(given, f"{who}.")
    shared = {key: getattr(config, key) for key in known if key in METADATA}
    understood(each(known - shared.keys(), Anything())).check(shared | given, f"{who}.")


def require_tokens(config: Any, vocab_size: int, who: str = "") -> None:
    """Raise ConfigError unless the ids of the special tokens are in the vocabulary; of ends there
    may be several.
    """
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not ends:
        must = "be a token's id, or a list of them"
        raise ConfigError(f"{who}eos_token_id", must=must, got="an empty list")
    named = [("bos_token_id", config.bos_token_id), ("pad_token_id", config.pad_token_id)]
    for key, value in [*named, *(("eos_token_id", end) for end in ends)]:
        if value is not None and not (is_whole(value) and 0 <= value < vocab_size):
            must = f"be a token's id, 0 … {vocab_size - 1}"
            raise ConfigError(f"{who}{key}", must=must, got=repr(value))
