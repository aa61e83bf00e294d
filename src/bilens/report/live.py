"""The door to a served page, whose libraries are an extra."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from bilens.base.errors import ArgumentError
from bilens.report.worker import Serving

if TYPE_CHECKING:
    from bilens.report.server import Server

LIBRARIES = ("starlette", "uvicorn")


def open_server(serving: Serving, port: int = 0) -> "Server":
    """The page of a language model, live, on 127.0.0.1: its ``url`` is for a browser, and ``run()``
    answers until it is interrupted. ``port`` 0 is any that is free.

    Cost: the model is loaded, in a process of its own. Errors: ArgumentError without starlette and
    uvicorn (``bilens[serve]``), and for a port that cannot be had; BilensError for what cannot be
    loaded.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        todo, got = "pip install 'bilens[serve]'", f"no {' and no '.join(missing)}"
        raise ArgumentError("bilens serve", must="have its libraries", got=got, todo=todo)
    from bilens.report.server import Server

    return Server(serving, port)
