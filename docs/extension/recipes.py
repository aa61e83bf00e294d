"""The fields of every recipe, from the recipes themselves."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from bilens.features import DictionaryRecipe
from bilens.models import ClassifierConfig, TransformerConfig
from bilens.training import ConversionRecipe, ImageRecipe, TextRecipe
from extension.signatures import hint

RECIPES = {
    "Training an image classifier": (ImageRecipe, "bilens train image"),
    "Training a language model": (TextRecipe, "bilens train text"),
    "Training a dictionary": (DictionaryRecipe, "bilens train dictionary"),
    "Making the MLPs bilinear": (ConversionRecipe, "bilens convert --to bilinear"),
}
CONFIGS = {"A language model": TransformerConfig, "An image classifier": ClassifierConfig}
BAR = "\\|"  # within a cell
HEAD = """# Recipes and configurations

A recipe is a frozen value in Python and the options of a command: each field is declared once, with
its help. `bilens train text --config FILE.toml` reads the fields from a file as well: those of the
recipe at its top, those of the model under `[model]`, and those of transformers'
`TrainingArguments` under `[trainer]`.
"""


def page() -> str:
    """A table of fields for each recipe, and for each model's configuration."""
    return "\n".join([HEAD, *_recipes(), *_configs()])


def _recipes() -> Iterator[str]:
    for title, (recipe, command) in RECIPES.items():
        yield f"## {title}\n\n`{recipe.__name__}`; on the command line `{command}`.\n"
        yield "| field | type | default | |\n|---|---|---|---|"
        hints = get_type_hints(recipe)
        for field in dataclasses.fields(recipe):
            yield _row(field.name, hints[field.name], field.default, field.metadata.get("help", ""))
        yield ""


def _configs() -> Iterator[str]:
    for title, config in CONFIGS.items():
        yield f"## {title}: `[model]`\n\n```{{eval-rst}}"
        yield f".. autoclass:: bilens.{config.__name__}\n   :no-index:\n```\n"


def _row(name: str, kind: Any, default: Any, help: str) -> str:
    cells = (f"`{name}`", f"`{hint(kind)}`", _default(default), help)
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _default(value: Any) -> str:
    return "" if value is dataclasses.MISSING else f"`{value!r}`"
