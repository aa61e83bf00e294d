"""Floor 5: results → tables, figures, one page. The only room that knows HTML and drawing
libraries.
"""

from bilens.report.writing import write_page

__all__ = ["write_page"]
