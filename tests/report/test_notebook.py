"""A page in a notebook is the page, and asks the kernel."""

import bilens
from bilens.base.errors import ArgumentError
from bilens.report import answer, widget
from bilens.report.page import made
from bilens.report.view import Query
from bilens.report.views import prompt as prompts

PROMPT = "Once upon a time"


def test_a_widget_holds_its_prompt_and_answers_others(monkeypatch, refuses):
    model = bilens.load("tinystories-1l").double()
    shown = widget(model, PROMPT, " girl", " boy", name="tinystories-1l")
    (section,) = shown.document["sections"]
    assert section["data"]["answers"][3]["versus"]["name"] == "␣boy"
    assert "render" in shown._esm
    sent = []
    monkeypatch.setattr(shown, "send", sent.append)
    asked = {"prompt": "Once", "target": None, "effects": False}
    shown._handle_custom_msg({"id": 7, "question": asked}, [])
    truth = answer(model, "Once", effects=False, name="tinystories-1l")
    assert sent == [{"id": 7, "answer": truth}]
    shown._handle_custom_msg({"id": 8, "question": {"prompt": 3}}, [])
    assert sent[1] == {"id": 8, "answer": {"error": "prompt must be a text; got int."}}
    monkeypatch.setattr("bilens.report.notebook.find_spec", lambda name: None)
    refuses(ArgumentError, lambda: widget(model, PROMPT), "bilens[notebook]")


def test_where_the_first_answer_fails_there_is_still_something_to_type_into(monkeypatch):
    """On a page that can ask anew; a file shows the error alone."""
    model = bilens.load("tinystories-1l").double()
    monkeypatch.setattr(prompts, "answered", lambda *_: 1 / 0)
    (section,) = widget(model, " a  b\n").document["sections"]
    assert (section["kind"], section["title"]) == ("prompt", "Prompt: ␣a␣␣b⏎")
    error = "ZeroDivisionError: division by zero"
    assert section["data"] == {"prompt": " a  b\n", "answers": [], "first": 0, "error": error}
    (block,) = prompts.VIEW.build(model, Query(prompts=("a",)))
    assert made(block).kind == "broken"
