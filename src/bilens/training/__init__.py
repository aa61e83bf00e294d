"""Floor 4: training, thin, through Hugging Face ``Trainer``."""

from bilens.training.classify import RECIPES, ImageRecipe, evaluate, evaluate_on, recipe, train_classifier
from bilens.training.idx import read_idx
from bilens.training.images import ImageData, Images, load_images

__all__ = [
    "RECIPES",
    "ImageData",
    "ImageRecipe",
    "Images",
    "evaluate",
    "evaluate_on",
    "load_images",
    "read_idx",
    "recipe",
    "train_classifier",
]
