"""``bilens train text``: a language model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bilens import training
from bilens.cli.options import KeepAll, Resume, RunFolder, SaveEvery, TextName, require_read
from bilens.cli.output import figures, show, watched
from bilens.cli.recipes import recipe_options


@recipe_options(training.TextRecipe, leave_out=("model",))
def command(
    context: typer.Context,
    output: RunFolder,
    changes: dict[str, Any],
    data: TextName = "topics",
    config: Annotated[
        Path | None, typer.Option(help="TOML: steps, batch_size, … and a table [model].")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer's folder; without it one is trained on DATA.")
    ] = None,
    resume: Resume = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16 (on a GPU).")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile.")
    ] = False,
    report_to: Annotated[
        str, typer.Option(help="A reporter of Trainer's: wandb, tensorboard, trackio, …")
    ] = "none",
    save_every: SaveEvery = None,
    keep_all: KeepAll = False,
) -> None:
    """Train a language model; prints the held-out loss. Resumable; logs to OUTPUT/log.jsonl."""
    words = "a tokenizer trained here" if tokenizer is None else "a tokenizer of one's own"
    require_read(context, words, f"with {words}", {"vocab_size": ("a tokenizer trained here",)})
    training.train_language(
        data,
        output,
        training.read_recipe(config, **changes),
        tokenizer=tokenizer,
        resume=resume,
        save_every=save_every,
        keep_all=keep_all,
        quiet=not watched(),
        options={"bf16": bf16, "torch_compile": compiled, "report_to": report_to},
    )
    show([figures("Held out", training.read_about(output)["figures"]["valid"])])
