"""``bilens train tokenizer``: a byte-level BPE tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

import bilens
from bilens.cli.options import TextName
from bilens.cli.output import say


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the tokenizer.")],
    data: TextName = "topics",
    vocab_size: Annotated[int, typer.Option(help="Number of tokens, at least 257.")] = 1024,
) -> None:
    """Train a byte-level BPE tokenizer on the training part of a text."""
    made = bilens.training.train_tokenizer(data, vocab_size, output)
    say(f"{len(made)} tokens in {output}")
