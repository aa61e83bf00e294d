"""``bilens effects``: what a logit loses without each component and pair, ranked."""

from typing import Annotated

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.cli.options import (
    AsJson,
    InPlace,
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
)
from bilens.cli.output import cut, listed, show, table
from bilens.cli.subjects import explained_model, in_the_place


def command(
    model: ModelFolder,
    prompt: PromptText,
    target: TargetToken = None,
    versus: VersusToken = None,
    position: TargetPosition = -1,
    pairs: Annotated[
        int, typer.Option(help="How many pairs of what layers read to try, beside all heads.")
    ] = 50,
    in_place: InPlace = None,
    k: Rows = None,
    special_tokens: SpecialTokens = True,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """What a logit loses without each head, each layer and the largest pairs, one at a time: the
    largest effect first, beside what the direct terms say of it.
    """
    explained = read_target(target, versus)
    require_count("-k", k)
    if pairs < 0:
        raise ArgumentError("--pairs", must="be a whole number ≥ 0", got=pairs)
    require_place("--save", save)
    loaded = explained_model(model)
    found = bilens.circuits.effects(
        loaded,
        bilens.circuits.Prompt(prompt, special_tokens),
        explained,
        position,
        pairs=pairs,
        with_=in_the_place(in_place, special_tokens),
    )
    if save is not None:
        found.save(save)
    show([cut(table(found), listed(k, json))], json)
