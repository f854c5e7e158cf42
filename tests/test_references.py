"""What docstrings cite can be opened: sections of docs/references.md, and nothing that is not part of the project."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADINGS = set(re.findall(r"^## (.+)$", (ROOT / "docs" / "references.md").read_text(encoding="utf-8"), re.M))
OWN = "tests/test_references.py"
PRIVATE = re.compile(r"reference/[a-z_]+\.md|DESIGN(\.md| section)|REDESIGN")


def sources() -> dict[str, str]:
    """The project's Python files and pages by name, each with its white space as single blanks."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    present = [name for name in names if (ROOT / name).is_file()]
    return {name: " ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in present}


TEXTS = sources()
CITING = {name: text for name, text in TEXTS.items() if name not in (OWN, "docs/references.md")}


def test_every_section_that_is_cited_exists():
    pattern = re.compile(r'docs/references\.md, "(.+?)"')
    cited = {(name, heading) for name, text in CITING.items() for heading in pattern.findall(text.replace(" # ", " "))}
    assert len(cited) > 30
    assert not {(name, heading) for name, heading in cited if heading not in HEADINGS}


def test_every_section_is_cited():
    assert not {heading for heading in HEADINGS if not any(f'"{heading}"' in text for text in CITING.values())}


def test_nothing_outside_the_project_is_cited():
    found = {name: match[0] for name, text in TEXTS.items() if name != OWN and (match := PRIVATE.search(text))}
    assert not found
