"""``bilens serve``: the page of a language model, live."""

import getpass
import socket
from typing import Annotated

import typer

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.processes import begin
from bilens.cli.options import (
    ModelFolder,
    SpecialTokens,
    TargetPosition,
    TargetToken,
    VersusToken,
    read_target,
)
from bilens.cli.output import say

HIGHEST = 65_535
WORKER = "bilens.report.worker"  # imported in the process that computes while this one is


def command(
    model: ModelFolder,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A text that the page begins with; repeat it for more."),
    ] = None,
    target: TargetToken = None,
    versus: VersusToken = None,
    position: TargetPosition = -1,
    port: Annotated[int, typer.Option(help="The port; 0: any that is free.")] = 0,
    special_tokens: SpecialTokens = True,
) -> None:
    """The page of a language model, live: type a prompt, a target and a contrast, take parts out,
    and see what makes the logit. On this machine alone, to who has the link that is printed.
    """
    read_target(target, versus)
    if not 0 <= port <= HIGHEST:
        raise ArgumentError("--port", must=f"be 0 … {HIGHEST}", got=port)
    begin(WORKER)
    asked = bilens.report.Asked(target, versus, position)
    serving = bilens.report.Serving(str(model), tuple(prompt or ()), special_tokens, asked)
    server = bilens.report.open_server(serving, port)
    say(f"Open {server.url}")
    tunnel = f"ssh -N -L {server.port}:127.0.0.1:{server.port} {_here()}"
    say(f"From another machine, first there: {tunnel}")
    say("Ctrl-C stops it.")
    try:
        server.run()
    except KeyboardInterrupt:
        count = server.answered
        say(f"Stopped. {count:,} question{'' if count == 1 else 's'} answered.")


def _here() -> str:
    """Who and where this is, as ssh takes it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
