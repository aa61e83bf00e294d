"""``bilens compare``: MLPs against one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bilens import training
from bilens.base.progress import NO_FIGURES
from bilens.cli.options import AsJson, Save, TextName, require_place
from bilens.cli.output import say, show, table, watched
from bilens.cli.recipes import recipe_options


@recipe_options(training.TextRecipe, leave_out=("model", "seed"))
def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the runs; one begun is gone on with.")
    ],
    changes: dict[str, Any],
    data: TextName = "topics",
    config: Annotated[
        Path | None,
        typer.Option(help="TOML, as for train text; intermediate_size is the gated MLPs'."),
    ] = None,
    mlp: Annotated[
        list[str] | None, typer.Option(help="An MLP to compare; repeat it. Default: all seven.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Bilinear against ReLU, GELU, ReLU², ReGLU, GEGLU, SwiGLU: equal parameters, equal tokens,
    several seeds.
    """

    def tell(done: int, of: int, figures: Mapping[str, float] = NO_FIGURES, what: str = "") -> None:
        if not json:
            say(f"{what}: {figures['loss']:.4f} nats per token")

    require_place("--save", save)
    compared = training.compare(
        data,
        output,
        training.read_recipe(config, **changes),
        variants=mlp or tuple(training.VARIANTS),
        seeds=seeds,
        quiet=not watched(),
        progress=tell,
    )
    if save is not None:
        compared.save(save)
    show([table(compared)], json)
