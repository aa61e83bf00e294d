"""The page: self-contained, described for those who cannot see it, alive when a part is not."""

import base64
import hashlib
import io
import json
import pkgutil
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from bilens import Classifier, ClassifierConfig
from bilens.report import views, write_page
from bilens.report.page import chart
from bilens.report.pictures import picture
from bilens.report.view import Block, View
from bilens.training import load_images


class Reader(HTMLParser):
    """Collects every element with its attributes, and the texts of scripts."""

    def __init__(self):
        super().__init__()
        self.elements, self.scripts = [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data):
        if (
            self.elements
            and self.elements[-1][0] == "script"
            and self.get_starttag_text().startswith("<script")
        ):
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data if self.cdata_elem else text)


def build(depth=1, bias=False, names=None):
    torch.manual_seed(0)
    names = names or {n: str(n) for n in range(10)}
    return Classifier(
        ClassifierConfig(
            input_shape=[8, 8],
            hidden_size=16,
            num_hidden_layers=depth,
            bias=bias,
            id2label=names,
            residual=bias,
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


def scripts(page):
    """The scripts that run, and the data that figures are made of."""
    reader = Reader()
    reader.feed(page.path.read_text(encoding="utf-8"))
    run = [text for kind, text in reader.scripts if kind is None]
    return run, [json.loads(text) for kind, text in reader.scripts if kind == "application/json"]


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
    assert all(
        attributes["alt"] and attributes["src"].startswith("data:image/png;base64,")
        for attributes in images
    )
    charts = [attributes for _, attributes in elements if attributes.get("class") == "chart"]
    assert len(charts) == 12
    assert all(
        attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in charts
    )


def test_nothing_is_fetched(tmp_path, digits):
    _, elements = read(write_page(build(), digits, tmp_path))
    fetched = [
        value
        for _, attributes in elements
        for key, value in attributes.items()
        if key in ("src", "href")
    ]
    assert all(value.startswith("data:") for value in fetched)
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "object")]


def test_a_broken_part_shows_its_error(tmp_path, digits, monkeypatch):
    def fail(*_):
        raise RuntimeError("no <luck> today")

    monkeypatch.setattr("bilens.report.views.truncation.truncate", fail)
    page = write_page(build(), digits, tmp_path)
    text, _ = read(page)
    assert page.broken == ("How many eigenvectors are enough: RuntimeError: no <luck> today",)
    assert "RuntimeError: no &lt;luck&gt; today" in text
    assert text.count("could not be made") == 1
    assert text.count("<section>") == 6


NASTY = "</script><script>alert(1)</script><b>\x1b\u202e\udcff"
SHOWN = "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;b&gt;\\x1b\\u202e\\udcff"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory, digits):
    """The page of a model whose names and whose run's records are what nobody should believe."""
    names = {n: f"{NASTY}{n}" for n in range(10)}
    return write_page(
        build(names=names), digits, tmp_path_factory.mktemp("nasty"), {"recipe": {"steps": NASTY}}
    )


def test_names_are_shown_and_do_nothing(nasty):
    text, elements = read(nasty)
    assert nasty.broken == ()
    assert not {"\x1b", "\u202e", NASTY} & set(text)
    # what it looks for, and its gates
    assert text.count(f"<h3>Class <bdi>{SHOWN}3</bdi></h3>") == 2
    assert f"<dd><bdi>steps {SHOWN}</bdi></dd>" in text
    assert [
        dict(each)["src"][:5] for tag, each in elements if tag == "img" and "\\x1b" in each["alt"]
    ]
    assert not [tag for tag, _ in elements if tag in ("b",)][1:]  # the template's own mean rank


def test_the_page_runs_its_own_scripts_alone_and_fetches_nothing(nasty):
    _, elements = read(nasty)
    (policy,) = (
        each["content"]
        for tag, each in elements
        if each.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(rules) == {
        "default-src",
        "script-src",
        "style-src",
        "img-src",
        "base-uri",
        "form-action",
    }
    run, _ = scripts(nasty)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert rules["script-src"].split() == [f"'sha256-{each}'" for each in hashes]
    assert len(run) == 2
    order = [tag for tag, each in elements if tag == "script" or "http-equiv" in each]
    assert order[0] == "meta"  # before anything that it rules


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_draws_it_without_complaint(nasty, tmp_path):
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
    ]
    command += [
        "--enable-logging=stderr",
        "--virtual-time-budget=4000",
        "--dump-dom",
        nasty.path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    charts = nasty.path.read_text(encoding="utf-8").count('<div class="chart"')
    assert done.stdout.count('class="plot-container') == charts > 0


def test_spectra_have_their_bars_colours_and_axes(tmp_path, digits):
    model = build()
    _, figures = scripts(write_page(model, digits, tmp_path))
    tensor = model.tensor().detach().to(torch.float64)
    cube = torch.einsum("oh,hi,hj->oij", tensor.out, tensor.left, tensor.right)
    values = torch.linalg.eigvalsh((cube + cube.mT) / 2).flip(-1)
    for figure, truth in zip(figures[:10], values, strict=True):
        (bars,) = figure["data"]
        ends = torch.cat([truth[:20], truth[-20:]])
        assert torch.allclose(
            torch.tensor(bars["y"], dtype=torch.float64), ends, atol=1e-5 * float(truth.abs().max())
        )
        assert bars["marker"]["color"] == ["#0072B2" if y > 0 else "#D55E00" for y in bars["y"]]
        assert bars["customdata"] == [*range(20), *range(44, 64)]
        assert figure["layout"]["yaxis"]["title"]["text"] == "λ"
        # the page's own style stays beside it
        assert figure["layout"]["yaxis"]["zerolinecolor"] == "#999"
    accuracy, directions = figures[10:]
    assert [line["name"] for line in accuracy["data"]] == [
        "rest left out",
        "rest at its mean",
        "whole model",
    ]
    images = digits.test
    right = (model(images.pixel_values).logits.argmax(-1) == images.labels).double().mean()
    assert accuracy["data"][2]["y"] == pytest.approx(
        [100 * float(right)] * len(accuracy["data"][0]["x"])
    )
    assert directions["layout"]["yaxis"]["type"] == "log"
    (out, *_) = directions["data"]
    sigma = torch.linalg.svdvals(((cube + cube.mT) / 2).flatten(1))
    assert out["y"] == pytest.approx(sigma.tolist(), rel=1e-6)


def test_a_chart_has_no_number_that_json_has_not():
    figure = {"data": [{"y": [1.0, float("nan")]}], "layout": {"yaxis": {"title": {"text": "<b>"}}}}
    made = chart(figure, "words", 100)
    assert json.loads(made["json"])["data"] == [{"y": [1.0, None]}]
    assert json.loads(made["json"])["layout"]["yaxis"]["title"]["text"] == "&lt;b&gt;"
    assert "<" not in made["json"]


def test_pictures_are_centred_on_zero():
    raw = picture(torch.tensor([-2.0, 0.0, 1.0, 2.0]), (1, 4)).split(",")[1]
    low, zero, half, high = (
        Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGB").get_flattened_data()
    )
    assert min(zero) > 240
    assert low[0] > low[2]
    assert high[2] > high[0]
    assert half[2] > half[0]
    assert sum(half) > sum(high)
    blank = picture(torch.zeros(4), (2, 2))
    assert re.match(r"data:image/png;base64,[A-Za-z0-9+/=]+$", blank)


def test_a_view_is_a_file_and_a_line(tmp_path, digits, monkeypatch):
    """What it shows stands on the page of the models that it fits, and breaks alone."""

    def blocks(model, query):
        rows = [{"pixels": model.config.input_size, "images": len(query.tested_on().test)}]
        content = {"rows": rows, "columns": ("pixels", "images"), "text": "Sizes <b>."}
        content["chart"] = chart({"data": [], "layout": {}}, "nothing", 100)
        return [
            Block("chart", "Sizes", lambda: content),
            Block("chart", "Never", lambda: {}["gone"]),
        ]

    view = View("sizes", lambda model: model.config.num_hidden_layers == 1, blocks)
    monkeypatch.setattr("bilens.report.writing.VIEWS", (view,))
    page = write_page(build(), digits, tmp_path)
    text, _ = read(page)
    assert page.broken == ("Never: KeyError: 'gone'",)
    assert "Sizes &lt;b&gt;." in text
    assert text.count("<section>") == 2
    assert read(write_page(build(2), digits, tmp_path))[0].count("<section>") == 0


def test_every_view_is_in_the_list():
    files = {found.name for found in pkgutil.iter_modules(views.__path__)}
    assert [view.name for view in views.VIEWS] == list(dict.fromkeys(v.name for v in views.VIEWS))
    assert {view.name for view in views.VIEWS} == files
