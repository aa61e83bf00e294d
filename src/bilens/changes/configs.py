"""What the places of two models do not show: configurations that differ, and sizes that norms
divide out again.
"""

from collections.abc import Mapping
from typing import Any

from bilens.base.words import shortened
from bilens.changes.places import Model

# What no number of a pass hangs on, with the weights that are there.
APART = {
    "architectures", "bos_token_id", "dtype", "eos_token_id", "folds", "id2label",
    "initializer_range", "label2id", "model_type", "pad_token_id", "tie_word_embeddings",
    "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
}  # fmt: skip
LONGEST = 60  # characters of a value


def unseen(one: Model, two: Model) -> tuple[str, ...]:
    """In words, of two models of one shape."""
    before, after = one.config.to_dict(), two.config.to_dict()
    keys = [key for key in {**before, **after} if key not in APART]
    lines = [
        f"{key} is {_told(before, key)} in the first and {_told(after, key)} in the second, which "
        "no number here shows but those of the loss"
        for key in keys
        if before.get(key) != after.get(key)
    ]
    if getattr(one.config, "qk_norm", False):
        lines.append("queries and keys are normed, so the size of a QK circuit is no change")
    if getattr(one.config, "norm_placement", "pre") != "pre":
        lines.append("what parts write is normed, so the size of what they write is no change")
    return tuple(lines)


def _told(config: Mapping[str, Any], key: str) -> str:
    return shortened(repr(config.get(key)), LONGEST)
