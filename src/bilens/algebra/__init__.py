"""Floor 1: third-order and second-order tensors in factored form. Knows torch and base, nothing
else.
"""

from bilens.algebra.affine import affine, constant, homogeneous_map, lifted, linear
from bilens.algebra.balance import balanced
from bilens.algebra.cp import BLOCK, CP, Parts, Rounded
from bilens.algebra.eigen import (
    Eigen,
    Which,
    at_scale,
    degenerate_blocks,
    eigen_noise,
    preference,
    require_count,
    require_which,
)
from bilens.algebra.factored import Factored
from bilens.algebra.gauge import canonical
from bilens.algebra.quadratic import REACH, Gates, QuadraticForm
from bilens.algebra.symmetric import (
    Support,
    signs,
    support,
    symmetric_root,
    unit_products,
)
from bilens.algebra.third import (
    CANCELLED,
    Form,
    ThirdOrder,
    homogeneous,
    require_constant,
    require_factors,
)
from bilens.algebra.tucker import Dense, Tucker
from bilens.algebra.units import cosines

__all__ = [
    "BLOCK",
    "CANCELLED",
    "CP",
    "REACH",
    "Dense",
    "Eigen",
    "Factored",
    "Form",
    "Gates",
    "Parts",
    "QuadraticForm",
    "Rounded",
    "Support",
    "ThirdOrder",
    "Tucker",
    "Which",
    "affine",
    "at_scale",
    "balanced",
    "canonical",
    "constant",
    "cosines",
    "degenerate_blocks",
    "eigen_noise",
    "homogeneous",
    "homogeneous_map",
    "lifted",
    "linear",
    "preference",
    "require_constant",
    "require_count",
    "require_factors",
    "require_which",
    "signs",
    "support",
    "symmetric_root",
    "unit_products",
]
