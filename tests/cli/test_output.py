"""What is printed: whole lines, no markup, nothing that acts on a terminal, and JSON that is right
in any encoding.
"""

import json

import pytest

from bilens.cli.output import SHOWN_ROWS, Table, progress_bar, say, show
from bilens.cli.reader import warn

NASTY = "[/INST][i]\x1b[31m\u202e\tx"
SHOWN = "[/INST][i]\\x1b[31m\\u202e\\x09x"


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal of so many columns."""

    def of(columns):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_whole_rows_with_tabs_between(capsys):
    rows = [{"name": f"{'n' * 300}{NASTY}", "value": 1 / 3, "holds": True, "none": None}] * (
        SHOWN_ROWS + 5
    )
    show([Table("title " + NASTY, ("name", "value", "holds", "none"), rows)])
    title, names, *found = lines(capsys)
    assert title == "title " + SHOWN
    assert names == "name\tvalue\tholds\tnone"
    assert found == ["n" * 300 + SHOWN + "\t0.3333\tyes\t"] * (SHOWN_ROWS + 5)


def test_a_terminal_loses_columns_before_names(terminal, capsys):
    rows = [
        {"name": "a" * 30, "value": -1.25, "share": 1.0},
        {"name": "字" * 10, "value": 12.0, "share": 0.5},
    ]
    table = Table("t", ("name", "value", "share"), rows)
    terminal(44)
    show([table])
    aligned = [
        "t",
        f"name{' ' * 26}  value  share",
        f"{'a' * 30}  -1.25      1",
        f"{'字' * 10}{' ' * 10}     12    0.5",
    ]
    assert lines(capsys) == aligned
    terminal(43)
    show([table])
    assert lines(capsys)[1:] == [
        f"name{' ' * 26}  value",
        f"{'a' * 30}  -1.25",
        f"{'字' * 10}{' ' * 10}     12",
        "… no room for share; a wider terminal, a pipe or --json gives them.",
    ]
    terminal(5)
    show([table])
    assert lines(capsys)[1:4] == ["name", "a" * 30, "字" * 10]


def test_a_terminal_shows_the_first_rows(terminal, capsys):
    terminal(80)
    show([Table("t", ("n",), [{"n": n} for n in range(SHOWN_ROWS + 1)], left_out=7)])
    found = lines(capsys)
    assert len(found) == 2 + SHOWN_ROWS + 2
    assert (
        found[-2]
        == f"… the first {SHOWN_ROWS} of {SHOWN_ROWS + 1} rows; --json, or a pipe, gives all."
    )
    assert found[-1] == "… 7 further rows not printed; -k says how many are."


def test_a_table_without_rows_has_its_columns(terminal, capsys):
    table = Table("t", ("name", "value"), [])
    show([table])
    terminal(80)
    show([table])
    assert lines(capsys) == ["t", "name\tvalue", "t", "name  value"]


def test_json_is_ascii_and_one_document(capsys):
    tables = [
        Table(NASTY, ("share of ‖Q‖²",), [{"share of ‖Q‖²": float("nan"), NASTY: "\udcff"}], 3)
    ] * 2
    show(tables[:1], as_json=True)
    show(tables, as_json=True)
    one, two = lines(capsys)
    assert (one + two).isascii()
    document = {"summary": NASTY, "rows": [{"share of ‖Q‖²": None, NASTY: "\udcff"}], "left_out": 3}
    assert json.loads(one) == document
    assert json.loads(two) == [document, document]


def test_lines_are_lines(capsys):
    say("a\nb" + NASTY)
    warn("a\nb" + NASTY)
    out, err = capsys.readouterr()
    assert out == "a\\x0ab" + SHOWN + "\n"
    assert err == "bilens: a b" + SHOWN.replace("\\x09", " ") + "\n"


def test_a_progress_bar_reads_no_markup(monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bar(NASTY) as bar:
        bar(1, 2, what="[/no] " + NASTY)
    assert "[/no] " + SHOWN in capfd.readouterr().err


def test_without_a_terminal_progress_is_a_line_every_few_seconds(monkeypatch, capsys):
    clock = iter((100.0, 104.0, 105.5, 105.5, 107.0, 111.0, 111.0))
    monkeypatch.setattr("bilens.cli.output.time.monotonic", lambda: next(clock))
    with progress_bar("reading") as told:
        for done in (1, 2, 3, 4):
            told(done, 4, {"loss": 0.25})
    assert capsys.readouterr().err.splitlines() == [
        "bilens: reading, loss 0.25: 50% (2 of 4)",
        "bilens: reading, loss 0.25: 100% (4 of 4)",
    ]


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    show([Table("t", ("n",), [{"n": 1}])])
    say("x")
    assert capsys.readouterr().out == ""
