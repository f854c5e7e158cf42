"""A figure arranged for the width of a paper's column, and what is wrong with it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis.exporting.fit import fit, tick_labels
from analysis.exporting.style import FigureStyle
from analysis.figures import STYLE, Drawing

SLACK = 1.0
"""Pixels by which boxes may exceed one another: they hold the room of letters that hang below the line."""


@contextmanager
def arranged(drawing: Drawing, width: float, font_size: float = 8.0) -> Iterator[Figure]:
    """Draw a figure as :func:`analysis.exporting.press.press` does, without writing it."""
    canvas = FigureStyle(width=width, font_size=font_size).canvas
    with matplotlib.rc_context({**STYLE, "figure.dpi": 72}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=(canvas / 72, drawing.size[1] / 72), layout="constrained")
        drawing.draw(figure)
        entries = legend_words(figure)
        fit(figure)
        figure.draw_without_rendering()
        assert legend_words(figure) == entries, "the legend keeps its entries"
        yield figure


def legend_words(figure: Figure) -> list[str]:
    """Return the entries of all legends, whatever their lines and order."""
    return sorted(" ".join(text.get_text().split()) for legend in legends(figure) for text in legend.get_texts())


def legends(figure: Figure) -> list:
    own = [axes.get_legend() for axes in figure.axes if axes.get_visible()]
    return [*figure.legends, *(legend for legend in own if legend is not None)]


def faults(figure: Figure) -> list[str]:
    """List words beyond the canvas, words and legends that overlap, and panels too small to be read."""
    boxes = dict(_words(figure))
    boxes |= {f"legend {n}": legend.get_window_extent() for n, legend in enumerate(figure.legends)}
    beyond = [f"{name} leaves the canvas" for name, box in boxes.items() if not _holds(figure.bbox, box)]
    pairs = combinations(boxes.items(), 2)
    meeting = [f"{one} meets {other}" for (one, a), (other, b) in pairs if _overlap(a, b)]
    thin = [f"panel {n} is {axes.bbox.width:.0f} x {axes.bbox.height:.0f}" for n, axes in enumerate(_panels(figure))
            if axes.bbox.width < 80 or axes.bbox.height < 20]  # fmt: skip
    return beyond + meeting + thin


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_subplotspec() is not None]


def _words(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """Return the boxes of labels, titles, and the words written beside axes; not those of marks within a panel."""
    for n, axes in enumerate(axes for axes in figure.axes if axes.get_visible()):
        titles = [axes.title, *(child for child in axes.get_children() if _is_left_title(axes, child))]
        labels = [*tick_labels(axes.xaxis), *tick_labels(axes.yaxis), axes.xaxis.label, axes.yaxis.label, *titles]
        legend = axes.get_legend()
        for place, text in enumerate(labels):
            if text.get_visible() and text.get_text():
                yield f"{n}.{place} {text.get_text()!r}", text.get_window_extent()
        if legend is not None and legend.get_window_extent().y1 < axes.bbox.y0 + SLACK:
            yield f"{n} legend", legend.get_window_extent()
        elif legend is not None:
            assert _holds(axes.bbox, legend.get_window_extent()), f"the legend of panel {n} leaves it"


def _is_left_title(axes: Axes, child: object) -> bool:
    return isinstance(child, Text) and child.get_text() == axes.get_title("left") != "" and child not in axes.texts


def _holds(canvas: Bbox, box: Bbox) -> bool:
    low = box.x0 > canvas.x0 - SLACK and box.y0 > canvas.y0 - SLACK
    return low and box.x1 < canvas.x1 + SLACK and box.y1 < canvas.y1 + SLACK


def _overlap(a: Bbox, b: Bbox) -> bool:
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    return wide > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK
