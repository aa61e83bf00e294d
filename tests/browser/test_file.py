"""The page as a file, as a person uses it: offline, by clicks, by keys, by links."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

import bilens
from bilens.circuits import graph
from bilens.report.answers import TERMS
from tests.browser.conftest import PROMPT, said, until

SCHEMA = Path(__file__).parents[1] / "circuits/graph.schema.json"
GOAL = (" girl", " boy")


@pytest.fixture(scope="module")
def ex():
    return bilens.expand(bilens.load("tinystories-2l").double(), PROMPT, GOAL, max_terms=TERMS)


@pytest.fixture
def tab(look, written):
    seen = look()
    seen.context.set_offline(True)
    opened = seen.open(written)
    yield opened
    assert {
        url.split("#")[0] for url in seen.fetched if not url.startswith(("data:", "blob:"))
    } == {written}


def lines(tab):
    """Each line of the first tree: what it says, and its value."""
    script = """() => [...document.querySelector("ul.tree").querySelectorAll("button[data-value]")]
        .map(line => [line.querySelector("code").textContent, Number(line.dataset.value)])"""
    return tab.evaluate(script)


def line(tab, name):
    """The first line of that name."""
    label = tab.locator("bdi", has_text=re.compile(f"^{re.escape(name)}$"))
    return tab.locator("ul.tree button[data-value]").filter(has=label).first


def answer(tab):
    return tab.locator("h3.answer").first.inner_text()


def test_it_opens_offline_and_says_what_python_says(tab, ex):
    assert f"{ex.total:.6g}" in answer(tab)
    assert "␣girl" in answer(tab)
    components = dict(zip(ex.by("component").names, ex.by("component").values, strict=True))
    shown = dict(lines(tab))
    assert shown == pytest.approx({name: components[name] for name in shown}, rel=1e-7)
    left = sum(value for name, value in components.items() if name not in shown)
    assert sum(shown.values()) + left == pytest.approx(ex.total, rel=1e-6)


def test_a_tree_unfolds_to_paths_whose_values_are_pythons(tab, ex):
    before = len(lines(tab))
    line(tab, "mlp1").click()
    until(tab, f"document.querySelectorAll('ul.tree button[data-value]').length > {before}")
    inner = "ul.tree ul.tree > li > button[data-value]"
    values = tab.eval_on_selector_all(inner, "all => all.map(one => Number(one.dataset.value))")
    rest = "ul.tree ul.tree button.line:not([data-value])"
    if tab.locator(rest).count():
        tab.locator(rest).first.click()
        values = tab.eval_on_selector_all(inner, "all => all.map(one => Number(one.dataset.value))")
    whole = sum(term.value for term in ex.terms if term.component == "mlp1")
    assert sum(values) == pytest.approx(whole, rel=1e-6)
    known = {term.path: term.value for term in ex.terms}
    single = dict(lines(tab))
    both = [path for path in single if path in known]
    assert len(both) > 3
    assert {path: single[path] for path in both} == pytest.approx(
        {path: known[path] for path in both}, rel=1e-7
    )


def test_what_is_folded_is_made_when_it_is_opened(tab):
    given = tab.locator("#prompt-0 ul.given-by")
    assert given.count() == 0
    tab.get_by_text("What each token gives, as numbers").first.click()
    given.wait_for()
    assert given.locator("li").count() == len(PROMPT.split()) + 1
    tab.locator("#layer-1 h3").first.wait_for()  # below what is seen at once


def test_a_token_is_clicked_and_what_comes_after_it_is_told(tab):
    tab.locator(".tokens .strip button").nth(3).click()
    said(tab, "at 3")
    model = bilens.load("tinystories-2l").double()
    found = bilens.expand(model, PROMPT, position=3, max_terms=TERMS)
    assert f"{found.total:.6g}" in answer(tab)


def test_a_link_opened_afresh_restores_the_view(tab, look):
    line(tab, "mlp0").click()
    tab.locator(".tokens .strip button").nth(6).click()
    said(tab, "at 6")
    before = tab.evaluate("location.hash")
    tab.locator("ul.tree button.line[aria-expanded=false]").first.click()
    until(tab, f"location.hash !== {json.dumps(before)}")
    again = look().open(tab.url)
    section = "document.getElementById('prompt-0').innerText"
    assert again.evaluate(section) == tab.evaluate(section)
    assert (
        tab.locator("[aria-expanded=true]").count() == again.locator("[aria-expanded=true]").count()
    )
    tab.get_by_role("button", name="Undo", exact=True).first.click()
    until(tab, f"location.hash === {json.dumps(before)}")


def test_a_hash_that_does_not_fit_is_dropped_with_a_word(look, written):
    tab = look().open(f"{written}#v=1&s=prompt-7&pos=99&view=nothing&x=%E0%A4%A")
    assert "prompt-7" in tab.locator(".said").inner_text()
    assert "␣girl" in answer(tab)


def test_the_graph_is_pinned_grouped_and_saved(tab, look, ex):
    tab.get_by_role("tab", name="Graph").first.click()
    tab.wait_for_selector("[data-node]")
    tab.locator(".graph-share input").first.fill("100")
    until(tab, "location.hash.includes('share=')")
    tab.locator("[data-node='mlp0@7']").focus()
    tab.keyboard.press("p")
    until(tab, "location.hash.includes('pin=')")
    tab.locator("[data-node='mlp1@7']").focus()
    tab.keyboard.press("p")
    tab.keyboard.press("g")
    tab.locator(".graph-ask input").fill("both layers")
    tab.keyboard.press("Enter")
    until(tab, "location.hash.includes('both')")
    again = look().open(tab.url)
    again.wait_for_selector("[data-node]")
    assert "both layers" in again.locator("#prompt-0").inner_text()
    with tab.expect_download() as held:
        tab.get_by_role("button", name="Save graph").first.click()
    saved = json.loads(Path(held.value.path()).read_text())
    jsonschema.validate(saved, json.loads(SCHEMA.read_text()))
    truth = {node["node_id"]: node["influence"] for node in graph(ex)["nodes"]}
    found = {node["node_id"]: node["influence"] for node in saved["nodes"]}
    same = truth.keys() & found.keys()
    assert len(same) > 10
    assert {n: found[n] for n in same} == pytest.approx({n: truth[n] for n in same}, abs=1e-6)
    assert {"mlp0@7", "mlp1@7"} <= set(saved["qParams"]["pinnedIds"])


def test_a_node_is_moved_by_hand_and_by_keys(tab, look):
    tab.get_by_role("tab", name="Graph").first.click()
    tab.wait_for_selector("[data-node]")
    node = tab.locator("[data-node='mlp1@7']")
    before = node.bounding_box()
    at = (before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    tab.mouse.move(*at)
    tab.mouse.down()
    tab.mouse.move(at[0] - 30, at[1] + 10, steps=3)
    tab.mouse.move(at[0] - 60, at[1] + 20)
    tab.mouse.up()
    until(tab, "location.hash.includes('move=')")
    there = node.bounding_box()
    assert there["x"] - before["x"] == pytest.approx(-60, abs=2)
    assert there["y"] - before["y"] == pytest.approx(20, abs=2)
    assert "node=" not in tab.url.split("#")[1]
    again = look().open(tab.url)
    again.wait_for_selector("[data-node]")
    moved = again.locator("[data-node='mlp1@7']").bounding_box()
    assert moved["x"] == pytest.approx(there["x"], abs=2)
    node.focus()
    tab.keyboard.press("Shift+ArrowRight")
    until(tab, f"location.hash !== {json.dumps(again.evaluate('location.hash'))}")
    assert node.bounding_box()["x"] - there["x"] == pytest.approx(12, abs=2)
    tab.keyboard.press("b")
    until(tab, "!location.hash.includes('move=')")
    assert node.bounding_box()["x"] == pytest.approx(before["x"], abs=2)
    tab.keyboard.press("u")
    tab.keyboard.press("u")
    assert node.bounding_box()["x"] == pytest.approx(there["x"], abs=2)


@pytest.mark.parametrize("kind", ["SVG", "PNG", "CSV"])
def test_a_figure_is_saved(tab, kind):
    with tab.expect_download() as held:
        tab.locator("#layer-0").get_by_role("button", name=kind).first.click()
    raw = Path(held.value.path()).read_bytes()
    assert raw.startswith({"SVG": b"<?xml", "PNG": b"\x89PNG", "CSV": b""}[kind])
    assert len(raw) > 200


def test_the_layers_of_a_target_are_told_and_copied_as_python(tab):
    tab.get_by_role("tab", name="Layers").first.click()
    until(tab, "location.hash.includes('view=layers')")
    panel = tab.locator("#prompt-0 [role=tabpanel]")
    assert "mlp1" in panel.inner_text()
    assert panel.locator("table.lying tbody tr").count() == 2 * 8
    section = tab.locator("#layer-1")
    assert section.locator("h3").all_inner_texts()[0] == "Its eigenvectors, as tokens"
    section.get_by_role("button", name="Copy as Python").click()
    section.get_by_text("Copied").wait_for()


def test_all_is_reached_by_keys(tab):
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.tagName") == "INPUT"
    tab.keyboard.type("mlp0")
    tab.keyboard.press("Enter")
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.className + document.activeElement.role"))
    assert len(reached) > 4
    tab.locator(".tokens .strip button[tabindex='0']").first.focus()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    said(tab, "at 6")
    tab.keyboard.press("Control+z")
    said(tab, "at 7")


CONTRAST = "color-contrast"  # the one rule that colours matter to, and axe's slowest by far


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {}),
        ({"color_scheme": "dark"}, {"runOnly": [CONTRAST]}),
        ({"viewport": {"width": 390, "height": 800}}, {"rules": {CONTRAST: {"enabled": False}}}),
    ],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_no_fault_and_nothing_sticks_out(look, written, options, asked):
    seen = look(**options)
    tab = seen.open(written)
    assert seen.faults(asked) == []
    wide = tab.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 1


def test_hostile_texts_are_shown_and_do_nothing(tab):
    assert tab.locator("#prompt-1 b").evaluate_all("all => all.map(one => one.innerText)") == [
        tab.locator("#prompt-1 b.value").first.inner_text()
    ]
    shown = tab.locator("#prompt-1").inner_text()
    assert "</script>" in shown
    assert not {"\x00", "\u202e"} & set(shown)


def test_the_lens_tells_the_rank_that_a_forward_pass_has(tab):
    """By hand: the readout of the embedding alone, and of the whole model; ranks count from 1."""
    model = bilens.load("tinystories-2l").double()
    ids = model.read(PROMPT)
    ends = model(ids).logits[0].argmax(-1)
    early = model.lm_head(model.model.norm(model.model.embed_tokens(ids)))[0]
    ranks = 1 + (early > early.gather(-1, ends[:, None])).sum(-1)
    at = int(ranks.argmax())
    assert ranks[at] > 2
    tab.get_by_role("tab", name="Lens").first.click()
    (name,) = model.output_names([ends[at]])
    for place, told in ((0, ranks[at]), (4, 1)):
        tab.locator(f"table.lens td[data-at='{place},{at}']").first.hover()
        words = f"what the model says here in the end, {name}, is rank {told}."
        until(tab, f"document.querySelector('#prompt-0').innerText.includes({json.dumps(words)})")


def test_back_returns_to_the_tab_before(tab):
    shown = "document.querySelector('#prompt-0 [role=tab][aria-selected=true]').innerText"
    names = ["Graph", "Pairs", "Attention"]
    for name in names:
        tab.get_by_role("tab", name=name).first.click()
        until(tab, f"{shown} === '{name}'")
    tab.locator("#prompt-0 .maps button").nth(2).click()  # no step of its own
    until(tab, "location.hash.includes('head=')")
    for name in ["Pairs", "Graph", "Paths"]:
        tab.go_back()
        until(tab, f"{shown} === '{name}'")
    tab.go_forward()
    until(tab, f"{shown} === 'Graph'")
    tab.get_by_role("tab", name="Graph").nth(1).click()  # of the other prompt
    until(tab, "location.hash.includes('s=prompt-1')")
    tab.go_back()
    until(tab, f"{shown} === 'Graph' && !location.hash.includes('s=prompt-1')")


def test_a_link_that_does_not_fit_can_be_left_by_back(look, written):
    tab = look().open(written)
    tab.goto(f"{written}#v=1&s=prompt-7&view=lens")
    until(tab, "document.querySelector('.said').innerText.includes('prompt-7')")
    tab.go_back()
    until(tab, "location.hash === ''")


def test_no_space_of_a_prompt_is_lost_in_its_heading(tab):
    heading = tab.locator("#prompt-1 h2")
    assert heading.inner_text().endswith("\\u202e\\x00</b>␣⏎")
    assert heading.evaluate("one => getComputedStyle(one).whiteSpace") == "pre-wrap"


def test_the_large_pattern_has_axes_and_a_scale(tab):
    tab.get_by_role("tab", name="Attention").first.click()
    axes = tab.locator("#prompt-0 .axes")
    axes.wait_for()
    assert axes.locator(".axis").all_inner_texts() == [
        "query ↓: the token that looks",
        "key →: the token looked at",
    ]
    box = axes.locator(".map").bounding_box()
    for side, end in (("top", "y"), ("left", "x")):
        ticks = axes.locator(f".ticks.{side} > span")
        assert [one.split()[0] for one in ticks.all_inner_texts()] == [str(n) for n in range(8)]
        size = {"y": "height", "x": "width"}[end]
        for n in (0, 7):
            tick = ticks.nth(n).bounding_box()
            middle = (tick[end] + tick[size] / 2 - box[end]) / box[size]
            assert middle == pytest.approx((n + 0.5) / 8, abs=0.01)
    assert tab.locator("#prompt-0 .ramp.shares").count() == 1


def test_a_gate_stands_beside_its_tokens_and_fits_a_phone(look, written):
    """No digit of a number is cut off by the screen's edge."""
    tab = look(viewport={"width": 400, "height": 800}).open(written)
    gates = tab.locator("table.lying:not(.vectors)").first
    gates.scroll_into_view_if_needed()
    gates.wait_for()
    assert (
        gates.evaluate("one => one.parentElement.scrollWidth - one.parentElement.clientWidth") == 0
    )
    name = gates.locator("tbody th").first
    word = gates.locator(".word").first
    assert name.bounding_box()["y"] == pytest.approx(
        name.evaluate("one => one.nextElementSibling.getBoundingClientRect().y"), abs=1
    )
    middle = "one => { const r = document.createRange(); r.selectNodeContents(one);"
    middle += " const b = r.getBoundingClientRect(); return b.y + b.height / 2 }"
    assert name.evaluate(middle) == pytest.approx(word.evaluate(middle), abs=4)


def test_bars_of_a_sum_have_one_zero(look, written):
    """However long the numbers before them are."""
    tab = look(viewport={"width": 1280, "height": 900}).open(written)
    panel = "#prompt-0 :is(.line, .sum p) > .bar"
    tab.locator(panel).first.wait_for()
    lefts = tab.evaluate(
        "panel => [...document.querySelectorAll(panel)].map(o => o.getBoundingClientRect().x)",
        panel,
    )
    assert len(lefts) > 10
    assert max(lefts) - min(lefts) < 3
