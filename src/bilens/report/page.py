"""One self-contained page: opens from file://, needs no network. Its blocks are made apart, and a
broken one shows its error.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bilens.base.charts import CLEAR, PALETTE
from bilens.base.files import write_text
from bilens.base.results import Result, literal
from bilens.base.words import isolated, printable
from bilens.report.view import Block


@dataclass(frozen=True)
class Section:
    """One part of the page: the name of its template block and what that needs, or the error it
    died of.
    """

    kind: str
    title: str
    content: dict[str, Any]
    error: str = ""


@dataclass(frozen=True)
class Page:
    """A page that was written, and which of its parts could not be made, with their errors."""

    path: Path
    broken: tuple[str, ...]


def write_sections(folder: str | Path, sections: Sequence[Section]) -> Page:
    """Write ``folder``/index.html, atomically. The page carries plotly's library (4.8 MB)."""
    environment = Environment(
        loader=PackageLoader("bilens.report"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        keep_trailing_newline=True,  # of a block's template, which stands inside the page
        finalize=_shown,
    )
    environment.filters["isolated"] = _isolated
    scripts = {"plotly": Markup(get_plotlyjs()), "own": Markup(_source("page.js"))}
    html = environment.get_template("page.html").render(
        sections=sections,
        scripts=scripts,
        policy=_policy(scripts.values()),
        version=version("bilens"),
    )
    path = Path(folder) / "index.html"
    write_text(path, html)
    return Page(
        path,
        tuple(
            f"{section.title}: {section.error}" for section in sections if section.kind == "broken"
        ),
    )


def _shown(value: Any) -> Any:
    """All text that the template writes: every character visible, and escaped after this."""
    return printable(value) if type(value) is str else value


def _isolated(text: object) -> Markup:
    return Markup(isolated(text))


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """What the page may do (Content-Security-Policy): run these very scripts, draw, and fetch
    nothing.

    Styles may stand inline, as plotly writes them; with nothing to fetch they reach nothing.
    """
    runs = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    draws = "style-src 'unsafe-inline'; img-src data: blob:"
    return f"default-src 'none'; script-src {runs}; {draws}; base-uri 'none'; form-action 'none'"


def _sha256(script: str) -> str:
    seen = re.sub("\r\n?", "\n", script)  # what a browser makes of line ends
    return base64.b64encode(hashlib.sha256(seen.encode()).digest()).decode()


def made(block: Block) -> Section:
    """The block as a section of the page, or the error that making it died of."""
    try:
        return Section(block.kind, block.title, block.make())
    except Exception as error:
        return Section("broken", block.title, {}, f"{type(error).__name__}: {error}")


def result(result: Result, text: str, spoken: str) -> dict[str, Any]:
    """A result's figure and its numbers, under ``text``."""
    drawn = chart(result.figure(), f"{spoken}. {result.summary()}", 340)
    return {"text": text, "chart": drawn, "columns": result.columns(), "rows": result.rows()}


def chart(figure: dict[str, Any], spoken: str, height: int) -> dict[str, Any]:
    """A figure in the page's style, as JSON that is safe inside a script element, with its words
    for who cannot see it.

    >>> ex = bilens.expand(model, prompt, target)
    >>> sorted(bilens.report.chart(ex.by("component").figure(), "Components.", 300))
    ['height', 'json', 'spoken']
    """
    # the page's own heading stands above it
    layout = {key: value for key, value in figure["layout"].items() if key != "title"}
    height = layout.get("height", height)
    style = {
        "height": height,
        "margin": {"l": 55, "r": 10, "t": 10, "b": 45 if height > 200 else 10},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "colorway": list(PALETTE),
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "legend": {"orientation": "h", "y": 1.12},
        "xaxis": {"gridcolor": "#e5e5e5"},
        "yaxis": {"gridcolor": "#e5e5e5", "zerolinecolor": "#999"},
    }
    merged = style | {
        key: style[key] | value if key in style and isinstance(value, dict) else value
        for key, value in layout.items()
    }
    drawn = literal({"data": figure["data"], "layout": merged})
    text = json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")
    return {"json": text, "spoken": spoken, "height": height}
