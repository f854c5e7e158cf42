"""The Content-Security-Policy of each page: it runs and shows only what the package put into it."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template

FOLDERS = tuple(Path(__file__).parent / folder for folder in ("templates", "explorer"))
"""Where templates, styles and scripts lie."""
CHARSET = '<meta charset="utf-8">'
SCRIPT, STYLE = (re.compile(f"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in ("script", "style"))
"""What is inlined. A script with a type holds data and is never run, so it needs no permission."""


class Sealed(Template):
    """A template that renders whole pages with their policy."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Render the page and :func:`seal` it."""
        return seal(super().render(*args, **kwargs))


def seal(page: str, connect: str = "'none'") -> str:
    """Write a page's policy into its head.

    Nothing is loaded from elsewhere, no form is sent, no base is set; scripts and styles run by their SHA-256, so that
    handlers and styles in attributes do not; images are data within the page.

    Args:
        page: A whole HTML document; with a policy, it is replaced.
        connect: What scripts may ask over the network.

    Raises:
        RuntimeError: If the page has no place for it, or holds a script that is not of the package: text of a run would
            have become code.

    Source:
        Content Security Policy Level 3, https://www.w3.org/TR/CSP3/
    """
    page = re.sub(r'\n<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    scripts = SCRIPT.findall(page)
    for script in scripts:
        _refuse_strangers(script)
    if CHARSET not in page:
        raise RuntimeError(f"seal: the page has no {CHARSET} in its head, behind which its policy is written")
    directives = {
        "default-src": "'none'",
        "script-src": _hashes(scripts),
        "style-src": _hashes(STYLE.findall(page)),
        "img-src": "data:",
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{name} {sources}" for name, sources in directives.items())
    tag = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return page.replace(CHARSET, f"{CHARSET}\n{tag}", 1)


def _hashes(texts: list[str]) -> str:
    digests = dict.fromkeys(hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"


def _refuse_strangers(script: str) -> None:
    """Refuse a script that is more than files of the package, one after the other."""
    rest = script
    for own in own_scripts():
        rest = rest.replace(own, "", 1)
    if rest.strip():
        raise RuntimeError(f"seal: a script of the page is not of the package: {rest.strip()[:60]!r}")


@cache
def own_scripts() -> tuple[str, ...]:
    """Read the package's scripts, the longest first."""
    paths = [path for folder in FOLDERS for path in folder.glob("*.js")]
    return tuple(sorted((path.read_text(encoding="utf-8").strip() for path in paths), key=len, reverse=True))
