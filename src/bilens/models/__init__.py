"""Floor 3: models as Hugging Face ``PreTrainedModel``s, and the door that loads them."""

from bilens.models.classifier import Classifier, ClassifierConfig
from bilens.models.loading import load
from bilens.models.truncation import Truncation, truncate

__all__ = ["Classifier", "ClassifierConfig", "Truncation", "load", "truncate"]
