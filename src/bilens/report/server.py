"""The page of a language model, live: on this machine alone, to who holds its token.

A request can ask what a page asks and nothing else: no path leads to a file, a question is bounded
before the model sees it, one is computed at a time, in a process of its own that is ended where it
takes too long (``report.worker``). The Host and Origin headers are checked, so that no other
site's page, by whatever name it reaches this port, can ask.
"""

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bilens.base.errors import ArgumentError
from bilens.report.worker import Serving, Worker

HOST = "127.0.0.1"
OURS = ("127.0.0.1", "localhost")  # names that this machine has for itself
BODY = 64 * 1024  # bytes of a question
WAITING = 64  # questions
DEADLINE = 60.0  # seconds for an answer
ARRIVAL = 10.0  # seconds in which a question must have arrived
AT_ONCE = 512  # connections
TURN = 0.05  # seconds between looks at whether who asked is still there
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


LOG = logging.getLogger("uvicorn.error")

Handler = Callable[[Request], Awaitable[Response]]


class _RefusedError(Exception):
    """What a request is answered with instead: a status, and one line."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class _Listening(uvicorn.Server):
    """The server proper, which says first that it is about to end."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self.end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end()
        LOG.disabled = True  # it tells of each request that it cuts off
        await super().shutdown(sockets)


@dataclass
class Server:
    """A page that is served at ``url``. ``answered``: how many questions it has answered."""

    serving: Serving
    port: int = 0
    deadline: float = DEADLINE
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    answered: int = 0
    waiting: int = 0
    ending: bool = False

    def __post_init__(self) -> None:
        self.socket = _bound(self.port)
        self.port = self.socket.getsockname()[1]
        self.worker = Worker(self.serving)
        self.listening: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """Where the page is, for who may see it."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def run(self) -> None:
        """Answer until interrupted. Errors: KeyboardInterrupt, then."""
        config = uvicorn.Config(
            self.app(),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=AT_ONCE,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        try:
            self.listening = _Listening(config, self._end)
            self.listening.run(sockets=[self.socket])
        finally:
            LOG.disabled = False
            self.worker.stop()
            self.socket.close()

    def _end(self) -> None:
        """Let nobody wait for an answer that will not come: ``run`` would wait with them."""
        self.ending = True
        self.worker.end()

    def stop(self) -> None:
        """End ``run``, from another thread."""
        if self.listening is not None:
            self.listening.should_exit = True

    def app(self) -> Starlette:
        """The two things that can be asked: the page, and an answer."""
        self.turn = asyncio.Lock()
        routes = [
            Route("/", self.guarded(self.page), methods=["GET"]),
            Route("/api/ask", self.guarded(self.ask), methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={404: _nothing, 405: _nothing})

    def guarded(self, handle: Handler) -> Handler:
        """``handle`` for requests of this machine's own page; what goes wrong as one line."""

        async def answer(request: Request) -> Response:
            try:
                self._admit(request)
                return await handle(request)
            except _RefusedError as refused:
                return _said(refused.status, refused.words)
            except ClientDisconnect:
                return _said(499, "gone")

        return answer

    async def page(self, request: Request) -> Response:
        live = {"ask": "api/ask", "token": self.token}
        html = await self._computed(request, {"page": live})
        return Response(html, media_type="text/html", headers=HEADERS)

    async def ask(self, request: Request) -> Response:
        question = await _body(request)
        answer = await self._computed(request, question)
        self.answered += 1
        return Response(answer, media_type="application/json", headers=HEADERS)

    def _admit(self, request: Request) -> None:
        """Raise unless the request is of this server's own page, or of who has the link."""
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in OURS:
            raise _RefusedError(421, "this server is reached as 127.0.0.1 or localhost")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise _RefusedError(403, "another site's page may not ask")
        given = request.headers.get("x-bilens-token") or request.query_params.get("token", "")
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise _RefusedError(403, "wrong or missing token: open the link that bilens printed")

    async def _computed(self, request: Request, question: Mapping[str, Any]) -> bytes:
        """The worker's answer, when it is this one's turn. Who goes away is forgotten."""
        if self.waiting >= WAITING:
            raise _RefusedError(503, f"{WAITING} questions are waiting: ask again in a moment")
        self.waiting += 1
        try:
            await self._turn(request)
            try:
                if self.ending:
                    raise EOFError
                return await asyncio.to_thread(self.worker.ask, question, self.deadline)
            finally:
                self.turn.release()
        except TimeoutError:
            words = f"no answer within {self.deadline:g} s: ask for fewer terms or a shorter text"
            raise _RefusedError(503, words) from None
        except (EOFError, OSError):
            died = "the process that computes died: too large?"
            raise _RefusedError(503, "the server was stopped" if self.ending else died) from None
        finally:
            self.waiting -= 1

    async def _turn(self, request: Request) -> None:
        """Wait for the worker to be free, as long as who asks is there."""
        acquire = asyncio.ensure_future(self.turn.acquire())
        while not acquire.done():
            await asyncio.wait([acquire], timeout=TURN)
            if not acquire.done() and await request.is_disconnected():
                acquire.cancel()
                raise _RefusedError(499, "gone")


def _bound(port: int) -> socket.socket:
    """A socket on this machine alone. Errors: ArgumentError for a port that cannot be had."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(AT_ONCE)  # from here on who comes early waits
    except OSError as error:
        listener.close()
        must, got = "be a free port", f"{port}: {error.strerror}"
        raise ArgumentError("--port", must=must, got=got) from error
    return listener


async def _body(request: Request) -> Mapping[str, Any]:
    """The question that a request holds. Errors: _RefusedError for what is none."""
    try:
        raw = await asyncio.wait_for(_read(request), ARRIVAL)
    except TimeoutError:
        raise _RefusedError(408, f"a question must arrive within {ARRIVAL:g} s") from None
    try:
        question = json.loads(raw)
    except (ValueError, RecursionError):
        raise _RefusedError(400, "a question must be JSON") from None
    if not isinstance(question, dict) or "page" in question:
        raise _RefusedError(400, "a question must be an object with a prompt")
    return question


async def _read(request: Request) -> bytes:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY:
            raise _RefusedError(413, f"a question has at most {BODY:,} bytes")
    return bytes(raw)


def _said(status: int, words: str) -> Response:
    text = json.dumps({"error": words})
    return Response(text, status, media_type="application/json", headers=HEADERS)


async def _nothing(request: Request, error: Exception) -> Response:
    return _said(getattr(error, "status_code", 404), "there is nothing here")
