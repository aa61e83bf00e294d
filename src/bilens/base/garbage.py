"""Python's search for cyclic garbage, put off where it would only walk what stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, for what makes very many objects and no cycles of them: each ten
    thousand new ones make Python walk everything that torch has loaded.

    >>> import gc
    >>> with uncollected():
    ...     gc.isenabled()
    False
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
