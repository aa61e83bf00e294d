"""``bilens train dictionary``: a sparse dictionary of one place in a language model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bilens.cli.options import ModelFolder, require_read


def train_dictionary(
    context: typer.Context,
    model: ModelFolder,
    at: Annotated[
        str,
        typer.Option(
            help='The place: "layers.1.mlp.input" (after its norm) or "layers.1.mlp.output".'
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="New folder for the dictionary, in SAELens's format."),
    ],
    data: Annotated[str, typer.Option(help="Text, as train text takes it.")] = "topics",
    architecture: Annotated[
        str, typer.Option(help="batchtopk, topk, jumprelu or standard.")
    ] = "batchtopk",
    expansion: Annotated[int, typer.Option(help="Latents for each dimension of the place.")] = 8,
    k: Annotated[
        int, typer.Option("-k", help="Latents active a token, for topk and batchtopk.")
    ] = 30,
    sparsity: Annotated[
        float, typer.Option(help="Weight of the penalty, for jumprelu and standard.")
    ] = 1e-3,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    batch_size: Annotated[int, typer.Option(help="Tokens per step.")] = 2048,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of Adam.")] = 1e-3,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a harvest that was stopped.")
    ] = False,
) -> None:
    """Harvest activations to disk, learn a dictionary of them, and say what it is worth on held-out
    text.
    """
    from bilens import Transformer, load
    from bilens.base.errors import ArgumentError
    from bilens.cli.output import figures, progress_bar, quiet, show
    from bilens.features import DictionaryRecipe
    from bilens.training import read_about
    from bilens.training import train_dictionary as train

    quiet()
    read_by = {"k": ("topk", "batchtopk"), "sparsity": ("jumprelu", "standard")}
    how = DictionaryRecipe(
        architecture, expansion, k, sparsity, steps, batch_size, learning_rate, seed
    )
    require_read(context, architecture, f"with --architecture {architecture}", read_by)
    loaded = load(str(model))
    if not isinstance(loaded, Transformer):
        raise ArgumentError("MODEL", must="be a language model", got=type(loaded).__name__)
    with progress_bar("") as bar:

        def told(what: str, step: int, of: int, known: dict[str, Any]) -> None:
            bar(step, of, what + "".join(f", {name} {value:.3g}" for name, value in known.items()))

        train(loaded, data, at, output, how, resume=resume, progress=told)
    show([figures("Held out", read_about(output)["figures"])])
