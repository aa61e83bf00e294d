"""The page's script and style, as they stand in the package."""

import re
from importlib.resources import files


def test_the_assets_are_small_plain_and_end_no_element():
    texts = {
        name: (files("bilens.report") / "assets" / name).read_text("ascii")
        for name in ("page.js", "page.css")
    }
    assert sum(map(len, texts.values())) < 200_000
    assert not [name for name, text in texts.items() if re.search(r"(?i)</s|<!--", text)]
    assert "Permission is hereby granted" in texts["page.js"]  # what preact's licence asks for
