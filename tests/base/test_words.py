"""Text from outside, as it is shown."""

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.words import (
    counting,
    narrowed,
    printable,
    shortened,
    show_text,
    show_token,
    show_tokens,
    width,
)

HOSTILE = ["\x1b[31m", "\x00", "\u202eabc", "\ud800", "\u200b", "\u2028", "\x7f", "\x9b31m"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_on_a_terminal_or_shows_nothing_is_written_out(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_plain_text_of_any_script_stays():
    assert printable("naïve 女の子 λ²") == "naïve 女の子 λ²"


def test_tokens_show_their_spaces_and_line_ends():
    assert show_token(" girl") == "␣girl"
    assert show_token("\n\t ") == "⏎⇥␣"


def test_tokens_that_share_a_text_are_told_apart_by_their_ids():
    assert show_tokens(["a", "\ufffd", "\ufffd", ""], [1, 2, 3, 4]) == [
        "a",
        "\ufffd#2",
        "\ufffd#3",
        "#4",
    ]
    assert show_tokens(["a", "a"], [1, 1]) == ["a", "a"]  # one token twice is one token


def test_a_message_is_one_safe_line_and_carries_no_value_whole():
    line = str(ArgumentError("a\x1b", must="be\nshort", got="x" * 10**6, todo="\u202e"))
    assert len(line) < 600
    assert line.isprintable()
    assert "1,000,000 characters" in line


def test_shortened_leaves_what_fits():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc… (4 characters)"


def test_a_long_text_keeps_its_beginning_and_its_end():
    path = "mlp1(L0H3@5→9(embed), embed)"
    assert narrowed(path, len(path)) == path
    assert [len(narrowed(path, n)) for n in (2, 9, 10)] == [2, 9, 10]
    assert narrowed(path, 10) == "mlp1(…bed)"


def test_wide_characters_take_two_columns_and_marks_none():
    assert [width(text) for text in ("abc", "女の", "e\u0301", "␣a", "")] == [3, 4, 1, 2, 0]


def test_no_space_of_a_text_is_lost():
    assert show_text("a b") == "a b"
    assert show_text("  a   b\tc \n") == "␣␣a␣␣␣b⇥c␣⏎"
    assert show_text(" ") == "␣"
    assert show_text("a\u202e") == "a\\u202e"


def test_one_thing_is_not_several():
    assert counting(0, "gates") == "0 gates"
    assert counting(1, "gates") == "1 gate"
    assert counting(1, "smaller paths") == "1 smaller path"
    assert counting(1200, "terms") == "1,200 terms"


def test_summaries_of_one():
    T = bilens.CP(torch.ones(1, 1), torch.eye(2)[:1], torch.eye(2)[1:])
    form = T.interaction(torch.ones(1))
    assert form.gates(1).summary().startswith("1 gate over 2 inputs")
    assert "1 eigenvector kept of each of 1 output " in bilens.decompose.tail(T, 1).summary()
    model = bilens.Classifier(bilens.ClassifierConfig(input_shape=(1, 1, 2), hidden_size=2))
    found = bilens.expand(model, torch.ones(2), 0, detail="writes", max_terms=1)
    assert ": 1 term + " in found.summary()
