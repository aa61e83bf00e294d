"""The tree of commands. A command is listed here and imported when it is called: most of them need
torch, which takes seconds, and ``--help`` should take none.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from bilens import __version__
from bilens.base.errors import ArgumentError, BilensError
from bilens.cli.apart import require_apart
from bilens.cli.reader import unread_too

HELP = (
    "Bilinear layers as exact third-order tensors: train or load a model, decompose it, "
    "verify it, send a page."
)
TRAIN_HELP = "Train a model."

# The commands by name, in the order of the help, each with the first sentence of its own help.
COMMANDS = {
    "approximate": "The nearest tensor of each MLP: what it misses of the layer's output on a "
    "text, how much of that the worst 1 % of tokens carry, and the shares of the output by degree, "
    "under a Gaussian of what the layer reads.",
    "demo": "The main job on what is built in: train a classifier on digits, verify it, "
    "decompose it, and write a page; and a page of the paths inside the language model in the box.",
    "effects": "What a logit loses without each head, each layer and the largest pairs, one at a "
    "time: the largest effect first, beside what the direct terms say of it.",
    "eval": "Accuracy of a classifier on the test part of DATA, loss of a language model on its "
    "held-out part.",
    "compare": "Bilinear against ReLU, GELU, ReLU², ReGLU, GEGLU, SwiGLU: equal parameters, equal "
    "tokens, several seeds.",
    "convert": "A language model from and to the Llama family, tokenizer and all, or with "
    "bilinear MLPs.",
    "decompose": "Spectra of one layer or all: eigenvectors for output directions, HOSVD, SVD, or "
    "one basis for the whole layer.",
    "diff": "What changed between two checkpoints, or over a series of them: the loss, the layers "
    "by similarity, their eigenvectors, and which classes, tokens or features.",
    "expand": "Which paths make this logit, to the last digit.",
    "features": "The latents of a dictionary on a text: how often each fires and on what; of one, "
    "the text it fires on, the next token with and without it, and the pairs that make it.",
    "figure": "The figure of a saved result as vector graphics (SVG or PDF) fit for a paper.",
    "knockout": "What a logit loses when components, edges or products are really taken out, "
    "beside what the direct terms say of it, and which parts react.",
    "lens": "What the stream says after every part, the last position first; with --layer, how "
    "the outputs move where what that layer reads changes, and how it curves towards the target.",
    "moments": "Mean and covariance of all places of a language model on the training part of a "
    "text, in one pass.",
    "report": "Everything about a model as one page that opens from file:// with no network.",
    "rules": "The strongest rules of a model from its weights alone: which two tokens write which "
    "next one, or what a head writes and where it looks.",
    "serve": "The page of a language model, live: type a prompt, a target and a contrast, take "
    "parts out, and see what makes the logit.",
    "verify": "Check in float64, on this very model's weights, every identity bilens claims; exit "
    "1 when one fails.",
}
TRAINING = {
    "image": "Train an image classifier; prints the test accuracy.",
    "tokenizer": "Train a byte-level BPE tokenizer on the training part of a text.",
    "text": "Train a language model; prints the held-out loss.",
    "dictionary": "Harvest activations to disk, learn a dictionary of them, and say what it is "
    "worth on held-out text.",
}


class StoppedError(Exception):
    """A KeyboardInterrupt on its way through typer, which would end without a word."""


class Root(TyperGroup):
    """All commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise StoppedError from stop


class Listed(TyperCommand):
    """A command by its name and one sentence. Its module is imported when it is called."""

    def __init__(self, module: str, sentence: str) -> None:
        super().__init__(module.rpartition(".")[2], help=sentence, rich_markup_mode=None)
        self.module = module

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Read the arguments, as the command itself does."""
        given = list(args)  # which are taken off as they are read
        context = self.load().make_context(info_name, args, *more, **extra)
        if not context.resilient_parsing:  # a shell that completes a line
            _require_once(context, given)
            require_apart(context)
        return context

    def load(self) -> Any:
        """The command itself."""
        return _built(import_module(self.module).command)


class Told(TyperCommand):
    """A command whose errors call an option by its flag, where the library names its argument."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except BilensError as error:
            flags = [one.opts[0] for one in self.params if isinstance(one, TyperOption)]
            named = {flag.lstrip("-").replace("-", "_"): flag for flag in flags}
            flag = named.get(error.who.rstrip("_"))
            if flag is None:
                raise
            made = type(error)(flag, must=error.must, got=error.got, todo=error.todo)
            raise made from error


def root_group() -> TyperGroup:
    """The command ``bilens`` with all that is below it."""
    train = _group(_train, TyperGroup, TRAIN_HELP, "bilens.cli.commands.train", TRAINING)
    root = _group(_root, Root, HELP, "bilens.cli.commands", COMMANDS, add_completion=True)
    root.add_command(train, "train")
    return root


def _group(
    callback: Callable[..., None],
    kind: type[TyperGroup],
    sentence: str,
    package: str,
    commands: Mapping[str, str],
    add_completion: bool = False,
) -> TyperGroup:
    """A group of the ``commands`` in ``package``."""
    app = typer.Typer(cls=kind, help=sentence, rich_markup_mode=None, add_completion=add_completion)
    app.callback(invoke_without_command=True)(callback)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, words in commands.items():
        group.add_command(Listed(f"{package}.{name}", words))
    return group


def _require_once(context: Any, args: list[str]) -> None:
    """Raise ArgumentError for an option given twice that has one value: the first would be lost."""
    _, _, order = context.command.make_parser(context).parse_args(args)
    for param, count in Counter(order).items():
        if count > 1 and isinstance(param, TyperOption) and not (param.multiple or param.is_flag):
            raise ArgumentError(param.opts[0], must="be given once", got=f"{count} times")


def _built(function: Callable[..., None]) -> Any:
    """A function as typer's command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=Told)(function)
    return get_command(app)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> None:
    if version:
        with unread_too(sys.stdout):
            print(__version__)
        raise typer.Exit
    _help_if_bare(context)


def _train(context: typer.Context) -> None:
    _help_if_bare(context)


def _help_if_bare(context: typer.Context) -> None:
    """Print the help of a group of commands where none of them is named."""
    if context.invoked_subcommand is None:
        with unread_too(sys.stdout):
            print(context.get_help())
        raise typer.Exit
