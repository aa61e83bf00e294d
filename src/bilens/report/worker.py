"""The process that holds the model of a served page and answers one question at a time.

It is another process than the one that listens, which can then end it: an answer that takes too
long, or that the machine has no memory for, costs that answer and no more.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from bilens.base.errors import ArgumentError, BilensError
from bilens.base.processes import started
from bilens.circuits import record
from bilens.models import Transformer, load
from bilens.report.answers import Asked, answered, exact
from bilens.report.page import Section, document, made, page
from bilens.report.questions import TOKENS, read_question, require_asked
from bilens.report.view import Query, story, tensor_words
from bilens.report.views import LIVE
from bilens.wiring import Prompt

REMEMBERED = 16  # answers
PATIENCE = 600.0  # seconds that a model may take to load
SOON = 0.2  # seconds, after which nobody is waiting for an answer


class Serving(NamedTuple):
    """What is served: a model folder, what it is called, and the prompts that the page begins
    with.
    """

    folder: str
    prompts: tuple[str, ...]
    special_tokens: bool = True
    asked: Asked = Asked()


class Worker:
    """The process, started anew where it has died. Not to be asked by two at once."""

    process: BaseProcess
    line: Connection

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._start()

    def ask(self, question: Mapping[str, Any], deadline: float) -> bytes:
        """The answer as JSON. Errors: TimeoutError after ``deadline`` seconds, EOFError where the
        process died; both times another stands ready for the next question.
        """
        if not self.process.is_alive():
            self._start()
        try:
            self.line.send(dict(question))
            if not self.line.poll(deadline):
                raise TimeoutError
            return self.line.recv_bytes()
        except (TimeoutError, EOFError, OSError):
            self.stop()
            raise

    def end(self) -> None:
        """End the process while another thread may be asking it, which then hears of it."""
        self.process.kill()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.line.close()
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        """Start it and wait for the model. Errors: BilensError for what cannot be loaded."""
        self.process, self.line = started(__name__)
        failed = self._heard()
        if failed is not None:
            self.stop()
            raise failed

    def _heard(self) -> BilensError | None:
        """What the process says that it failed of, once it has loaded the model or has not."""
        try:
            self.line.send(self.serving)
            if self.line.poll(PATIENCE):
                return self.line.recv()
        except (EOFError, OSError):
            got = "its end: too large, or killed"
            return BilensError("the process of the model", must="load it", got=got)
        return BilensError("the model", must=f"load within {PATIENCE:g} s", got="more")


def work(line: Connection, serving: Serving) -> None:
    """Load the model and answer until the other end is gone."""
    try:
        desk = Desk(serving)
    except BilensError as error:
        line.send(error)
        return
    line.send(None)
    if not line.poll(SOON):  # while whoever opens the page finds the link
        desk.prepare()
    while True:
        try:
            question = line.recv()
        except EOFError:
            return
        line.send_bytes(desk.answer(question))


class Desk:
    """A model, and the answers that it gave last."""

    def __init__(self, serving: Serving) -> None:
        self.serving, self.model = serving, _model(serving.folder)
        texts = serving.prompts or (story(self.model),)
        self.prompts = tuple(Prompt(text, serving.special_tokens) for text in texts)
        require_asked(self.model, self.prompts, serving.asked, TOKENS)
        self.sections: list[Section] = []
        self.last: OrderedDict[str, bytes] = OrderedDict()

    def answer(self, question: Mapping[str, Any]) -> bytes:
        """The page, or an answer; what went wrong as ``{"error": one line}``."""
        try:
            if "page" in question:
                return self.page(question["page"])
            return self.remembered(question)
        except BilensError as error:
            return _told(str(error))
        except Exception as error:
            return _told(f"{type(error).__name__}: {error}")

    def page(self, live: Mapping[str, str]) -> bytes:
        """The page, with where to ask."""
        self.prepare()
        shown = document(self.sections, self.serving.folder, tensor_words(self.model))
        return page(shown | {"live": dict(live)}).encode()

    def prepare(self) -> None:
        """Make what the page begins with, once."""
        if self.sections:
            return
        asked, name = self.serving.asked, self.serving.folder
        query = Query(prompts=self.prompts, asked=asked, name=name, live=True)
        blocks = [block for view in LIVE for block in view.build(self.model, query)]
        self.sections = [made(block) for block in blocks]

    def remembered(self, question: Mapping[str, Any]) -> bytes:
        """The answer, computed unless it is one of the last ones."""
        key = json.dumps(question, sort_keys=True)
        if key not in self.last:
            self.last[key] = json.dumps(self.computed(question), allow_nan=False).encode()
        self.last.move_to_end(key)
        while len(self.last) > REMEMBERED:
            self.last.popitem(last=False)
        return self.last[key]

    def computed(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Errors: ArgumentError for a question that cannot be."""
        prompt, asked = read_question(question, self.serving.special_tokens)
        require_asked(self.model, (prompt,), asked, TOKENS)
        name = self.serving.folder
        return answered(self.model, record(self.model, prompt), asked, name, prompt)


def _model(folder: str) -> Transformer:
    """The language model in ``folder``. Errors: ArgumentError for another kind."""
    loaded = load(folder)
    if not isinstance(loaded, Transformer):
        todo = "bilens report writes the page of a classifier."
        got = type(loaded).__name__
        raise ArgumentError(folder, must="be a language model", got=got, todo=todo)
    return exact(loaded.eval())


def _told(error: str) -> bytes:
    return json.dumps({"error": " ".join(error.split())}).encode()
