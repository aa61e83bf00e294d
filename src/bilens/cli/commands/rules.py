"""``bilens rules``: the strongest rules of a model, from its weights alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import AsJson, ModelFolder, require_count, require_folder
from bilens.cli.output import SHORT, say, show, table, write_results
from bilens.cli.subjects import language_model


def command(
    model: ModelFolder,
    k: Annotated[int, typer.Option("-k", help="Rules to print of each path.")] = SHORT,
    path: Annotated[
        list[str] | None,
        typer.Option(
            help='A path from the weights: "W_U mlp0(embed, embed)" (default: of the first '
            'bilinear layer, or else what the first head writes), "W_U mlp1(embed, L0H3)", …; '
            "repeat it for more."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD",
            help='Skip rules of a head ("L0H3"): what it writes of each token where it looks, and '
            "which token looks at which, one position back; repeat it for more.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="A file of the rules that made the data (rules.json): how many of them the model "
            "has is said too, asked of the rules' own tokens, and how many single paths have."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for tables and plots.")
    ] = None,
    json: AsJson = False,
) -> None:
    """The strongest rules of a model from its weights alone: which two tokens write which next one,
    or what a head writes and where it looks. Each value stands beside the root mean square of all.
    """
    require_count("-k", k)
    if output is not None:
        require_folder("--output", output)
    paths, heads = list(path or ()), list(skip or ())
    for one in paths:
        bilens.circuits.require_path(one)
    for head in heads:
        _require_head(head)
    known = None if truth is None else bilens.training.read_truth(truth)
    loaded = language_model(model, str(model))
    scores = [] if known is None else _scores(loaded, known)
    paths += [one for head in heads for one in bilens.circuits.head_paths(loaded, head)]
    found = [*scores, *(bilens.circuits.rules(loaded, one, k) for one in paths or [""])]
    if output is not None:
        write_results(output, {f"rules {n}": one for n, one in enumerate(found)})
    show(map(table, found), json)
    if output is not None and not json:
        say(f"{output}: tables (.csv) and plots (.html)")


def _scores(model: "bilens.Transformer", known: "bilens.training.Truth") -> list[Any]:
    """How many of the known rules the model has, and paths by themselves."""
    ways = (bilens.training.evaluate_rules, bilens.training.evaluate_paths)
    return [way(model, known) for way in ways]


def _require_head(head: str) -> None:
    """Raise ArgumentError for what can be no head's name: asked before a model is there."""
    if not head.isalnum():
        raise ArgumentError("--skip", must='name a head, "L0H3" say', got=repr(head))
