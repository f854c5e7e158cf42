"""Figures of training runs: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures import (
    BLUE,
    GOLD,
    INK,
    LINE_STYLES,
    MUTED,
    PERCENT,
    VERMILION,
    WIDTH,
    Drawing,
    chart,
    legend,
    top,
)
from analysis.words import METHOD_LABELS
from probe.records import COPY, MEAN_COLOUR, MODEL, TRIVIAL

LOGGED, RUNNING_MEAN, VALIDATION = "each logged step", "running mean", "held-out scenes"
ATTENTION, READOUT = "attention, mean over heads", "readout of the loss"
STEP_STYLES: dict[str, dict[str, Any]] = {
    LOGGED: {"color": MUTED, "linewidth": 0.7, "alpha": 0.45},
    RUNNING_MEAN: {"color": INK, "linewidth": 1.5},
    VALIDATION: {"color": BLUE, "linewidth": 2.2, "marker": "o", "markersize": 5},
    METHOD_LABELS[MODEL]: {"color": BLUE, "linewidth": 2.2, "marker": "o", "markersize": 5},
    ATTENTION: {"color": BLUE, "linewidth": 2.2, "marker": "o", "markersize": 5},
    READOUT: {"color": GOLD, "linewidth": 1.8, "linestyle": "--", "marker": "D", "markersize": 5},
    METHOD_LABELS[COPY]: {"color": VERMILION, "linewidth": 1.8, "linestyle": "--"},
    METHOD_LABELS[MEAN_COLOUR]: {"color": INK, "linewidth": 1.8, "linestyle": ":"},
}
ACROSS = tuple(METHOD_LABELS[method] for method in TRIVIAL)
"""Trivial baselines, which do not change with training."""
STEPS = FuncFormatter(lambda step, _: f"{step:,.0f}".replace(",", "\u202f"))


def step_panels(
    table: pd.DataFrame, *, titles: Mapping[str, str], name: str, alt: str, percent: bool = False, height: int = 300
) -> Drawing:
    """Draw small panels side by side, each with its lines over training iterations.

    Args:
        table: Columns panel, who (a key of ``STEP_STYLES``), step, value.
        titles: Text above each panel, in order.
        name: See ``chart``.
        alt: See ``chart``.
        percent: Whether values are fractions, drawn from 0 in percent.
        height: Of one row of panels, in the page's pixels.
    """
    columns = 2 if len(titles) in (2, 4) else min(3, len(titles))
    rows = -(-len(titles) // columns)

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=percent, gridspec_kw={"hspace": 0.1}).flat)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        handles: dict[str, Any] = {}
        for axes, (panel, title) in zip(grid, titles.items(), strict=False):
            part = table[table["panel"] == panel]
            handles |= {who: _step_line(axes, part[part["who"] == who], who) for who in dict.fromkeys(part["who"])}
            low, high = (0.0, top(part["value"])) if percent else _robust_limits(part)
            axes.set(title=title, xlabel="training iterations", xlim=(0, 1.03 * table["step"].max()), ylim=(low, high))
            axes.xaxis.set_major_formatter(STEPS)
            axes.xaxis.set_major_locator(MaxNLocator(9 - 2 * columns, steps=[1, 2, 5, 10], integer=True))
            if percent:
                axes.yaxis.set_major_formatter(PERCENT)
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=4, columnspacing=1.4)

    return chart(name, alt, (WIDTH, height * rows + 30), draw)


def _step_line(axes: Axes, rows: pd.DataFrame, who: str) -> Any:
    if who in ACROSS and rows["value"].min() == rows["value"].max():
        return axes.axhline(rows["value"].iloc[0], **STEP_STYLES[who])
    return axes.plot(rows["step"], rows["value"], **STEP_STYLES[who])[0]


def _robust_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Show every value of what is evaluated, and of what is logged all but the extremes of its noise."""
    noisy = rows["who"].isin([LOGGED, RUNNING_MEAN])
    kept = [*rows.loc[~noisy, "value"], *rows.loc[rows["who"] == LOGGED, "value"].quantile([0.005, 0.98]).dropna()]
    low, high = min(kept), max(kept)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def trajectory(table: pd.DataFrame, *, lines: Mapping[str, float], ylabel: str, alt: str) -> Drawing:
    """Draw quality against precision: one point per checkpoint, joined in the order of training.

    Args:
        table: Columns who, step, precision, quality.
        lines: Qualities to draw across: keys of ``STEP_STYLES``.
        ylabel: What the quality is.
        alt: See ``chart``.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for who, value in lines.items():
            axes.axhline(value, label=who, **STEP_STYLES[who])
        for n, (who, part) in enumerate(table.sort_values("step").groupby("who", sort=False)):
            style = {"markersize": 6, **LINE_STYLES[n % len(LINE_STYLES)], "linewidth": 1.1}
            axes.plot(part["precision"], part["quality"], label=who, **style)
            for row in part.iloc[[0, -1] if n == 0 else []].itertuples():
                axes.annotate(STEPS(row.step), (row.precision, row.quality), (7, -4), textcoords="offset points",
                              color=style["color"], fontsize=12)  # fmt: skip
        axes.set(xlabel="precision", ylabel=ylabel)
        axes.margins(x=0.08, y=0.1)
        axes.xaxis.set_major_formatter(PERCENT)
        legend(figure, axes, 5)

    return chart("tradeoff", alt, (WIDTH, 400), draw)
