"""``bilens verify``: whether every identity holds on a model's own weights."""

import typer

import bilens
from bilens.cli.options import AsJson, ModelFolder, Seed
from bilens.cli.output import show, table


def command(model: ModelFolder, seed: Seed = 0, json: AsJson = False) -> None:
    """Check in float64, on this very model's weights, every identity bilens claims; exit 1 when one
    fails.
    """
    folder = model if model.is_dir() else None
    checks = bilens.verify(bilens.load(str(model)), seed, against=folder)
    show([table(checks)], json)
    raise typer.Exit(0 if checks.passed else 1)
