"""What commands print: results as tables for people, as one JSON document for machines.

Text from outside is ``printable``: no markup is read from it, and nothing of it acts on a terminal.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bilens.base.errors import FileError
from bilens.base.files import saved_together
from bilens.base.processes import is_first
from bilens.base.progress import NO_FIGURES
from bilens.base.progress import Progress as Report
from bilens.base.tables import Columns, aligned, cells
from bilens.base.words import counting, printable
from bilens.cli.reader import unread_too, warn

if TYPE_CHECKING:
    from bilens.base.results import Result

SHOWN_ROWS = 60  # on a terminal
WIDER = "a wider terminal, a pipe or --json gives"
SHORT = 20  # rows of a ranking, where no number of them is asked for
EVERY = 5.0  # seconds between the lines of a long job, where there is no terminal for a bar


@dataclass(frozen=True)
class Table:
    """Rows with one meaning a column, under one line; ``left_out`` counts the rows that were not
    asked for.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[dict[str, Any]]
    left_out: int = 0

    def document(self) -> dict[str, Any]:
        """The table for machines. JSON has no NaN: null instead."""
        rows = [{key: _finite(value) for key, value in row.items()} for row in self.rows]
        return {"summary": self.title, "rows": rows, "left_out": self.left_out}


def table(result: "Result", of: str = "") -> Table:
    """All of a result under its summary."""
    rows = result.rows()
    return Table(of + result.summary(), tuple(rows[0]) if rows else result.columns(), rows)


def listed(k: int | None, as_json: bool) -> int | None:
    """How many rows of a ranking are printed: as many as were asked for, else a few for a person
    and all for a machine.
    """
    return k or (None if as_json else SHORT)


def cut(whole: Table, rows: int | None) -> Table:
    """The first ``rows``, and how many others there are; all for None."""
    left = 0 if rows is None else max(0, len(whole.rows) - rows)
    return replace(whole, rows=whole.rows[:rows], left_out=left)


def write_results(
    folder: Path, results: "Mapping[str, Result]", saved: "Mapping[str, Result] | None" = None
) -> None:
    """Each result by its name as a table (CSV) and as a plot (HTML), and those of ``saved`` as
    files of ``save``: all of them or none.
    """
    with saved_together(folder, "") as made:
        for name, one in results.items():
            (made / f"{name}.csv").write_text(one.to_frame().to_csv(index=False), "utf-8")
            (made / f"{name}.html").write_text(one.plot().to_html(include_plotlyjs=True), "utf-8")
        for name, one in (saved or {}).items():
            try:
                one.save(made / name)
            except FileError as error:  # of the file that was asked for
                where = str(folder / name)
                raise FileError(where, must=error.must, got=error.got, todo=error.todo) from error


def figures(title: str, found: dict[str, Any]) -> Table:
    """One row of named numbers."""
    return Table(title, tuple(found), [found])


def watched() -> bool:
    """Whether a person may watch a progress bar."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(text: str) -> None:
    """One line for a person."""
    _print(printable(text))


def warn_of(errors: Iterable[str]) -> bool:
    """Name the parts of a page that could not be made; whether there are any."""
    lines = list(errors)
    for line in lines:
        warn(line)
    return bool(lines)


def show(tables: Iterable[Table], as_json: bool = False) -> None:
    """Each table as it comes; or all in one JSON document, which is a list where there are several.

    On a terminal a table is cut at 60 rows and to the columns that fit, and says so. Elsewhere it
    is whole: a line a row, with a tab between the columns.
    """
    if not as_json:
        for one in tables:
            _show(one)
        return
    documents = [one.document() for one in tables]
    found = documents[0] if len(documents) == 1 else documents
    _print(json.dumps(found, ensure_ascii=True, allow_nan=False))


@contextmanager
def progress_bar(what: str) -> Iterator[Report]:
    """What a long job reports to: a bar on stderr where that is a terminal, elsewhere a line every
    few seconds; ``what`` it does where it does not say so itself.
    """
    if not is_first() or not watched():
        yield _lines(what)
        return
    words = TextColumn("{task.description}", markup=False)
    parts = (words, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(printable(what), total=None)

        def told(
            done: int, of: int, figures: Mapping[str, float] = NO_FIGURES, what: str = what
        ) -> None:
            now = _doing(what, figures)
            progress.update(task, completed=done, total=of, description=printable(now))

        yield told


def _lines(what: str) -> Report:
    """Reports as lines on stderr, none sooner than ``EVERY`` seconds after the one before."""
    last = time.monotonic()

    def told(
        done: int, of: int, figures: Mapping[str, float] = NO_FIGURES, what: str = what
    ) -> None:
        nonlocal last
        if is_first() and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            share = f"{done / of:.0%}" if of else f"{done:,}"
            warn(f"{_doing(what, figures)}: {share} ({done:,} of {of:,})")

    return told


def _doing(what: str, figures: Mapping[str, float]) -> str:
    return what + "".join(f", {name} {value:.3g}" for name, value in figures.items())


def _show(found: Table) -> None:
    say(found.title)
    if sys.stdout is not None and sys.stdout.isatty():
        _show_aligned(found, shutil.get_terminal_size().columns)
    else:
        _show_tabbed(found)
    if found.left_out:
        say(f"… {counting(found.left_out, 'further rows')} not printed; -k says how many are.")


def _show_tabbed(found: Table) -> None:
    for line in cells(Columns(found.columns, found.rows)):
        _print("\t".join(line))


def _show_aligned(found: Table, room: int) -> None:
    """In columns of equal width. Columns go before anything is cut or broken, never the name."""
    shown = aligned(Columns(found.columns, found.rows[:SHOWN_ROWS]), room)
    for line in shown.lines:
        _print(line)
    if len(found.rows) > SHOWN_ROWS:
        say(f"… the first {SHOWN_ROWS} of {len(found.rows)} rows; --json, or a pipe, gives all.")
    if shown.shortened:
        say(f"… no room for each {shown.shortened} as it is; {WIDER} them whole.")
    if shown.left_out:
        left = ", ".join(shown.left_out)
        say(f"… no room for {left}; {WIDER} them.")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(line: str) -> None:
    if is_first():
        with unread_too(sys.stdout):
            print(line)
