"""The commands, and the one rule for what goes wrong: one line on stderr and exit 2, never a
traceback.
"""

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from bilens.cli.decompose import decompose
from bilens.cli.dictionary import train_dictionary
from bilens.cli.options import (
    AsJson,
    ModelFolder,
    Save,
    require_count,
    require_folder,
    require_one_of,
    require_place,
    require_read,
)

if TYPE_CHECKING:
    from bilens.circuits import Expansion
    from bilens.cli.output import Table


class _Stopped(Exception):  # noqa: N818
    """A KeyboardInterrupt on its way through typer, which would end without a word."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Stopped from stop


app = typer.Typer(
    cls=_Commands,
    help="Bilinear layers as exact third-order tensors: train or load a model, decompose it, verify it, send a page.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train a model.")
app.add_typer(train_app, name="train")

DataName = Annotated[
    str,
    typer.Option("--data", help='"digits" (built in), or a folder of MNIST-like idx .gz files.'),
]
TextName = Annotated[
    str,
    typer.Option(
        "--data",
        help='"topics" (built in), a .txt or .xz file, a folder of them, or a Hugging Face dataset.',
    ),
]
SpecialTokens = Annotated[
    bool, typer.Option(help="Read the text with the tokenizer's own special tokens (BOS).")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")]

DETAILS = ("writes", "pairs", "paths")
TERMS = 20  # of an expansion, in a table
DEMO_STEPS = 800  # enough for the digits to be told apart, within a minute of two cores


def main() -> None:
    """Run the command line. Exit 0 when all is well, 1 when a check fails, 2 for bad input, 130
    when interrupted.
    """
    with _terminable():
        _main()


def _main() -> None:
    from bilens.base.errors import BilensError, Interrupted

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every command works on local files
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = _warn
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # where there is no λ it is written \u03bb: no two names become one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _require_text(sys.argv[1:])
        code = app(standalone_mode=False)
        _flush()
        sys.exit(code)
    except TyperException as error:
        _fail(error.format_message())
    except BilensError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output went away: `bilens … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full disk behind stdout, a file that may not be read
        _fail(str(error))
    except _Stopped as stopped:
        stop = stopped.__cause__
        if not isinstance(stop, Interrupted):
            _stop("interrupted")
        again = "the same command with --resume" if stop.resume else "the same command again"
        _stop(f"interrupted: {stop.where}. To go on: {again}.")
    except (KeyboardInterrupt, typer.Abort):
        _stop("interrupted")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does; signals are the main thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> None:
    """SIGTERM, told like Ctrl-C."""
    raise KeyboardInterrupt


def _stop(message: str) -> NoReturn:
    from bilens.base.words import printable

    if os.environ.get("RANK", "0") == "0":
        print(f"bilens: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(130)


def _require_text(arguments: Sequence[str]) -> None:
    """Bytes that are no text in this locale reach Python as half surrogates, which no tokenizer or
    file takes.
    """
    from bilens.base.errors import ArgumentError

    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                "an argument", must="be text in this locale", got=repr(argument)
            ) from None


def _flush() -> None:
    """What was printed reaches its reader here, where it can still be said that it did not."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _warn(message: Warning | str, *where: Any) -> None:
    from bilens.base.words import printable

    print(f"bilens: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    from bilens.base.words import printable

    line = f"bilens: {printable(' '.join(message.split()))}"
    print(line, file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> None:
    """Bilinear layers as exact third-order tensors: train or load a model, decompose it, verify it,
    send a page.
    """
    if version:
        from bilens import __version__

        print(__version__)
        raise typer.Exit
    _help_if_bare(context)


@train_app.callback(invoke_without_command=True)
def train_root(context: typer.Context) -> None:
    """Train a model."""
    _help_if_bare(context)


def _help_if_bare(context: typer.Context) -> None:
    """Print the help of a group of commands where none of them is named."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model and the page.")
    ] = Path("report"),
    seed: Seed = 0,
) -> None:
    """The main job on what is built in: train a classifier on digits, verify it, decompose it, and
    write a page; and a page of the paths inside the language model in the box."""
    from bilens import load
    from bilens.checks import verify
    from bilens.cli.output import quiet, say, show, table, watched
    from bilens.report import write_page
    from bilens.training import load_images, read_about, recipe, train_classifier

    quiet()
    require_folder("--output", output)
    folder = _free_folder(output / "model")
    say("Training a one-layer bilinear classifier on scikit-learn's digits …")
    how = recipe(steps=DEMO_STEPS, seed=seed)
    model = train_classifier("digits", folder, how, quiet=not watched())
    checks = verify(model, seed)
    show([table(checks)])
    page = write_page(model, load_images("digits"), output, read_about(folder))
    paths = write_page(load("tinystories-2l"), None, output / "paths")
    say(f"Open {page.path.resolve().as_uri()}")
    say(f"Open {paths.path.resolve().as_uri()}")
    raise typer.Exit(0 if checks.passed and not _say_broken(page.broken + paths.broken) else 1)


@train_app.command("image")
def train_image(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="New folder for the model, its log and checkpoints."),
    ],
    data: DataName = "digits",
    recipe: Annotated[
        str, typer.Option(help='"interpretable" (few eigenvectors) or "accuracy".')
    ] = "interpretable",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a run that was stopped, to the same weights."),
    ] = False,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of AdamW.")] = None,
    input_noise: Annotated[
        float | None, typer.Option(help="Standard deviation of noise on pixels in [0, 1].")
    ] = None,
    tail_penalty: Annotated[
        float | None,
        typer.Option(help="Weight of what each class has beyond its top eigenvectors."),
    ] = None,
    kept: Annotated[
        int | None, typer.Option(help="How many eigenvectors per class are free of that penalty.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size.")] = None,
    layers: Annotated[int | None, typer.Option(help="Bilinear layers.")] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Layers add to what they read.")
    ] = False,
    bias: Annotated[bool, typer.Option("--bias", help="Biases everywhere.")] = False,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between checkpoints (default: a tenth of the run)."),
    ] = None,
) -> None:
    """Train an image classifier; prints the test accuracy. Resumable; logs to OUTPUT/log.jsonl."""
    from bilens import training
    from bilens.cli.output import figures, quiet, show, watched

    quiet()
    how = training.recipe(
        recipe,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        input_noise=input_noise,
        tail_penalty=tail_penalty,
        kept=kept,
        hidden_size=width,
        num_hidden_layers=layers,
        residual=residual,
        bias=bias,
    )
    penalty = "with a tail penalty" if how.tail_penalty else "without a tail penalty"
    require_read(context, penalty, penalty, {"kept": ("with a tail penalty",)})
    silent = not watched()
    training.train_classifier(data, output, how, resume=resume, save_every=save_every, quiet=silent)
    show([figures("Test", training.read_about(output)["figures"]["test"])])


@train_app.command("tokenizer")
def train_tokenizer(
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the tokenizer.")],
    data: TextName = "topics",
    vocab_size: Annotated[int, typer.Option(help="Number of tokens, at least 257.")] = 1024,
) -> None:
    """Train a byte-level BPE tokenizer on the training part of a text."""
    from bilens import training
    from bilens.cli.output import quiet, say

    quiet()
    made = training.train_tokenizer(data, vocab_size, output)
    say(f"{len(made)} tokens in {output}")


@train_app.command("text")
def train_text(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="New folder for the model, its log and checkpoints."),
    ],
    data: TextName = "topics",
    config: Annotated[
        Path | None, typer.Option(help="TOML: steps, batch_size, … and a table [model].")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer's folder; without it one is trained on DATA.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens of a tokenizer trained here.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a run that was stopped, to the same weights."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Blocks per step and process.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16 (on a GPU).")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile.")
    ] = False,
    report_to: Annotated[
        str, typer.Option(help="A reporter of Trainer's: wandb, tensorboard, trackio, …")
    ] = "none",
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between checkpoints (default: a tenth).")
    ] = None,
) -> None:
    """Train a language model; prints the held-out loss. Resumable; logs to OUTPUT/log.jsonl."""
    from bilens import training
    from bilens.cli.output import figures, quiet, show, watched

    quiet()
    words = "a tokenizer trained here" if tokenizer is None else "a tokenizer of one's own"
    require_read(context, words, f"with {words}", {"vocab_size": ("a tokenizer trained here",)})
    changes = {
        "vocab_size": vocab_size,
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    how = training.read_recipe(config, **changes)
    options = {"bf16": bf16, "torch_compile": compiled, "report_to": report_to}
    silent = not watched()
    training.train_language(
        data,
        output,
        how,
        tokenizer=tokenizer,
        resume=resume,
        save_every=save_every,
        quiet=silent,
        options=options,
    )
    show([figures("Held out", training.read_about(output)["figures"]["valid"])])


train_app.command("dictionary")(train_dictionary)


@app.command("eval")
def evaluate(
    model: ModelFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="What --data of training takes.")],
    json: AsJson = False,
) -> None:
    """Accuracy of a classifier on the test part of DATA, loss of a language model on its held-out
    part.
    """
    from bilens import Transformer, load
    from bilens.cli.output import figures, quiet, show
    from bilens.training import evaluate_on, evaluate_text_on

    quiet()
    loaded = load(str(model))
    found = (
        evaluate_text_on(loaded, data)
        if isinstance(loaded, Transformer)
        else evaluate_on(loaded, data)
    )
    show([figures("Test", found)], json)


@app.command()
def compare(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the runs; one begun is gone on with.")
    ],
    data: TextName = "topics",
    config: Annotated[
        Path | None,
        typer.Option(help="TOML, as for train text; intermediate_size is the gated MLPs'."),
    ] = None,
    mlp: Annotated[
        list[str] | None, typer.Option(help="An MLP to compare; repeat it. Default: all seven.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each run.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Blocks per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW.")
    ] = None,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Bilinear against ReLU, GELU, ReLU², ReGLU, GEGLU, SwiGLU: equal parameters, equal tokens,
    several seeds.
    """
    from bilens import training
    from bilens.cli.output import quiet, say, show, table, watched

    def one_line(run: dict[str, Any]) -> None:
        if not json:
            say(f"{run['mlp']}, seed {run['seed']}: {run['loss']:.4f} nats per token")

    quiet()
    require_place("--save", save)
    how = training.read_recipe(
        config, steps=steps, batch_size=batch_size, learning_rate=learning_rate
    )
    chosen = mlp or tuple(training.VARIANTS)
    silent = not watched()
    found = training.compare(
        data, output, how, variants=chosen, seeds=seeds, quiet=silent, on_run=one_line
    )
    if save is not None:
        found.save(save)
    show([table(found)], json)


@app.command()
def convert(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder.")],
    to: Annotated[
        str, typer.Option(help='"bilens", or "llama" for a plain LlamaForCausalLM.')
    ] = "bilens",
) -> None:
    """A language model from and to the Llama family, tokenizer and all."""
    from bilens import Transformer, load
    from bilens.base.errors import ArgumentError
    from bilens.cli.output import quiet, say
    from bilens.training import export

    quiet()
    require_one_of("--to", to, ("bilens", "llama"))
    loaded = load(str(model))
    if not isinstance(loaded, Transformer):
        raise ArgumentError("MODEL", must="be a language model", got=type(loaded).__name__)
    export(loaded.to_llama() if to == "llama" else loaded, output)
    say(f"{to} model in {output}")


app.command()(decompose)


@app.command()
def expand(
    context: typer.Context,
    model: ModelFolder,
    prompt: Annotated[str, typer.Option(help="The text that the model reads.")],
    target: Annotated[
        str | None, typer.Option(help='The token to explain (" on"); default: the likeliest one.')
    ] = None,
    versus: Annotated[
        str | None, typer.Option(help="Explain the target's logit less this token's.")
    ] = None,
    position: Annotated[
        int, typer.Option(help="Where the token is predicted; -1 is after the whole prompt.")
    ] = -1,
    detail: Annotated[
        str, typer.Option(help='"writes", "pairs" or "paths" (all the way to the embeddings).')
    ] = "paths",
    k: Annotated[
        int | None,
        typer.Option("-k", help=f"Terms to print (default: {TERMS}, and all with --json)."),
    ] = None,
    max_terms: Annotated[int, typer.Option(help="How many terms to keep at most.")] = 1000,
    cutoff: Annotated[
        float, typer.Option(help="Terms below this share of Σ |writes| go to the remainder.")
    ] = 1e-4,
    dictionary: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A dictionary for the MLP input that it names; repeat it for more.",
        ),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="Also write the graph to this file (Neuronpedia's JSON).")
    ] = None,
    special_tokens: SpecialTokens = True,
    save: Save = None,
    json: AsJson = False,
) -> None:
    """Which paths make this logit, to the last digit. In float64; a half-precision model is
    explained in float32, which holds its weights exactly, beside what it gives as it is. The table
    ends with what it left out, and the total.
    """
    import json as texts

    from bilens import circuits
    from bilens.base.errors import ArgumentError
    from bilens.base.files import write_text
    from bilens.cli.output import quiet, show
    from bilens.nn.expandable import is_half

    quiet()
    require_one_of("--detail", detail, DETAILS)
    deeper = DETAILS[1:]
    read_by = {"max_terms": deeper, "dictionary": deeper}
    require_read(context, detail, f"with --detail {detail}", read_by)
    require_count("-k", k)
    require_count("--max-terms", max_terms)
    if not 0 <= cutoff < 1:
        raise ArgumentError("--cutoff", must="be in [0, 1)", got=cutoff)
    if versus is not None and target is None:
        raise ArgumentError("--versus", must="come with --target", got="no target")
    for flag, file in (("--save", save), ("--graph", graph)):
        require_place(flag, file)
    loaded = _language_model(model)
    if not is_half(loaded):  # that is explained in float32, beside what it gives as it is
        loaded = loaded.double()
    found = circuits.expand(
        loaded,
        circuits.Prompt(prompt, special_tokens),
        target if versus is None else (target, versus),
        position,
        detail=detail,  # type: ignore[arg-type]
        max_terms=max_terms,
        cutoff=cutoff,
        dictionaries=_dictionaries(dictionary or (), loaded),
    )
    if save is not None:
        found.save(save)
    if graph is not None:
        write_text(graph, texts.dumps(circuits.graph(found)) + "\n")
    everything = len(found.terms) if json else TERMS
    show([_account(found, k or everything, json)], json)


def _account(found: "Expansion", k: int, exactly: bool) -> "Table":
    """The ``k`` largest terms, then what they leave out, and what all add up to."""
    from dataclasses import replace

    from bilens.cli.output import table

    every = table(found)
    shown, others = every.rows[:k], every.rows[k:]
    ends = {
        f"{len(others)} further terms": float(sum(row["value"] for row in others)),
        f"remainder: {found.left_out} paths not kept": found.remainder,
        "total": found.total,
        "forward pass": found.forward,
    }
    if found.as_run is not None:
        ends["as run in half precision"] = found.as_run
    blank: dict[str, Any] = dict.fromkeys(every.columns)
    last = [
        blank | {"path": name, "value": value if exactly else f"{value:.12g}"}
        for name, value in ends.items()
    ]
    return replace(every, rows=[*shown, *last], left_out=len(others))


@app.command()
def report(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for index.html.")],
    data: Annotated[
        str | None,
        typer.Option(help="Images to test a classifier on; by default what it was trained on."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text for a language model; repeat it for more.")
    ] = None,
    special_tokens: SpecialTokens = True,
) -> None:
    """Everything about a model as one page that opens from file:// with no network."""
    from bilens import Transformer, load
    from bilens.base.errors import ArgumentError
    from bilens.circuits import Prompt
    from bilens.cli.output import quiet, say
    from bilens.report import write_page
    from bilens.training import load_images_for, read_about

    quiet()
    require_folder("--output", output)
    loaded, about = load(str(model)), read_about(model)
    if isinstance(loaded, Transformer):
        if data is not None:
            raise ArgumentError(
                "--data", must="be left out for a language model", got=data, todo="Pass --prompt."
            )
        prompts = [Prompt(text, special_tokens) for text in prompt or ()]
        for text in prompts:
            loaded.read(text)  # refused here rather than shown as a broken part of the page
        page = write_page(loaded, prompts or None, output, about)
    else:
        source = data or about.get("data")
        if source is None or prompt:
            must, got = (
                ("be left out for a classifier", prompt)
                if prompt
                else ("be given without a training.json", "nothing")
            )
            raise ArgumentError("--prompt" if prompt else "--data", must=must, got=got)
        page = write_page(loaded, load_images_for(loaded, source), output, about)
    say(f"Open {page.path.resolve().as_uri()}")
    raise typer.Exit(1 if _say_broken(page.broken) else 0)


@app.command()
def verify(model: ModelFolder, seed: Seed = 0, json: AsJson = False) -> None:
    """Check in float64, on this very model's weights, every identity bilens claims; exit 1 when one
    fails.
    """
    from bilens import load
    from bilens.checks import verify as check
    from bilens.cli.output import quiet, show, table

    quiet()
    checks = check(load(str(model)), seed)
    show([table(checks)], json)
    raise typer.Exit(0 if checks.passed else 1)


def _language_model(folder: Path) -> Any:
    """The model in ``folder``, where it is one that reads text."""
    from bilens import Transformer, load
    from bilens.base.errors import ArgumentError

    model = load(str(folder))
    if not isinstance(model, Transformer):
        todo = "Expand a classifier in Python: bilens.expand(model, image, target)."
        raise ArgumentError(
            str(folder), must="be a language model", got=type(model).__name__, todo=todo
        )
    return model


def _dictionaries(folders: Iterable[Path], model: Any) -> dict[str, Any]:
    """The dictionaries in ``folders`` by the place of ``model`` that each was made for."""
    from bilens.base.errors import ArgumentError, FileError
    from bilens.features import Dictionary
    from bilens.nn.hooks import find_place

    found: dict[str, Any] = {}
    wiring = model.wiring()
    for folder in folders:
        made = Dictionary.load(folder)
        if not made.hook:
            raise ArgumentError(
                str(folder), must="name the place it reads: hook_name in cfg.json", got="none"
            )
        try:
            find_place(made.hook, wiring.parts)
        except ArgumentError as error:
            raise FileError(f"{folder}: hook_name", must=error.must, got=error.got) from error
        made.require_fits(str(folder), width=wiring.readout.shape[1], place=made.hook)
        if made.hook in found:
            raise ArgumentError(
                "--dictionary", must="name a place once", got=f"{made.hook} again in {folder}"
            )
        found[made.hook] = made
    return found


def _say_broken(errors: tuple[str, ...]) -> bool:
    """Name the parts of a page that could not be made; whether there were any."""
    from bilens.cli.output import warn

    for error in errors:
        warn(error)
    return bool(errors)


def _free_folder(folder: Path) -> Path:
    """``folder`` emptied where an earlier demo made it, refused where it holds anything else."""
    from shutil import rmtree

    from bilens.base.errors import FileError
    from bilens.base.files import held
    from bilens.training import read_about

    with held(folder):  # no demo that is still at work
        if any(folder.iterdir()) and not _is_demo(read_about(folder)):
            raise FileError(
                str(folder),
                must="be new or an earlier demo's",
                got="other files",
                todo="Name another --output.",
            )
        rmtree(folder)
    return folder


def _is_demo(about: dict) -> bool:
    """Whether a run is what ``demo`` trains, whatever its seed."""
    from dataclasses import asdict

    from bilens.training import recipe

    stored = about.get("recipe", {})
    return about.get("data") == "digits" and stored == asdict(recipe(steps=DEMO_STEPS)) | {
        "seed": stored.get("seed")
    }
