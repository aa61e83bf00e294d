"""``bilens train dictionary``: a sparse dictionary of one place in a language model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bilens import training
from bilens.cli.options import ModelFolder, require_read
from bilens.cli.output import figures, progress_bar, show
from bilens.cli.recipes import recipe_options
from bilens.cli.subjects import language_model
from bilens.features import DictionaryRecipe

READ_BY = {"k": ("topk", "batchtopk"), "sparsity": ("jumprelu", "standard")}  # architectures


@recipe_options(DictionaryRecipe, show_defaults=True)
def command(
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
    changes: dict[str, Any],
    data: Annotated[str, typer.Option(help="Text, as train text takes it.")] = "topics",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a harvest that was stopped.")
    ] = False,
) -> None:
    """Harvest activations to disk, learn a dictionary of them, and say what it is worth on held-out
    text.
    """
    how = DictionaryRecipe(**changes)
    kind = how.architecture
    require_read(context, kind, f"with --architecture {kind}", READ_BY)
    loaded = language_model(model, "MODEL")
    with progress_bar("") as bar:
        training.train_dictionary(loaded, data, at, output, how, resume=resume, progress=bar)
    show([figures("Held out", training.read_about(output)["figures"])])
