"""The page: how large its file is, how long it takes to make, to draw and to answer a click.

    python -m benchmarks.page [--only boxed|large|live] [--model FOLDER] [--requests 2000]

In Chromium, beside a plain page of as many bytes: until the first answer is drawn, and until a
click on a line of the tree has drawn what is below it. ``large``: random weights of 12 layers,
d_model 768, 128 tokens. ``--model``: a model of one's own, on 12 tokens; how long the whole command
takes, and, served, until the page is there and until new prompts of 12 tokens are answered.
``live``: what a new prompt takes on the model of two layers in the box, and what memory the process
that computes has after each quarter of ``--requests``. Rows go to benchmarks/results/page.jsonl.
"""

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import bilens
from benchmarks.expansion import LARGE, make
from benchmarks.record import record
from bilens.report import Asked, Extra, Serving, open_server, writing
from bilens.report.views import LIVE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from bilens.report.server import Server

RESULTS = Path(__file__).parent / "results" / "page.jsonl"
PROMPT = "Once upon a time there was a little"
TWELVE = "The capital of France is Paris, and the capital of Italy is"
LANDS = ("Spain", "Greece", "Norway", "Poland", "Egypt")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DRAWN = "document.querySelector('h3.answer') !== null"
ROUNDS = 5
ASKED = 30  # new prompts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=["boxed", "large", "live", "own"])
    options.add_argument("--model", type=Path)
    options.add_argument("--requests", type=int, default=2000)
    given = options.parse_args()
    if given.only in (None, "boxed"):
        measure("boxed", bilens.load("tinystories-2l"), PROMPT)
    if given.only in (None, "large"):
        model, text = make(LARGE, 128)
        measure("12 layers, d_model 768, 128 tokens", model, text.tolist())
    if given.model is not None:
        measure(given.model.name, bilens.load(str(given.model)), TWELVE)
        served(given.model.name, str(given.model))
    if given.only in (None, "live"):
        live(given.requests)


def measure(what: str, model: bilens.Transformer, prompt: str | list[int]) -> None:
    """A page of the model's facts and of one prompt."""
    writing.VIEWS = LIVE
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        page = bilens.report.write_page(model, [prompt], folder, name=what, extra=Extra(Asked()))
        made = time.perf_counter() - start
        size = page.path.stat().st_size
        plain = Path(folder) / "plain.html"
        plain.write_text(f"<!doctype html><p>{'a word ' * (size // 7)}</p>")
        figures = drawn(page.path, plain) if shutil.which("chromium") else {}
    broken = list(page.broken)
    record(RESULTS, what=what, bytes=size, made_s=round(made, 2), broken=broken, **figures)


def served(what: str, folder: str) -> None:
    """The command from its start to its end; then the served page, from when the server listens,
    and new prompts.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "bilens", "report", folder, "-o", out]
        start = time.perf_counter()
        subprocess.run([*command, "--prompt", TWELVE], check=True, capture_output=True)
        whole = time.perf_counter() - start
    start = time.perf_counter()
    server = open_server(Serving(folder, (TWELVE,)))
    threading.Thread(target=server.run, daemon=True).start()
    listens = time.perf_counter() - start
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    line.request("GET", f"/?token={server.token}")
    line.getresponse().read()
    opened = time.perf_counter() - start
    seconds = [timed(server, {"prompt": TWELVE.replace("Italy", land)}) for land in LANDS]
    server.stop()
    record(
        RESULTS,
        what=f"{what}, command and served",
        command_s=round(whole, 2),
        listens_s=round(listens, 2),
        opened_s=round(opened, 2),
        median_s=round(statistics.median(seconds), 2),
        slowest_s=round(max(seconds), 2),
    )


def drawn(page: Path, plain: Path) -> dict[str, float]:
    """Medians in milliseconds."""
    from playwright.sync_api import sync_playwright

    seconds: dict[str, list[float]] = {"drawn_ms": [], "plain_ms": [], "click_ms": []}
    with sync_playwright() as play:
        path = shutil.which("chromium")
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        for _ in range(ROUNDS):
            seconds["plain_ms"].append(first(browser, plain, "true")[0])
            took, tab = first(browser, page, DRAWN)
            seconds["drawn_ms"].append(took)
            seconds["click_ms"] += clicks(tab)
            tab.context.close()
        browser.close()
    return {name: round(statistics.median(took), 1) for name, took in seconds.items()}


def first(browser: "Browser", file: Path, until: str) -> tuple[float, "Page"]:
    """Until something is there and painted, from the start of loading."""
    tab = browser.new_context().new_page()
    tab.goto(file.as_uri(), wait_until="commit")
    while not tab.evaluate(until):
        time.sleep(0.005)
    painted = """() => new Promise(done => requestAnimationFrame(() => setTimeout(
        () => done(performance.now()))))"""
    return tab.evaluate(painted), tab


def clicks(tab: "Page") -> list[float]:
    """Each of the first lines of the tree unfolded."""
    script = """() => new Promise(done => {
        const line = document.querySelector("button.line[aria-expanded=false][data-value]");
        if (!line) return done(null);
        const start = performance.now();
        line.click();
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
    })"""
    found = [tab.evaluate(script) for _ in range(5)]
    return [took for took in found if took is not None]


def live(requests: int) -> None:
    """New prompts of the model of two layers, asked in full; then many small ones of that of one
    layer, and the memory of who computes after each quarter of them.
    """
    words = [word.replace("␣", " ") for word in names("tinystories-2l")]
    server = started("tinystories-2l")
    seconds = [
        timed(server, {"prompt": f"Once upon a{word} there was a little"}) for word in words[:ASKED]
    ]
    server.stop()
    server = started("tinystories-1l")
    process = psutil.Process(server.worker.process.pid)
    memory = []
    for n in range(requests):
        small = {"effects": False, "max_terms": 20}
        timed(server, {"prompt": f"A{words[n % len(words)]} was {n}"} | small)
        if (n + 1) % max(1, requests // 4) == 0:
            memory.append(round(process.memory_info().rss / 2**20))
    server.stop()
    record(
        RESULTS,
        what="live, boxed",
        asked=ASKED,
        median_s=round(statistics.median(seconds), 3),
        slowest_s=round(max(seconds), 3),
        requests=requests,
        memory_mib=memory,
    )


def names(model: str) -> list[str]:
    return bilens.load(model).output_names(range(300, 900))


def started(model: str) -> "Server":
    """A server of ``model``, which listens, warm."""
    server = open_server(Serving(model, (PROMPT,)))
    threading.Thread(target=server.run, daemon=True).start()
    timed(server, {"prompt": PROMPT})
    return server


def timed(server: "Server", question: dict[str, Any]) -> float:
    """Seconds until the answer is there."""
    start = time.perf_counter()
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    token = {"X-Bilens-Token": server.token}
    line.request("POST", "/api/ask", json.dumps(question), token)
    found = json.loads(line.getresponse().read())
    line.close()
    assert "terms" in found, found
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
