"""The page of any model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bilens.base.errors import ArgumentError
from bilens.base.progress import Progress, require_progress
from bilens.features import Dictionary, require_features
from bilens.models import Classifier, Transformer
from bilens.report.answers import Asked, Written
from bilens.report.page import Page, Section, made, write_sections
from bilens.report.view import STORY, Block, Query, tensor_words
from bilens.report.views import VIEWS
from bilens.training import BUILT_IN, HeldOut, ImageData, Truth
from bilens.wiring import find_place


@dataclass(frozen=True)
class Extra:
    """What a page shows beside the model itself.

    asked: the target, the contrast and the position that each prompt is explained at.
    dictionaries: whose latents are shown, on ``source``, the name of a text as training takes it.
    named: what each of these is loaded by; by default they are called by their places.
    features: which of the first dictionary; by default those that fire most strongly.
    against: the model that it is compared with, as ``bilens.load`` takes it.
    truth: the rules that made the model's data (``training.read_truth``): how many it has.
    progress: hears of the parts of the page.

    >>> bilens.report.Extra(bilens.report.Asked(" girl", " boy")).asked.versus
    ' boy'
    """

    asked: Asked = field(default_factory=Asked)
    dictionaries: tuple[Dictionary, ...] = ()
    named: tuple[str, ...] = ()
    features: tuple[int, ...] = ()
    source: str = BUILT_IN
    against: str | None = None
    truth: Truth | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        require_progress("progress", self.progress)
        if self.named and len(self.named) != len(self.dictionaries):
            must, got = f"be of the {len(self.dictionaries)} dictionaries", len(self.named)
            raise ArgumentError("named", must=must, got=f"{got} names")
        if self.features and not self.dictionaries:
            raise ArgumentError("feature", must="be one of a dictionary's latents", got="none")
        if self.features:
            require_features(self.features, self.dictionaries[0].n_latents)


def write_page(
    model: Classifier | Transformer,
    data: ImageData | Sequence[Written] | None,
    folder: str | Path,
    about: dict[str, Any] | None = None,
    text: HeldOut | None = None,
    name: str = "",
    extra: Extra | None = None,
) -> Page:
    """Write ``folder``/index.html about ``model``. A part that fails shows its error; the page
    survives, and names it.

    ``data``: images for a classifier (their test part is used); prompts for a language model
    (default: one). ``about`` is what training.json says of the run, if anything. ``text``: on what
    the MLPs of a language model are held against their nearest tensors, where they are none.
    ``name``: what the model is called, in the page's title and in its lines of Python. ``extra``:
    a target, dictionaries, a model to compare with.
    Errors: ArgumentError where the data are not of the model's kind, and for a dictionary of no
    place of the model; ShapeError for one of another width.

    >>> from tempfile import mkdtemp
    >>> page = bilens.report.write_page(model, [prompt], mkdtemp())
    >>> page.path.name
    """
    extra = extra or Extra()
    _require_places(model, extra)
    query = replace(
        _query(model, data, about or {}, extra.truth),
        text=text,
        name=name,
        asked=extra.asked,
        dictionaries=extra.dictionaries,
        named=extra.named,
        features=extra.features,
        source=extra.source,
        against=extra.against,
        truth=extra.truth,
    )
    model = model.eval()
    blocks = [block for view in VIEWS if view.fits(model) for block in view.build(model, query)]
    sections = list(_sections(blocks, extra.progress))
    return write_sections(folder, sections, name, tensor_words(model))


def _require_places(model: Classifier | Transformer, extra: Extra) -> None:
    """Raise unless each dictionary is of a place of the model."""
    if not extra.dictionaries or not isinstance(model, Transformer):
        return
    wiring = model.wiring()
    named = extra.named or [f"dictionary no. {n + 1}" for n in range(len(extra.dictionaries))]
    for who, coder in zip(named, extra.dictionaries, strict=True):
        todo = "Use dataclasses.replace(dictionary, hook=...)."
        find_place(coder.hook, wiring.parts, who=f"{who}: hook", todo=todo)
        for side in ("input", "output"):
            coder.require_fits(str(who), width=wiring.readout.shape[1], side=side)


def _sections(blocks: Sequence[Block], progress: Progress | None) -> Iterator[Section]:
    for n, block in enumerate(blocks):
        if progress is not None:
            progress(n, len(blocks), what=block.title)
        yield made(block)


def _query(
    model: Classifier | Transformer,
    data: ImageData | Sequence[Written] | None,
    about: dict[str, Any],
    truth: Truth | None,
) -> Query:
    """The question to ``model``. Errors: ArgumentError where the data are not of its kind."""
    if isinstance(model, Transformer):
        if isinstance(data, ImageData):
            raise ArgumentError("data", must="be prompts for a language model", got="images")
        return Query(prompts=tuple(data or _prompts(model, truth)), about=about)
    if not isinstance(data, ImageData):
        raise ArgumentError("data", must="be images for a classifier", got=type(data).__name__)
    return Query(images=data, about=about)


def _prompts(model: Transformer, truth: Truth | None) -> tuple[Written, ...]:
    """What is asked of a model where nothing is given: a prompt for each kind of the rules that are
    known; else a story, where it reads words.
    """
    if truth is not None:
        return tuple(truth.examples())
    return () if model.tokenizer is None else (STORY,)
