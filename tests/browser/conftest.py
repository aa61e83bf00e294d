"""A page in a real browser, Debian's Chromium, driven by Playwright. Without one, tests skip."""

import json
import shutil
from pathlib import Path

import pytest

import bilens
from bilens.base.processes import begin
from bilens.report import Asked, Extra, write_page
from bilens.report.views import language_facts, prompt, spectra

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
PROMPT = "Once upon a time there was a little"
HOSTILE = "</script><b>x\u202e\x00</b> \n"
WAIT = 20_000  # ms that anything may take
TURN = 20  # ms between looks


@pytest.fixture(scope="module")  # while it is open an event loop runs, which other tests ask for
def browser():
    """Chromium, as the system has it."""
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    play = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    opened = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
    yield opened
    opened.close()
    play.stop()


@pytest.fixture(scope="session", autouse=True)
def _begun():
    """What a server computes in imports its libraries while pages are looked at."""
    begin("bilens.report.worker")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A page of two prompts, one of them hostile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bilens.report.views.prompt.EVERY", 8)
        views = (language_facts.VIEW, prompt.VIEW, spectra.VIEW)
        patch.setattr("bilens.report.writing.VIEWS", views)
        extra = Extra(Asked(" girl", " boy"))
        made = write_page(
            bilens.load("tinystories-2l"),
            [PROMPT, HOSTILE],
            tmp_path_factory.mktemp("page"),
            name="tinystories-2l",
            extra=extra,
        )
    assert made.broken == ()
    return made.path.as_uri()


def until(tab, condition):
    """Wait until a condition in JavaScript holds. (The page's policy forbids Playwright's own
    waiting, which evaluates texts inside it.)
    """
    for _ in range(WAIT // TURN):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(TURN)
    raise AssertionError(f"never: {condition}")


def said(tab, words):
    """Wait until the answer's heading says so."""
    until(tab, f"document.querySelector('h3.answer')?.innerText.includes('{words}') ?? false")


class Seen:
    """A tab, and all that it complained of or tried to fetch."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(WAIT)
        self.tab = self.context.new_page()
        self.complaints, self.fetched = [], []
        self.tab.on("console", self._heard)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.fetched.append(request.url))

    def _heard(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, address):
        self.tab.goto(address)
        self.tab.wait_for_selector("h3.answer")
        return self.tab

    def faults(self, asked):
        """What axe finds wrong, asked as its ``run`` is."""
        if not AXE.exists():
            pytest.skip("needs axe-core: make web-check installs it")
        self.tab.evaluate(AXE.read_text())
        found = self.tab.evaluate(
            "asked => axe.run(document, asked)", asked | {"resultTypes": ["violations"]}
        )
        return [
            json.dumps([one["id"], [node["html"][:200] for node in one["nodes"][:3]]])
            for one in found["violations"]
        ]


@pytest.fixture
def look(browser):
    """Open tabs; nothing may be complained of, and nothing fetched but the page."""
    opened = []

    def new(**options):
        opened.append(Seen(browser, **options))
        return opened[-1]

    yield new
    complaints = [line for seen in opened for line in seen.complaints]
    for seen in opened:
        seen.context.close()
    assert complaints == []
