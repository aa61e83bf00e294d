"""bilens: bilinear layers as exact third-order tensors, for interpretability.

Everything bilens says about a model is exact, or says what it left out. Names are loaded when first
used, so that
``import bilens`` costs next to nothing and no model library is loaded before a model is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bilens.base.garbage import uncollected

__version__ = "0.2.0"

if TYPE_CHECKING:
    from bilens import (
        algebra,
        base,
        changes,
        checks,
        circuits,
        decompose,
        features,
        measure,
        models,
        nearest,
        nn,
        report,
        training,
    )
    from bilens.algebra import (
        CP,
        Dense,
        Eigen,
        Factored,
        Gates,
        QuadraticForm,
        Tucker,
        homogeneous,
    )
    from bilens.base.errors import BilensError, NotExactError
    from bilens.changes import diff
    from bilens.checks import verify
    from bilens.circuits import expand
    from bilens.measure import Gaussian
    from bilens.models import Classifier, ClassifierConfig, Transformer, TransformerConfig, load
    from bilens.nearest import approximate

_HOMES = {
    **dict.fromkeys(
        (
            "CP",
            "Dense",
            "Eigen",
            "Factored",
            "Gates",
            "QuadraticForm",
            "Tucker",
            "homogeneous",
        ),
        "algebra",
    ),
    **dict.fromkeys(("BilensError", "NotExactError"), "base.errors"),
    **dict.fromkeys(
        ("Classifier", "ClassifierConfig", "Transformer", "TransformerConfig", "load"), "models"
    ),
    "Gaussian": "measure",
    "approximate": "nearest",
    "diff": "changes",
    "expand": "circuits",
    "verify": "checks",
}
_ROOMS = (
    "algebra",
    "base",
    "changes",
    "checks",
    "circuits",
    "decompose",
    "features",
    "measure",
    "models",
    "nearest",
    "nn",
    "report",
    "training",
    "wiring",
)

__all__ = [
    "CP",
    "BilensError",
    "Classifier",
    "ClassifierConfig",
    "Dense",
    "Eigen",
    "Factored",
    "Gates",
    "Gaussian",
    "NotExactError",
    "QuadraticForm",
    "Transformer",
    "TransformerConfig",
    "Tucker",
    "algebra",
    "approximate",
    "base",
    "changes",
    "checks",
    "circuits",
    "decompose",
    "diff",
    "expand",
    "features",
    "homogeneous",
    "load",
    "measure",
    "models",
    "nearest",
    "nn",
    "report",
    "training",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return _room(name)
    if name in _HOMES:
        return getattr(_room(_HOMES[name]), name)
    raise AttributeError(f"module 'bilens' has no attribute '{name}'")


def _room(name: str) -> Any:
    """A room, with the libraries that it needs: hundreds of thousands of objects that stay."""
    with uncollected():
        return import_module(f"bilens.{name}")


def __dir__() -> list[str]:
    return __all__
