"""``bilens convert``: language models to and from the Llama family."""

from pathlib import Path
from typing import Annotated

import typer

import bilens
from bilens.base.reading import naming
from bilens.cli.options import ModelFolder, require_one_of
from bilens.cli.output import say
from bilens.cli.subjects import language_model

KINDS = ("bilens", "llama")


def command(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    to: Annotated[
        str, typer.Option(help='"bilens", or "llama" for a plain LlamaForCausalLM.')
    ] = "bilens",
) -> None:
    """A language model from and to the Llama family, tokenizer and all."""
    require_one_of("--to", to, KINDS)
    loaded = language_model(model, "MODEL")
    with naming(model):
        made = loaded.to_llama() if to == "llama" else loaded
    bilens.training.export(made, output)
    say(f"{to} model in {output}")
