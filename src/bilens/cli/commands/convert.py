"""``bilens convert``: language models to and from the Llama family, and to bilinear MLPs."""

from pathlib import Path
from typing import Annotated, Any

import typer

import bilens
from bilens import training
from bilens.base.errors import ArgumentError
from bilens.base.reading import naming
from bilens.cli.options import (
    ModelFolder,
    Resume,
    SaveEvery,
    completed,
    require_one_of,
    require_read,
)
from bilens.cli.output import Table, progress_bar, say, show, watched
from bilens.cli.recipes import recipe_options
from bilens.cli.subjects import language_model

KINDS = ("bilens", "llama", "bilinear")
STAGES = ("before", "least squares", "trained")
OF_BILINEAR = ("data", "resume", "save_every", *training.ConversionRecipe.__dataclass_fields__)


@recipe_options(training.ConversionRecipe)
def command(
    context: typer.Context,
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    changes: dict[str, Any],
    to: Annotated[
        str,
        typer.Option(
            help='"bilens", "llama" for a plain LlamaForCausalLM, or "bilinear" for MLPs that are '
            "bilinear, fitted to the model's own on --data.",
            autocompletion=completed(KINDS),
        ),
    ] = "bilens",
    data: Annotated[
        str | None, typer.Option("--data", help="Text for bilinear, as train text takes it.")
    ] = None,
    resume: Resume = False,
    save_every: SaveEvery = None,
) -> None:
    """A language model from and to the Llama family, tokenizer and all, or with bilinear MLPs.

    The last costs something: the loss is printed before and after each stage, and by layer.
    """
    require_one_of("--to", to, KINDS)
    require_read(context, to, f"with --to {to}", dict.fromkeys(OF_BILINEAR, ("bilinear",)))
    if to == "bilinear":
        _bilinear(model, output, data, changes, resume, save_every)
        return
    write_as(model, output, to)
    say(f"{to} model in {output}")


def write_as(model: Path, output: Path, to: str) -> None:
    """The model of a folder in another, in the format of ``to``, "bilens" or "llama"."""
    loaded = language_model(model, "MODEL")
    with naming(model):
        made = loaded.to_llama() if to == "llama" else loaded
    training.export(made, output)


def _bilinear(
    model: Path,
    output: Path,
    data: str | None,
    changes: dict[str, Any],
    resume: bool,
    save_every: int | None,
) -> None:
    if data is None:
        raise ArgumentError("--data", must="be given with --to bilinear", got="nothing")
    given = {key: value for key, value in changes.items() if value is not None}
    how = training.ConversionRecipe(**given)
    loaded: bilens.Transformer = language_model(model, "MODEL")
    with progress_bar("layers") as bar:
        training.make_bilinear(
            loaded, data, output, how,
            resume=resume, save_every=save_every, quiet=not watched(), progress=bar,
        )  # fmt: skip
    found = training.read_about(output)["figures"]
    stages = [{"stage": name, "loss": found[name]} for name in STAGES if name in found]
    told = f"bilinear model in {output}, layers fitted on {found['tokens fitted']:,} tokens"
    losses = f"nats a token on {found['tokens measured']:,} held-out tokens"
    show(
        [
            Table(f"{told}; {losses}", ("stage", "loss"), stages),
            Table("by layer, on texts apart", tuple(found["layers"][0]), found["layers"]),
        ]
    )
