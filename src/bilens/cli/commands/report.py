"""``bilens report``: everything about a model on one page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import (
    ModelFolder,
    SpecialTokens,
    TargetPosition,
    TargetToken,
    VersusToken,
    read_target,
    require_folder,
    require_read,
)
from bilens.cli.output import progress_bar, say, warn_of
from bilens.cli.reader import warn

TOKENS = 8192  # of the held-out text
# what only the page of a language model reads
READ_BY = ("a language model",)
TEXT_OPTIONS = "target", "versus", "position", "dictionary", "feature", "truth"
OF_TEXT: dict[str, tuple[str, ...]] = dict.fromkeys(TEXT_OPTIONS, READ_BY)


def command(
    context: typer.Context,
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for index.html.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to test a classifier on; or text, on which dictionaries fire and on "
            "which MLPs that are no tensors are held against their nearest ones. By default what "
            "the model was trained on, where that is still there; dictionaries fire on "
            '"topics" where it is not.'
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text for a language model; repeat it for more.")
    ] = None,
    target: TargetToken = None,
    versus: VersusToken = None,
    position: TargetPosition = -1,
    dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A dictionary, in SAELens's format, whose latents are shown; repeat it for more.",
        ),
    ] = None,
    feature: Annotated[
        list[int] | None,
        typer.Option(
            help="A latent of the first dictionary to show; repeat it for more. By default those "
            "that fire most strongly."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="N", help="A model folder, another checkpoint: what changed since."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="A file of the rules that made the data (rules.json): how many of them the model "
            "has, and which paths have them."
        ),
    ] = None,
    special_tokens: SpecialTokens = True,
) -> None:
    """Everything about a model as one page that opens from file:// with no network."""
    require_folder("--output", output)
    read_target(target, versus)
    coders = tuple(bilens.features.Dictionary.load(folder) for folder in dictionary or ())
    named, shown = tuple(map(str, dictionary or ())), tuple(feature or ())
    asked = bilens.report.Asked(target, versus, position)
    extra = bilens.report.Extra(asked, coders, named, features=shown)
    if coders and data is not None:
        bilens.training.read_documents(data)  # whether there is such a text
    known = None if truth is None else bilens.training.read_truth(truth)
    if against is not None:
        bilens.models.open_model(against)  # whether there is such a model
    loaded, about = bilens.load(str(model)), bilens.training.read_about(model)
    text = None
    if isinstance(loaded, bilens.Transformer):
        text = _text(loaded, data, about.get("data"), bool(coders))
        if coders:
            extra = replace(extra, source=_fired_on(data, about.get("data")))
        subject = _prompts(loaded, prompt or (), special_tokens, asked)
        if known is not None:
            bilens.training.require_fit(loaded, known)
    else:
        require_read(context, "a classifier", "for a classifier", OF_TEXT)
        subject = _images(loaded, data or about.get("data"), prompt)
    with progress_bar("parts of the page") as bar:
        extra = replace(extra, against=against, truth=known, progress=bar)
        write = bilens.report.write_page
        page = write(loaded, subject, output, about, text, str(model), extra)
    say(f"Open {page.path.resolve().as_uri()}")
    raise typer.Exit(1 if warn_of(page.broken) else 0)


def _text(
    model: "bilens.Transformer", data: str | None, learned: object, read_otherwise: bool
) -> "bilens.training.HeldOut | None":
    """Held-out text for MLPs that are no tensors: of ``data``, or of what the model ``learned``
    from where that is still there.
    """
    if model.config.is_exact:
        if data is not None and not read_otherwise:
            must = "be left out for a language model whose MLPs are tensors"
            todo = "Pass --prompt, or a --dictionary that fires on it."
            raise ArgumentError("--data", must=must, got=data, todo=todo)
        return None
    source = data or _still_there(learned)
    return None if source is None else bilens.training.held_out_ids(model, source, TOKENS)


def _fired_on(data: str | None, learned: object) -> str:
    """The text on which dictionaries fire: ``data``, or what the model ``learned`` from where that
    is still there, or else the one that is built in, which is said.
    """
    source = data or _still_there(learned)
    if source is None:
        source = bilens.training.BUILT_IN
        told = (
            f"{learned} is not there" if learned else "what the model was trained on is not known"
        )
        warn(f'{told}: the dictionaries fire on the text "{source}"; --data names another')
    return source


def _still_there(source: object) -> str | None:
    """What training.json names, where it can be read from here without a network."""
    named = isinstance(source, str) and (
        source == bilens.training.BUILT_IN or Path(source).exists()
    )
    return str(source) if named else None


def _prompts(
    model: "bilens.Transformer",
    texts: Sequence[str],
    special_tokens: bool,
    asked: "bilens.report.Asked",
) -> Any:
    """The texts that a page unfolds; None leaves it to the page. What cannot be asked of them is
    refused here rather than shown as a broken part of the page.
    """
    prompts = [bilens.circuits.Prompt(text, special_tokens) for text in texts]
    bilens.report.require_asked(model, prompts, asked)
    return prompts or None


def _images(model: "bilens.Classifier", source: str | None, prompt: Sequence[str] | None) -> Any:
    """The images on which a classifier is tested."""
    if prompt:
        raise ArgumentError("--prompt", must="be left out for a classifier", got=prompt)
    if source is None:
        raise ArgumentError("--data", must="be given without a training.json", got="nothing")
    return bilens.training.load_images_for(model, source)
