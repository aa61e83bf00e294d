"""The commands, from the commands themselves."""

from collections.abc import Iterator
from typing import Any

from bilens.cli.app import root_group


def page() -> str:
    """A section for each command: how it is called, what it does, its arguments and options."""
    root = root_group()
    head = ["# Commands", "", root.help or "", ""]
    head += [
        "`bilens COMMAND --help` prints the same. Errors are one line, with exit status 2.",
        "",
    ]
    return "\n".join([*head, *_sections("bilens", root)])


def _sections(path: str, group: Any) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        called = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _sections(called, command)
        else:
            yield from _section(called, command.load() if hasattr(command, "load") else command)


def _section(called: str, command: Any) -> Iterator[str]:
    context = command.make_context(called, [], resilient_parsing=True)
    usage = " ".join([called, *command.collect_usage_pieces(context)])
    yield f"## `{called}`\n"
    yield f"{plain(command.help or '')}\n"
    yield f"```text\n{usage}\n```\n"
    records = [p.get_help_record(context) for p in command.params if p.name != "help"]
    shown = [record for record in records if record]
    if shown:
        yield "| | |\n|---|---|"
        yield from (f"| `{' '.join(flags.split())}` | {plain(told)} |" for flags, told in shown)
        yield ""


def plain(words: str) -> str:
    """On one line of a table, with nothing in it that Markdown reads."""
    text = " ".join(words.replace("\b", "").split())
    for letter in "\\|*<>":
        text = text.replace(letter, f"\\{letter}")
    return text
