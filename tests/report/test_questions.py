"""What a page may ask is held to what it can be."""

import pytest

from bilens.base.errors import ArgumentError
from bilens.report.questions import LONGEST, MOST_TERMS, read_question


def test_a_question_is_read_whole_and_its_gaps_are_filled():
    prompt, asked = read_question({"prompt": "a", "knockout": ["L0H1"], "effects": False}, False)
    assert (prompt.text, prompt.special_tokens) == ("a", False)
    assert (asked.target, asked.versus, asked.position) == (None, None, -1)
    assert (asked.without, asked.effects) == (("L0H1",), False)
    whole = {"prompt": "", "target": 5, "versus": " boy", "position": 0, "max_terms": 7}
    _, asked = read_question(whole)
    assert (asked.target, asked.versus, asked.position, asked.max_terms) == (5, " boy", 0, 7)
    assert asked.effects


@pytest.mark.parametrize(
    ("more", "who"),
    [
        ({"prompt": None}, "prompt must be a text"),
        ({"prompt": "a" * (LONGEST + 1)}, "at most 20,000 characters"),
        ({"position": 1.5}, "position must be a whole number"),
        ({"position": True}, "position must be a whole number"),
        ({"target": ["a"]}, "target must be a text"),
        ({"target": "a" * 201}, "target must have at most 200"),
        ({"versus": "b"}, "versus must come with a target"),
        ({"max_terms": 0}, "max_terms must be"),
        ({"max_terms": MOST_TERMS + 1}, "max_terms must be"),
        ({"knockout": "L0H1"}, "knockout must be a list"),
        ({"knockout": ["x"] * 33}, "knockout must be a list"),
        ({"knockout": [1]}, "knockout must be a text"),
        ({"effects": 3}, "effects must be true or false"),
        ({"folder": "/etc"}, "'folder'"),
        ({"dictionary": "x"}, "'dictionary'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_question_is_refused(refuses, more, who):
    refuses(ArgumentError, lambda: read_question({"prompt": "a"} | more), who)


@pytest.mark.parametrize("given", [None, 3, "a", [1]], ids=repr)
def test_a_question_is_an_object(refuses, given):
    refuses(ArgumentError, lambda: read_question(given), "an object")
