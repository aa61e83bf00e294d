"""``bilens diff``: what changed between checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import AsJson, require_count, require_folder
from bilens.cli.output import (
    SHORT,
    cut,
    listed,
    progress_bar,
    say,
    show,
    table,
    warn,
    write_results,
)

if TYPE_CHECKING:
    from bilens.base.results import Result


def command(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B …]",
            help="Model folders in order; or one folder that holds checkpoint-N folders.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="What --data of training takes: losses, and layers under the data."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a text to measure on.")] = 8192,
    dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A dictionary, whose features are compared at the place that it names; repeat it "
            "for more.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help=f"Rows of a table (default: {SHORT}, and all with --json)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for tables, plots and the whole result."),
    ] = None,
    json: AsJson = False,
) -> None:
    """What changed between two checkpoints, or over a series of them: the loss, the layers by
    similarity, their eigenvectors, and which classes, tokens or features.
    """
    require_count("-k", k)
    require_count("--tokens", tokens)
    if output is not None:
        require_folder("--output", output)
    read = _dictionaries(dictionary or [])
    with progress_bar("places") as bar:
        found = bilens.diff(*checkpoints, data=data, tokens=tokens, dictionaries=read, progress=bar)
    whole = found.whole if isinstance(found, bilens.changes.Series) else found
    results: dict[str, Result] = {} if whole is found else {"steps": found}
    results |= {"places": whole} | _by_name(whole.items)
    if output is not None:
        write_results(output, results, {"diff.safetensors": found})
    rows = listed(k, json)
    show([cut(table(one), rows) for one in results.values()], json)
    for line in whole.warnings:
        warn(f"warning: {line}")
    if output is not None and not json:
        say(f"{output}: tables (.csv), plots (.html) and diff.safetensors")


def _dictionaries(folders: list[Path]) -> "dict[str, bilens.features.Dictionary]":
    """Each by its place. Errors: ArgumentError for two of one place."""
    read = [bilens.features.Dictionary.load(folder) for folder in folders]
    places = [one.hook for one in read]
    if len(set(places)) < len(places):
        got = ", ".join(places)
        raise ArgumentError("--dictionary", must="be one for each place", got=got)
    return dict(zip(places, read, strict=True))


def _by_name(items: "tuple[bilens.changes.Items, ...]") -> "dict[str, Result]":
    """Each by what it is of; the features of several dictionaries by their places too."""
    kinds = [one.of for one in items]
    return {
        one.plural if kinds.count(one.of) == 1 else f"{one.plural}-{one.place}": one
        for one in items
    }
