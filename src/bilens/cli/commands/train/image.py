"""``bilens train image``: an image classifier."""

from typing import Annotated, Any

import typer

from bilens import training
from bilens.cli.options import KeepAll, Resume, RunFolder, SaveEvery, require_read
from bilens.cli.output import figures, show, watched
from bilens.cli.recipes import recipe_options

FLAGS = {"hidden_size": "--width", "num_hidden_layers": "--layers"}


@recipe_options(training.ImageRecipe, flags=FLAGS)
def command(
    context: typer.Context,
    output: RunFolder,
    changes: dict[str, Any],
    data: Annotated[
        str, typer.Option(help='"digits" (built in), or a folder of MNIST-like idx .gz files.')
    ] = "digits",
    recipe: Annotated[
        str, typer.Option(help='"interpretable" (few eigenvectors) or "accuracy".')
    ] = "interpretable",
    resume: Resume = False,
    save_every: SaveEvery = None,
    keep_all: KeepAll = False,
) -> None:
    """Train an image classifier; prints the test accuracy. Resumable; logs to OUTPUT/log.jsonl."""
    how = training.recipe(recipe, **changes)
    penalty = "with a tail penalty" if how.tail_penalty else "without a tail penalty"
    require_read(context, penalty, penalty, {"kept": ("with a tail penalty",)})
    training.train_classifier(
        data,
        output,
        how,
        resume=resume,
        save_every=save_every,
        keep_all=keep_all,
        quiet=not watched(),
    )
    show([figures("Test", training.read_about(output)["figures"]["test"])])
