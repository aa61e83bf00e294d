"""Floor 1: third-order and second-order tensors in factored form. Knows torch and base, nothing
else.
"""

from bilens.algebra.affine import affine, constant, homogeneous_map, lifted, linear
from bilens.algebra.balance import balanced
from bilens.algebra.cp import CP, Parts, Rounded
from bilens.algebra.eigen import Eigen
from bilens.algebra.factored import Factored
from bilens.algebra.gauge import canonical
from bilens.algebra.quadratic import Gates, QuadraticForm
from bilens.algebra.symmetric import (
    Support,
    signs,
    support,
    symmetric_root,
    unit_products,
)
from bilens.algebra.third import ThirdOrder, homogeneous
from bilens.algebra.tucker import Dense, Tucker

__all__ = [
    "CP",
    "Dense",
    "Eigen",
    "Factored",
    "Gates",
    "Parts",
    "QuadraticForm",
    "Rounded",
    "Support",
    "ThirdOrder",
    "Tucker",
    "affine",
    "balanced",
    "canonical",
    "constant",
    "homogeneous",
    "homogeneous_map",
    "lifted",
    "linear",
    "signs",
    "support",
    "symmetric_root",
    "unit_products",
]
