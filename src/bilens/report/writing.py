"""The page of any model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bilens.base.errors import ArgumentError
from bilens.models import Classifier, Transformer
from bilens.report.page import Page, made, write_sections
from bilens.report.view import STORY, Query
from bilens.report.views import VIEWS
from bilens.training import HeldOut, ImageData
from bilens.wiring import Prompt


def write_page(
    model: Classifier | Transformer,
    data: ImageData | Sequence[str | Prompt] | None,
    folder: str | Path,
    about: dict[str, Any] | None = None,
    text: HeldOut | None = None,
    name: str = "",
) -> Page:
    """Write ``folder``/index.html about ``model``. A part that fails shows its error; the page
    survives, and names it.

    ``data``: images for a classifier (their test part is used); prompts for a language model
    (default: one). ``about`` is what training.json says of the run, if anything. ``text``: on what
    the MLPs of a language model are held against their nearest tensors, where they are none.
    ``name``: what the model is called, in the page's title.
    Errors: ArgumentError where the data are not of the model's kind.

    >>> from tempfile import mkdtemp
    >>> page = bilens.report.write_page(model, [prompt], mkdtemp())
    >>> page.path.name
    """
    query = replace(_query(model, data, about or {}), text=text)
    model = model.eval()
    blocks = [block for view in VIEWS if view.fits(model) for block in view.build(model, query)]
    return write_sections(folder, [made(block) for block in blocks], name)


def _query(
    model: Classifier | Transformer,
    data: ImageData | Sequence[str | Prompt] | None,
    about: dict[str, Any],
) -> Query:
    """The question to ``model``. Errors: ArgumentError where the data are not of its kind."""
    if isinstance(model, Transformer):
        if isinstance(data, ImageData):
            raise ArgumentError("data", must="be prompts for a language model", got="images")
        return Query(prompts=tuple(data or (STORY,)), about=about)
    if not isinstance(data, ImageData):
        raise ArgumentError("data", must="be images for a classifier", got=type(data).__name__)
    return Query(images=data, about=about)
