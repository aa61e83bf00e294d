"""Tables as text: what is dropped where there is no room."""

from bilens.base.tables import Columns, aligned, cells
from bilens.base.words import width

ROWS = [
    {"value": -1.25, "share": 0.5, "path": "mlp1(embed, 字)", "from": "a"},
    {"value": 12.0, "share": None, "path": "x", "from": "b · c"},
]
TABLE = Columns(("value", "share", "path", "from"), ROWS)


def test_numbers_stand_right_and_words_left():
    assert aligned(TABLE, 80).lines == [
        "value  share  path             from",
        "-1.25    0.5  mlp1(embed, 字)  a",
        "   12         x                b · c",
    ]
    assert aligned(TABLE, 80).left_out == ()


def test_the_name_stays_and_as_long_as_it_can_the_value():
    dropped = {
        36: (),
        35: ("from",),
        29: ("from",),
        28: ("share", "from"),
        21: ("value", "share", "from"),  # no room for 16 columns of the name beside the value
    }
    assert {room: aligned(TABLE, room).left_out for room in dropped} == dropped
    assert aligned(TABLE, 1).lines == ["path", "mlp1(embed, 字)", "x"]


def test_a_table_without_rows_or_words():
    assert aligned(Columns(("a", "b"), []), 80).lines == ["a  b"]
    assert cells(Columns(("n", "on"), [{"n": 1 / 3, "on": True}, {"n": None, "on": False}])) == [
        ["n", "on"],
        ["0.3333", "yes"],
        ["", "NO"],
    ]


def test_a_long_name_is_shortened_before_its_value_goes():
    paths = ["mlp1(mlp0(embed, embed), mlp0(embed, 字字))", "embed"]
    rows = [{"path": path, "value": 0.5, "share": 0.25} for path in paths]
    table = Columns(("path", "value", "share"), rows)
    shown = aligned(table, 40)
    assert shown.lines == [
        "path                               value",
        "mlp1(mlp0(embed…lp0(embed, 字字))    0.5",
        "embed                                0.5",
    ]
    assert (shown.left_out, shown.shortened) == (("share",), "path")
    assert max(map(width, shown.lines)) == 40
    assert aligned(table, 80).shortened == ""
    assert aligned(table, 22).left_out == ("value", "share")  # a name of one column says nothing
