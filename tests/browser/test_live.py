"""The page, served: asked by a person, and by who should not."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import bilens
from bilens.report import Serving, answer, open_server, widget
from bilens.report.answers import exact
from bilens.report.notebook import _Kernel
from bilens.report.page import document, page
from tests.browser.conftest import said

ASKED = {"prompt": "Once upon a time there was a", "target": " little", "effects": False}


@pytest.fixture(scope="module")
def server():
    made = open_server(Serving("tinystories-1l", ("Once upon a time",)))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.stop()
    thread.join(20)
    assert not thread.is_alive()


def ask(server, question, token=None):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"X-Bilens-Token": token or server.token}
    line.request("POST", "/api/ask", json.dumps(question), headers)
    reply = line.getresponse()
    return reply.status, json.loads(reply.read())


def test_an_answer_is_what_python_gives(server):
    status, found = ask(server, ASKED)
    model = exact(bilens.load("tinystories-1l"))
    truth = answer(model, ASKED["prompt"], " little", effects=False, name="tinystories-1l")
    assert status == 200
    assert_same(found, json.loads(json.dumps(truth)))


def assert_same(found, truth, where=""):
    """Another process may add up in another order: numbers agree to rounding, all else is equal.
    The sentence that tells the rounding itself is not compared.
    """
    if isinstance(truth, dict):
        assert list(found) == list(truth), where
        for key in set(truth) - {"summary"}:
            assert_same(found[key], truth[key], f"{where}.{key}")
    elif isinstance(truth, list):
        assert len(found) == len(truth), where
        for n, (one, other) in enumerate(zip(found, truth, strict=True)):
            assert_same(one, other, f"{where}[{n}]")
    elif isinstance(truth, float):
        assert found == pytest.approx(truth, rel=1e-5, abs=1e-9), where
    else:
        assert found == truth, where


def test_a_person_asks_another_prompt_and_knocks_a_part_out(look, server):
    tab = look().open(server.url)
    tab.get_by_label("Prompt", exact=True).first.fill(ASKED["prompt"])
    tab.get_by_role("button", name="Ask", exact=True).first.click()
    said(tab, "at 6")
    tab.get_by_label("Target").first.fill(" no such token")
    tab.get_by_role("button", name="Ask", exact=True).first.click()
    tab.wait_for_selector("[role=alert]")
    assert "must be one token" in tab.locator("[role=alert]").first.inner_text()
    tab.get_by_label("Target").first.fill(" little")
    tab.get_by_role("button", name="Ask", exact=True).first.click()
    said(tab, "little")


def test_a_page_without_a_first_answer_is_typed_into(look, tmp_path):
    """It says why there is none, and asks what is typed."""
    section = {"id": "prompt-0", "kind": "prompt", "title": "Prompt: a"}
    data = {"prompt": "a", "answers": [], "first": 0, "error": "too large"}
    made = document([], "m") | {"sections": [section | {"data": data}]}
    found = answer(bilens.load("tinystories-1l"), "Once upon", effects=False)
    (tmp_path / "index.html").write_text(page(made | {"live": {"ask": "api/ask"}}))
    seen = look()
    seen.tab.route("**/api/ask", lambda route: route.fulfill(json=found))
    seen.tab.route("**/page", lambda route: route.fulfill(path=tmp_path / "index.html"))
    seen.tab.goto("http://127.0.0.1:9/page")
    seen.tab.wait_for_selector("[role=alert]")
    assert "too large" in seen.tab.locator("[role=alert]").inner_text()
    seen.tab.get_by_label("Prompt", exact=True).fill("Once upon")
    seen.tab.get_by_role("button", name="Ask", exact=True).click()
    said(seen.tab, "at 1")


def test_a_page_whose_server_is_gone_says_so_and_asks_again(look, server):
    seen = look()
    tab = seen.open(server.url)
    seen.context.set_offline(True)
    tab.get_by_label("Prompt", exact=True).first.fill("Once upon a day")
    tab.get_by_role("button", name="Ask", exact=True).first.click()
    tab.wait_for_selector("[role=alert]")
    assert "the server is gone" in tab.locator("[role=alert]").inner_text()
    assert "Asking the model" not in tab.locator("#prompt-0").inner_text()
    seen.context.set_offline(False)
    tab.get_by_role("button", name="Ask again").click()
    said(tab, "at 3")
    assert all("ERR_INTERNET_DISCONNECTED" in line for line in seen.complaints)
    seen.complaints.clear()


def test_what_cannot_be_is_one_line(server):
    for question in ({"prompt": ""}, {"prompt": "a b " * 4000}, {"prompt": "a", "position": 9}):
        status, found = ask(server, question)
        assert (status, set(found)) == (200, {"error"})
        assert "\n" not in found["error"]
    assert ask(server, ASKED, token="x")[0] == 403


def test_two_hundred_at_once_and_then_one(server):
    with ThreadPoolExecutor(200) as pool:
        asked = [ASKED | {"max_terms": 10 + n % 40} for n in range(200)]
        found = list(pool.map(lambda one: ask(server, one)[0], asked))
    assert set(found) <= {200, 503}
    assert found.count(200) > 20
    assert ask(server, ASKED)[0] == 200


def test_an_answer_that_takes_too_long_is_ended_and_the_next_is_given(server):
    before = server.worker.process.pid
    server.deadline = 0.02
    status, found = ask(server, ASKED | {"max_terms": 4999})
    server.deadline = 60.0
    assert (status, "no answer within" in found["error"]) == (503, True)
    assert ask(server, ASKED)[0] == 200
    assert server.worker.process.pid != before


def test_a_notebook_draws_the_page_and_asks_its_kernel(look):
    """What anywidget does: the module's ``render``, with a model that hears and sends."""
    model = bilens.load("tinystories-1l").double()
    shown = widget(model, "Once upon a time", name="tinystories-1l")
    tab = look().tab
    tab.goto("about:blank")
    tab.expose_function("kernel", _Kernel(model, "tinystories-1l").answer)
    script = """async ([source, made]) => {
        const file = new Blob([source], {type: "text/javascript"});
        const module = await import(URL.createObjectURL(file));
        const heard = new Set();
        const send = async ({ id, question }) => {
            const answer = await window.kernel(question);
            for (const one of [...heard]) one({ id, answer });
        };
        const [on, off] = [(_, one) => heard.add(one), (_, one) => heard.delete(one)];
        const model = { get: () => made, send, on, off };
        module.default.render({ model, el: document.body });
    }"""
    tab.evaluate(script, [shown._esm, shown.document])
    said(tab, "at 3")
    tab.get_by_label("Prompt", exact=True).first.fill("Once upon a")
    tab.get_by_role("button", name="Ask", exact=True).first.click()
    said(tab, "at 2")


def test_on_a_phone_nothing_sticks_out_of_an_answer_that_can_be_knocked_out(server, look):
    tab = look(viewport={"width": 400, "height": 800}).open(server.url)
    tab.get_by_role("button", name="knock out").first.wait_for()
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(wide) <= 1
