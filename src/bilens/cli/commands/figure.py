"""``bilens figure``: the figure of a saved result, for a paper."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated

import typer

import bilens
from bilens.base.charts import FORMATS, PAPER
from bilens.base.errors import ArgumentError, FileError
from bilens.cli.options import require_place
from bilens.cli.output import say

if TYPE_CHECKING:
    from bilens.base.records import Record


def command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="A file that --save or .save() wrote.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .svg, .pdf or .png file.")],
    width: Annotated[
        float, typer.Option(help=f"Inches: {PAPER} is the text of a page, 3.3 a column of two.")
    ] = PAPER,
    height: Annotated[
        float | None, typer.Option(help="Inches (default: in proportion, as on a screen).")
    ] = None,
    title: Annotated[
        bool, typer.Option(help="Write the title too, or leave it to the caption.")
    ] = True,
) -> None:
    """The figure of a saved result as vector graphics (SVG or PDF) fit for a paper. Of a command:
    run it with --save FILE, and draw that file.
    """
    if output.suffix not in FORMATS:
        raise ArgumentError("--output", must=f"end in {', '.join(FORMATS)}", got=output.name)
    require_place("--output", output)
    from bilens.base.results import Drawn

    read = _read(result)
    if not isinstance(read, Drawn):
        must, got = "hold a result that has a figure", type(read).__name__
        raise FileError(str(result), must=must, got=got)
    bilens.report.write_figure(read, output, width=width, height=height, title=title)
    say(f"Wrote {output}: {type(read).__name__}, {read.figure()['layout']['title']['text']}")


def _read(result: Path) -> "Record":
    """The record in a file, of whatever kind: a file names its kind, which a room defines."""
    from bilens.base.records import Record, is_known, kind_of

    rooms = [room.name for room in iter_modules(bilens.__path__) if room.ispkg]
    kind = kind_of(result)
    own = kind.partition(".")[0]
    _import([own] if own in rooms else [])
    if not is_known(kind):  # a file from before its kind moved to another room
        _import(rooms)
    return Record.load(result)


def _import(rooms: Iterable[str]) -> None:
    for room in rooms:
        import_module(f"bilens.{room}")
