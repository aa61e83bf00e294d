"""Links of all pages: those within the repository lead somewhere, the others are well formed."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
# made when the site is built
MADE = ROOT / "docs" / "reference"
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {*MADE.glob("*.md")})
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        link = urlsplit(target)
        if link.scheme:
            assert link.scheme == "https", target
            assert "." in link.netloc, target
        elif link.path:
            place = (page.parent / link.path).resolve()
            assert place.exists() or MADE in place.parents, target


def test_the_links_are_found():
    assert len(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))) > 5
