"""Floor 3: models as Hugging Face ``PreTrainedModel``s, and the door that loads them."""

from bilens.models.activations import activations
from bilens.models.classifier import Classifier, ClassifierConfig
from bilens.models.loading import hushed, load
from bilens.models.transformer import Transformer, TransformerConfig
from bilens.models.truncation import Truncation, truncate

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Transformer",
    "TransformerConfig",
    "Truncation",
    "activations",
    "hushed",
    "load",
    "truncate",
]
