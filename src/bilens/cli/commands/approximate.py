"""``bilens approximate``: how near to bilinear the MLPs of a language model are."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.words import counting
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    Save,
    TextName,
    completed,
    require_count,
    require_one_of,
    require_place,
)
from bilens.cli.output import Table, show
from bilens.cli.subjects import language_model

if TYPE_CHECKING:
    from bilens.wiring import Part

FITS = ("closed", "units", "output")
BATCH = 8  # texts at a time
DEGREES = tuple(f"degree {n}" for n in range(5))
FIGURES = ("unexplained", "standard error", "worst 1 %", *DEGREES, "beyond")


def command(
    model: ModelFolder,
    data: TextName,
    layer: Annotated[
        str, typer.Option(help='Which layer ("0"; of experts "0.expert3"), or "all".')
    ] = "all",
    fit: Annotated[
        str,
        typer.Option(
            help='"closed" (weights and two moments), or by least squares: "units", "output".',
            autocompletion=completed(FITS),
        ),
    ] = "closed",
    tokens: Annotated[int, typer.Option(help="Tokens of the held-out text to measure on.")] = 8192,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """The nearest tensor of each MLP: what it misses of the layer's output on a text, how much of
    that the worst 1 % of tokens carry, and the shares of the output by degree, under a Gaussian of
    what the layer reads.
    """
    require_one_of("--fit", fit, FITS)
    require_count("--tokens", tokens)
    require_place("--save", save)
    loaded = language_model(model, str(model)).eval()
    chosen = _chosen(loaded, layer)
    if save is not None and len(chosen) > 1:
        todo = "Use --layer."
        raise ArgumentError("--save", must="be given for one layer", got=len(chosen), todo=todo)
    ids = bilens.training.held_out_ids(loaded, data, tokens).ids
    layers = list(dict.fromkeys(part.layer for part in chosen.values()))
    rows = []
    for n, x in bilens.models.mlp_inputs(loaded, ids.split(BATCH), layers):
        read = _read(loaded, n, x)
        asked = [name for name in read if name in chosen]
        rows += [_row(name, chosen[name].module, read[name], fit, save) for name in asked]
    columns = tuple(rows[0]) if rows else ()
    title = f"nearest tensors by fit {fit}, on {counting(len(ids), 'texts')} of {data}"
    show([Table(title, columns, rows)], json)


def _chosen(model: "bilens.Transformer", layer: str) -> "dict[str, Part]":
    """The MLPs that are asked for, by their number: "0", or "1.expert3"."""
    there = {name.removeprefix("mlp"): part for name, part in model.wiring().layers.items()}
    if layer == "all":
        return there
    chosen = {n: part for n, part in there.items() if n == layer or n.startswith(f"{layer}.")}
    if not chosen:
        must = f'be "all" or one of {", ".join(there)}'
        raise ArgumentError("--layer", must=must, got=repr(layer))
    return chosen


def _read(model: "bilens.Transformer", n: int, x: "list[Any]") -> "dict[str, list[Any]]":
    """What the MLP of a layer reads, or each of its experts, by number."""
    mlp = model.model.layers[n].mlp
    if not isinstance(mlp, bilens.nn.Experts):
        return {str(n): x}
    by_expert = zip(*map(mlp.reads, x), strict=True)
    return {f"{n}.expert{e}": list(filter(len, rows)) for e, rows in enumerate(by_expert)}


def _row(name: str, layer: Any, x: "list[Any]", fit: str, save: Path | None) -> dict[str, Any]:
    """One layer's figures; none of an expert whose tokens are too few, or all alike."""
    expert = "expert" in name
    begun = {"layer": name, "tokens": sum(map(len, x))} if expert else {"layer": int(name)}
    try:
        measure = bilens.Gaussian.from_batches(x)
        found = bilens.approximate(layer, measure, fit, x)  # type: ignore[arg-type]
    except ArgumentError:
        if not expert or save is not None:
            raise
        return begun | dict.fromkeys(FIGURES, math.nan)
    if save is not None:
        found.save(save)
    assert found.unexplained is not None
    value, error = float(found.unexplained.value), float(found.unexplained.error)
    shares = (row["share"] for row in found.degrees.rows())
    figures = zip(FIGURES, (value, error, found.tail(), *shares), strict=True)
    return begun | dict(figures)
