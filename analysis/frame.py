"""A page inside a notebook's cell: a frame that holds the whole page, and asks nothing of the network."""

from html import escape
from pathlib import Path


class PageFrame:
    """Show a page where a notebook shows values.

    Args:
        page: The page, as :func:`analysis.report.build_report` returns it.
        height: Of the frame, in pixels.
    """

    def __init__(self, page: Path, height: int = 900) -> None:
        self.page, self.height = page, height

    def _repr_html_(self) -> str:
        """Return the frame; the page's address within it is its own, so links into the page work."""
        text = escape(self.page.read_text(encoding="utf-8"), quote=True)
        return f'<iframe title="{escape(self.page.name)}" width="100%" height="{self.height}" srcdoc="{text}"></iframe>'
