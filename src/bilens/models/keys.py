"""Keys of a config.json that every door knows: what does not change the function passes by its
name, nothing else does.
"""

from collections.abc import Collection, Mapping
from typing import Any

from transformers import GenerationConfig

from bilens.base.errors import ConfigError
from bilens.base.numerics import TOLERANCE, dtype_name, is_whole

MOST_LABELS = 2**20  # transformers names every one of num_labels before anything else is looked at
DTYPES = tuple(dtype_name(dtype) for dtype in TOLERANCE)

# Whatever their value, these say who made a file, how text is read, or how its makers sample: never
# what logits are.
METADATA = {
    "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation_internal", "_model_name_or_path", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens",
    "chunk_size_feed_forward", "cls_token_id", "decoder_start_token_id", "dtype",
    "exponential_decay_length_penalty", "experts_implementation", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_llama_config", "label2id",
    "mask_token_id", "model_max_length", "model_type", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "output_scores", "prefix", "problem_type",
    "remove_invalid_values", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "tf_legacy_loss", "tie_last_hidden_states", "tokenizer_class",
    "torch_dtype", "transformers.js_config", "transformers_version", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_cache",
}  # fmt: skip
# These change the function at any other value than the ones named here.
NOTHING: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, True, None),  # a causal model is one
    "is_encoder_decoder": (False, None),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "return_dict": (True, None),
    "rope_interleaved": (False, None),
    "tie_encoder_decoder": (False, None),
    "torchscript": (False, None),
    "use_bfloat16": (False, None),
    "use_mrope": (False, None),
}
SWITCHES = ("output_attentions", "output_hidden_states")


def is_metadata(key: str) -> bool:
    """Whether ``key`` passes in every door, at any value or at some."""
    return key in METADATA or key in NOTHING or key in _sampling()


def require_understood(given: Mapping[str, Any], own: Collection[str], who: str = "") -> None:
    """Raise ConfigError for the first key that is neither ``own`` nor metadata, or is not at a
    value that does nothing.
    """
    for key, value in given.items():
        if key in own:
            continue
        if not is_metadata(key):
            todo = "Nothing is skipped on import."
            raise ConfigError(
                who + key, must="be a key bilens understands", got=repr(value), todo=todo
            )
        if key in NOTHING and not _is_one_of(value, NOTHING[key]):
            todo = "bilens does not have what it asks for."
            raise ConfigError(who + key, must=f"be {NOTHING[key][0]!r}", got=repr(value), todo=todo)
    require_metadata(given, who)


def require_metadata(given: Mapping[str, Any], who: str = "") -> None:
    """Raise ConfigError where metadata that transformers acts on cannot be meant: its dtype, and
    how many labels.
    """
    for key in ("dtype", "torch_dtype"):
        value = given.get(key)
        if value is not None and str(value).removeprefix("torch.") not in DTYPES:
            raise ConfigError(who + key, must=f"be one of {', '.join(DTYPES)}", got=repr(value))
    labels = given.get("num_labels")
    if labels is not None and not (is_whole(labels) and 0 <= labels <= MOST_LABELS):
        raise ConfigError(
            who + "num_labels", must=f"be a whole number up to {MOST_LABELS}", got=repr(labels)
        )
    for key in SWITCHES:
        if not isinstance(given.get(key), bool | None):
            raise ConfigError(who + key, must="be true or false", got=repr(given[key]))
    for key in ("id2label", "label2id"):
        if not isinstance(given.get(key), dict | None):
            raise ConfigError(who + key, must="be an object", got=repr(given[key]))


def _sampling() -> set[str]:
    """How generation was set up, as old files have it in config.json; transformers 5 leaves it
    there.
    """
    return set(GenerationConfig._get_default_generation_params())


def _is_one_of(value: Any, allowed: Collection[Any]) -> bool:
    """Membership by value and type: 0 is not False here."""
    return any(type(value) is type(one) and value == one for one in allowed)
