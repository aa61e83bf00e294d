"""``bilens demo``: the main job on what is built in."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import FileError
from bilens.base.files import empty, held
from bilens.cli.options import Seed, require_folder
from bilens.cli.output import say, show, table, warn_of, watched

STEPS = 800  # enough for the digits to be told apart, within a minute of two cores


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model and the page.")
    ] = Path("report"),
    seed: Seed = 0,
) -> None:
    """The main job on what is built in: train a classifier on digits, verify it, decompose it, and
    write a page; and a page of the paths inside the language model in the box.
    """
    require_folder("--output", output)
    training, write_page = bilens.training, bilens.report.write_page
    folder = free_folder(output / "model")
    say("Training a one-layer bilinear classifier on scikit-learn's digits …")
    how = training.recipe(steps=STEPS, seed=seed)
    model = training.train_classifier("digits", folder, how, quiet=not watched())
    checks = bilens.verify(model, seed)
    show([table(checks)])
    about = training.read_about(folder)
    page = write_page(model, training.load_images("digits"), output, about)
    paths = write_page(bilens.load("tinystories-2l"), None, output / "paths")
    say(f"Open {page.path.resolve().as_uri()}")
    say(f"Open {paths.path.resolve().as_uri()}")
    raise typer.Exit(0 if checks.passed and not warn_of(page.broken + paths.broken) else 1)


def free_folder(folder: Path) -> Path:
    """``folder`` emptied where an earlier demo made it, refused where it holds anything else."""
    with held(folder):  # no demo that is still at work
        if any(folder.iterdir()) and not _is_demo(bilens.training.read_about(folder)):
            raise FileError(
                str(folder),
                must="be new or an earlier demo's",
                got="other files",
                todo="Name another --output.",
            )
        empty(folder)
    with suppress(OSError):  # gone already, or another's by now
        folder.rmdir()
    return folder


def _is_demo(about: dict[str, Any]) -> bool:
    """Whether a run is what ``demo`` trains, whatever its seed."""
    stored = about.get("recipe", {})
    ours = asdict(bilens.training.recipe(steps=STEPS)) | {"seed": stored.get("seed")}
    return about.get("data") == "digits" and stored == ours
