"""What commands print: results as tables for people, as JSON for machines."""

import json
import math
import os
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from bilens.base.results import Result

SHOWN_ROWS = 60


def quiet() -> None:
    """No bars and notices from transformers while it reads and writes files; training keeps its own bar."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def say(text: str) -> None:
    """One line for a person."""
    _console(soft_wrap=True).print(text, markup=False)


def show(result: Result, as_json: bool = False) -> None:
    """A result's table under its one-line summary."""
    show_rows(result.rows(), result.summary(), as_json)


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
    """Standard output; of several processes, which all found the same, the first alone speaks."""
    return Console(highlight=False, soft_wrap=soft_wrap, quiet=os.environ.get("RANK", "0") != "0")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null instead."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
