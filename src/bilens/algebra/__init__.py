"""Floor 1: third-order and second-order tensors in factored form. Knows torch and base, nothing
else.
"""

from bilens.algebra.affine import (
    Parts,
    affine,
    constant,
    homogeneous,
    homogeneous_map,
    linear,
    parts,
)
from bilens.algebra.cp import CP
from bilens.algebra.eigen import Eigen
from bilens.algebra.factored import Factored
from bilens.algebra.gauge import canonical
from bilens.algebra.gaussian import Gaussian
from bilens.algebra.hermite import Hermite
from bilens.algebra.quadratic import Gates, QuadraticForm
from bilens.algebra.rounding import Rounded
from bilens.algebra.sampled import Estimate, sampled_inner
from bilens.algebra.third import ThirdOrder
from bilens.algebra.tucker import Dense, Tucker

__all__ = [
    "CP",
    "Dense",
    "Eigen",
    "Estimate",
    "Factored",
    "Gates",
    "Gaussian",
    "Hermite",
    "Parts",
    "QuadraticForm",
    "Rounded",
    "ThirdOrder",
    "Tucker",
    "affine",
    "canonical",
    "constant",
    "homogeneous",
    "homogeneous_map",
    "linear",
    "parts",
    "sampled_inner",
]
