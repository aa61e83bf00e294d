"""What stands on a written page."""

import json
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects every element with its attributes, and the texts of scripts and styles by what they
    are.
    """

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem:
            kind = self.elements[-1][1].get("type", self.elements[-1][0])
            self.texts[kind] = self.texts.get(kind, "") + data


def read(page):
    return Reader(page.path.read_text(encoding="utf-8"))


def document(page):
    return json.loads(read(page).texts["application/json"])


def sections(page, kind=None):
    """The data of the sections of a kind, or all sections."""
    found = document(page)["sections"]
    return found if kind is None else [one["data"] for one in found if one["kind"] == kind]
