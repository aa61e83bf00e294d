"""The page: self-contained, described for those who cannot see it, alive when a part is not."""

import base64
import hashlib
import io
import json
import pkgutil
import re
import shutil
import subprocess
from html import escape

import pytest
import torch
from PIL import Image

from bilens import Classifier, ClassifierConfig, Transformer, TransformerConfig
from bilens.base.words import printable
from bilens.report import views, write_page
from bilens.report.page import Section, chart, embedded, made, plain
from bilens.report.page import document as make_document
from bilens.report.page import page as make_page
from bilens.report.pictures import picture
from bilens.report.view import Block, View, tensor_words
from bilens.training import load_images
from tests.report.reading import Reader, document, read, sections


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


@pytest.mark.parametrize(("depth", "bias"), [(1, False), (1, True), (2, False), (2, True)])
def test_every_section_is_made(tmp_path, digits, depth, bias):
    page = write_page(build(depth, bias), digits, tmp_path)
    assert page.broken == ()
    kinds = [section["kind"] for section in sections(page)]
    assert kinds == ["model", "exactness", "classes", "chart", "chart", "gates"]
    assert page.path.stat().st_size < 1_000_000
    shown = list(pictures(document(page)))
    assert len(shown) == (10 * (8 + 4) if depth == 1 else 0)
    assert all(one["alt"] and one["src"].startswith("data:image/png;base64,") for one in shown)
    drawn = list(charts(document(page)))
    assert len(drawn) == 12
    assert all(len(one["spoken"]) > 20 for one in drawn)


def walk(value):
    """All records within."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, dict | list):
            yield from walk(one)


def pictures(made):
    return (one for one in walk(made) if "src" in one)


def charts(made):
    return (one for one in walk(made) if "figure" in one)


def test_nothing_is_fetched(tmp_path, digits):
    page = write_page(build(), digits, tmp_path)
    elements = read(page).elements
    fetched = [each for _, attributes in elements for each in attributes if each in ("src", "href")]
    assert not fetched
    assert not [tag for tag, _ in elements if tag in ("link", "iframe", "object")]
    assert all(one["src"].startswith("data:") for one in pictures(document(page)))


def test_a_broken_part_shows_its_error(tmp_path, digits, monkeypatch):
    def fail(*_):
        raise RuntimeError("no <luck> today")

    monkeypatch.setattr("bilens.report.views.truncation.truncate", fail)
    page = write_page(build(), digits, tmp_path)
    title = "How many eigenvectors are enough"
    assert page.broken == (f"{title}: RuntimeError: no <luck> today",)
    (broken,) = [one for one in sections(page) if one["kind"] == "broken"]
    assert (broken["title"], broken["error"]) == (title, "RuntimeError: no <luck> today")
    assert len(sections(page)) == 6


NASTY = "</script><script>alert(1)</script><b>\x1b\u202e\udcff\0"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory, digits):
    """The page of a model whose names and whose run's records are what nobody should believe."""
    names = {n: f"{NASTY}{n}" for n in range(10)}
    folder = tmp_path_factory.mktemp("nasty")
    return write_page(
        build(names=names), digits, folder, {"recipe": {"steps": NASTY}}, name=f"{NASTY} model"
    )


def test_names_are_in_the_document_as_they_are_and_do_nothing(nasty):
    text = nasty.path.read_text(encoding="utf-8")
    assert nasty.broken == ()
    assert not {"\x1b", "\u202e", "\0"} & set(text)
    assert [tag for tag, _ in read(nasty).elements if tag in ("script", "b")] == ["script"] * 2
    (classes,), (facts,) = sections(nasty, "classes"), sections(nasty, "model")
    assert [card["label"] for card in classes["cards"]] == [f"{NASTY}{n}" for n in range(10)]
    assert facts["facts"]["Training"] == f"steps {NASTY}"
    assert document(nasty)["title"] == f"{NASTY} model"
    assert f"<title>{escape(printable(NASTY))} model</title>" in text


def test_the_page_runs_its_own_script_alone_and_fetches_nothing(nasty):
    reader = read(nasty)
    (policy,) = (each["content"] for _, each in reader.elements if "http-equiv" in each)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data: blob:",
        "script-src": f"'sha256-{sha256(reader.texts['module'])}'",
        "style-src": f"'sha256-{sha256(reader.texts['style'])}'",
    }
    ruled = [tag for tag, each in reader.elements if tag == "style" or "http-equiv" in each]
    assert ruled == ["meta", "style"]  # the rules stand before anything that they rule


def sha256(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_a_page_that_is_served_may_ask_its_server(nasty):
    text = make_page(document(nasty) | {"live": {"ask": "api/ask"}})
    (policy,) = (each["content"] for _, each in Reader(text).elements if "http-equiv" in each)
    assert policy.endswith("connect-src 'self'")
    assert "connect-src" not in nasty.path.read_text(encoding="utf-8")


def test_a_section_keeps_its_name_when_one_of_another_kind_comes(tmp_path):
    made = [Section("chart", "a"), Section("model", "b"), Section("chart", "c")]
    names = [one["id"] for one in make_document(made)["sections"]]
    assert names == ["chart-0", "model-0", "chart-1"]


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
    assert 'class="error"' not in done.stdout
    seen = escape(printable(NASTY), quote=False)
    assert done.stdout.count(f"<h3>Class <bdi>{seen}3</bdi></h3>") == 2
    drawn = re.findall(r'<svg[^>]*aria-label="[^"]{20}', done.stdout)
    assert len(drawn) == 12


def test_spectra_have_their_bars_colours_and_axes(tmp_path, digits):
    model = build()
    figures = [one["figure"] for one in charts(document(write_page(model, digits, tmp_path)))]
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
    assert made["figure"]["data"] == [{"y": [1.0, None]}]
    assert made["figure"]["layout"]["yaxis"]["title"]["text"] == "&lt;b&gt;"
    text = embedded(made | {"spoken": "</script>"})
    assert "<" not in text
    assert json.loads(text)["spoken"] == "</script>"


def test_what_json_has_not_is_refused_and_breaks_its_part_alone():
    assert plain({"a": (1.5, float("inf")), 2: [None, "b", True]}) == {
        "a": [1.5, None],
        "2": [None, "b", True],
    }
    section = made(Block("chart", "Sets", lambda: {"a": {1, 2}}))
    error = "TypeError: a page holds texts and numbers, got set"
    assert (section.kind, section.error) == ("broken", error)


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
    assert page.broken == ("Never: KeyError: 'gone'",)
    shown, never = sections(page)
    assert shown["data"]["text"] == "Sizes <b>."
    assert never["kind"] == "broken"
    assert sections(write_page(build(2), digits, tmp_path)) == []


def test_every_view_is_in_the_list():
    files = {found.name for found in pkgutil.iter_modules(views.__path__)}
    assert [view.name for view in views.VIEWS] == list(dict.fromkeys(v.name for v in views.VIEWS))
    assert {view.name for view in views.VIEWS} == files


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "(W1 x) ⊙ (W2 x), is a third-order tensor"),
        ({"hidden_act": "square", "gated": False}, "(W1 x)², is a third-order tensor"),
        ({"hidden_act": "silu"}, "gates as a pass has them it is quadratic, exactly"),
        ({"hidden_act": "gelu", "gated": False}, "gates as a pass has them it is linear, exactly"),
        (
            {"hidden_act": "silu", "num_local_experts": 2, "num_experts_per_tok": 1},
            "its gates and its router's weights",
        ),
        ({"intermediate_size": 0}, "attention alone"),
    ],
    ids=["bilinear", "squares", "gated", "plain", "experts", "no MLP"],
)
def test_a_page_says_in_how_far_its_layers_are_tensors(more, words):
    """What the tensor of the very layer says: whether there is one."""
    size = {"vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = TransformerConfig(**size, head_dim=4, **{"intermediate_size": 4} | more)
    model = Transformer(config)
    assert words in tensor_words(model)
    (part, *_) = [p for p in model.wiring().parts if p.name == "mlp0"] or [None]
    assert (part is not None and bool(part.forms())) == ("third-order" in words)
    assert "third-order tensor" in tensor_words(build())
