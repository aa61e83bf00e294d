"""Floor 3: features. Sparse dictionaries, and what they do to a layer's tensor."""

from bilens.features.dictionary import Dictionary
from bilens.features.forms import FeatureEigen, FeatureForm, FeatureGates, Readings
from bilens.features.interactions import Explanation, Interactions, interactions
from bilens.features.learn import DictionaryRecipe, learn
from bilens.features.low_rank import LowRank, low_rank
from bilens.features.mechanisms import Mechanisms, mechanisms
from bilens.features.pairs import Pairs

__all__ = [
    "Dictionary",
    "DictionaryRecipe",
    "Explanation",
    "FeatureEigen",
    "FeatureForm",
    "FeatureGates",
    "Interactions",
    "LowRank",
    "Mechanisms",
    "Pairs",
    "Readings",
    "interactions",
    "learn",
    "low_rank",
    "mechanisms",
]
