"""Docstrings are plain text: paragraphs, lists of names and what they are, examples. Here they
become reStructuredText, which autodoc reads.
"""

import re
from collections.abc import Iterator
from typing import Any

CODE = re.compile(r"(``.+?``)")
MARKUP = re.compile(r"([\\*|`])|(?<=\w)(_)(?!\w)")
ENTRY = re.compile(r"(?P<name>\S(?:.*?\S)?) {2,}(?P<told>\S.*)")  # a name, a gap, what it is
FIELD = re.compile(r"(?P<name>\w+(?:, \w+)*): +(?P<told>\S.*)")
PROMPT = ">>>"


def setup(app: Any) -> None:
    """Rewrite every docstring that autodoc finds."""
    app.connect("autodoc-process-docstring", _process)


def _process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [*rewritten(lines), ""]


def rewritten(lines: list[str]) -> Iterator[str]:
    """The same in reStructuredText, block by block."""
    for block in _blocks(lines):
        yield from _block(block)
        yield ""


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """What stands between blank lines, an example on its own, and a list apart from the words
    before and after it.
    """
    block: list[str] = []
    for line in lines:
        if block and (not line.strip() or _turns(block, line)):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _turns(block: list[str], line: str) -> bool:
    if block[0].startswith(PROMPT):
        return False
    return line.startswith(PROMPT) or _is_list(block) != _goes_on(block, line)


def _goes_on(block: list[str], line: str) -> bool:
    """Whether ``line`` is of a list, where ``block`` stands before it."""
    entry = line.startswith("  ") or ENTRY.fullmatch(line)
    return line.startswith("    ") or (_is_list(block) and bool(entry))


def _is_list(block: list[str]) -> bool:
    return block[0].startswith("    ") or (
        bool(ENTRY.fullmatch(block[0])) and ". " not in block[0].split("  ")[0]
    )


def _block(block: list[str]) -> Iterator[str]:
    if block[0].startswith(PROMPT):
        yield from block
    elif _is_list(block) and not _is_named(block[0].strip()):
        yield from ("::", "", *block)
    elif _is_list(block):
        for name, told in _entries(block):
            yield f"- {_name(name)}{escaped(told)}"
    else:
        yield escaped(" ".join(line.strip() for line in block))


def _is_named(words: str) -> re.Match[str] | None:
    return ENTRY.fullmatch(words) or FIELD.fullmatch(words)


def _name(name: str) -> str:
    if not name:
        return ""
    return f"{name}: " if name.startswith("``") else f"**{MARKUP.sub(_escape, name)}**: "


def _entries(block: list[str]) -> Iterator[tuple[str, str]]:
    """The entries of a list: a line further in than the first goes on with the one before."""
    margin = len(block[0]) - len(block[0].lstrip())
    entries: list[tuple[str, str]] = []
    for line in block:
        words = line.strip()
        if len(line) - len(line.lstrip()) > margin and entries:
            name, told = entries[-1]
            entries[-1] = name, f"{told} {words}"
            continue
        match = _is_named(words)
        entries.append((match["name"], match["told"]) if match else ("", words))
    yield from entries


def escaped(words: str) -> str:
    """``words`` with nothing but code marked up."""
    return "".join(_parts(CODE.split(words)))


def _parts(parts: list[str]) -> Iterator[str]:
    for before, part in zip(["", *parts], parts, strict=False):
        if part.startswith("``"):
            yield part
        else:  # a code's plural, ``Weight``s, goes on without a gap
            yield ("\\ " if before and part[:1].isalnum() else "") + MARKUP.sub(_escape, part)


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[0]
