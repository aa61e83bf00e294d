"""Floor 6: features. Sparse dictionaries, and what they do to a layer's tensor."""

from bilens.features.cofiring import Cofiring, FiringPairs, cofiring
from bilens.features.dictionary import Dictionary
from bilens.features.examples import Example, Examples, InContext, examples
from bilens.features.firing import By, Firing, firing
from bilens.features.forms import FeatureEigen, FeatureForm, FeatureGates, Readings
from bilens.features.interactions import Explanation, Interactions, interactions
from bilens.features.latents import Pursuit, require_features
from bilens.features.learn import DictionaryRecipe
from bilens.features.low_rank import LowRank, low_rank
from bilens.features.mechanisms import Mechanisms, mechanisms
from bilens.features.pairs import FeaturePairs
from bilens.features.quadratic import QuadraticLatents
from bilens.features.texts import Texts
from bilens.features.transcode import Transcoding, transcode
from bilens.features.transcoders import read_transcoder
from bilens.features.words import Words

__all__ = [
    "By",
    "Cofiring",
    "Dictionary",
    "DictionaryRecipe",
    "Example",
    "Examples",
    "Explanation",
    "FeatureEigen",
    "FeatureForm",
    "FeatureGates",
    "FeaturePairs",
    "Firing",
    "FiringPairs",
    "InContext",
    "Interactions",
    "LowRank",
    "Mechanisms",
    "Pursuit",
    "QuadraticLatents",
    "Readings",
    "Texts",
    "Transcoding",
    "Words",
    "cofiring",
    "examples",
    "firing",
    "interactions",
    "low_rank",
    "mechanisms",
    "read_transcoder",
    "require_features",
    "transcode",
]
