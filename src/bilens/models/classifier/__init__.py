"""The image classifier: what it is, and the model."""

from bilens.models.classifier.config import ClassifierConfig
from bilens.models.classifier.model import Classifier

__all__ = ["Classifier", "ClassifierConfig"]
