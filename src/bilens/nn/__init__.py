"""Floor 3: layers. Weights leave a layer through one door, ``layer.tensor()``."""

from bilens.nn.activations import ACTIVATIONS, Activation
from bilens.nn.attention import Attention, Mask, Rotary, causal_mask, frequencies, rotate
from bilens.nn.bilinear import Bilinear
from bilens.nn.experts import Experts, Share
from bilens.nn.mlp import MLP, BilinearMLP, GatedMLP
from bilens.nn.norm import NORMS, LayerNorm, NoNorm, Norm, RMSNorm, make_norm
from bilens.nn.units import Hidden, Leg, Routed

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NORMS",
    "Activation",
    "Attention",
    "Bilinear",
    "BilinearMLP",
    "Experts",
    "GatedMLP",
    "Hidden",
    "LayerNorm",
    "Leg",
    "Mask",
    "NoNorm",
    "Norm",
    "RMSNorm",
    "Rotary",
    "Routed",
    "Share",
    "causal_mask",
    "frequencies",
    "make_norm",
    "rotate",
]
