"""The transformer: what it is, its blocks, and how it is wired."""

from bilens.models.transformer.config import TransformerConfig
from bilens.models.transformer.model import Transformer

__all__ = ["Transformer", "TransformerConfig"]
