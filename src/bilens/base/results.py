"""The base of every result: labelled, tabular, drawable, savable.

A result says what its figure is as plain data (plotly's own JSON shape); ``plot`` hands that to
plotly, which is loaded only then. So results can live on every floor while the drawing library is
known to one line here and to report.
"""

import math
from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING, Any

from bilens.base.records import Record, entries
from bilens.base.words import printable

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

SHOWN_ROWS = 20
# numbers in the tensors of a loaded result: making rows of more takes as long as reading them
TRIED = 100_000
TEMPLATES = ("hovertemplate", "texttemplate")  # written here, and read by plotly


class Result(Record, ABC):
    """What a computation found, with its labels, what was discarded and its error. Values are
    frozen.
    """

    @abstractmethod
    def summary(self) -> str:
        """One line: what this is, how large, how exact."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The result as records with one meaning a column: what ``to_frame`` shows."""

    @abstractmethod
    def figure(self) -> dict[str, Any]:
        """The result as a plotly figure in plain data: ``{"data": [...], "layout": {...}}``."""

    def columns(self) -> tuple[str, ...]:
        """What each of ``rows`` has, in order. A kind of result that may be without rows says it
        itself.
        """
        return tuple(self.rows()[0]) if self.rows() else ()

    def to_frame(self) -> "pandas.DataFrame":
        """The result as a pandas table, a row per entry."""
        import pandas  # costs as much as half of torch; wanted only here

        rows = self.rows()
        columns = None if rows else list(self.columns())
        try:
            return pandas.DataFrame(rows, columns=columns)
        except UnicodeEncodeError:  # half a surrogate pair: arrow's strings do not hold it
            return pandas.DataFrame(rows, columns=columns, dtype=object)

    def plot(self) -> "plotly.graph_objects.Figure":
        """The result as an interactive plotly figure."""
        import plotly.graph_objects

        return plotly.graph_objects.Figure(literal(self.figure()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.summary())}>"

    def _repr_html_(self) -> str:
        import pandas

        frame = self.to_frame()
        more = f" (first {SHOWN_ROWS} of {len(frame)} rows)" if len(frame) > SHOWN_ROWS else ""
        shown = frame.head(SHOWN_ROWS).rename(columns=isolated).map(_cell)
        # a cell is never cut inside its markup
        with pandas.option_context("display.max_colwidth", None):
            table = shown.to_html(escape=False)
        return f"<p><b>{type(self).__name__}</b>: {isolated(self.summary())}{more}</p>{table}"

    def _settled(self) -> None:
        """A result that was loaded can be shown. Of a large one only the summary is tried."""
        self.summary()
        if entries(self) <= TRIED:
            self.rows()
            self.figure()


def literal(figure: Any) -> Any:
    """A figure in plain data with every text as it is, and null for what JSON has no number for.

    Plotly reads ``<b>`` and ``<a href=…>`` in names and labels as markup; here they are no more
    than letters.
    """
    match figure:
        case dict():
            return {key: _literal_entry(key, value) for key, value in figure.items()}
        case list() | tuple():
            return [literal(value) for value in figure]
        case str():
            return escape(printable(figure), quote=False)
        case float() if not math.isfinite(figure):
            return None
    return figure


def _literal_entry(key: str, value: Any) -> Any:
    return value if key in TEMPLATES else literal(value)


def isolated(text: object) -> str:
    """``text`` as HTML that shows all of it, and whose direction of writing ends with it."""
    return f"<bdi>{escape(printable(str(text)))}</bdi>"


def _cell(value: Any) -> Any:
    return isolated(value) if isinstance(value, str) else value
