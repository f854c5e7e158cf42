"""Write the generated parts of README and docs: ``python docs/generate.py``."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from claims import BLOCKS  # noqa: E402, beside this file

from probe.models import MODELS  # noqa: E402
from probe.models.about import ABOUT  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "reports" / "reference" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(\s<!-- end -->)", re.S)
"""A generated part: its name, and its text."""


def models_table() -> str:
    """Return a Markdown table of the models that are known by name, with the facts that the code holds of each."""
    rows = [("`--model`", "native size", "weights", "licence", "left out"), ("---",) * 5]
    for name in MODELS:
        about = ABOUT[name]
        rows.append((f"`{name}`", about.size, about.hub, about.licence, about.ignored))
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


WRITERS = {"models": models_table, **BLOCKS}


def with_parts(page: str) -> str:
    """Return a page's text with its generated parts as tables and code are now.

    Raises:
        KeyError: If a part is unknown.
    """
    return MARKS.sub(lambda part: f"{part[1]}{WRITERS[part[2]]()}{part[3]}", page)


def without_parts(page: str) -> str:
    """Return a page's text without its generated parts."""
    return MARKS.sub("", page)


if __name__ == "__main__":
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if (written := with_parts(text)) != text:
            path.write_text(written, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
