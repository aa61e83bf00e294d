"""``bilens expand``: a logit as a sum of paths."""

import json as texts
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.files import write_text
from bilens.base.words import counting
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    PromptText,
    Save,
    SpecialTokens,
    TargetPosition,
    TargetToken,
    VersusToken,
    completed,
    read_target,
    require_count,
    require_one_of,
    require_place,
    require_read,
)
from bilens.cli.output import SHORT, Table, show, table
from bilens.cli.reader import warn
from bilens.cli.subjects import explained_model

DETAILS = ("writes", "pairs", "paths")
GIVEN = ("scores", "first score", "second score")  # circuits.GIVEN, known before they are loaded


def command(
    context: typer.Context,
    model: ModelFolder,
    prompt: PromptText,
    target: TargetToken = None,
    versus: VersusToken = None,
    position: TargetPosition = -1,
    detail: Annotated[
        str,
        typer.Option(
            help='"writes", "pairs" or "paths" (all the way to the embeddings).',
            autocompletion=completed(DETAILS),
        ),
    ] = "paths",
    k: Annotated[
        int | None,
        typer.Option("-k", help=f"Terms to print (default: {SHORT}, and all with --json)."),
    ] = None,
    max_terms: Annotated[int, typer.Option(help="How many terms to keep at most.")] = 1000,
    cutoff: Annotated[
        float, typer.Option(help="Terms below this share of Σ |writes| go to the remainder.")
    ] = 1e-4,
    dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A dictionary for the MLP input that it names, or a transcoder, which stands "
            "for the MLP; repeat it for more.",
        ),
    ] = None,
    given: Annotated[
        str | None,
        typer.Option(
            help="Of heads without softmax, what is held as the pass has it: "
            '"scores", "first score" or "second score".',
            autocompletion=completed(GIVEN),
        ),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="Also write the graph to this file (Neuronpedia's JSON).")
    ] = None,
    special_tokens: SpecialTokens = True,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Which paths make this logit, to the last digit. In float64; a half-precision model is
    explained in float32, which holds its weights exactly, beside what it gives as it is. The table
    ends with what it left out, and the total.
    """
    require_one_of("--detail", detail, DETAILS)
    if given is not None:
        require_one_of("--given", given, GIVEN)
    deeper = DETAILS[1:]
    read_by = {"max_terms": deeper, "dictionary": deeper}
    require_read(context, detail, f"with --detail {detail}", read_by)
    require_count("-k", k)
    require_count("--max-terms", max_terms)
    if not 0 <= cutoff < 1:
        raise ArgumentError("--cutoff", must="be in [0, 1)", got=cutoff)
    explained = read_target(target, versus)
    for flag, file in (("--save", save), ("--graph", graph)):
        require_place(flag, file)
    todo = "Expand a classifier in Python: bilens.expand(model, image, target)."
    loaded = explained_model(model, todo)
    read = _dictionaries(dictionary or (), loaded)
    coders = [hook for hook, one in read.items() if "transcoder" in one.architecture]
    expansion = bilens.expand(
        loaded,
        bilens.circuits.Prompt(prompt, special_tokens),
        explained,
        position,
        detail=detail,  # type: ignore[arg-type]
        max_terms=max_terms,
        cutoff=cutoff,
        dictionaries={hook: read[hook] for hook in read if hook not in coders},
        replacements={_layer(hook, loaded): read[hook] for hook in coders},
        given=given,
    )
    if save is not None:
        expansion.save(save)
    if graph is not None:
        write_text(graph, texts.dumps(bilens.circuits.graph(expansion)) + "\n")
    everything = len(expansion.terms) if json else SHORT
    show([_account(expansion, k or everything, json)], json)


def _account(expansion: "bilens.circuits.Expansion", k: int, exactly: bool) -> Table:
    """The ``k`` largest terms, then what they leave out, and what all add up to."""
    every = table(expansion)
    shown, others = every.rows[:k], every.rows[k:]
    ends = {
        counting(len(others), "further terms"): float(sum(row["value"] for row in others)),
        f"remainder: {counting(expansion.left_out, 'paths')} not kept": expansion.remainder,
        "total": expansion.total,
        "forward pass": expansion.forward,
    }
    if expansion.as_run is not None:
        ends["as run in half precision"] = expansion.as_run
    blank: dict[str, Any] = dict.fromkeys(every.columns)
    last = [
        blank | {"path": name, "value": value if exactly else f"{value:.12g}"}
        for name, value in ends.items()
    ]
    return replace(every, rows=[*shown, *last], left_out=len(others))


def _layer(hook: str, model: "bilens.Transformer") -> str:
    """The layer that reads the place ``hook``."""
    place = bilens.wiring.find_place(hook, model.wiring().parts)
    return place.name.removesuffix(f".{place.side}")


def _dictionaries(
    folders: Iterable[Path], model: "bilens.Transformer"
) -> "dict[str, bilens.features.Dictionary]":
    """The dictionaries in ``folders`` by the place of ``model`` that each was made for."""
    placed: dict[str, bilens.features.Dictionary] = {}
    for folder in folders:
        made = _dictionary(folder, model)
        if made.hook in placed:
            got = f"{made.hook} again in {folder}"
            raise ArgumentError("--dictionary", must="name a place once", got=got)
        placed[made.hook] = made
    return placed


def _dictionary(folder: Path, model: "bilens.Transformer") -> "bilens.features.Dictionary":
    """The dictionary in ``folder``, which names a place of ``model`` and is of its width."""
    made, wiring = bilens.features.Dictionary.load(folder), model.wiring()
    if not made.hook:
        must = "name the place it reads: hook_name in cfg.json"
        raise ArgumentError(str(folder), must=must, got="none")
    bilens.wiring.find_place(made.hook, wiring.parts, who=f"{folder}: hook_name")
    made.require_fits(str(folder), width=wiring.readout.shape[1], place=made.hook)
    if note := made.stranger_to(model):
        warn(f"{folder}: {note}")
    return made
