"""The reader of what a command prints, who may go away before its end: ``bilens … | head``."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from bilens.base.errors import FileError
from bilens.base.files import reason
from bilens.base.words import printable


@contextmanager
def unread_too(stream: TextIO | None) -> Iterator[None]:
    """Print to ``stream`` in this block, and where its reader went away to nobody from here on: the
    work goes on, its files are written, and the exit status is that of the whole. Errors: FileError
    where ``stream`` cannot be written for another reason, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        assert stream is not None  # print says nothing where there is none
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            name = "stderr" if stream is sys.stderr else "stdout"
            raise FileError(name, must="be writable", got=reason(error)) from error


def warn(text: str) -> None:
    """One line on stderr, whole and harmless whatever it quotes; none where that has no room, which
    could be said nowhere.
    """
    with suppress(FileError), unread_too(sys.stderr):
        print(f"bilens: {printable(' '.join(text.split()))}", file=sys.stderr)
