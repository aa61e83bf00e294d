"""Floor 2: what inputs are like, and tensors as functions of such inputs."""

from bilens.measure.gaussian import Gaussian, OnGaussian
from bilens.measure.hermite import Hermite, hermite
from bilens.measure.moments import Moments, joined, moments_of
from bilens.measure.samples import Estimate, OnSamples, Samples, jackknife

__all__ = [
    "Estimate",
    "Gaussian",
    "Hermite",
    "Moments",
    "OnGaussian",
    "OnSamples",
    "Samples",
    "hermite",
    "jackknife",
    "joined",
    "moments_of",
]
