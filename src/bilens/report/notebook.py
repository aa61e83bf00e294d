"""The live page of a prompt in a notebook. It asks the kernel, as a served page does its server."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bilens.base.errors import ArgumentError, BilensError
from bilens.circuits import record
from bilens.models import Transformer
from bilens.report.answers import Asked, answered
from bilens.report.page import asset, document, made
from bilens.report.questions import read_question
from bilens.report.view import Query, tensor_words
from bilens.report.views import prompt as prompts
from bilens.wiring import Prompt

if TYPE_CHECKING:
    import anywidget


def widget(
    model: Transformer,
    prompt: str | Prompt,
    target: str | int | None = None,
    versus: str | int | None = None,
    position: int = -1,
    *,
    name: str = "",
) -> "anywidget.AnyWidget":
    """What makes ``target`` (less ``versus``) at ``position`` of ``prompt``, to click through in a
    notebook; another prompt, target or knockout is asked of the kernel.

    ``name``: what the model is loaded by, for the lines of Python. Cost: that of ``answer``, now
    and for each question. Errors: those of ``answer``; ArgumentError without anywidget
    (``bilens[notebook]``).

    >>> shown = bilens.report.widget(model, prompt, " girl", " boy")
    >>> shown.document["sections"][0]["kind"]
    'prompt'
    """
    if find_spec("anywidget") is None:
        todo = "pip install 'bilens[notebook]'"
        raise ArgumentError("widget", must="have anywidget", got="none", todo=todo)
    query = Query(prompts=(prompt,), name=name, asked=Asked(target, versus, position), live=True)
    sections = [made(block) for block in prompts.VIEW.build(model, query)]
    held = document(sections, name, tensor_words(model))
    return _shown(held, _Kernel(query.exact(model), name))


class _Kernel:
    """Who answers the questions of a widget."""

    def __init__(self, model: Transformer, name: str) -> None:
        self.model, self.name = model, name

    def answer(self, question: Any) -> dict[str, Any]:
        """The answer, or why there is none in one line."""
        try:
            prompt, asked = read_question(question)
            return answered(self.model, record(self.model, prompt), asked, self.name, prompt)
        except BilensError as error:
            return {"error": str(error)}


def _shown(held: dict[str, Any], kernel: _Kernel) -> "anywidget.AnyWidget":
    import anywidget
    import traitlets

    class Widget(anywidget.AnyWidget):
        _esm = asset("page.js")
        _css = asset("page.css")
        document = traitlets.Dict().tag(sync=True)

    def hear(widget: Any, content: dict[str, Any], buffers: Any) -> None:
        answer = kernel.answer(content.get("question"))
        widget.send({"id": content.get("id"), "answer": answer})

    shown = Widget(document=held)
    shown.on_msg(hear)
    return shown
