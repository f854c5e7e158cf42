"""Every kind of page before axe-core: no finding that keeps anybody from reading it."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from browsing import IN_BROWSER
from page_kinds import KINDS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = IN_BROWSER
LOOKS = {  # by name: how the page is opened, and what is left to the other looks
    "light": ({"viewport": {"width": 1300, "height": 800}}, {}),
    "dark": ({"viewport": {"width": 1300, "height": 800}, "color_scheme": "dark"}, {"runOnly": ["color-contrast"]}),
    "phone": ({"viewport": {"width": 360, "height": 740}}, {"rules": {"color-contrast": {"enabled": False}}}),
}
PLAIN = ".scroll { background: none !important }"
"""What shades the edges of wide tables is a gradient, on which axe cannot tell contrast."""
RUN = """async (options) => {
  const {violations} = await axe.run({exclude: [["svg > *"]]}, options);
  const where = (nodes) => nodes.map(({html}) => html).join(" ").slice(0, 300);
  return violations.map(({id, impact, nodes}) => `${impact} ${id}: ${where(nodes)}`);
}"""
"""Inside of figures nothing is asked: axe takes no colour of theirs, and their text is beside the figure."""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return axe-core's script (MPL-2.0), which is not in this repository: from $AXE_CORE, or from the npm registry."""
    if path := os.environ.get("AXE_CORE"):
        return Path(path).read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        pytest.skip("axe-core is not here: set AXE_CORE to its axe.min.js, or install npm to fetch it")
    folder = tmp_path_factory.mktemp("axe")
    try:
        packed = subprocess.run(["npm", "pack", "axe-core@4"], cwd=folder, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("axe-core is not here, and npm did not fetch it in 60 s; set AXE_CORE to its axe.min.js")
    if packed.returncode:
        pytest.skip("axe-core is not here, and npm could not fetch it; set AXE_CORE to its axe.min.js")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def findings(browser: "sync_api.Browser", path: Path, axe: str, look: str) -> list[str]:
    """Return what axe finds on a page with all its folds open: impact, rule, elements."""
    context, options = LOOKS[look]
    page = browser.new_context(bypass_csp=True, reduced_motion="reduce", **context).new_page()
    page.set_default_timeout(120_000)
    page.goto(f"file://{path}")
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.wait_for_timeout(200)
    page.add_style_tag(content=PLAIN)
    page.add_script_tag(content=axe)
    found = page.evaluate(RUN, {"resultTypes": ["violations"], **options})
    page.context.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(kind: str, built: dict[str, Path], browser: "sync_api.Browser", axe: str):
    assert {look: findings(browser, built[kind], axe, look) for look in LOOKS} == {look: [] for look in LOOKS}


def test_axe_would_find_something(tmp_path: Path, browser: "sync_api.Browser", axe: str):
    """The other test could not fail otherwise."""
    page = tmp_path / "page.html"
    page.write_text("<html><p style='color: #aaa'>pale</p><img src='data:,'><table><tr><th></th><td>1</td></table>")
    found = " ".join(findings(browser, page, axe, "light"))
    assert all(rule in found for rule in ("serious color-contrast", "critical image-alt", "serious html-has-lang"))
