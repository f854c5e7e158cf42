"""Points with intervals, layer by layer: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures import BLUE, GOLD, GREEN, MUTED, PURPLE, VERMILION, WIDTH, Drawing, chart, legend

STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o"},
    {"color": VERMILION, "marker": "s"},
    {"color": GREEN, "marker": "D"},
    {"color": PURPLE, "marker": "^"},
    {"color": GOLD, "marker": "v"},
    {"color": MUTED, "marker": "P"},
)
SPREAD = 0.7
"""Of a layer's width, over which its series stand side by side."""


def layer_points(
    table: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    series: Mapping[str, str],
    labels: Mapping[int, str],
    selected: int,
    percent: FuncFormatter,
    name: str,
    alt: str,
    xlabel: str = "layer",
) -> Drawing:
    """Draw one panel below the other, in each the points of every series with intervals, side by side in each layer.

    Args:
        table: Columns panel, series, layer, value, low, high.
        titles: Text above each panel, by panel, in order.
        series: What each is called in the legend, by series, in order.
        labels: Text under each layer of the last panel, in the order of the axis.
        selected: The layer that is shaded; none of the axis for no shade.
        percent: Writes the values of the vertical axis.
        name: See :func:`~analysis.figures.chart`.
        alt: See :func:`~analysis.figures.chart`.
        xlabel: What stands below the axis.
    """
    place = {layer: n for n, layer in enumerate(labels)}
    rows = table.assign(x=table["layer"].map(place)).dropna(subset=["x", "value"])
    shift = SPREAD / max(1, len(series))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(titles), 1, squeeze=False)[:, 0]
        for axes, (panel, title) in zip(panels, titles.items(), strict=True):
            if selected in place:
                axes.axvspan(place[selected] - 0.46, place[selected] + 0.46, color=BLUE, alpha=0.09, linewidth=0)
            for n, (one, label) in enumerate(series.items()):
                own = rows[(rows["panel"] == panel) & (rows["series"] == one)]
                _series(axes, own, shift * (n - (len(series) - 1) / 2), label, STYLES[n % len(STYLES)])
            axes.axhline(0, color=MUTED, linewidth=1)
            axes.set(title=title, xlim=(-0.6, len(place) - 0.4))
            axes.set_xticks(list(place.values()), [str(layer) for layer in place])
            axes.yaxis.set_major_formatter(percent)
        panels[-1].set_xticks(list(place.values()), list(labels.values()), linespacing=1.35)
        panels[-1].set(xlabel=xlabel)
        legend(figure, panels[0], len(series))

    return chart(name, alt, (max(WIDTH, 76 * len(place)), 260 * len(titles) + 60), draw)


def _series(axes: Axes, rows: pd.DataFrame, shift: float, label: str, style: Mapping[str, Any]) -> None:
    x = rows["x"] + shift
    axes.vlines(x, rows["low"], rows["high"], color=style["color"], linewidth=1.8)
    axes.plot(x, rows["value"], linestyle="", label=label, markersize=6, **style)
