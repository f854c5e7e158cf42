"""A figure -> the bytes of a PDF or PNG file, of the size, letters and colours asked for. Pure."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure

from analysis.exporting.fit import fit
from analysis.exporting.style import INCH, PALETTES, POINTS, FigureStyle
from analysis.figures import STYLE, THEME

COLOURED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
PLAIN: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""Metadata without date and version: equal data gives equal bytes."""


def press(size: tuple[int, int], draw: Callable[[Figure], None], format: str, style: FigureStyle) -> bytes:
    """Draw a figure as a file.

    The figure is drawn in the page's letters on a canvas so wide that these have the size asked for once the canvas is
    scaled to the width asked for, and arranged for that width. So lines, marks and letters keep their proportions.

    Args:
        size: Width and height on the page, whatever the width of the file.
        draw: Fills the empty figure.
        format: pdf or png.
        style: Its width, letters and colours.

    Returns:
        The file; equal data gives equal bytes. Fonts are embedded as TrueType, not Type 3.
    """
    width = style.width * POINTS / INCH
    canvas = style.canvas
    theme = {colour: PALETTES[style.colours].get(name, colour) for name, colour in THEME.items()}
    settings = {key: theme.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
    paper = theme[THEME["paper"]] if style.colours == "dark" else "white"
    settings |= {"savefig.facecolor": paper, "pdf.fonttype": 42, "figure.dpi": POINTS}
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=(canvas / POINTS, size[1] / POINTS), layout="constrained")
        draw(figure)
        fit(figure)
        _recolour(figure, theme)
        figure.savefig(buffer, format=format, dpi=style.dpi * width / canvas, metadata=PLAIN[format])
    return scaled_pdf(buffer.getvalue(), width / canvas) if format == "pdf" else buffer.getvalue()


def _recolour(figure: Figure, theme: dict[str, str]) -> None:
    """Replace the page's colours in all that was drawn; colours of a scale stay."""
    for artist in figure.findobj():
        if not (isinstance(artist, Collection) and artist.get_array() is not None):
            for name in COLOURED:
                _replace_colour(artist, name, theme)


def _replace_colour(artist: Artist, name: str, theme: dict[str, str]) -> None:
    if not (hasattr(artist, f"get_{name}") and hasattr(artist, f"set_{name}")):
        return
    now = getattr(artist, f"get_{name}")()
    many = not is_color_like(now)
    colours = list(now) if many and not isinstance(now, str) else [now]
    new = [theme.get(to_hex(colour), colour) if is_color_like(colour) else colour for colour in colours]
    if any(after is not before for after, before in zip(new, colours, strict=True)):
        getattr(artist, f"set_{name}")(new if many else new[0])


def scaled_pdf(pdf: bytes, scale: float) -> bytes:
    """Scale the only page of a PDF file of matplotlib, by an incremental update.

    Args:
        pdf: The file.
        scale: New size over old.

    Returns:
        The file, whose page has the new size, and all on it.

    Source:
        ISO 32000-1, 7.5.6 Incremental updates; 8.3.4 Transformation matrices.
    """
    page = re.search(rb"(\d+) 0 obj\n(<< /Type /Page /.*?>>)\nendobj", pdf, re.DOTALL)
    tail = re.search(rb"trailer\n<< /Size (\d+) (.*?) >>\nstartxref\n(\d+)\n%%EOF\n\Z", pdf, re.DOTALL)
    assert page is not None
    assert tail is not None
    new = int(tail[1])
    box = re.sub(rb"(?<=/MediaBox \[ 0 0 )([\d.]+) ([\d.]+)", lambda sides: _scaled_sides(sides, scale), page[2])
    box = re.sub(rb"/Contents (\d+ 0 R)", rb"/Contents [ %d 0 R \1 ]" % new, box)
    matrix = b"%.6f 0 0 %.6f 0 0 cm" % (scale, scale)
    first = b"%s 0 obj\n%s\nendobj\n" % (page[1], box)
    second = b"%d 0 obj\n<< /Length %d >>\nstream\n%s\nendstream\nendobj\n" % (new, len(matrix), matrix)
    places = len(pdf), len(pdf) + len(first)
    table = b"xref\n%s 1\n%010d 00000 n \n%d 1\n%010d 00000 n \n" % (page[1], places[0], new, places[1])
    end = b"trailer\n<< /Size %d %s /Prev %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        new + 1, tail[2], tail[3], places[1] + len(second),
    )  # fmt: skip
    return pdf + first + second + table + end


def _scaled_sides(sides: re.Match[bytes], scale: float) -> bytes:
    return b"%.3f %.3f" % (float(sides[1]) * scale, float(sides[2]) * scale)
