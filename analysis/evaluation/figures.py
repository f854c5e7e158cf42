"""Figures of evaluations: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import BLUE, GOLD, GREEN, INK, LINE_STYLES, MUTED, THIS_MODEL, VERMILION, WIDTH, Drawing, chart
from analysis.words import METHOD_LABELS, THESE_PREDICTIONS
from probe.records import COPY, MEAN_COLOUR, TRUTH

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
