"""Floor 3: layers. Weights leave a layer through one door, ``layer.tensor()``."""

from bilens.nn.activations import ACTIVATIONS, Activation
from bilens.nn.attention import (
    ATTENTIONS,
    Attention,
    Mask,
    Rotary,
    Scores,
    causal_mask,
    frequencies,
    rotate,
    soft_cap,
    soft_cap_gate,
)
from bilens.nn.bilinear import Bilinear
from bilens.nn.experts import Experts, Share
from bilens.nn.mlp import MLP, BilinearMLP, GatedMLP
from bilens.nn.norm import (
    LINEAR_NORMS,
    NORMS,
    BuiltNorm,
    LayerNorm,
    NoNorm,
    Norm,
    Rescaled,
    RMSNorm,
    Scales,
    UnitOffsetRMSNorm,
    make_norm,
    normalises,
    own_norm,
    rescaled,
)
from bilens.nn.units import Hidden, Leg, Routed

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "LINEAR_NORMS",
    "MLP",
    "NORMS",
    "Activation",
    "Attention",
    "Bilinear",
    "BilinearMLP",
    "BuiltNorm",
    "Experts",
    "GatedMLP",
    "Hidden",
    "LayerNorm",
    "Leg",
    "Mask",
    "NoNorm",
    "Norm",
    "RMSNorm",
    "Rescaled",
    "Rotary",
    "Routed",
    "Scales",
    "Scores",
    "Share",
    "UnitOffsetRMSNorm",
    "causal_mask",
    "frequencies",
    "make_norm",
    "normalises",
    "own_norm",
    "rescaled",
    "rotate",
    "soft_cap",
    "soft_cap_gate",
]
