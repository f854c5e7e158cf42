"""How figures look as files."""

from dataclasses import dataclass
from typing import Literal

INCH, POINTS = 25.4, 72
"""Millimetres and points of an inch."""
LETTERS = 13.0
"""Size of the page's letters, in its pixels."""
LEAST = 240
"""Width below which labels leave no room for what they name, in the page's pixels."""
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

    width: float = 140.0
    """Width of every figure in millimetres: 140 in a NeurIPS paper, 84 in a column, 174 across two columns of CVPR."""
    font_size: float = 8.0
    """Of axis labels, in points."""
    colours: Literal["page", "grey", "dark"] = "page"
    """page: as on the page in its light theme; grey: for print; dark: for dark slides, on their ground."""
    dpi: int = 300
    """Pixels per inch of PNG files."""

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: If a size lies outside its range.
        """
        for flag, value, low, high, unit in (
            ("--width", self.width, 25, 1000, "millimetres"),
            ("--font-size", self.font_size, 3, 40, "points"),
            ("--dpi", self.dpi, 30, 1200, "pixels per inch"),
        ):
            if not low <= value <= high:
                raise ValueError(f"{flag} {value:g}: expected {low} to {high} {unit}")
        if self.canvas < LEAST:
            largest = self.font_size * self.canvas / LEAST
            raise ValueError(
                f"--font-size {self.font_size:g} on --width {self.width:g}: the words leave no room for the figure; "
                f"expected at most {largest - 0.05:.1f} points there"
            )

    @property
    def canvas(self) -> float:
        """Width at which the page's letters have the size asked for, in the page's pixels."""
        return self.width / INCH * POINTS * LETTERS / self.font_size


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
