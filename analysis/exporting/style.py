"""How figures look as files."""

from dataclasses import dataclass
from typing import Literal

FORMATS = ("pdf", "png")
PALETTES: dict[str, dict[str, str]] = {
    "page": {},
    "grey": {"ink": "#000000", "muted": "#5f5f5f", "rule": "#dddddd", "paper": "#ffffff", "blue": "#000000",
             "vermilion": "#6b6b6b", "green": "#4d4d4d", "purple": "#8a8a8a", "gold": "#767676"},
    "dark": {"ink": "#e7eaee", "muted": "#a2abb7", "rule": "#333a43", "paper": "#14171b", "blue": "#62b2ff",
             "vermilion": "#ff9a5a", "green": "#4ccf9a", "purple": "#e19ad6", "gold": "#e3c04a"},
}  # fmt: skip
"""What becomes of each colour of the page: as there in the light theme, in grey for print, and for dark slides."""


@dataclass(frozen=True, kw_only=True)
class FigureStyle:
    """How figures look as files; says nothing of the page's own."""

    width: float = 5.5
    """Width of a figure as wide as the page's text, in inches: 5.5 in a NeurIPS paper, 3.25 in a column of CVPR."""
    font_size: float = 8.0
    """Of axis labels, in points; smaller only in figures whose labels need more room than the width has."""
    colours: Literal["page", "grey", "dark"] = "page"
    """page: as on the page in its light theme; grey: for print; dark: for dark slides, on their ground."""
    dpi: int = 300
    """Pixels per inch of PNG files."""

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: If a size lies outside its range.
        """
        for flag, value, low, high in (
            ("--width", self.width, 1, 40),
            ("--font-size", self.font_size, 3, 40),
            ("--dpi", self.dpi, 30, 1200),
        ):
            if not low <= value <= high:
                raise ValueError(f"{flag} {value:g}: expected a number from {low} to {high}")


def formats_of(words: str) -> tuple[str, ...]:
    """Read ``--figures``.

    Args:
        words: Names of formats, separated by commas.

    Raises:
        ValueError: If one is unknown.
    """
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise ValueError(f"--figures {words}: {', '.join(unknown)} is unknown; expected pdf, png or pdf,png")
    return names
