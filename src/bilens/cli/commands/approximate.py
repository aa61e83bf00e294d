"""``bilens approximate``: how near to bilinear the MLPs of a language model are."""

from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    Save,
    TextName,
    require_count,
    require_one_of,
    require_place,
)
from bilens.cli.output import Table, show
from bilens.cli.subjects import language_model

FITS = ("closed", "units", "output")
BATCH = 8  # texts at a time


def command(
    model: ModelFolder,
    data: TextName,
    layer: Annotated[str, typer.Option(help='Which layer, or "all".')] = "all",
    fit: Annotated[
        str,
        typer.Option(
            help='"closed" (weights and two moments), or by least squares: "units", "output".'
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
    read = bilens.models.mlp_inputs(loaded, ids.split(BATCH), chosen)
    rows = [_row(loaded, n, x, fit, save) for n, x in read]
    columns = tuple(rows[0]) if rows else ()
    title = f"nearest tensors by fit {fit}, on {len(ids):,} texts of {data}"
    show([Table(title, columns, rows)], json)


def _chosen(model: "bilens.Transformer", layer: str) -> list[int]:
    """The numbers of the layers that are asked for and have an MLP."""
    there = [n for n, block in enumerate(model.model.layers) if block.mlp is not None]
    if layer == "all":
        return there
    if not layer.isdecimal() or int(layer) not in there:
        must = f'be "all" or one of {", ".join(map(str, there))}'
        raise ArgumentError("--layer", must=must, got=repr(layer))
    return [int(layer)]


def _row(
    model: "bilens.Transformer", n: int, x: "list[Any]", fit: str, save: Path | None
) -> dict[str, Any]:
    """One layer's figures, of what its MLP reads."""
    measure = bilens.Gaussian.from_batches(x)
    found = bilens.approximate(model.model.layers[n].mlp, measure, fit, x)  # type: ignore[arg-type]
    if save is not None:
        found.save(save)
    assert found.unexplained is not None
    degrees = found.degrees.rows()
    return {
        "layer": n,
        "unexplained": float(found.unexplained.value),
        "standard error": float(found.unexplained.error),
        "worst 1 %": found.tail(),
        **{f"degree {row['degree']}": row["share"] for row in degrees[:-1]},
        "beyond": degrees[-1]["share"],
    }
