"""The error grammar, and errors that cross process boundaries."""

import pickle

import pytest

from bilens.base import errors
from bilens.base.errors import BilensError, ConfigError, NotExactError, TooLargeError
from bilens.base.keys import Anything, Keys

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BilensError)
]


def test_text_says_who_must_got_and_what_to_do():
    error = BilensError("CP.left", must="be (h, i)", got="(3, 5)", todo="Pass it as it is.")
    assert str(error) == "CP.left must be (h, i); got (3, 5). Pass it as it is."
    assert str(BilensError("k", must="be 1", got=2)) == "k must be 1; got 2."
    quoted = BilensError("a reporter", must="be one", got="x is none.", todo="Install it.")
    assert str(quoted) == "a reporter must be one; got x is none. Install it."
    assert (error.who, error.must, error.got, error.todo) == (
        "CP.left",
        "be (h, i)",
        "(3, 5)",
        "Pass it as it is.",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("who", must="be so", got=3, todo="Do.")))
    assert type(error) is kind
    assert str(error) == "who must be so; got 3. Do."


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_value_is_a_value_error(kind):
    assert issubclass(kind, ValueError) == (kind not in (BilensError, TooLargeError, NotExactError))


def test_a_long_key_that_nobody_knows_is_cut(refuses):
    known = Keys({"a": Anything()})
    refuses(ConfigError, lambda: known.check({"x" * 5000: 1}), "x" * 100 + "… (5,000 characters)")
