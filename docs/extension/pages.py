"""Pages made from the code: the reference of every room, the commands, the recipes."""

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bilens
from extension import commands, recipes
from extension.docstrings import escaped
from extension.signatures import hint, home

ROOT = "bilens"
UNLISTED = ("cli",)  # its public name is the command itself
LONGEST = 60  # characters of a value
MADE = "reference"
GIVEN = Path(__file__).with_name("given.py")  # which the test of the examples runs too


def setup(app: Any) -> None:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / MADE))


def write(folder: Path) -> None:
    """All made pages, into ``folder``."""
    made = {room: _room(room) for room in rooms()} | {ROOT: _top()}
    made |= {"commands": commands.page(), "recipes": recipes.page(), "results": RESULTS}
    folder.mkdir(exist_ok=True)
    for name, text in made.items():
        place = folder / f"{name}.md"
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            place.write_text(text, encoding="utf-8")


def rooms() -> list[str]:
    """The rooms that have public names."""
    below = [room.name for room in pkgutil.iter_modules(bilens.__path__) if room.ispkg]
    return [name for name in below if _public(f"{ROOT}.{name}") and name not in UNLISTED]


def _public(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", ()))


def _room(room: str) -> str:
    name = f"{ROOT}.{room}"
    said = escaped(" ".join(line.strip() for line in _sentence(importlib.import_module(name))))
    lines = [f"# `{name}`", "", _rst([f".. module:: {name}", "", said])]
    for kind, public, thing in _things(name):
        own = home(thing)
        if kind == "data":
            lines.append(_rst(_constant(room, public, thing)))
        elif own == name:
            members = ["   :members:"] if kind in ("class", "exception") else []
            lines.append(_rst([f".. auto{kind}:: {name}.{public}", *members]))
        else:
            lines.append(f"`{public}` is {{py:obj}}`{own}.{thing.__name__}`.\n")
    return "\n".join(lines)


def _top() -> str:
    """The names that the package itself has, each with its sentence and where it is described."""
    lines = [f"# `{ROOT}`", "", "The names of the package itself, loaded when they are first used."]
    lines += ["", _given(), "", "| name | |", "|---|---|"]
    for _, name, thing in _things(ROOT):
        full = f"{home(thing)}.{thing.__name__}"
        said = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"| {{py:obj}}`{name} <{full}>` | {commands.plain(said)} |")
    return "\n".join([*lines, ""])


def _given() -> str:
    code = GIVEN.read_text(encoding="utf-8")
    return f"The examples of this reference take for granted:\n\n```python\n{code}```\n"


def _rst(lines: list[str]) -> str:
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def _sentence(module: Any) -> list[str]:
    """What a room says it is, without the number of its floor."""
    said = inspect.getdoc(module) or ""
    return re.sub(r"^Floor \d+: (\w)", lambda match: match[1].upper(), said).splitlines()


def _things(module: str) -> Iterator[tuple[str, str, Any]]:
    """The public names of a module, functions first, with what each is."""
    things = {name: getattr(importlib.import_module(module), name) for name in _public(module)}
    for wanted in ("function", "class", "exception", "data"):
        for name, thing in things.items():
            if not inspect.ismodule(thing) and _kind(thing) == wanted:
                yield wanted, name, thing


def _kind(thing: Any) -> str:
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function" if inspect.isfunction(thing) else "data"


def _constant(room: str, name: str, value: Any) -> list[str]:
    """Its value where that is short, and what its line says of it."""
    lines = [f".. py:data:: {ROOT}.{room}.{name}"]
    shown = hint(value) if typing.get_origin(value) else repr(value)
    if len(shown) <= LONGEST:
        lines.append(f"   :value: {shown}")
    return [*lines, "", f"   {escaped(_comment(room, name))}"]


def _comment(room: str, name: str) -> str:
    found = re.compile(rf"^{name}\b[^=\n]*= .*?# (.+)$", re.MULTILINE)
    for file in sorted(Path(bilens.__path__[0], room).rglob("*.py")):
        if match := found.search(file.read_text(encoding="utf-8")):
            return match[1]
    return ""


RESULTS = """# What every result has

```{eval-rst}
.. autoclass:: bilens.base.results.Result
   :members: to_frame, plot, summary

.. autoclass:: bilens.base.records.Record
   :members: save, load
```
"""
