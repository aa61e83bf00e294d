"""Floor 2: layers. Weights leave a layer through one door, ``layer.tensor()``."""

from bilens.nn.attention import Attention, Rotary
from bilens.nn.bilinear import Bilinear
from bilens.nn.mlp import MLP, BilinearMLP, GatedMLP
from bilens.nn.norm import LayerNorm, NoNorm, RMSNorm

__all__ = [
    "MLP",
    "Attention",
    "Bilinear",
    "BilinearMLP",
    "GatedMLP",
    "LayerNorm",
    "NoNorm",
    "RMSNorm",
    "Rotary",
]
