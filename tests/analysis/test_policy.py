"""Laws of every page: its Content-Security-Policy covers all it holds, it can be heard, its colours can be read."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_kinds import KINDS

from analysis.figures import inline
from analysis.policy import seal

STYLE = Path(__file__).parents[2] / "analysis" / "templates" / "style.css"
HEAD = '<!DOCTYPE html><html><head>\n<meta charset="utf-8">\n</head>'


class Reader(HTMLParser):
    """Collect a page's tags, and what its scripts and styles hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inlined: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inlined and "type" not in dict(attrs):
            self.inlined[tag].append("")

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag in self.inlined and "type" not in attributes and self.cdata_elem == tag:
            self.inlined[tag][-1] += data


@pytest.fixture(scope="module")
def pages(built: dict[str, Path]) -> dict[str, str]:
    return {kind: path.read_text(encoding="utf-8") for kind, path in built.items()}


def policy(reader: Reader) -> dict[str, list[str]]:
    [content] = [a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert content is not None
    return {words[0]: words[1:] for words in map(str.split, content.split(";"))}


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_allows_what_is_inlined_and_nothing_else(kind: str, pages: dict[str, str]):
    reader = Reader(pages[kind])
    allowed = policy(reader)
    for tag in ("script", "style"):
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in reader.inlined[tag]]
        expected = [f"'sha256-{digest}'" for digest in digests] or ["'none'"]
        assert allowed.pop(f"{tag}-src") == expected
    assert allowed == {
        "default-src": ["'none'"], "img-src": ["data:"], "connect-src": ["'none'"], "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }  # fmt: skip
    first = [tag for tag, a in reader.tags if tag not in ("html", "head")][:2]
    assert first == ["meta", "meta"], "the policy stands before all that it governs"


@pytest.mark.parametrize("kind", KINDS)
def test_no_handlers_and_no_styles_in_attributes(kind: str, pages: dict[str, str]):
    names = {name for _, attributes in Reader(pages[kind]).tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name == "style"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_can_be_heard(kind: str, pages: dict[str, str]):
    tags = Reader(pages[kind]).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    drawn = [attributes for tag, attributes in tags if tag == "svg" and attributes.get("aria-hidden") != "true"]
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawn)
    words = [attributes["alt"] for tag, attributes in tags if tag == "img"] + [a["aria-label"] for a in drawn]
    assert [text for text in words if not re.search(r"\d", text or "")] == [], "each is said with a number"


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_has_a_heading(kind: str, pages: dict[str, str]):
    assert not re.findall(r"<th[^>]*></th>", pages[kind])


def test_a_script_of_a_run_is_refused():
    with pytest.raises(RuntimeError, match="a script of the page is not of the package: 'alert"):
        seal(f"{HEAD}<script>alert(1)</script>")


def test_own_scripts_may_stand_together_and_data_needs_no_permission():
    folder = STYLE.parent
    both = "\n\n".join((folder / name).read_text(encoding="utf-8") for name in ("copy.js", "contents.js"))
    page = seal(f'{HEAD}<script type="application/json">{{}}</script><script>\n{both}</script>')
    digest = base64.b64encode(hashlib.sha256(f"\n{both}".encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page


def test_sealing_twice_leaves_one_policy():
    once = seal(HEAD)
    assert seal(once) == once
    assert "connect-src 'self'" in seal(once, connect="'self'")


def test_a_page_without_a_place_for_its_policy_is_refused():
    with pytest.raises(RuntimeError, match="no <meta charset"):
        seal("<p>hello</p>")


def test_styles_of_matplotlib_become_attributes():
    """Version 3.9 writes the shorthand, later ones write each part."""
    old = "font: italic 700 12.5px 'A B', sans-serif; text-anchor: middle"
    svg = inline(f'<svg viewBox="0 0 9 9"><text style="{old}">x</text><path style="fill: none"/></svg>', "a figure")
    assert 'font-style="italic" font-weight="700" font-size="12.5px"' in svg
    assert """font-family="'A B', sans-serif\"""" in svg
    assert 'text-anchor="middle"' in svg
    assert 'fill="none"' in svg
    assert " style=" not in svg


def themes() -> dict[str, dict[str, str]]:
    """Read the colours of the light theme, of the dark one, and of print."""
    roots = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.S)
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]+)", root)) for root in roots]
    return {"light": found[0], "dark": found[0] | found[1], "print": found[0] | found[2]}


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize("ground", ["paper", "soft", "mark"])
def test_text_stands_out_as_aa_asks(theme: str, ground: str):
    """WCAG 2 AA: 4.5 for text, which on a shade is ink, muted or a link, and 3 for what else is drawn."""
    colours = themes()[theme]
    text = ("ink", "muted", "blue", "vermilion", "green", "purple", "gold")
    ratios = {name: contrast(colours[name], colours[ground]) for name in text}
    least = {name: 4.5 if name in text[:3] or ground == "paper" else 3.0 for name in text}
    assert {name for name in text if ratios[name] < least[name]} == set()
