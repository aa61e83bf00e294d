"""The page of any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilens.base.errors import ArgumentError
from bilens.models import Classifier, Transformer
from bilens.nn.expandable import Prompt
from bilens.report.classifier_page import classifier_sections
from bilens.report.language_page import language_sections
from bilens.report.page import Page, write_sections
from bilens.training import ImageData

STORY = "Once upon a time there was a little"


def write_page(
    model: Classifier | Transformer,
    data: ImageData | Sequence[str | Prompt] | None,
    folder: str | Path,
    about: dict[str, Any] | None = None,
) -> Page:
    """Write ``folder``/index.html about ``model``. A part that fails shows its error; the page
    survives, and names it.

    ``data``: images for a classifier (their test part is used); prompts for a language model
    (default: one). ``about`` is what training.json says of the run, if anything. Errors:
    ArgumentError where the data are not of the model's kind.
    """
    if isinstance(model, Transformer):
        if isinstance(data, ImageData):
            raise ArgumentError("data", must="be prompts for a language model", got="images")
        return write_sections(folder, language_sections(model, data or (STORY,), about or {}))
    if not isinstance(data, ImageData):
        raise ArgumentError("data", must="be images for a classifier", got=type(data).__name__)
    return write_sections(folder, classifier_sections(model, data, about or {}))
