"""Floor 7: training, thin, through Hugging Face ``Trainer``."""

from bilens.base.documents import BUILT_IN, read_documents
from bilens.training.classify import (
    RECIPES,
    ImageRecipe,
    evaluate,
    evaluate_on,
    load_images_for,
    recipe,
    train_classifier,
)
from bilens.training.compare import VARIANTS, Comparison, compare, with_mlp
from bilens.training.conversion import ConversionRecipe, make_bilinear
from bilens.training.dictionary import harvest, measure, shuffled, train_dictionary
from bilens.training.export import export
from bilens.training.idx import read_idx
from bilens.training.images import ImageData, Images, load_images
from bilens.training.language import (
    TextRecipe,
    evaluate_text,
    evaluate_text_on,
    held_out_ids,
    read_recipe,
    train_language,
    training_tokens,
)
from bilens.training.moments import every_place, gather_moments
from bilens.training.processes import shared
from bilens.training.rule_paths import PathScores, evaluate_paths
from bilens.training.run import read_about
from bilens.training.text import Blocks, HeldOut, TextData, load_text
from bilens.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from bilens.training.truth import (
    RuleScores,
    Truth,
    evaluate_rules,
    parts_of,
    read_truth,
    require_fit,
    score_rules,
)

__all__ = [
    "BUILT_IN",
    "RECIPES",
    "VARIANTS",
    "Blocks",
    "Comparison",
    "ConversionRecipe",
    "HeldOut",
    "ImageData",
    "ImageRecipe",
    "Images",
    "PathScores",
    "RuleScores",
    "TextData",
    "TextRecipe",
    "Truth",
    "compare",
    "evaluate",
    "evaluate_on",
    "evaluate_paths",
    "evaluate_rules",
    "evaluate_text",
    "evaluate_text_on",
    "every_place",
    "export",
    "gather_moments",
    "harvest",
    "held_out_ids",
    "load_images",
    "load_images_for",
    "load_text",
    "load_tokenizer",
    "make_bilinear",
    "measure",
    "parts_of",
    "read_about",
    "read_documents",
    "read_idx",
    "read_recipe",
    "read_truth",
    "recipe",
    "require_fit",
    "save_tokenizer",
    "score_rules",
    "shared",
    "shuffled",
    "train_classifier",
    "train_dictionary",
    "train_language",
    "train_tokenizer",
    "training_tokens",
    "with_mlp",
]
