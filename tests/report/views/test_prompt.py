"""The page of a language model: every prompt with what makes the next token, whatever it holds."""

import pytest

import bilens
from bilens.base.errors import ArgumentError
from bilens.report import Asked, Extra, answer, write_page
from bilens.report.answers import exact
from bilens.report.views import prompt
from bilens.training import load_images
from tests.report.reading import document, sections


@pytest.fixture
def alone(monkeypatch):
    """A page of prompts alone."""
    monkeypatch.setattr("bilens.report.writing.VIEWS", (prompt.VIEW,))


@pytest.mark.usefixtures("alone")
def test_an_answer_for_every_token_of_a_short_prompt(tmp_path):
    model = bilens.load("tinystories-1l")
    page = write_page(model, ["Once <b>a"], tmp_path, name="tinystories-1l")
    assert page.broken == ()
    tokens = len(model.tokenizer("Once <b>a")["input_ids"])
    (shown,) = sections(page, "prompt")
    assert [one["position"] for one in shown["answers"]] == list(range(tokens))
    assert (shown["first"], shown["prompt"]) == (tokens - 1, "Once <b>a")
    truth = answer(exact(model), "Once <b>a", position=1, name="tinystories-1l")
    assert shown["answers"][1] == truth
    assert "<b>a" not in page.path.read_text(encoding="utf-8")
    assert model.dtype == bilens.load("tinystories-1l").dtype
    assert document(page)["model"] == {"name": "tinystories-1l", "kind": "language"}


@pytest.mark.usefixtures("alone")
def test_what_is_asked_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("bilens.report.views.prompt.CHEAP", 0)
    model = bilens.load("tinystories-1l")
    extra = Extra(Asked(" girl", " boy", position=2))
    (shown,) = sections(write_page(model, ["Once upon a"], tmp_path, extra=extra), "prompt")
    (only,) = shown["answers"]
    assert (only["target"]["name"], only["versus"]["name"]) == ("␣girl", "␣boy")
    assert (only["position"], shown["first"]) == (2, 0)


def test_the_line_of_python_reads_ids_where_there_is_no_text(tmp_path):
    config = bilens.TransformerConfig(vocab_size=50, hidden_size=16, intermediate_size=8)
    (shown,) = sections(write_page(bilens.Transformer(config), [[1, 2, 3]], tmp_path), "prompt")
    assert "expand(model, [1, 2, 3], " in shown["answers"][2]["python"]


def test_opaque_models_and_models_without_mlps_have_pages(tmp_path):
    for change in ({"hidden_act": "silu"}, {"intermediate_size": 0}, {"num_attention_heads": 0}):
        config = bilens.TransformerConfig(
            **({"vocab_size": 50, "hidden_size": 16, "intermediate_size": 8} | change)
        )
        page = write_page(bilens.Transformer(config), [[1, 2, 3]], tmp_path / next(iter(change)))
        assert page.broken == ()


def test_data_of_the_wrong_kind_are_refused(refuses, tmp_path):
    model = bilens.load("tinystories-1l")
    refuses(
        ArgumentError,
        lambda: write_page(model, load_images("digits"), tmp_path),
        "data must be prompts",
    )
    config = bilens.ClassifierConfig(input_shape=[8, 8], hidden_size=4, id2label={0: "a"})
    refuses(
        ArgumentError,
        lambda: write_page(bilens.Classifier(config), ["a"], tmp_path),
        "data must be images",
    )
