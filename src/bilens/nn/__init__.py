"""Floor 2: layers. Weights leave a layer through one door, ``layer.tensor()``."""

from bilens.nn.bilinear import Bilinear
from bilens.nn.mlp import MLP, BilinearMLP, GatedMLP

__all__ = ["MLP", "Bilinear", "BilinearMLP", "GatedMLP"]
