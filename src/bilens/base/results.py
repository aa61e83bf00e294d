"""The base of every result: labelled, tabular, drawable, savable.

A result says what its figure is as plain data (plotly's own JSON shape); ``plot`` hands that to
plotly, which is loaded only then. So results can live on every floor while the drawing library is
known to one line here and to report.
"""

import math
import shutil
from abc import ABC, abstractmethod
from html import escape
from typing import TYPE_CHECKING, Any

from bilens.base.charts import TEMPLATE
from bilens.base.records import Record, entries
from bilens.base.tables import Columns, aligned, frame, html
from bilens.base.words import printable

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

SHOWN_ROWS = 20
ANSWER_ROWS = 10  # of what print shows
ROOM = 100  # columns of text, where no terminal says how many it has
# numbers in the tensors of a loaded result: making rows of more takes as long as reading them
TRIED = 100_000
TEMPLATES = ("hovertemplate", "texttemplate")  # written here, and read by plotly


class Tabled(ABC):
    """What has a table and one line that says what it is: in a notebook it is shown as both."""

    @abstractmethod
    def summary(self) -> str:
        """One line: what this is, how large, how exact."""

    @abstractmethod
    def _table(self) -> Columns:
        """What ``to_frame`` shows."""

    def _answer(self, count: int) -> Columns:
        """What is shown of it in about ``count`` rows."""
        table = self._table()
        return table._replace(rows=table.rows[:count])

    def to_frame(self) -> "pandas.DataFrame":
        """All of it as a pandas table; what each column means is said in the class's docstring.
        Errors: ShapeError for a tensor on "meta", which has no values.
        """
        return frame(self._table())

    def __repr__(self) -> str:
        """The first rows, which are the answer, and then what this is."""
        line = f"<{type(self).__name__}: {printable(self.summary())}>"
        table = self._answer(ANSWER_ROWS)
        if not table.rows:
            return line
        room = shutil.get_terminal_size((ROOM, 0)).columns
        return "\n".join([*aligned(table, room).lines, line])

    def _repr_html_(self) -> str:
        device = getattr(self, "device", None)
        there = getattr(device, "type", "") != "meta"
        shown = self._answer(SHOWN_ROWS) if there else Columns((), [])
        return html(shown, type(self).__name__, self.summary())


class Drawn(ABC):
    """What has a figure."""

    @abstractmethod
    def figure(self) -> dict[str, Any]:
        """A plotly figure in plain data: ``{"data": [...], "layout": {...}}``."""

    def plot(self) -> "plotly.graph_objects.Figure":
        """An interactive plotly figure, for light and dark pages alike."""
        import plotly.graph_objects

        figure = literal(self.figure())
        layout = {"template": TEMPLATE} | figure["layout"]
        return plotly.graph_objects.Figure(figure | {"layout": layout})


class Result(Tabled, Drawn, Record, ABC):
    """What a computation found, with its labels, what was discarded and its error. Values are
    frozen.
    """

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The result as records with one meaning a column: what ``to_frame`` shows."""

    def columns(self) -> tuple[str, ...]:
        """What each of ``rows`` has, in order. A kind of result that may be without rows says it
        itself.
        """
        return tuple(self.rows()[0]) if self.rows() else ()

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """What was found in at most ``count`` rows, the largest first: what print and notebooks
        show, above the line that says how many there are.
        """
        return self.rows()[:count]

    def _table(self) -> Columns:
        rows = self.rows()
        return Columns(tuple(rows[0]) if rows else self.columns(), rows)

    def _answer(self, count: int) -> Columns:
        rows = self.answer(count)
        return Columns(tuple(rows[0]) if rows else self.columns(), rows)

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
