"""Figures of the claims: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import BLUE, GREEN, INK, MUTED, PERCENT, PURPLE, VERMILION, WIDTH, Drawing, chart, top
from analysis.probing.edits.causal_figures import SIGNED, SIGNED_PERCENT
from analysis.study.figures import looks
from analysis.training.figures import STEPS
from analysis.words import METHOD_LABELS
from probe.records import COPY, MEAN_COLOUR

NULL = "strongest null"
STYLES: dict[str, dict[str, Any]] = {
    "base": {"color": MUTED, "marker": "d"},
    "plain": {"color": INK, "marker": "o"},
    "cameo": {"color": BLUE, "marker": "s"},
    "mean": {"color": VERMILION, "marker": "D"},
    METHOD_LABELS[COPY]: {"color": GREEN, "marker": "_", "markersize": 14, "markeredgewidth": 2},
    METHOD_LABELS[MEAN_COLOUR]: {"color": PURPLE, "marker": "_", "markersize": 14, "markeredgewidth": 2},
}
"""Of variants and trivial baselines; what is not here is GREEN, since no more than one such stands in a figure."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One frame of a figure.

    Attributes:
        title: Above it.
        xlabel: What x is.
        table: Columns x (text, in order), who, value, low, high; null (a stroke; NaN: none); clear (a filled mark).
        percent: Whether values are fractions.
        signed: Whether values are changes, drawn about zero.
        ylabel: What is drawn.
    """

    title: str
    xlabel: str
    table: pd.DataFrame
    percent: bool = True
    signed: bool = False
    ylabel: str = ""


def style_of(who: str) -> dict[str, Any]:
    """Return the look of a variant, whatever follows its name after a comma."""
    return STYLES.get(who) or STYLES.get(who.partition(",")[0]) or {"color": GREEN, "marker": "^"}


def grouped(panels: Sequence[Panel], *, styles: Mapping[str, Any], name: str, alt: str, columns: int = 2) -> Drawing:
    """Draw values side by side at each x, with their intervals and their nulls.

    Args:
        panels: In order.
        styles: Of each who, in order.
        name: See :func:`analysis.figures.chart`.
        alt: See :func:`analysis.figures.chart`.
        columns: Panels in a row.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.1}).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid, panels, strict=False):
            handles |= _panel(axes, panel, styles)
        order = [who for who in (*styles, NULL) if who in handles]
        if len(order) > 1:
            figure.legend([handles[who] for who in order], order, loc="outside upper left", ncols=min(6, len(order)),
                          columnspacing=1.4)  # fmt: skip

    return chart(name, alt, (WIDTH, 310 * rows + 40), draw)


def _panel(axes: Axes, panel: Panel, styles: Mapping[str, Any]) -> dict[str, Any]:
    table, places = panel.table, {x: n for n, x in enumerate(dict.fromkeys(panel.table["x"]))}
    whos = [who for who in styles if (table["who"] == who).any()]
    shared = table.groupby("x", sort=False)["who"].nunique().max() > 1
    step = 0.8 / len(whos) if shared else 0.0
    handles: dict[str, Any] = {}
    for n, who in enumerate(whos):
        part = table[table["who"] == who]
        x = part["x"].map(places) + (n - (len(whos) - 1) / 2) * step
        handles |= _series(axes, part.assign(at=x), who, styles[who], 0.46 * (step or 0.8))
    axes.set_xticks(list(places.values()), list(places), linespacing=1.3)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=(-0.6, len(places) - 0.4))
    if panel.signed:
        axes.axhline(0, color=INK, linewidth=1.1)
        axes.yaxis.set_major_formatter(SIGNED_PERCENT if panel.percent else SIGNED)
    elif panel.percent:
        axes.set_ylim(0, top([*table["value"], *table["high"]]))
        axes.yaxis.set_major_formatter(PERCENT)
    return handles


def _series(axes: Axes, rows: pd.DataFrame, who: str, style: Mapping[str, Any], half: float) -> dict[str, Any]:
    colour, handles = style["color"], dict[str, Any]()
    axes.vlines(rows["at"], rows["low"], rows["high"], color=colour, linewidth=1.8, alpha=0.8)
    nulls = rows[rows["null"].notna()] if "null" in rows else rows.iloc[:0]
    if len(nulls):
        handles[NULL] = axes.hlines(nulls["null"], nulls["at"] - half, nulls["at"] + half, color=colour, linewidth=1.6,
                                    linestyle=(0, (2, 1)))  # fmt: skip
    clear = rows["clear"] if "clear" in rows else pd.Series(True, index=rows.index)
    for filled in (False, True):
        part = rows[clear == filled]
        if len(part):
            look = {"linestyle": "", "markersize": 6.5, "markerfacecolor": colour if filled else "none", **style}
            handles[who] = axes.plot(part["at"], part["value"], **look)[0]
    return handles


def emergence(
    layers: pd.DataFrame,
    points: pd.DataFrame,
    *,
    highlighted: Sequence[int],
    chance: float,
    titles: tuple[str, str],
    ylabel: str,
    alt: str,
) -> Drawing:
    """Draw precision of every layer over steps, and beside it the best layer's precision against quality.

    Args:
        layers: Columns layer, step, value, low, high.
        points: Columns seed, step, precision, quality; none: no second frame.
        highlighted: Layers in colour, the best one first.
        chance: Of the best layer's grid; NaN where it is unknown.
        titles: Above both frames.
        ylabel: Of the second frame.
        alt: See :func:`analysis.figures.chart`.
    """

    def draw(figure: Figure) -> None:
        frames = figure.subplots(1, 2 if len(points) else 1, squeeze=False)[0]
        _over_steps(frames[0], layers, highlighted, chance)
        frames[0].set(title=titles[0], xlabel="step", ylim=(0, top([*layers["value"], *layers["high"]])))
        frames[0].xaxis.set_major_formatter(STEPS)
        frames[0].yaxis.set_major_formatter(PERCENT)
        frames[0].legend(loc="upper left", fontsize=11)
        if len(points):
            _against_quality(frames[1], points)
            frames[1].set(title=titles[1], xlabel=f"precision of layer {highlighted[0]}", ylabel=ylabel)

    return chart("emergence", alt, (WIDTH, 380), draw)


def _over_steps(axes: Axes, layers: pd.DataFrame, highlighted: Sequence[int], chance: float) -> None:
    label = "other layers"
    for _, part in layers[~layers["layer"].isin(highlighted)].groupby("layer"):
        axes.plot(part["step"], part["value"], color=MUTED, alpha=0.55, linewidth=1, label=label)
        label = "_nolegend_"
    for layer, style in zip(highlighted, looks([str(layer) for layer in highlighted]).values(), strict=True):
        part = layers[layers["layer"] == layer]
        axes.fill_between(part["step"], part["low"], part["high"], color=style["color"], alpha=0.16, linewidth=0)
        axes.plot(part["step"], part["value"], markersize=5, label=f"layer {layer}", **style)
    if np.isfinite(chance):
        axes.axhline(chance, color=MUTED, linestyle=":", label="uniform guess")


def _against_quality(axes: Axes, points: pd.DataFrame) -> None:
    steps = points["step"] / max(points["step"].max(), 1)
    for (seed, part), style in zip(points.groupby("seed"), looks([str(s) for s in points["seed"].unique()]).values(),
                                   strict=True):  # fmt: skip
        axes.plot(part["precision"], part["quality"], color=style["color"], linewidth=0.7, alpha=0.4)
        for row, share in zip(part.itertuples(), steps[part.index], strict=True):
            axes.plot(row.precision, row.quality, style["marker"], color=style["color"], markersize=6,
                      alpha=0.25 + 0.75 * share, label=f"seed {seed}" if share == 1 else "_nolegend_")  # fmt: skip
    axes.xaxis.set_major_formatter(PERCENT)
    axes.locator_params(axis="x", nbins=5)
    axes.legend(loc="best", fontsize=11)
