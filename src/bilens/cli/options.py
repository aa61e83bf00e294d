"""Arguments that several commands take, and what every command asks of its arguments before it
loads anything.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bilens.base.errors import ArgumentError
from bilens.base.files import NOWHERE

ModelFolder = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help='A model folder, or a name: in the box ("tinystories-2l") or on the hub.',
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Save = Annotated[
    Path | None, typer.Option("--save", help="Also write the result to this file (safetensors).")
]
Data = Annotated[str, typer.Argument(metavar="DATA", help="What --data of training takes.")]
RunFolder = Annotated[
    Path,
    typer.Option("--output", "-o", help="New folder for the model, its log and checkpoints."),
]
TextName = Annotated[
    str,
    typer.Option(
        "--data",
        help='"topics" (built in), a .txt or .xz file, a folder of them, or a Hugging Face '
        "dataset.",
    ),
]
SpecialTokens = Annotated[
    bool, typer.Option(help="Read the text with the tokenizer's own special tokens (BOS).")
]
PromptText = Annotated[str, typer.Option("--prompt", help="The text that the model reads.")]
TargetToken = Annotated[
    str | None,
    typer.Option("--target", help='The token to explain (" on"); default: the likeliest one.'),
]
VersusToken = Annotated[
    str | None,
    typer.Option("--versus", help="Explain the target's logit less this token's."),
]
TargetPosition = Annotated[
    int,
    typer.Option("--position", help="Where the token is predicted; -1 is after the whole prompt."),
]
InPlace = Annotated[
    str | None,
    typer.Option(
        "--with",
        help='What stands in the place of what is taken out: "zero", "mean" (over the prompt), or '
        "another prompt of as many tokens; default: zero and the mean.",
    ),
]
Rows = Annotated[
    int | None,
    typer.Option("-k", help="Rows to print (default: 20, and all with --json)."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was stopped, to the same weights.")
]
SaveEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between checkpoints (default: a tenth of the run)."),
]
KeepAll = Annotated[
    bool,
    typer.Option(
        "--keep-all", help="Keep every checkpoint, not the last two: for bilens diff of the run."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")]
GIVEN = "COMMANDLINE"  # where an option's value comes from, in the words of typer's click


def require_one_of(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raise ArgumentError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ArgumentError(flag, must=f"be one of {', '.join(choices)}", got=repr(value))


def completed(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """What a shell completes an option of these ``choices`` from."""

    def complete(incomplete: str) -> list[str]:  # typer takes an argument of this name
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def read_target(target: str | None, versus: str | None) -> str | tuple[str, str] | None:
    """What is explained. Errors: ArgumentError for a contrast with nothing."""
    if versus is None:
        return target
    if target is None:
        raise ArgumentError("--versus", must="come with --target", got="no target")
    return target, versus


def require_count(flag: str, value: int | None) -> None:
    """Raise ArgumentError for a number below 1; None is none."""
    if value is not None and value < 1:
        raise ArgumentError(flag, must="be a whole number ≥ 1", got=value)


def require_read(
    context: typer.Context, mode: str, why: str, read_by: Mapping[str, Collection[str]]
) -> None:
    """Raise ArgumentError for an option that was given and that nothing reads.

    ``read_by``: the modes in which each option is read, by its parameter's name. ``why``: how this
    ``mode`` came about.
    """
    flags = {option.name: option.opts[0] for option in context.command.params}
    for name, modes in read_by.items():
        if mode not in modes and was_given(context, name):
            todo = f"Nothing reads it there; it is for {', '.join(modes)}."
            got = repr(str(context.params[name]))
            raise ArgumentError(flags[name], must=f"be left out {why}", got=got, todo=todo)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the command line itself gives the parameter ``name``."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == GIVEN


def require_place(flag: str, file: Path | None) -> None:
    """Raise ArgumentError where ``file`` cannot be written because of what is there already: asked
    before the work.
    """
    if file is None:
        return
    if file.is_dir():
        raise ArgumentError(flag, must="be a file", got=f"the folder {file}")
    require_folder(flag, file.parent)


def require_folder(flag: str, folder: Path) -> None:
    """Raise ArgumentError where ``folder`` cannot be a folder that is written to: because a file is
    in its way, or because what is there is read-only.
    """
    places = (place for place in (folder, *folder.parents) if os.path.lexists(place))
    there = next(places, None)
    if there is not None and not there.is_dir():
        kind = "a file" if there.exists() else NOWHERE
        raise ArgumentError(flag, must="be in a folder", got=f"{folder}, and {there} is {kind}")
    if there is not None and not os.access(there, os.W_OK | os.X_OK):
        must = "be in a folder that can be written"
        raise ArgumentError(flag, must=must, got=f"{folder}, and {there} cannot")
