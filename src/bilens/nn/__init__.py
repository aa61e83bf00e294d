"""Floor 2: layers. Weights leave a layer through one door, ``layer.tensor()``."""

from bilens.nn.attention import Attention, Mask, Rotary, causal_mask, frequencies, rotate
from bilens.nn.bilinear import Bilinear
from bilens.nn.mlp import ACTIVATIONS, MLP, BilinearMLP, GatedMLP
from bilens.nn.norm import NORMS, LayerNorm, NoNorm, Norm, RMSNorm, make_norm

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NORMS",
    "Attention",
    "Bilinear",
    "BilinearMLP",
    "GatedMLP",
    "LayerNorm",
    "Mask",
    "NoNorm",
    "Norm",
    "RMSNorm",
    "Rotary",
    "causal_mask",
    "frequencies",
    "make_norm",
    "rotate",
]
