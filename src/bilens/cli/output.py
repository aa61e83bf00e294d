"""What commands print: results as tables for people, as JSON for machines."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers.utils import logging

from bilens.base.results import Result

SHOWN_ROWS = 60
RANK = os.environ.get("RANK", "0")  # of several processes, which all found the same, the first alone speaks


def quiet() -> None:
    """No bars and notices from transformers while it reads and writes files; training keeps its own bar."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def say(text: str) -> None:
    """One line for a person."""
    _console(soft_wrap=True).print(text, markup=False)


def show(result: Result, as_json: bool = False, of: str = "") -> None:
    """A result's table under its one-line summary."""
    show_rows(result.rows(), of + result.summary(), as_json)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal, as a function of (done, all, and what is being done)."""
    err = Console(stderr=True)
    with Progress(console=err, transient=True, disable=not err.is_terminal or RANK != "0") as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of, now=what: progress.update(task, completed=done, total=of, description=now)


def show_rows(rows: list[dict[str, Any]], title: str, as_json: bool = False) -> None:
    """Rows as a table, or as ``{"summary": …, "rows": […]}``. A table is cut at 60 rows and says so."""
    if as_json:
        say(json.dumps({"summary": title, "rows": [_finite(row) for row in rows]}, ensure_ascii=False))
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, value in (rows[0] if rows else {}).items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(_cell(value) for value in row.values()))
    _console().print(table)
    if len(rows) > SHOWN_ROWS:
        say(f"… the first {SHOWN_ROWS} of {len(rows)} rows; --json prints all.")


def _console(soft_wrap: bool = False) -> Console:
    """Standard output."""
    return Console(highlight=False, soft_wrap=soft_wrap, quiet=RANK != "0")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null instead."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
