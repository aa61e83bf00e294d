"""A served page is for who has its link, whatever a request tries. (With a worker that computes
nothing: tests/browser has the real one.)
"""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bilens.base.errors import ArgumentError
from bilens.report import Serving, open_server, server


class Scripted:
    """Answers what it is told to, after as long as it is told to wait."""

    def __init__(self, serving):
        self.asked, self.stopped, self.waits = [], False, 0.0

    def ask(self, question, deadline):
        self.asked.append(question)
        time.sleep(min(question.get("wait", 0.0), deadline))
        if question.get("wait", 0.0) > deadline:
            raise TimeoutError
        if question.get("die"):
            raise EOFError
        return json.dumps({"asked": question}).encode()

    def end(self):
        self.ended = True

    def stop(self):
        assert self.ended
        self.stopped = True


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(server, "Worker", Scripted)
    made = server.Server(Serving("nowhere", ()), deadline=0.5)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert made.worker.stopped


def call(made, method="POST", path="/api/ask", body=None, **headers):
    """Status, what was said, and the headers of the answer."""
    line = http.client.HTTPConnection("127.0.0.1", made.port, timeout=20)
    own = {"X-Bilens-Token": made.token, "Host": f"127.0.0.1:{made.port}"}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    line.request(method, path, raw, {k: v for k, v in own.items() if v is not None})
    answer = line.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_who_has_the_link_is_answered(served):
    assert call(served, body={"prompt": "a"})[:2] == (200, b'{"asked": {"prompt": "a"}}')
    status, _, headers = call(served, "GET", f"/?token={served.token}", X_Bilens_Token=None)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert served.worker.asked[1] == {"page": {"ask": "api/ask", "token": served.token}}
    assert served.answered == 1
    assert served.url == f"http://127.0.0.1:{served.port}/?token={served.token}"
    local = {"Host": f"localhost:{served.port}", "Origin": f"http://localhost:{served.port}"}
    assert call(served, body={"prompt": "a"}, **local)[0] == 200


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"X_Bilens_Token": "wrong"}),
        (403, {"X_Bilens_Token": None}),
        (403, {"X_Bilens_Token": "\xe9"}),
        (421, {"Host": "evil.example"}),
        (421, {"Host": "127.0.0.1.evil.example:80"}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": "http://localhost:1"}),
    ],
    ids=["wrong token", "no token", "odd token", "rebound", "prefix", "foreign", "null", "port"],
)
def test_others_are_refused_before_anything_is_computed(served, status, headers):
    got, said, _ = call(served, body={"prompt": "a"}, **headers)
    assert got == status
    assert set(json.loads(said)) == {"error"}
    assert served.worker.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/ask", 405),
        ("POST", "/", 405),
        ("GET", "/etc/passwd", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "//etc/passwd", 404),
        ("DELETE", "/api/ask", 405),
        ("GET", "/page.js", 404),
    ],
)
def test_no_path_leads_anywhere_else(served, method, path, status):
    assert call(served, method, path)[0] == status
    assert served.worker.asked == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[1]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"page": {}}', 400),
        (b"x" * 70_000, 413),
    ],
    ids=["half", "list", "bytes", "deep", "page", "huge"],
)
def test_a_body_that_is_no_question_is_refused(served, body, status):
    assert call(served, body=body)[0] == status
    assert served.worker.asked == []
    assert call(served, body={"prompt": "a"})[0] == 200


def test_what_takes_too_long_or_dies_costs_that_answer_alone(served):
    status, said, _ = call(served, body={"wait": 60.0})
    assert (status, b"no answer within 0.5 s" in said) == (503, True)
    assert call(served, body={"die": True})[0] == 503
    assert call(served, body={"prompt": "a"})[0] == 200


def test_many_at_once_are_answered_or_told_to_wait(served, monkeypatch):
    monkeypatch.setattr(server, "WAITING", 8)
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda n: call(served, body={"wait": 0.02})[0], range(120)))
    assert set(found) == {200, 503}
    assert found.count(200) == len(served.worker.asked)
    assert served.waiting == 0
    assert call(served, body={"prompt": "a"})[0] == 200


def test_who_goes_away_is_forgotten(served):
    slow = threading.Thread(target=call, args=(served,), kwargs={"body": {"wait": 0.4}})
    slow.start()
    time.sleep(0.1)
    raw = json.dumps({"prompt": "gone"})
    head = f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX-Bilens-Token: {served.token}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n{raw}".encode())
        time.sleep(0.1)
    slow.join()
    time.sleep(0.2)
    assert served.worker.asked == [{"wait": 0.4}]
    assert served.waiting == 0


def test_a_port_that_is_taken_is_refused(served, refuses):
    taken = lambda: server.Server(Serving("nowhere", ()), served.port)  # noqa: E731
    refuses(ArgumentError, taken, "--port", "free")


def test_without_its_libraries_it_says_what_to_install(refuses, monkeypatch):
    monkeypatch.setattr("bilens.report.live.find_spec", lambda name: None)
    refuses(ArgumentError, lambda: open_server(Serving("x", ())), "pip install 'bilens[serve]'")
