"""The page: self-contained, described for those who cannot see it, alive when a part of it is not."""

import re
from html.parser import HTMLParser

import pytest
import torch

from bilens import Classifier, ClassifierConfig
from bilens.report import write_page
from bilens.report.pictures import picture
from bilens.training import load_images


class Reader(HTMLParser):
    """Collects every element with its attributes."""

    def __init__(self):
        super().__init__()
        self.elements = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def build(depth=1, bias=False, names=None):
    torch.manual_seed(0)
    names = names or {n: str(n) for n in range(10)}
    return Classifier(
        ClassifierConfig(
            input_shape=[8, 8], hidden_size=16, num_hidden_layers=depth, bias=bias, id2label=names, residual=bias
        )
    )


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def read(page):
    text = page.path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    return text, reader.elements


@pytest.mark.parametrize(("depth", "bias"), [(1, False), (1, True), (2, False), (2, True)])
def test_every_section_is_made(tmp_path, digits, depth, bias):
    page = write_page(build(depth, bias), digits, tmp_path)
    text, elements = read(page)
    path = page.path
    assert page.broken == ()
    assert "could not be made" not in text
    assert text.count("<section>") == 6
    assert path.stat().st_size < 6_000_000
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert len(images) == (10 * (8 + 4) if depth == 1 else 0)
    assert all(attributes["alt"] and attributes["src"].startswith("data:image/png;base64,") for attributes in images)
    charts = [attributes for _, attributes in elements if attributes.get("class") == "chart"]
    assert len(charts) == 12
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in charts)


def test_nothing_is_fetched(tmp_path, digits):
    _, elements = read(write_page(build(), digits, tmp_path))
    fetched = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert all(value.startswith("data:") for value in fetched)
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "object")]


def test_a_broken_part_shows_its_error(tmp_path, digits, monkeypatch):
    def fail(*_):
        raise RuntimeError("no <luck> today")

    monkeypatch.setattr("bilens.report.classifier_page.truncate", fail)
    page = write_page(build(), digits, tmp_path)
    text, _ = read(page)
    assert page.broken == ("How many eigenvectors are enough: RuntimeError: no <luck> today",)
    assert "RuntimeError: no &lt;luck&gt; today" in text
    assert text.count("could not be made") == 1
    assert text.count("<section>") == 6


def test_names_cannot_inject(tmp_path, digits):
    nasty = "</script><script>alert(1)</script>"
    text, _ = read(write_page(build(names={n: f"{nasty}{n}" for n in range(10)}), digits, tmp_path))
    assert nasty not in text


def test_pictures_are_centred_on_zero():
    import base64
    import io

    from PIL import Image

    raw = picture(torch.tensor([-2.0, 0.0, 1.0, 2.0]), (1, 4)).split(",")[1]
    low, zero, half, high = Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGB").get_flattened_data()
    assert min(zero) > 240
    assert low[0] > low[2]
    assert high[2] > high[0]
    assert half[2] > half[0]
    assert sum(half) > sum(high)
    blank = picture(torch.zeros(4), (2, 2))
    assert re.match(r"data:image/png;base64,[A-Za-z0-9+/=]+$", blank)
