"""Figures of hidden points: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import BLUE, PERCENT, PURPLE, VERMILION, WIDTH, Drawing, chart, legend, top
from probe.records.names import OCCLUDED, OUT_OF_FRAME, VISIBLE

STYLES: dict[str, dict[str, Any]] = {
    VISIBLE: {"color": BLUE, "marker": "o"},
    OCCLUDED: {"color": VERMILION, "marker": "s"},
    OUT_OF_FRAME: {"color": PURPLE, "marker": "D"},
}
SHIFT = 0.24


def looks_by_cause(
    table: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    null: str | None,
    null_label: str,
    selected: int,
    labels: Mapping[int, str],
    alt: str,
) -> Drawing:
    """Draw one panel per metric: visible, occluded and out-of-frame queries of each layer with intervals, and the null.

    Args:
        table: Columns model, layer, metric, cause, value, low, high.
        titles: Text above each panel, by metric, in order.
        null: Model whose values are drawn as open marks; None for none.
        null_label: What it is called.
        selected: The chosen layer's index.
        labels: Text under each layer of the last panel, in the order of the axis.
        alt: See :func:`~analysis.figures.chart`.
    """
    place = {layer: n for n, layer in enumerate(labels)}
    rows = table.assign(x=table["layer"].map(place)).dropna(subset=["x", "value"])

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(titles), 1, squeeze=False)[:, 0]
        for axes, (metric, title) in zip(panels, titles.items(), strict=True):
            part = rows[rows["metric"] == metric]
            axes.axvspan(place[selected] - 0.46, place[selected] + 0.46, color=BLUE, alpha=0.09, linewidth=0)
            for n, cause in enumerate(STYLES):
                own = part[part["cause"] == cause]
                _queries(axes, own[own["model"] != null], cause, SHIFT * (n - 1), filled=True)
                _queries(axes, own[own["model"] == null], cause, SHIFT * (n - 1) + 0.09, f", {null_label}")
            axes.set(title=title, xlim=(-0.6, len(place) - 0.4), ylim=(0, top([*part["value"], *part["high"]])))
            axes.set_xticks(list(place.values()), [str(layer) for layer in place])
            axes.yaxis.set_major_formatter(PERCENT)
        panels[-1].set_xticks(list(place.values()), list(labels.values()), linespacing=1.35)
        panels[-1].set(xlabel="layer")
        legend(figure, panels[0], 3)

    return chart("hidden", alt, (max(WIDTH, 76 * len(place)), 290 * len(titles) + 40), draw)


def _queries(
    axes: Axes, rows: pd.DataFrame, cause: str, shift: float, suffix: str = "", *, filled: bool = False
) -> None:
    """Draw one cause's queries in every layer: of the model filled, of the null open and smaller."""
    if rows.empty:
        return
    x, style = rows["x"] + shift, STYLES[cause]
    face: dict[str, Any] = {"markersize": 6.5} if filled else {"markersize": 4.5, "markerfacecolor": "none"}
    axes.vlines(x, rows["low"], rows["high"], color=style["color"], linewidth=2 if filled else 0.8)
    axes.plot(x, rows["value"], linestyle="", label=cause + suffix, **style, **face)
