"""``bilens moments``: what the places of a language model are like on a text."""

from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.words import counting
from bilens.cli.options import AsJson, ModelFolder, TextName, require_count, require_folder
from bilens.cli.output import Table, progress_bar, show
from bilens.cli.subjects import language_model

CHUNK = 256  # texts
COLUMNS = ("place", "tokens", "mean", "spread", "directions", "file")


def command(
    model: ModelFolder,
    data: TextName,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for a file of each place.")
    ],
    places: Annotated[
        str,
        typer.Option(help='"all": what every part reads and every MLP writes; or "mlp3.input, …".'),
    ] = "all",
    tokens: Annotated[
        int | None, typer.Option(help="About the first so many tokens of the text (default: all).")
    ] = None,
    chunk: Annotated[
        int, typer.Option(min=1, help="Texts between two times that all is written down.")
    ] = CHUNK,
    json: AsJson = False,
) -> None:
    """Mean and covariance of all places of a language model on the training part of a text, in one
    pass.

    Each is a file for bilens.Gaussian.load. The same command goes on with a run that was stopped;
    under torchrun each process takes its share of the text.
    """
    require_count("--tokens", tokens)
    require_folder("--output", output)
    loaded = language_model(model, "MODEL").eval()
    every = bilens.training.every_place(loaded)
    asked = [name.strip() for name in places.split(",")] if places != "all" else list(every)
    if not set(asked) <= set(every):
        wrong = next(name for name in asked if name not in every)
        must = f'be "all" or some of {", ".join(every)}'
        raise ArgumentError("--places", must=must, got=repr(wrong))
    texts = bilens.training.training_tokens(loaded, data, tokens)
    shared, bar = bilens.training.shared(output), progress_bar("texts")
    with shared as (share, _), bar as progress:
        chunks = bilens.decompose.Chunks(chunk, folder=output, share=share, progress=progress)
        files = bilens.training.gather_moments(loaded, texts, asked, chunks)
    rows = [_row(place, file) for place, file in files.items()]
    show([Table(f"moments on {counting(len(texts), 'texts')} of {data}", COLUMNS, rows)], json)


def _row(place: str, file: Path) -> dict[str, Any]:
    """``mean`` and ``spread``: the lengths of the mean and of what varies about it (√tr Σ);
    ``directions``: (tr Σ)² / ‖Σ‖², in how many it varies.
    """
    found = bilens.Gaussian.load(file)
    total = float(found.cov.trace())
    several = total**2 / float(found.cov.square().sum()) if total else 0.0
    figures = (float(found.mean.norm()), total**0.5, several)
    return dict(zip(COLUMNS, (place, found.count, *figures, str(file)), strict=True))
