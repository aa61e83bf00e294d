"""Floor 5: results → tables, figures, one page. The only room that knows HTML and drawing libraries."""

from bilens.report.page import write_page
from bilens.report.verify import Verification, verify

__all__ = ["Verification", "verify", "write_page"]
