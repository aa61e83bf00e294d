"""The reader of what a command prints, who may go away before its end: ``bilens … | head``."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from bilens.base.words import printable


@contextmanager
def unread_too(stream: TextIO | None) -> Iterator[None]:
    """Print to ``stream`` in this block, and where its reader went away to nobody from here on: the
    work goes on, its files are written, and the exit status is that of the whole.
    """
    try:
        yield
    except BrokenPipeError:
        assert stream is not None  # print says nothing where there is none
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def warn(text: str) -> None:
    """One line on stderr, whole and harmless whatever it quotes."""
    with unread_too(sys.stderr):
        print(f"bilens: {printable(' '.join(text.split()))}", file=sys.stderr)
