"""``bilens verify``: whether every identity holds on a model's own weights."""

import typer

import bilens
from bilens.cli.options import AsJson, ModelFolder, Seed
from bilens.cli.output import show, table


def command(model: ModelFolder, seed: Seed = 0, json: AsJson = False) -> None:
    """Check in float64, on this very model's weights, every identity bilens claims; exit 1 when one
    fails.
    """
    loaded = bilens.load(str(model))
    stock = isinstance(loaded, bilens.Transformer) and model.is_dir()
    checks = bilens.verify(loaded, seed, against=model if stock else None)
    show([table(checks)], json)
    raise typer.Exit(0 if checks.passed else 1)
