"""``bilens lens``: what the stream says after every part, or how one layer moves the outputs."""

from typing import Annotated

import typer

import bilens
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    PromptText,
    Rows,
    Save,
    SpecialTokens,
    TargetPosition,
    TargetToken,
    VersusToken,
    read_target,
    require_count,
    require_place,
    require_read,
)
from bilens.cli.output import cut, listed, show, table
from bilens.cli.subjects import explained_model

WHOLE, ONE_LAYER = "all parts", "--layer"


def command(
    context: typer.Context,
    model: ModelFolder,
    prompt: PromptText,
    target: TargetToken = None,
    versus: VersusToken = None,
    layer: Annotated[
        str | None,
        typer.Option(help='One layer that is quadratic ("mlp1"): its derivatives, in tokens.'),
    ] = None,
    position: TargetPosition = -1,
    k: Rows = None,
    special_tokens: SpecialTokens = True,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """What the stream says after every part, the last position first; with --layer, how the outputs
    move where what that layer reads changes, and how it curves towards the target.
    """
    explained = read_target(target, versus)
    require_count("-k", k)
    require_place("--save", save)
    mode = WHOLE if layer is None else ONE_LAYER
    require_read(context, mode, "without --layer", {"position": (ONE_LAYER,)})
    loaded, circuits = explained_model(model), bilens.circuits
    text = circuits.Prompt(prompt, special_tokens)
    if layer is None:
        found = circuits.lens(loaded, text, explained)
    else:
        found = circuits.quadratic_lens(loaded, text, layer, explained, position, k=k or 8)
    if save is not None:
        found.save(save)
    rows = None if layer is not None else listed(k, json)
    show([cut(table(found), rows)], json)
