"""Tables as text and as HTML: what results, tensors and commands show, drawn in one place."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bilens.base.words import isolated, narrowed, printable, width

if TYPE_CHECKING:
    import pandas

GAP = "  "  # between the columns on a terminal
LEAST = 16  # columns of a terminal that a name is shortened to at most


class Columns(NamedTuple):
    """Rows with one meaning a column."""

    names: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]


class Aligned(NamedTuple):
    """A table as lines of text, the columns for which there was no room, and the one, if any, whose
    entries are shortened.
    """

    lines: list[str]
    left_out: tuple[str, ...]
    shortened: str = ""


def cell(value: Any) -> str:
    """One entry as text: numbers to four digits, nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "NO"
        case float():
            return f"{value:.4g}"
    return printable(str(value))


def cells(table: Columns) -> list[list[str]]:
    """The names of the columns, then the rows, as text."""
    rows = [[cell(row.get(name)) for name in table.names] for row in table.rows]
    return [[printable(name) for name in table.names], *rows]


def aligned(table: Columns, room: int) -> Aligned:
    """In columns of equal width, numbers to the right and words to the left.

    Where they take more than ``room``, whole columns go, the last first. The first column of words
    stays, which is the name, and the value: the first column of numbers that are not whole. Where
    these two do not fit, names are shortened in their middle; where ``LEAST`` of a name does not
    fit either, it stands alone and whole.
    """
    texts = cells(table)
    widths = [max(map(width, column)) for column in zip(*texts, strict=True)]
    words = [_are_words(table, name) for name in table.names]
    name, value = words.index(True) if True in words else 0, _value(table, words)
    least = room - len(GAP) - widths[value] if name != value else 0
    cut = LEAST <= least < widths[name]
    if cut:
        widths[name] = least
        texts = [[*line[:name], _narrowed(line[name], least), *line[name + 1 :]] for line in texts]
    kept = _fitting(widths, name, value, room)
    lines = []
    for line in texts:
        shown = [_padded(line[n], widths[n], words[n]) for n in kept]
        lines.append(GAP.join(shown).rstrip())
    left_out = tuple(name for n, name in enumerate(table.names) if n not in kept)
    return Aligned(lines, left_out, table.names[name] if cut else "")


def frame(table: Columns) -> "pandas.DataFrame":
    """The table in pandas."""
    import pandas  # costs as much as half of torch; wanted only here

    names = None if table.rows else list(table.names)
    rows = list(table.rows)
    try:
        return pandas.DataFrame(rows, columns=names)
    except UnicodeEncodeError:  # half a surrogate pair: arrow's strings do not hold it
        return pandas.DataFrame(rows, columns=names, dtype=object)


def html(table: Columns, kind: str, summary: str) -> str:
    """The table under one line that names the kind of thing and says how large it is."""
    import pandas

    shown = frame(table).rename(columns=isolated).map(_marked)
    # a cell is never cut inside its markup
    with pandas.option_context("display.max_colwidth", None):
        drawn = shown.to_html(escape=False)
    return f"<p><b>{kind}</b>: {isolated(summary)}</p>{drawn}"


def _fitting(widths: Sequence[int], name: int, value: int, room: int) -> list[int]:
    """Which columns fit side by side; at least one."""
    kept = list(range(len(widths)))
    while len(kept) > 1 and _taken([widths[n] for n in kept]) > room:
        others = [n for n in kept if n not in (name, value)]
        kept.remove(others[-1] if others else kept[-1] if name == value else value)
    return kept


def _value(table: Columns, words: Sequence[bool]) -> int:
    """The column that says how large: the first of real numbers, else the first that is no
    words.
    """
    row = table.rows[0] if table.rows else {}
    real = [isinstance(row.get(name), float) for name in table.names]
    if True in real:
        return real.index(True)
    return words.index(False) if False in words else 0


def _narrowed(text: str, room: int) -> str:
    """``text``, without its middle where it takes more than ``room`` columns."""
    longest = room
    while width(narrowed(text, longest)) > room:
        longest -= 1
    return narrowed(text, longest)


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _are_words(table: Columns, name: str) -> bool:
    return any(isinstance(row.get(name), str) for row in table.rows[:1])


def _padded(text: str, size: int, words: bool) -> str:
    padding = " " * (size - width(text))
    return text + padding if words else padding + text


def _marked(value: Any) -> Any:
    return isolated(value) if isinstance(value, str) else value
