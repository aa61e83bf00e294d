"""The process of a command, and the one rule for what goes wrong: one line on stderr and exit 2,
never a traceback.
"""

import _thread
import atexit
import gc
import io
import itertools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import typer
from typer.exceptions import TyperException

from bilens.base.errors import ArgumentError, BilensError, Interrupted
from bilens.base.processes import PATIENT, is_first
from bilens.cli.app import StoppedError, root_group
from bilens.cli.reader import unread_too, warn

TEXTS = ("--prompt", "--with")  # options whose value may be empty
# What the libraries below read when they are imported: every command works on local files, and
# none shows notices or bars while it reads and writes them. Training keeps its own bar.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
INTERRUPTED = 130
# Signals that asked for an end. A library that is not Python may make another error of a
# KeyboardInterrupt, which does not say what it came of.
_stops: list[int] = []


def main() -> None:
    """Run the command line. Exit 0 when all is well, 1 when a check fails, 2 for bad input, 130
    when interrupted.
    """
    with _terminable():
        try:
            _main()
        except KeyboardInterrupt:  # one that came as an end was being told
            _stop(_how_to_go_on(None))


def _main() -> None:
    try:
        _prepare()
        _require_text(sys.argv[1:])
        code = root_group()(standalone_mode=False)
        if code == INTERRUPTED:  # before there was a command, of which typer says nothing
            raise KeyboardInterrupt
        _flush()
        sys.exit(code)
    except TyperException as error:
        _fail(error.format_message())
    except BilensError as error:
        _fail(str(error))
    except OSError as error:  # a full disk behind stdout, a file that may not be read
        _fail(str(error))
    except StoppedError as stopped:
        _stop(_how_to_go_on(stopped.__cause__))
    except (KeyboardInterrupt, typer.Abort):
        _stop(_how_to_go_on(None))
    except Exception as error:
        if not _stops and not _began_as_a_stop(error):
            raise
        _stop(_how_to_go_on(None))


def _prepare() -> None:
    """Quiet libraries, warnings of one line, and streams that take any text."""
    for name, value in (PATIENT, *ENVIRONMENT.items()):
        os.environ.setdefault(name, value)
    atexit.register(gc.freeze)  # else Python looks for garbage in all of torch as it ends
    for library in ("transformers", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for kind in (FutureWarning, DeprecationWarning):  # of libraries about themselves
        warnings.filterwarnings("ignore", category=kind)
    warnings.showwarning = _warn
    # where there is no λ it is written \u03bb: no two names become one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, which is heard unless it was to be ignored. Only the
    main thread may set signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _stops.clear()
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        heard.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in heard}
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_lost, hook)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _interrupt(number: int, _: object) -> None:
    """A signal that asks for an end."""
    _stops.append(number)
    raise KeyboardInterrupt


def _lost(before: Callable[[Any], Any], unraisable: Any) -> None:
    """A stop that came within a ``__del__``, from which Python lets nothing out, comes again."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.05, _stop_the_main_thread).start()
    else:
        before(unraisable)


def _stop_the_main_thread() -> None:
    """By the signal that came, which ends a wait of the system's too; the other may be ignored."""
    main, number = threading.main_thread().ident, _stops[-1] if _stops else signal.SIGINT
    if main is not None and hasattr(signal, "pthread_kill"):
        if signal.getsignal(number) is _interrupt:  # else the command has ended meanwhile
            signal.pthread_kill(main, number)
    else:  # on Windows
        _thread.interrupt_main()


def _began_as_a_stop(error: BaseException | None) -> bool:
    """Whether a library made ``error`` of a KeyboardInterrupt: one that imports lazily makes an
    ImportError of it.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _how_to_go_on(stop: BaseException | None) -> str:
    """Where a job was stopped, and the command that goes on with it."""
    if not isinstance(stop, Interrupted):
        return "interrupted: nothing is half-written. To begin anew: the same command again."
    again = "the same command with --resume" if stop.resume else "the same command again"
    return f"interrupted: {stop.where}. To go on: {again}."


def _stop(message: str) -> NoReturn:
    if is_first():
        warn(message)
    sys.exit(INTERRUPTED)


def _fail(message: str) -> NoReturn:
    if _stops:  # what a library made of one
        _stop(_how_to_go_on(None))
    warn(message)
    sys.exit(2)


def _warn(message: Warning | str, *where: Any) -> None:
    warn(f"warning: {message}")


def _require_text(arguments: Sequence[str]) -> None:
    """Raise ArgumentError for bytes that are no text in this locale (they reach Python as half
    surrogates, which no tokenizer or file takes), and for a name of a file that is empty: as a path
    it would be the folder that one is in.
    """
    for before, argument in itertools.pairwise(("an argument", *arguments)):
        if not argument and before not in TEXTS:
            must = "not be empty"
            who = before if before.startswith("-") else "an argument"
            raise ArgumentError(who, must=must, got=repr(argument))
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                "an argument", must="be text in this locale", got=repr(argument)
            ) from None


def _flush() -> None:
    """What was printed reaches its reader here, where it can still be said that it did not."""
    if sys.stdout is not None:
        with unread_too(sys.stdout):
            sys.stdout.flush()
