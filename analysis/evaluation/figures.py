"""Figures of evaluations: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.evaluation.geometry import UNCLEAR, WORSE
from analysis.figures import (
    BLUE,
    GOLD,
    GREEN,
    INK,
    LINE_STYLES,
    MUTED,
    PERCENT,
    THIS_MODEL,
    VERMILION,
    WIDTH,
    Drawing,
    chart,
)
from analysis.words import METHOD_LABELS, THESE_PREDICTIONS
from probe.records import COPY, MEAN_COLOUR, MODEL, TRUTH, describe

OPEN = {"markerfacecolor": "none", "markeredgewidth": 1.6}
MARKS: dict[str, dict[str, Any]] = {
    THIS_MODEL: {"color": BLUE, "marker": "o", "markersize": 8},
    THESE_PREDICTIONS: {"color": BLUE, "marker": "o", "markersize": 8},
    METHOD_LABELS[COPY]: {"color": VERMILION, "marker": "s", "markersize": 6, **OPEN},
    METHOD_LABELS[MEAN_COLOUR]: {"color": INK, "marker": "D", "markersize": 5.5, **OPEN, "markeredgewidth": 1.5},
    METHOD_LABELS[TRUTH]: {"color": GREEN, "marker": "_", "markersize": 26, "markeredgewidth": 2.2},
}
MEASURED = (THIS_MODEL, THESE_PREDICTIONS)
SHIFTS = dict(zip(MARKS, (-0.2, -0.2, 0.0, 0.2, 0.0), strict=True))


def beside_trivial(
    table: pd.DataFrame, *, titles: Mapping[str, str], places: Mapping[str, str], xlabel: str, name: str, alt: str
) -> Drawing:
    """Draw a panel per measure: the model and trivial baselines side by side, each with its interval.

    Args:
        table: Columns panel, who (a key of ``MARKS``), x, value, low, high.
        titles: Text above each panel, in order.
        places: Text under each x, in order.
        xlabel: What x is.
        name: See :func:`analysis.figures.chart`.
        alt: See :func:`analysis.figures.chart`.
    """
    columns = 2 if len(titles) in (2, 4) else min(3, len(titles))
    rows = -(-len(titles) // columns)
    spots = {x: n for n, x in enumerate(places)}

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.1}).flat)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        handles: dict[str, Any] = {}
        for axes, (panel, title) in zip(grid, titles.items(), strict=False):
            part = table[table["panel"] == panel]
            whos = [who for who in MARKS if (part["who"] == who).any()]
            handles |= {who: _marks(axes, part[part["who"] == who], who, spots) for who in whos}
            axes.set_xticks(list(spots.values()), list(places.values()))
            axes.set(title=title, xlabel=xlabel, xlim=(-0.5, len(spots) - 0.5))
            axes.margins(y=0.12)
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=4, columnspacing=1.4)

    return chart(name, alt, (WIDTH, 300 * rows + 30), draw)


def _marks(axes: Axes, rows: pd.DataFrame, who: str, spots: Mapping[str, int]) -> Any:
    x = rows["x"].map(spots) + SHIFTS[who]
    axes.vlines(
        x,
        rows["low"],
        rows["high"],
        color=MARKS[who]["color"],
        linewidth=2 if who in MEASURED else 1.3,
    )
    return axes.plot(x, rows["value"], linestyle="", **MARKS[who])[0]


def against_trivial(table: pd.DataFrame, *, alt: str) -> Drawing:
    """Draw each generated view's PSNR against that of the best trivial baseline; on the line both are equal.

    Args:
        table: Columns who, trivial, generated.
        alt: See :func:`analysis.figures.chart`.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        both = [*table["trivial"], *table["generated"]]
        low, high = min(both) - 0.5, max(both) + 0.5
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1.2, linestyle="--", label="as good as the baseline")
        for n, (who, part) in enumerate(table.groupby("who", sort=False)):
            style = LINE_STYLES[n] if n < len(LINE_STYLES) else {"color": GOLD, "marker": "v"}
            style = {**style, "linestyle": "", "markerfacecolor": "none", "markersize": 7, "markeredgewidth": 1.4}
            axes.plot(part["trivial"], part["generated"], label=who, **style)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(xlabel="PSNR of the best trivial baseline (dB)", ylabel="PSNR of the generated view (dB)")
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1.4)

    return chart("views", alt, (620, 600), draw)


SHAPES = ("o", "s", "D", "^")
"""Of marks, by number of references in rising order."""
ROLES = {
    TRUTH: ("true views", GREEN),
    MODEL: ("generated views", BLUE),
    WORSE: ("shown to be worse than the truth, as it must be", INK),
    UNCLEAR: ("not shown to be worse", VERMILION),
}
"""Words and colour of a mark: by method, and of corruptions by verdict."""


def against_corruptions(
    table: pd.DataFrame, *, titles: Mapping[str, str], labels: Mapping[str, str], alt: str
) -> Drawing:
    """Draw a panel per score of geometry: true and generated views, and the corruptions that must score worse.

    Args:
        table: Columns n_ref, metric, method, value, low, high, verdict (of corruptions).
        titles: Text above each panel, by metric, in order.
        labels: Text beside each row, by method, from the top.
        alt: See :func:`analysis.figures.chart`.
    """
    columns = 3
    lines = -(-len(titles) // columns)
    marks = dict(zip(sorted(set(table["n_ref"])), SHAPES * len(table), strict=False))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, (metric, text) in zip(grid.flat, titles.items(), strict=False):
            _corruption_panel(axes, table[table["metric"] == metric], list(labels), marks)
            axes.set_title(text, fontsize=12)
            if describe(metric).share:
                axes.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
                axes.xaxis.set_major_formatter(PERCENT)
            else:
                axes.set_xlim(left=0)
        grid[0, 0].set_yticks(range(len(labels)), list(labels.values()))
        grid[0, 0].invert_yaxis()
        for axes in grid.flat[len(titles) :]:
            axes.set_visible(False)
        shapes = {f"{n} reference{'' if n == 1 else 's'}": (MUTED, shape) for n, shape in marks.items()}
        colours = {text: (colour, "o") for text, colour in ROLES.values()}
        known = colours | (shapes if len(shapes) > 1 else {})
        handles = [Line2D([], [], linestyle="", color=colour, marker=shape) for colour, shape in known.values()]
        figure.legend(handles, list(known), loc="outside upper left", ncols=3, columnspacing=1.4)

    return chart("geometry", alt, (WIDTH, 240 * lines + 60), draw)


def _corruption_panel(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], marks: Mapping[int, str]) -> None:
    """Draw a score's means with their intervals, a row of the panel for each method."""
    axes.grid(axis="x")
    for place, (n_ref, shape) in enumerate(marks.items()):
        shift = 0.26 * (place - (len(marks) - 1) / 2)
        for row in rows[rows["n_ref"] == n_ref].dropna(subset=["value"]).to_dict("records"):
            kind = next((one for one in (row["method"], row["verdict"]) if one in ROLES), UNCLEAR)
            colour, y = ROLES[kind][1], methods.index(row["method"]) + shift
            axes.hlines(y, row["low"], row["high"], color=colour, linewidth=1.6)
            axes.plot(row["value"], y, color=colour, marker=shape, markersize=6, linestyle="")
