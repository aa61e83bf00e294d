"""``bilens report``: everything about a model on one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import ModelFolder, SpecialTokens, require_folder
from bilens.cli.output import say, warn_of


def command(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for index.html.")],
    data: Annotated[
        str | None,
        typer.Option(help="Images to test a classifier on; by default what it was trained on."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text for a language model; repeat it for more.")
    ] = None,
    special_tokens: SpecialTokens = True,
) -> None:
    """Everything about a model as one page that opens from file:// with no network."""
    require_folder("--output", output)
    loaded, about = bilens.load(str(model)), bilens.training.read_about(model)
    if isinstance(loaded, bilens.Transformer):
        subject = _prompts(loaded, prompt or (), data, special_tokens)
    else:
        subject = _images(loaded, data or about.get("data"), prompt)
    page = bilens.report.write_page(loaded, subject, output, about)
    say(f"Open {page.path.resolve().as_uri()}")
    raise typer.Exit(1 if warn_of(page.broken) else 0)


def _prompts(
    model: "bilens.Transformer", texts: Sequence[str], data: str | None, special_tokens: bool
) -> Any:
    """The texts that a page unfolds; None leaves it to the page."""
    if data is not None:
        todo = "Pass --prompt."
        raise ArgumentError("--data", must="be left out for a language model", got=data, todo=todo)
    prompts = [bilens.circuits.Prompt(text, special_tokens) for text in texts]
    for each in prompts:
        model.read(each)  # refused here rather than shown as a broken part of the page
    return prompts or None


def _images(model: "bilens.Classifier", source: str | None, prompt: Sequence[str] | None) -> Any:
    """The images on which a classifier is tested."""
    if prompt:
        raise ArgumentError("--prompt", must="be left out for a classifier", got=prompt)
    if source is None:
        raise ArgumentError("--data", must="be given without a training.json", got="nothing")
    return bilens.training.load_images_for(model, source)
