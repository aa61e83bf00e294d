"""Floor 4: the nearest tensor of a layer that is none, and how near it is."""

from bilens.nearest.approximation import Approximation, approximate
from bilens.nearest.degrees import Degrees, degree_spectrum

__all__ = ["Approximation", "Degrees", "approximate", "degree_spectrum"]
