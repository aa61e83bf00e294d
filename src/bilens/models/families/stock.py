"""Families of transformers: a config.json read by transformers' own class, which knows what is
meant where a key is left out, and its keys as fields of bilens's configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import CONFIG_MAPPING

from bilens.base.errors import ConfigError
from bilens.base.keys import Allowed, Anything, Only, each
from bilens.models.families.family import Shapes
from bilens.models.keys import understood
from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.rope import PARTIAL

# Keys that mean the same on both sides.
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "initializer_range", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip
# Elementwise functions under another name.
ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh", "swish": "silu"}
# They act in training alone, and bilens trains without.
DROPOUTS = (
    "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "resid_dropout",
    "embed_dropout", "hidden_dropout", "classifier_dropout",
)  # fmt: skip
# Of a head that sums up a text, which is not read here.
SUMMARY = (
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout",
)  # fmt: skip
BIDIRECTIONAL: dict[str, Allowed] = {"use_bidirectional_attention": Only((False, None))}


@dataclass(frozen=True)
class Facts:
    """How the configuration of one model_type is read.

    ``names``: keys with another name here. ``always``: what each of its models is, in fields of
    bilens's configuration. ``more``: fields that take more than a name, from all its keys.
    ``free``: keys that do not change the function, or that ``more`` reads. ``partial``: whether a
    part of each head may turn. ``only``: keys that may hold certain values.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    more: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: {}
    free: tuple[str, ...] = ()
    partial: bool = False
    only: Mapping[str, Allowed] = field(default_factory=dict)

    def config(self, raw: dict[str, Any], shapes: Shapes) -> TransformerConfig:
        """The bilens configuration. Errors: ConfigError naming the first key that is not
        understood.
        """
        given = CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw)).to_dict()
        own = (*SHARED, *DROPOUTS, *SUMMARY, *self.names, *self.free)
        understood(each(own, Anything()) | dict(self.only)).check(given)
        if not self.partial:
            require_whole_heads(given)
        told = {key: given[key] for key in SHARED if given.get(key) is not None}
        told |= {name: given[key] for key, name in self.names.items() if key in given}
        told |= dict(self.always) | dict(self.more(given))
        told["hidden_act"] = activation(told["hidden_act"])
        return TransformerConfig(**told, dtype=given.get("dtype"))


def activation(name: Any) -> Any:
    """What bilens calls an elementwise function; what is none is left as it is."""
    return ACTIVATIONS.get(name, name) if isinstance(name, str) else name


def require_whole_heads(given: Mapping[str, Any]) -> None:
    """Raise ConfigError where a part of each head is to turn: classes of transformers that do not
    have it pass over the key.
    """
    ropes = given.get("rope_parameters") or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, Mapping) and rope.get(PARTIAL) not in (None, 1, 1.0):
            who, got = f"rope_parameters.{PARTIAL}", repr(rope[PARTIAL])
            raise ConfigError(who, must="be 1: whole heads turn", got=got)


def windows(given: Mapping[str, Any]) -> list[int | None] | None:
    """How far back each layer looks: in those of ``layer_types`` that slide, or in all."""
    window, layers = given.get("sliding_window"), given["num_hidden_layers"]
    if window is None:
        return None
    kinds = given.get("layer_types") or ["sliding_attention"] * layers
    found = [window if kind == "sliding_attention" else None for kind in kinds]
    return found if any(found) else None
