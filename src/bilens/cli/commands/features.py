"""``bilens features``: the latents of a dictionary on a text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.files import write_text
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    TextName,
    completed,
    require_count,
    require_folder,
    require_one_of,
    require_read,
)
from bilens.cli.output import (
    SHORT,
    Table,
    cut,
    listed,
    progress_bar,
    say,
    show,
    table,
    write_results,
)
from bilens.cli.subjects import language_model

if TYPE_CHECKING:
    from bilens.base.results import Result

EXAMPLES = 10  # of each kind
RANKINGS = ("count", "mean", "largest")  # features.By, known before they are loaded
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
    'content="width=device-width"><meta name="color-scheme" content="light dark"><title>{}</title>'
    "<style>body{{font:15px system-ui,sans-serif;margin:2em}}td,th{{padding:2px 8px}}</style>{}"
)


def command(
    context: typer.Context,
    model: ModelFolder,
    dictionary: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The dictionary, in SAELens's format.")
    ],
    data: TextName,
    feature: Annotated[
        int | None, typer.Option(help="One of its latents; without it a ranking of them all.")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A dictionary of what the layer reads, for one of what it writes: which pairs of "
            "its latents make the feature.",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help='The place it reads, where it does not say: "layers.1.mlp.input".'),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help='Rank by "count" (of tokens fired on), "mean" or "largest".',
            autocompletion=completed(RANKINGS),
        ),
    ] = "count",
    tokens: Annotated[int, typer.Option(help="Tokens of the held-out text to read.")] = 50_000,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            help=f"Latents to print (default: {SHORT}, and all with --json); of a feature, "
            f"examples of each kind and pairs (default: {EXAMPLES}).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for tables, plots and the highlighted texts."),
    ] = None,
    json: AsJson = False,
) -> None:
    """The latents of a dictionary on a text: how often each fires and on what; of one, the text it
    fires on, the next token with and without it, and the pairs that make it.
    """
    require_count("-k", k)
    require_count("--tokens", tokens)
    require_one_of("--by", by, RANKINGS)
    mode = "--feature" if feature is not None else "a ranking"
    why = f"with {mode}" if feature is not None else "without --feature"
    require_read(context, mode, why, {"by": ("a ranking",), "inputs": ("--feature",)})
    if output is not None:
        require_folder("--output", output)
    bilens.training.read_documents(data)  # whether there is such a text, before any of it is read
    coder = bilens.features.Dictionary.load(dictionary)
    if feature is not None and not 0 <= feature < coder.n_latents:
        must = f"be a whole number from 0 to {coder.n_latents - 1}"
        raise ArgumentError("--feature", must=must, got=feature)
    reader = None if inputs is None else _reader(inputs, coder, at)
    loaded = language_model(model, str(model))
    layer = None if reader is None else _layer(loaded, reader)
    with progress_bar("tokens") as bar:
        texts = bilens.features.Texts(data, tokens, bar)
        if feature is None:
            firing = bilens.features.firing
            ranking = firing(loaded, coder, texts, by=by, at=at)  # type: ignore[arg-type]
            results: dict[str, Result] = {"latents": ranking}
        else:
            found = bilens.features.examples(loaded, coder, texts, feature, k=k or EXAMPLES, at=at)
            results = {"examples": found}
            if reader is not None and layer is not None:
                made = coder if at is None else replace(coder, hook=at)
                results |= _pairs(loaded, layer, (made, feature), reader, texts, k or EXAMPLES)
    if output is not None:
        _write(output, results)
    rows = listed(k, json)
    show(_tables(results, rows), json)
    if feature is not None and inputs is None and coder.hook.endswith(".output") and not json:
        say("--inputs FOLDER, a dictionary of what the layer reads, gives the pairs that make it.")
    if output is not None and not json:
        say(f"{output}: tables (.csv) and plots (.html), and each result for load (.safetensors)")


def _reader(
    inputs: Path, coder: "bilens.features.Dictionary", at: str | None
) -> "bilens.features.Dictionary":
    """The dictionary of what the layer reads whose writes ``coder`` takes apart."""
    made = bilens.features.Dictionary.load(inputs)
    writes, reads = (bilens.wiring.short_name(one) for one in (at or coder.hook, made.hook))
    layer = writes.removesuffix(".output")
    if layer == writes or "transcoder" in coder.architecture:
        must, got = "come with a dictionary of what a layer writes", f"one of {writes or '?'}"
        raise ArgumentError("--inputs", must=must, got=got)
    if reads != f"{layer}.input":
        raise ArgumentError("--inputs", must=f"read {layer}.input", got=reads or "no named place")
    return made


def _layer(model: "bilens.Transformer", reader: "bilens.features.Dictionary") -> "bilens.CP":
    """The layer that the dictionary's place is read by. Errors: ArgumentError where there is none;
    NotExactError for one that is no tensor.
    """
    name = bilens.wiring.short_name(reader.hook).removesuffix(".input")
    part = model.wiring().layers.get(name)
    if part is None:
        layers = ", ".join(model.wiring().layers)
        raise ArgumentError("--inputs", must=f"be of one of {layers}", got=name)
    module: Any = part.module
    return module.tensor().detach()


def _pairs(
    model: "bilens.Transformer",
    layer: "bilens.CP",
    made: "tuple[bilens.features.Dictionary, int]",
    reader: "bilens.features.Dictionary",
    texts: "bilens.features.Texts",
    k: int,
) -> "dict[str, Result]":
    """The pairs that make a feature: by their weights, and by what they make on the text."""
    features, (coder, feature) = bilens.features, made
    reader, made = reader.beside(layer), (coder.beside(layer), feature)
    names = features.firing(model, reader, texts).names
    form = features.interactions(layer, made[0], reader, in_names=names).of(feature)
    together = features.cofiring(model, reader, texts, where=made)
    return {"pairs": form.top(k), "pairs on text": form.top_on(together, k)}


def _tables(results: "dict[str, Result]", rows: int | None) -> Iterator[Table]:
    for name, one in results.items():
        if isinstance(one, bilens.features.Examples):
            yield _told(one)
            yield table(one)
        else:
            yield cut(table(one, f"{name}: " if name.startswith("pairs") else ""), rows)


def _told(found: "bilens.features.Examples") -> Table:
    """By which tokens a latent is told."""
    (latent,) = found.latents
    rows = [
        {"tokens": "fires at", "which": latent.at.shares()},
        {"tokens": "one before", "which": latent.before.shares()},
        {"tokens": "one after", "which": latent.after.shares()},
        {"tokens": "by weights, answers", "which": str(latent.answers)},
        {"tokens": "by weights, writes for", "which": str(latent.promotes)},
        {"tokens": "by weights, writes against", "which": str(latent.demotes)},
    ]
    return Table(f"names of latent {latent.feature}", ("tokens", "which"), rows)


def _write(folder: Path, results: "dict[str, Result]") -> None:
    write_results(folder, results)
    for name, one in results.items():
        one.save(folder / f"{name}.safetensors")
    found = results.get("examples")
    if found is not None:
        write_text(folder / "texts.html", PAGE.format("examples", found._repr_html_()))
