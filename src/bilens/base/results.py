"""The base of every result: labelled, tabular, drawable, savable.

A result says what its figure is as plain data (plotly's own JSON shape); ``plot`` hands that to plotly, which is
loaded only then. So results can live on every floor while the drawing library is known to one line here and to report.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from bilens.base.records import Record

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

SHOWN_ROWS = 20


class Result(Record, ABC):
    """What a computation found, with its labels, what was discarded and its error. Values are frozen."""

    @abstractmethod
    def summary(self) -> str:
        """One line: what this is, how large, how exact."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The result as records with one meaning a column: what ``to_frame`` shows."""

    @abstractmethod
    def figure(self) -> dict[str, Any]:
        """The result as a plotly figure in plain data: ``{"data": [...], "layout": {...}}``."""

    def to_frame(self) -> "pandas.DataFrame":
        """The result as a pandas table, a row per entry."""
        import pandas  # costs as much as half of torch; wanted only here

        return pandas.DataFrame(self.rows())

    def plot(self) -> "plotly.graph_objects.Figure":
        """The result as an interactive plotly figure."""
        import plotly.graph_objects

        return plotly.graph_objects.Figure(self.figure())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def _repr_html_(self) -> str:
        from html import escape

        frame = self.to_frame()
        more = f" (first {SHOWN_ROWS} of {len(frame)} rows)" if len(frame) > SHOWN_ROWS else ""
        return f"<p><b>{type(self).__name__}</b>: {escape(self.summary())}{more}</p>" + frame.head(SHOWN_ROWS).to_html()
