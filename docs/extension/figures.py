"""Figures drawn in the page by a copy of plotly that lies beside it, on the pages that have one."""

from pathlib import Path
from typing import Any

MARK = 'class="bilens-figure"'
DRAWING = "plotly.min.js"


def setup(app: Any) -> None:
    """Copy plotly's script into the site, and name it on the pages that draw."""
    app.connect("html-page-context", _scripts)
    app.connect("build-finished", _copy)


def _scripts(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    if MARK in context.get("body", ""):
        for script in (DRAWING, "figures.js"):
            app.add_js_file(script, loading_method="defer")


def _copy(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        from plotly.offline import get_plotlyjs

        static = Path(app.outdir) / "_static"
        (static / DRAWING).write_text(get_plotlyjs(), encoding="utf-8")
