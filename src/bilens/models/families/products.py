"""What the families have in common whose patterns are products of scores: how they name heads, and
a config.json that has the model under "model".
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bilens.models.families.family import Weight

MATRICES = {"q1": "q", "k1": "k", "q2": "q2", "k2": "k2", "v": "v", "o": "o"}


def head_weights(theirs: str, matrices: Mapping[str, str] = MATRICES) -> Iterator[Weight]:
    """The matrices of every head, by their names in the files ("{name}" in ``theirs``) and those
    here; biases are not of values.
    """
    for name, ours in matrices.items():
        module = f"model.layers.{{layer}}.self_attn.{ours}_proj"
        yield Weight(theirs.replace("{name}", name), (module,), biased=ours != "v")


def said_of(keys: Iterable[str], raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of ``keys``: beside "model", or else under it."""
    return dict(raw.get("model", {})) | {key: raw[key] for key in keys if key in raw}
