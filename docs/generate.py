"""Write the generated parts of README and docs: ``python docs/generate.py``."""

import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from claims import BLOCKS  # noqa: E402, beside this file

from probe.models import MODELS  # noqa: E402
from probe.models.about import ABOUT  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "reports" / "reference" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NETWORKS = ROOT / "reports" / "reference" / "networks" / "networks.csv"
BESIDE = ("before", "behind", "before each view", "behind each view")
MARKS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(\s<!-- end -->)", re.S)
"""A generated part: its name, and its text."""


def models_table() -> str:
    """Return a Markdown table of the models that are known by name, with the facts that the code holds of each."""
    rows = [("`--model`", "native size", "weights", "licence", "left out"), ("---",) * 5]
    for name in MODELS:
        about = ABOUT[name]
        rows.append((f"`{name}`", about.size, about.hub, about.licence, about.ignored))
    return _markdown(rows)


def networks_table() -> str:
    """Return a Markdown table of diffusers' networks: what find_layers and the scores made of each."""
    with NETWORKS.open(encoding="utf-8", newline="") as file:
        looked = list(csv.DictReader(file))
    rows = [
        ("network", "class", "calls", "first layer on a grid", "other tokens", "scored", "what is said"),
        ("---",) * 7,
    ]
    for row in looked:
        first = (
            f"{row['index']} `{row['layer']}`: {row['kind']}, {row['grid']}, {row['order']}" if row["layer"] else "-"
        )
        beside = zip(map(int, row["beside"].split()), BESIDE, strict=True) if row["layer"] else ()
        tokens = ", ".join(f"{count} {place}" for count, place in beside if count)
        name = row["entry"] + (f" ({row['note']})" if row["note"] else "")
        calls, scored = row["found"] or "refused", row["scored"] or "-"
        rows.append((name, f"`{row['class']}`", calls, first, tokens or "-", scored, row["said"] or "-"))
    return f"{len(looked)} networks of diffusers {looked[0]['diffusers']}.\n\n{_markdown(rows)}"


def _markdown(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


WRITERS = {"models": models_table, "networks": networks_table, **BLOCKS}


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
