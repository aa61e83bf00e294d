"""``bilens knockout``: what a logit loses when something is taken out."""

from typing import Annotated

import typer

import bilens
from bilens.cli.options import (
    AsJson,
    InPlace,
    ModelFolder,
    PromptText,
    Save,
    SpecialTokens,
    TargetPosition,
    TargetToken,
    VersusToken,
    read_target,
    require_place,
)
from bilens.cli.output import show, table
from bilens.cli.subjects import explained_model, in_the_place


def command(
    model: ModelFolder,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT …",
            help='Components ("L0H3", "mlp1", "attn0"), edges ("L0H2->L1H0.K", "mlp0->logits"), '
            'products ("mlp1(mlp0, L1H3)"), positions ("5", "L0H3@5"): all are taken out at once.',
        ),
    ],
    prompt: PromptText,
    target: TargetToken = None,
    versus: VersusToken = None,
    position: TargetPosition = -1,
    in_place: InPlace = None,
    at: Annotated[
        list[int] | None, typer.Option(help="A position where; repeat it for more (default: all).")
    ] = None,
    special_tokens: SpecialTokens = True,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """What a logit loses when components, edges or products are really taken out, beside what the
    direct terms say of it, and which parts react.
    """
    explained = read_target(target, versus)
    require_place("--save", save)
    loaded = explained_model(model)
    found = bilens.circuits.knockout(
        loaded,
        bilens.circuits.Prompt(prompt, special_tokens),
        named(what),
        explained,
        position,
        with_=in_the_place(in_place, special_tokens),
        at=at or None,
    )
    if save is not None:
        found.save(save)
    show([table(found)], json)


def named(what: list[str]) -> list[str | int]:
    """What is taken out, positions as numbers."""
    return [int(one) if one.removeprefix("-").isdecimal() else one for one in what]
