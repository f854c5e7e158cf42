"""Figures of causal effects: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures import BLUE, INK, MUTED, WIDTH, Drawing, chart

SIGNED_PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 2):+g} %".replace("-", "−") if value else "0")
SIGNED = FuncFormatter(lambda value, _: f"{round(value, 3):+g}".replace("-", "−") if value else "0")


def effect_bars(
    table: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    selected: int,
    labels: Mapping[int, str],
    ylabel: str,
    percent: bool,
    name: str,
    alt: str,
) -> Drawing:
    """Draw one panel per intervention: a bar per layer with its interval, the selected layer's in colour.

    Args:
        table: Columns intervention, layer, value, low, high, of one measure.
        titles: Text above each panel, by intervention, in order.
        selected: The chosen layer's index.
        labels: Text under each layer, in the order of the axis.
        ylabel: What the bars measure.
        percent: Whether values are fractions.
        name: See :func:`~analysis.figures.chart`.
        alt: See :func:`~analysis.figures.chart`.
    """
    place = {layer: n for n, layer in enumerate(labels)}
    columns = 1 if len(titles) == 1 else 2
    rows = -(-len(titles) // columns)

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True, gridspec_kw={"hspace": 0.12}).flat)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        for axes, (intervention, title) in zip(grid, titles.items(), strict=False):
            part = table[table["intervention"] == intervention]
            _bars(axes, part.assign(x=part["layer"].map(place)), selected)
            axes.set_xticks(list(place.values()), list(labels.values()) if columns == 1 else [str(k) for k in place])
            axes.set(title=title, xlim=(-0.6, len(place) - 0.4), xlabel="layer", ylabel=ylabel)
            axes.tick_params(labelleft=True)
            axes.yaxis.set_major_formatter(SIGNED_PERCENT if percent else SIGNED)

    return chart(name, alt, (WIDTH, 300 if columns == 1 else 250 * rows), draw)


def _bars(axes: Axes, rows: pd.DataFrame, selected: int) -> None:
    colours = [BLUE if layer == selected else MUTED for layer in rows["layer"]]
    fades = np.where(rows["layer"] == selected, 0.85, 0.45)
    for x, value, colour, fade in zip(rows["x"], rows["value"], colours, fades, strict=True):
        axes.bar(x, value, width=0.7, color=colour, alpha=fade)
    axes.vlines(rows["x"], rows["low"], rows["high"], color=INK, linewidth=1.6)
    axes.axhline(0, color=MUTED, linewidth=1)
