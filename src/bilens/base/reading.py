"""Reading files from outside: sizes are looked at before anything is allocated, and every fault
names its file.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilens.base.errors import BilensError, ConfigError, FileError

MIB = 2**20
LARGEST = 64 * MIB  # of a JSON or TOML file: a vocabulary of a quarter of a million tokens takes 35


def read_json(file: Path) -> Any:
    """What a JSON file holds. Errors: FileError for one that is missing, no file, too large,
    damaged or nested too deep.
    """
    return _parsed(file, json.loads, "JSON")


def read_json_object(file: Path) -> dict[str, Any]:
    """As ``read_json``, where the file must hold an object."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise FileError(str(file), must="be a JSON object", got=type(found).__name__)
    return found


def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file holds. Errors as ``read_json``."""
    return _parsed(file, tomllib.loads, "TOML")


def to_reach_the_hub() -> str:
    """What to do for a name on the Hugging Face hub where this process is told not to ask it; ""
    where it may.
    """
    from huggingface_hub import is_offline_mode

    told = is_offline_mode()
    return "To ask the hub, set HF_HUB_OFFLINE=0 in the environment." if told else ""


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let every error inside name ``file``; what is none of bilens's own becomes a ConfigError.

    For calling another library on what a file says: its exceptions are of many kinds, and none of
    them names the file.
    """
    try:
        yield
    except BilensError as error:
        if str(file) in error.who:
            raise
        raise type(error)(
            f"{file}: {error.who}", must=error.must, got=error.got, todo=error.todo
        ) from error
    except Exception as error:
        raise ConfigError(
            str(file), must="hold usable values", got=str(error) or type(error).__name__
        ) from error


def _parsed(file: Path, parse: Callable[[str], Any], kind: str) -> Any:
    require_file(file)
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise FileError(
                str(file), must=f"be {kind} of at most {LARGEST // MIB} MiB", got=f"{size:,} bytes"
            )
        return parse(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise FileError(
            str(file), must=f"be readable {kind}", got="nesting too deep to read"
        ) from None
    # UnicodeDecodeError and the parsers' own are ValueErrors
    except (ValueError, OSError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(str(file), must=f"be readable {kind}", got=str(error)) from error


def require_file(file: Path, must: str = "be a file") -> None:
    """Raise FileError unless ``file`` is a plain file: reading a pipe or a device could wait for
    ever.
    """
    try:
        there = file.is_file()
        got = "something else" if file.exists() else "nothing there"
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise FileError(str(file), must=must, got=error) from error
    if not there:
        raise FileError(str(file), must=must, got=got)
