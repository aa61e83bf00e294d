"""bilens's own models, as ``save_pretrained`` writes them."""

from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from bilens.models.classifier.config import ClassifierConfig
from bilens.models.families.family import Family, Shapes
from bilens.models.transformer.config import TransformerConfig


def _config(kind: type[PreTrainedConfig], raw: dict[str, Any], shapes: Shapes) -> PreTrainedConfig:
    return kind.from_dict(dict(raw))


CLASSIFIER, TRANSFORMER = (
    Family((kind.model_type,), partial(_config, kind))
    for kind in (ClassifierConfig, TransformerConfig)
)
