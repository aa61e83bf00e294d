"""Keys of a config.json that every family knows: what does not change the function passes by its
name, nothing else does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from bilens.base.keys import Allowed, Anything, Flag, Keys, Maybe, Only, Table, Whole, each, require
from bilens.base.numerics import TOLERANCE, dtype_name

MOST_LABELS = 2**20  # transformers names every one of num_labels before anything else is looked at
DTYPES = tuple(dtype_name(dtype) for dtype in TOLERANCE)


@dataclass(frozen=True)
class _Dtype(Allowed):
    """A type that bilens computes in, by its name or as torch's own."""

    def allows(self, value: Any) -> bool:
        return str(value).removeprefix("torch.") in DTYPES

    def must(self, value: Any) -> str:
        return f"be one of {', '.join(DTYPES)}"


# Whatever their value, these say who made a file, how text is read, or how its makers sample: never
# what logits are.
FREE = (
    "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation_internal", "_model_name_or_path", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens",
    "chunk_size_feed_forward", "cls_token_id", "decoder_start_token_id",
    "exponential_decay_length_penalty", "experts_implementation", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "is_llama_config",
    "mask_token_id", "model_max_length", "model_type", "name_or_path", "output_scores", "prefix",
    "problem_type",
    "remove_invalid_values", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "tf_legacy_loss", "tie_last_hidden_states", "tokenizer_class",
    "transformers.js_config", "transformers_version", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_cache",
)  # fmt: skip
# Transformers itself acts on these.
MEANT: dict[str, Allowed] = {
    **each(("dtype", "torch_dtype"), Maybe(_Dtype())),
    **each(("output_attentions", "output_hidden_states"), Maybe(Flag())),
    **each(("id2label", "label2id"), Maybe(Table())),
    "num_labels": Maybe(Whole(0, MOST_LABELS)),
}
# These change the function at any other value than the ones named here.
NOTHING: dict[str, Allowed] = {
    "add_cross_attention": Only((False, None)),
    "cross_attention_hidden_size": Only((None,)),
    "is_decoder": Only((False, True, None)),  # a causal model is one
    "is_encoder_decoder": Only((False, None)),
    "per_layer_config": Only((None, {})),
    "pruned_heads": Only((None, {})),
    "quantization_config": Only((None,)),
    "return_dict": Only((True, None)),
    "rope_interleaved": Only((False, None)),
    "tie_encoder_decoder": Only((False, None)),
    "torchscript": Only((False, None)),
    "use_bfloat16": Only((False, None)),
    "use_mrope": Only((False, None)),
}
# How generation was set up, as old files have it in config.json; transformers 5 leaves it there.
SAMPLING = tuple(GenerationConfig._get_default_generation_params())
METADATA: dict[str, Allowed] = {**each((*SAMPLING, *FREE), Anything()), **MEANT, **NOTHING}


def understood(own: Mapping[str, Allowed]) -> Keys:
    """The keys of a family's config.json: its ``own``, and what every model may say of itself."""
    return Keys(
        METADATA | dict(own), "be a key bilens understands", "Nothing is skipped on import."
    )


def require_metadata(given: Mapping[str, Any]) -> None:
    """Raise ConfigError where metadata that transformers acts on cannot be meant: its dtype, and
    how many labels.
    """
    for key in MEANT.keys() & given.keys():
        require(key, given[key], MEANT[key])
