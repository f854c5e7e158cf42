"""Every kind of page in a browser: it opens, in any size and theme, without a word on the console."""

import re
from pathlib import Path

import pytest
from browsing import IN_BROWSER
from page_kinds import KINDS

from analysis.overview.watch import serve

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = IN_BROWSER


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_opens_without_a_word_and_fits_a_phone(kind: str, built: dict[str, Path], browser: "sync_api.Browser"):
    page = browser.new_context(viewport={"width": 360, "height": 740}).new_page()
    page.set_default_timeout(120_000)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"file://{built[kind]}")
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.wait_for_timeout(500)
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_the_policy_forbids_is_said_on_the_console(built: dict[str, Path], browser: "sync_api.Browser"):
    """The other test could not fail otherwise."""
    page = browser.new_context().new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.goto(f"file://{built['study']}")
    page.evaluate("document.body.setAttribute('onclick', 'alert(1)')")
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    assert len([fault for fault in faults if "Content Security Policy" in fault]) == 2


def test_the_index_sorts_filters_and_gives_the_command_that_compares(
    built: dict[str, Path], browser: "sync_api.Browser"
):
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.goto(f"file://{built['index']}")
    names = page.locator("#probes tbody tr:not(.group) th a")
    assert names.all_inner_texts() == ["plain", "cameo"]
    page.get_by_role("button", name="run", exact=True).first.click()
    assert names.all_inner_texts() == ["cameo", "plain"]
    assert page.locator("#probes thead th").first.get_attribute("aria-sort") == "ascending"
    page.get_by_role("searchbox").fill("cameo attention-v1")
    assert page.locator("[data-part='tools'] [role='status']").inner_text() == "1 of 5 runs"
    assert not names.nth(1).is_visible()
    page.get_by_role("searchbox").fill("")
    bar = page.locator("[data-part='compare']")
    assert not bar.is_visible()
    page.get_by_label("Compare plain").check()
    assert "Tick a second run" in bar.inner_text()
    page.get_by_label("Compare cameo").check()
    folder = built["index"].parents[1] / "runs"
    assert bar.locator("code").inner_text() == f"python -m analysis.report --compare {folder}/plain {folder}/cameo"
    assert bar.get_by_role("button").is_visible()
    page.get_by_label("Compare training").check()
    assert not page.get_by_label("Compare plain").is_checked(), "only runs of one kind compare"


def test_a_served_page_loads_itself_again(built: dict[str, Path], browser: "sync_api.Browser"):
    root = built["index"].parents[1]
    server = serve(root, "/reports/index.html", 0)
    page = browser.new_context().new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    try:
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.evaluate("window.old = true")
        text = built["index"].read_text(encoding="utf-8")
        built["index"].write_text(text.replace("<h1>", "<h1>New: "), encoding="utf-8")
        page.get_by_role("heading", name="New: ").wait_for(timeout=60_000)
        assert page.evaluate("window.old") is None
        assert faults == []
    finally:
        page.close()
        server.shutdown()
        server.server_close()


PICTURES = {  # by kind: what the page opens with
    "probe": "#explorer", "study": "figure svg.chart", "training": "img.samples", "evaluation": "img.samples",
    "comparison": "figure svg.chart", "photos": "#explorer",
}  # fmt: skip
NARROW, BROAD = {"width": 360, "height": 740}, {"width": 1440, "height": 900}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_page_opens_with_its_picture(kind: str, built: dict[str, Path], browser: "sync_api.Browser"):
    """On a phone it begins within the first screen, above the answer; the contents are folded there."""
    page = browser.new_context(viewport=NARROW).new_page()
    page.goto(f"file://{built[kind]}")
    assert page.locator(PICTURES[kind]).first.bounding_box()["y"] < 700
    if kind == "photos":
        return
    assert page.locator(PICTURES[kind]).first.bounding_box()["y"] < page.locator("#answer").bounding_box()["y"]
    contents = page.get_by_role("navigation", name="Contents")
    assert not contents.get_by_role("link", name="answer").is_visible()
    contents.get_by_text("Contents").click()
    assert contents.get_by_role("link", name="answer").is_visible()


def test_beside_the_text_the_contents_are_open(built: dict[str, Path], browser: "sync_api.Browser"):
    page = browser.new_context(viewport=BROAD).new_page()
    page.goto(f"file://{built['study']}")
    contents = page.get_by_role("navigation", name="Contents")
    assert contents.get_by_role("link", name="answer").is_visible()
    assert not contents.get_by_text("Contents").is_visible()
    assert (
        contents.bounding_box()["x"] + contents.bounding_box()["width"] < page.locator("main").bounding_box()["x"] + 20
    )
    page.set_viewport_size(NARROW)
    page.wait_for_function("!document.querySelector('nav details').open")


def test_a_wide_figure_says_that_it_scrolls(built: dict[str, Path], browser: "sync_api.Browser"):
    page = browser.new_context(viewport=NARROW).new_page()
    page.goto(f"file://{built['comparison']}")
    if not page.evaluate("CSS.supports('container-type: scroll-state')"):
        pytest.skip("this chromium has no scroll-state queries, so nothing is said")
    hint = page.locator("figure .hint").first
    hint.scroll_into_view_if_needed() if hint.is_visible() else page.wait_for_timeout(300)
    assert hint.is_visible()
    page.locator("figure .scroll").first.evaluate("(part) => { part.scrollLeft = part.scrollWidth; }")
    hint.wait_for(state="hidden")
    page.set_viewport_size(BROAD)
    page.wait_for_timeout(200)
    assert not hint.is_visible()


PRINT = """() => [...document.querySelectorAll(".table table")]
  .filter((table) => table.getBoundingClientRect().width && Boolean(table.closest(".broad")) === (innerWidth > 800))
  .filter((table) => {
    const points = 0.75 * parseFloat(getComputedStyle(table).fontSize);
    return points < 6.5 || table.getBoundingClientRect().right > innerWidth;
  })
  .map((table) => table.id)"""
PAPER = {"portrait": 693, "landscape": 1024}  # of A4 between its margins of 1.3 cm, in CSS pixels


@pytest.mark.parametrize("kind", KINDS)
def test_tables_fit_on_paper_in_readable_letters(kind: str, built: dict[str, Path], browser: "sync_api.Browser"):
    for width in PAPER.values():
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.emulate_media(media="print")
        page.goto(f"file://{built[kind]}")
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert page.evaluate(PRINT) == []
        page.context.close()


def test_the_table_of_layers_lies_on_a_landscape_page(built: dict[str, Path], browser: "sync_api.Browser"):
    page = browser.new_context().new_page()
    page.goto(f"file://{built['probe']}")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", page.pdf(prefer_css_page_size=True))
    assert {float(width) > float(height) for width, height in boxes} == {True, False}
