"""How text from outside is shown to a person: one line, every character visible, nothing that acts
on a terminal or page.
"""

import re
import unicodedata
from collections.abc import Sequence
from html import escape

SPACE, LINE_END, TAB = "␣", "⏎", "⇥"
VISIBLE = {" ": SPACE, "\n": LINE_END, "\t": TAB}
# control, format (bidi overrides), half surrogates, private, separators
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MARKS = {"Mn", "Me"}  # they stand on the character before them


def printable(text: str) -> str:
    """``text`` with every character that shows nothing, or acts on what shows it, written as \\x1b
    or \\u202e.

    >>> printable("a\x1b[31m")
    'a\\\\x1b[31m'
    """
    if text.isprintable():  # as almost always
        return text
    return "".join(character if _shows(character) else _escaped(character) for character in text)


def isolated(text: object) -> str:
    """``text`` as HTML that shows all of it, and whose direction of writing ends with it."""
    return f"<bdi>{escape(printable(str(text)))}</bdi>"


def shortened(text: str, longest: int) -> str:
    """``text``, or its beginning with how much was cut off."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text):,} characters)"


def narrowed(text: str, longest: int) -> str:
    """``text``, or its beginning and end where it has more than ``longest`` characters.

    >>> narrowed("mlp1(L0H3@5→9(embed), embed)", 15)
    'mlp1(L0… embed)'
    """
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - end - 1]}…{text[len(text) - end :]}"


def counting(count: int, things: str) -> str:
    """How many ``things``, which are named in the plural.

    >>> counting(1, "gates"), counting(2000, "gates")
    ('1 gate', '2,000 gates')
    """
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def width(text: str) -> int:
    """How many columns of a terminal ``text`` takes: two for a wide character, none for a mark on
    the one before it.
    """
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def show_token(text: str) -> str:
    """A token as it is shown everywhere: ␣ for a space, ⏎ for a line end, ⇥ for a tab, the rest
    ``printable``.

    >>> show_token(" girl\\n")
    '␣girl⏎'
    """
    if text.isprintable():  # nothing hidden: most tokens of a vocabulary
        return text.replace(" ", SPACE)
    return "".join(VISIBLE.get(character, printable(character)) for character in text)


def show_text(text: str) -> str:
    """A text in one line, as it is shown everywhere: ⏎ for a line end, ⇥ for a tab, and ␣ for a
    space that would not be seen: at an end of a line, or beside another.

    >>> show_text(" a b  c\n")
    '␣a b␣␣c⏎'
    """
    seen = re.sub("(?m)^ +| {2,}| +$", lambda found: SPACE * len(found[0]), text)
    return "".join(
        " " if character == " " else VISIBLE.get(character, printable(character))
        for character in seen
    )


def show_tokens(texts: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Tokens as they are shown, their ids beside those whose text is not theirs alone among
    ``texts``, or is empty.

    >>> show_tokens([" a", "\ufffd", "\ufffd"], [5, 128, 129])
    ['␣a', '\ufffd#128', '\ufffd#129']
    """
    shown = [show_token(text) for text in texts]
    owners: dict[str, set[int]] = {}
    for text, index in zip(shown, ids, strict=True):
        owners.setdefault(text, set()).add(index)
    return [
        f"{text}#{index}" if not text or len(owners[text]) > 1 else text
        for text, index in zip(shown, ids, strict=True)
    ]


def _columns(character: str) -> int:
    if unicodedata.category(character) in MARKS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shows(character: str) -> bool:
    return character == " " or unicodedata.category(character) not in HIDDEN


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
