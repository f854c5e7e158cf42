"""The documentation builds strictly, its links lead somewhere, and the Python interface is documented."""

import html
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parents[1]
INSTALLED = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason='the documentation needs pip install -e ".[docs]" -c constraints.txt'),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def interface() -> list[str]:
    """Return the modules of the navigation's Python interface."""
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    (pages,) = (entry["Python interface"] for entry in navigation if "Python interface" in entry)
    return [Path(page).stem for page in pages]


def test_links_lead_somewhere(site: Path):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != "404.html"}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    checked = 0
    for page, text in pages.items():
        for link in map(html.unescape, re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.relative_to(site)} links to {link}"
            assert not anchor or target not in anchors or unquote(anchor) in anchors[target], f"{page}: {link}"
            checked += 1
    assert checked > 500


@pytest.mark.parametrize("module", interface())
def test_a_page_shows_what_a_module_offers(site: Path, module: str):
    page = (site / "api" / module / "index.html").read_text(encoding="utf-8")
    offered = importlib.import_module(module)
    public = {name: getattr(offered, name) for name in getattr(offered, "__all__", ())}
    names = {name for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)}
    shown = {name.removeprefix(f"{module}.") for name in re.findall(r'id="([\w.]+)"[^>]*class="doc', page)}
    assert shown
    assert names <= shown
