"""One self-contained page: opens from file://, needs no network. Its blocks are made apart, and a
broken one shows its error.

What stands on the page is data, a document; the page's own script (``web/``, built into assets)
draws it.
"""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from bilens.base.files import write_text
from bilens.base.results import Result, literal
from bilens.base.words import printable
from bilens.report.view import Block

SCHEMA = 1  # of a document, which the page's script reads


@dataclass(frozen=True)
class Section:
    """One part of the page: its kind, which says how it is drawn, and what that needs, or the error
    it died of.
    """

    kind: str
    title: str
    content: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def entry(self, name: str) -> dict[str, Any]:
        """The section in a document, where it is called ``name``."""
        said = {"id": name, "kind": self.kind, "title": self.title}
        return said | ({"error": self.error} if self.kind == "broken" else {"data": self.content})


@dataclass(frozen=True)
class Page:
    """A page that was written, and which of its parts could not be made, with their errors."""

    path: Path
    broken: tuple[str, ...]


def write_sections(
    folder: str | Path, sections: Sequence[Section], name: str = "", about: str = ""
) -> Page:
    """Write ``folder``/index.html, atomically. ``name``: of the model, in the page's title;
    ``about``: a sentence below it.
    """
    path = Path(folder) / "index.html"
    write_text(path, page(document(sections, name, about)))
    broken = (one for one in sections if one.kind == "broken")
    return Page(path, tuple(f"{one.title}: {one.error}" for one in broken))


def document(sections: Sequence[Section], name: str = "", about: str = "") -> dict[str, Any]:
    """All that a page shows, as JSON has it."""
    return {
        "schema": SCHEMA,
        "bilens": version("bilens"),
        "title": name or "bilens report",
        "about": about,
        "made": date.today().isoformat(),
        "model": {"name": name, "kind": _kind(sections)} if name else None,
        "sections": _named(sections),
    }


def _kind(sections: Sequence[Section]) -> str:
    """What the model is asked with."""
    return "language" if any(one.kind == "prompt" for one in sections) else "classifier"


def _named(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Each section under a name that stays when sections of other kinds come or go."""
    counts: Counter[str] = Counter()
    entries = []
    for section in sections:
        entries.append(section.entry(f"{section.kind}-{counts[section.kind]}"))
        counts[section.kind] += 1
    return entries


def page(document: Mapping[str, Any]) -> str:
    """A document as the one HTML file that draws it. One with ``live`` may ask its own server."""
    script, style = asset("page.js"), asset("page.css")
    environment = Environment(
        loader=PackageLoader("bilens.report"), autoescape=select_autoescape(), trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=printable(document["title"]),
        document=Markup(embedded(document)),
        script=Markup(script),
        style=Markup(style),
        policy=_policy(script, style, live=bool(document.get("live"))),
    )


def asset(name: str) -> str:
    """What the page's sources were built into."""
    return (files("bilens.report") / "assets" / name).read_text(encoding="ascii")


def embedded(value: Any) -> str:
    """``value`` as JSON that no text in it can end the script element of."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _policy(script: str, style: str, live: bool) -> str:
    """What the page may do (Content-Security-Policy): run this very script in this very style, draw
    pictures of its own, and fetch nothing, or where it is served, ask its own server.
    """
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_sha256(script)}'",
        "style-src": f"'sha256-{_sha256(style)}'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    rules |= {"connect-src": "'self'"} if live else {}
    return "; ".join(f"{name} {what}" for name, what in rules.items())


def _sha256(text: str) -> str:
    seen = re.sub("\r\n?", "\n", text)  # what a browser makes of line ends
    return base64.b64encode(hashlib.sha256(seen.encode()).digest()).decode()


def made(block: Block) -> Section:
    """The block as a section of the page, or the error that making it died of."""
    try:
        return Section(block.kind, block.title, plain(block.make()))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if block.instead is not None:
            return Section(block.kind, block.title, plain(block.instead(said)))
        return Section("broken", block.title, error=said)


def plain(value: Any) -> Any:
    """``value`` as JSON has it, null for what that has no number for. Errors: TypeError."""
    match value:
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case float():
            return float(value) if math.isfinite(value) else None
        case None | str() | int():
            return value
    raise TypeError(f"a page holds texts and numbers, got {type(value).__name__}")


def result(result: Result, text: str, spoken: str, python: str = "") -> dict[str, Any]:
    """A result's figure and its numbers, under ``text``; ``python``: the line that gives it."""
    drawn = chart(result.figure(), f"{spoken}. {result.summary()}", 340)
    rows = [{name: _cell(row[name]) for name in row} for row in result.rows()]
    made = {"text": text, "chart": drawn, "columns": result.columns(), "rows": rows}
    return made | ({"python": python} if python else {})


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def chart(figure: dict[str, Any], spoken: str, height: int) -> dict[str, Any]:
    """A figure in plain data, as the page draws it, with its words for those who cannot see it.

    ``height``: in pixels, where the figure does not say its own.

    >>> ex = bilens.expand(model, prompt, target)
    >>> sorted(bilens.report.chart(ex.by("component").figure(), "Components.", 300))
    ['figure', 'height', 'spoken']
    """
    drawn = literal({"data": figure["data"], "layout": figure["layout"]})
    height = drawn["layout"].get("height", height)
    return {"figure": drawn, "spoken": spoken, "height": height}
