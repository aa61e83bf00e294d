"""The examples of docstrings: nearly every public name has one, and it gives what it says."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import bilens
from tests.docstring_names import names

ROOMS = [room.name for room in pkgutil.iter_modules(bilens.__path__) if room.ispkg]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SHARE = 0.9  # of public functions and classes
# examples that train, or that take as long as those of the functions whose results these are
TOLD_ONLY = {
    "Blocks", "Comparison", "Composition", "ConvertedLayer", "HeadScores", "Items", "Losses",
    "LowRank", "Mechanisms", "Phase", "Rules", "Series", "TextData", "Truncation", "Verification",
    "compare", "converted_layers", "diff", "evaluate_text", "low_rank", "make_bilinear", "rules",
    "train_classifier", "train_dictionary", "train_language", "training_tokens", "write_page",
}  # fmt: skip


def public(room: str) -> Iterator[tuple[str, object]]:
    """The functions and classes that ``room`` names in its ``__all__``, those that are its own."""
    module = importlib.import_module(f"bilens.{room}")
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        is_code = inspect.isclass(thing) or inspect.isfunction(thing)
        if is_code and thing.__module__.startswith(module.__name__):
            yield name, thing


def is_told(thing: object) -> bool:
    return ">>>" in (inspect.getdoc(thing) or "")


@pytest.mark.parametrize("room", ROOMS)
def test_examples_give_what_they_say(room):
    runner, said = doctest.DocTestRunner(optionflags=OPTIONS), []
    for name, thing in public(room):
        if name in TOLD_ONLY:
            continue
        text = inspect.getdoc(thing) or ""
        test = doctest.DocTestParser().get_doctest(text, names(), name, None, None)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_nearly_every_public_name_has_an_example():
    told = {thing: is_told(thing) for room in ROOMS for _, thing in public(room)}
    silent = [thing.__name__ for thing, told in told.items() if not told]
    assert sum(told.values()) >= SHARE * len(told), f"without an example: {', '.join(silent)}"
