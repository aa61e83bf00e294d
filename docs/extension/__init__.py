"""What this site adds to Sphinx: signatures that read, pages made from the code, mathematics
without a script.
"""

from typing import Any

from extension import docstrings, figures, mathml, notebooks, pages, signatures


def setup(app: Any) -> dict[str, bool]:
    """Sphinx asks this of every extension."""
    for part in (docstrings, figures, mathml, notebooks, pages, signatures):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
