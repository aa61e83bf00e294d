"""A view of a model: which models it fits, and what it shows of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilens.base.words import show_text
from bilens.features import Dictionary
from bilens.models import Classifier, Transformer
from bilens.report.answers import Asked, Written, exact
from bilens.training import BUILT_IN, HeldOut, ImageData, Truth
from bilens.wiring import Prompt

MISSING = "{what} of a model this large takes long: {line}"
STORY = "Once upon a time there was a little"
FIRST = 6  # tokens


@dataclass(frozen=True)
class Query:
    """What is asked of a model, and what is known of it."""

    images: ImageData | None = None  # for a classifier
    prompts: tuple[Written, ...] = ()  # for a language model
    text: HeldOut | None = None  # for one whose MLPs are no tensors
    about: dict[str, Any] = field(default_factory=dict)  # what training.json says of its run
    name: str = ""  # what the model is loaded by
    asked: Asked = field(default_factory=Asked)  # of each prompt
    dictionaries: tuple[Dictionary, ...] = ()
    named: tuple[str, ...] = ()  # what each of these is loaded by, if that is known
    features: tuple[int, ...] = ()  # of the first of these; none: those that fire most strongly
    source: str = BUILT_IN  # the text on which these fire
    against: str | None = None  # the model that it is compared with
    truth: Truth | None = None  # the rules that made its data, where they are known
    live: bool = False  # whether the page can ask anew

    _exact: dict[Transformer, Transformer] = field(default_factory=dict, init=False, repr=False)

    def exact(self, model: Transformer) -> Transformer:
        """``model`` as a page explains it (``answers.exact``), made once for all of its parts."""
        if model not in self._exact:
            self._exact[model] = exact(model.eval())
        return self._exact[model]

    def tested_on(self) -> ImageData:
        """The images, which every view of a classifier may count on."""
        assert self.images is not None, "a classifier is asked with images"
        return self.images

    def recipe(self, keys: Sequence[str]) -> dict[str, str]:
        """How the model was trained, as one fact. Without a record of it there is none."""
        stored = self.about.get("recipe", {})
        text = ", ".join(f"{key.replace('_', ' ')} {stored[key]}" for key in keys if key in stored)
        return {"Training": text} if text else {}


@dataclass(frozen=True)
class Block:
    """A part of the page that is made on its own, so that it breaks on its own.

    ``kind`` says how it is drawn (web/src/sections), and ``make`` gives what that needs, as JSON
    has it. ``instead``: what is drawn where making it dies of an error; None: the error alone.
    """

    kind: str
    title: str
    make: Callable[[], dict[str, Any]]
    instead: Callable[[str], dict[str, Any]] | None = None


@dataclass(frozen=True)
class View:
    """One thing to see of a model. ``build(model, query)`` lists blocks and computes nothing."""

    name: str
    fits: Callable[[Any], bool]
    build: Callable[[Any, Query], Sequence[Block]]


def story(model: Transformer) -> str:
    """What a language model is asked of by default: a story, or the first tokens by number where it
    has no tokenizer.
    """
    if model.tokenizer is not None:
        return STORY
    return " ".join(map(str, range(min(FIRST, model.config.vocab_size, model.config.context))))


def is_classifier(model: object) -> bool:
    """Whether a model reads images."""
    return isinstance(model, Classifier)


def is_language_model(model: object) -> bool:
    """Whether a model reads text."""
    return isinstance(model, Transformer)


def last_layer(model: Classifier) -> int | None:
    """The layer that writes the logits. None where the whole model is one tensor."""
    depth = model.config.num_hidden_layers
    return None if depth == 1 else depth - 1


def prompt_text(prompt: Written) -> Written:
    """What stands in a prompt: its text, or token ids."""
    return prompt.text if isinstance(prompt, Prompt) else prompt


def prompt_words(prompt: Written) -> str:
    """A prompt as a heading shows it."""
    return show_text(str(prompt_text(prompt)))


def tensor_words(model: object) -> str:
    """In how far the layers of a model are tensors, in a sentence."""
    config = model.config if isinstance(model, Transformer) else None
    if config is None or (config.gated and config.is_exact and config.intermediate_size):
        return "A bilinear layer, (W1 x) ⊙ (W2 x), is a third-order tensor."
    if not config.intermediate_size:
        return "This model has attention alone, and no MLP."
    if config.is_exact:
        return "An MLP of squares, W2 (W1 x)², is a third-order tensor."
    left, side = f"{config.hidden_act}(W1 x)", " ⊙ (W2 x)" if config.gated else ""
    held = "its gates and its router's weights" if config.num_local_experts else "its gates"
    kind = f"A {'gated' if side else 'plain'} MLP, {left}{side}"
    degree = "quadratic" if side else "linear"
    return f"{kind}, is no tensor; given {held} as a pass has them it is {degree}, exactly."


def sentence(text: str) -> str:
    """``text`` with a capital, and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def missing(title: str, what: str, line: str) -> Block:
    """In the place of what takes long: the line of Python that gives it."""
    return Block("missing", title, lambda: {"text": MISSING.format(what=what, line=line)})


def loaded(query: Query) -> str:
    """The model in a line of Python."""
    return f"bilens.load({query.name!r})" if query.name else "model"


def tensor_line(model: Classifier, query: Query) -> str:
    """The tensor of a classifier's last layer in a line of Python."""
    layer = last_layer(model)
    return f"{loaded(query)}.tensor({'' if layer is None else layer})"
