"""Floor 4: training, thin, through Hugging Face ``Trainer``."""

from bilens.training.classify import (
    RECIPES,
    ImageRecipe,
    evaluate,
    evaluate_on,
    load_images_for,
    recipe,
    train_classifier,
)
from bilens.training.idx import read_idx
from bilens.training.images import ImageData, Images, load_images
from bilens.training.run import read_about

__all__ = [
    "RECIPES",
    "ImageData",
    "ImageRecipe",
    "Images",
    "evaluate",
    "evaluate_on",
    "load_images",
    "load_images_for",
    "read_about",
    "read_idx",
    "recipe",
    "train_classifier",
]
