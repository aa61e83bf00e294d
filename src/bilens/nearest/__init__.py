"""Floor 4: the nearest tensor of a layer that is none, and how near it is."""

from bilens.nearest.approximation import Approximation, approximate
from bilens.nearest.degrees import Degrees, degree_spectrum
from bilens.nearest.fits import pair_features, tensor_by_units
from bilens.nearest.regression import NormalEquations

__all__ = [
    "Approximation",
    "Degrees",
    "NormalEquations",
    "approximate",
    "degree_spectrum",
    "pair_features",
    "tensor_by_units",
]
