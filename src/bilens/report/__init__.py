"""Floor 9: results → tables, figures, one page. The only room that knows HTML and drawing
libraries. What the page shows of a model is in ``views``, one file each.
"""

from bilens.report.answers import Asked, answer
from bilens.report.live import open_server
from bilens.report.notebook import widget
from bilens.report.page import chart
from bilens.report.paper import write_figure
from bilens.report.questions import require_asked
from bilens.report.worker import Serving
from bilens.report.writing import Extra, write_page

__all__ = [
    "Asked",
    "Extra",
    "Serving",
    "answer",
    "chart",
    "open_server",
    "require_asked",
    "widget",
    "write_figure",
    "write_page",
]
