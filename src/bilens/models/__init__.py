"""Floor 6: models as Hugging Face ``PreTrainedModel``s, and the door that loads them."""

from bilens.models.activations import activations, evaluating, mlp_inputs, stream
from bilens.models.classifier import Classifier, ClassifierConfig
from bilens.models.families import FAMILIES, NAMES, Weight
from bilens.models.foreign import Conventions, from_state_dict
from bilens.models.inputs import Rows, positions, token_rows
from bilens.models.loading import from_transformers, hushed, load, open_model
from bilens.models.opening import Opened, read_part
from bilens.models.surgery.conversion import ConvertedLayer, bilinear_frame, converted_layers
from bilens.models.tensors import read_tensor
from bilens.models.tokenizing import PAIR, read_tokenizer, vocabulary_size
from bilens.models.transformer import Transformer, TransformerConfig

__all__ = [
    "FAMILIES",
    "NAMES",
    "PAIR",
    "Classifier",
    "ClassifierConfig",
    "Conventions",
    "ConvertedLayer",
    "Opened",
    "Rows",
    "Transformer",
    "TransformerConfig",
    "Weight",
    "activations",
    "bilinear_frame",
    "converted_layers",
    "evaluating",
    "from_state_dict",
    "from_transformers",
    "hushed",
    "load",
    "mlp_inputs",
    "open_model",
    "positions",
    "read_part",
    "read_tensor",
    "read_tokenizer",
    "stream",
    "token_rows",
    "vocabulary_size",
]
