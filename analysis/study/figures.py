"""Figures of studies and comparisons: tables -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.exporting.press import press
from analysis.exporting.style import FigureStyle
from analysis.figures import (
    BLUE,
    GOLD,
    GREEN,
    INK,
    MUTED,
    PERCENT,
    POINTS,
    PURPLE,
    STYLE,
    VERMILION,
    WIDTH,
    Drawing,
    chart,
    top,
)
from analysis.probing.edits.causal_figures import SIGNED
from analysis.training.figures import STEP_STYLES, STEPS

# Okabe and Ito's hues, darkened or lightened to the page's contrast; a marker tells lines apart without colour
COLOURS = (INK, BLUE, VERMILION, GREEN, PURPLE, GOLD, MUTED)
MARKERS = "osD^vP*Xph<>8d"
VERDICTS = {"better": GREEN, "worse": VERMILION, "not separable": MUTED, "too few seeds": MUTED, "changed": INK,
            "too few units": MUTED, "sooner": GREEN, "later": VERMILION, "not separated": MUTED}  # fmt: skip
"""Colour of each verdict; filled where it is clear, open where it is not."""
CLEAR = ("better", "worse", "changed", "sooner", "later")
RATIOS = (1 / 8, 8)
"""Least and largest ratio of steps that is drawn."""
SIGNED_POINTS = FuncFormatter(lambda value, _: f"{round(100 * value, 1):+g}".replace("-", "−") if value else "0")


def looks(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each variant a colour, a marker and a line of its own.

    Args:
        variants: In order; the first colours go to the first.
    """
    dashes = ["-" if place < len(COLOURS) else "--" for place in range(len(variants))]
    styles = zip(variants, cycle(COLOURS), cycle(MARKERS), dashes, strict=False)
    return {name: {"color": colour, "marker": mark, "linestyle": dash} for name, colour, mark, dash in styles}


def curves(
    table: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    styles: Mapping[str, Mapping[str, Any]],
    name: str,
    alt: str,
    percent: Collection[str] = (),
    strong: Sequence[str] = (),
) -> Drawing:
    """Draw panels of lines over steps, each with the band of its interval; trivial baselines as lines across.

    Args:
        table: Columns panel, who, step, value, low, high.
        titles: Text above each panel, in order.
        styles: Of each who, but for the trivial baselines.
        name: See ``chart``.
        alt: See ``chart``.
        percent: Panels whose values are fractions, drawn from 0 in percent.
        strong: Whose lines are thick and have bands; by default all.
    """
    size = (WIDTH, 290 * _rows_of(titles) + 40)
    return chart(name, alt, size, lambda figure: _draw_curves(figure, table, titles, styles, percent, strong))


def picture(
    table: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    styles: Mapping[str, Mapping[str, Any]],
    percent: Collection[str],
) -> bytes:
    """Draw the panels of :func:`curves` as a PNG file, all lines thick.

    Args:
        table: See :func:`curves`.
        titles: See :func:`curves`.
        styles: See :func:`curves`.
        percent: See :func:`curves`.
    """
    size = (WIDTH, 290 * _rows_of(titles) + 90)
    style = FigureStyle(width=25.4 * WIDTH / POINTS, font_size=float(STYLE["font.size"]), dpi=120)
    return press(size, lambda figure: _draw_curves(figure, table, titles, styles, percent, ()), "png", style)


def _columns_of(titles: Mapping[str, str]) -> int:
    return 2 if len(titles) in (2, 4) else min(3, len(titles))


def _rows_of(titles: Mapping[str, str]) -> int:
    return -(-len(titles) // _columns_of(titles))


def _draw_curves(
    figure: Figure,
    table: pd.DataFrame,
    titles: Mapping[str, str],
    styles: Mapping[str, Mapping[str, Any]],
    percent: Collection[str],
    strong: Sequence[str],
) -> None:
    shares = table[table["panel"].isin(percent)]
    rows, columns, shared = _rows_of(titles), _columns_of(titles), set(titles) <= set(percent)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=shared, gridspec_kw={"hspace": 0.1}).flat)
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes, (panel, title) in zip(grid, titles.items(), strict=False):
        part = table[table["panel"] == panel]
        for who in dict.fromkeys(part["who"]):
            handles[who] = _curve(axes, part[part["who"] == who], styles.get(who), not strong or who in strong)
        axes.set(title=title, xlabel="step")
        axes.xaxis.set_major_formatter(STEPS)
        axes.locator_params(axis="x", integer=True)
        if panel in percent:
            axes.set_ylim(0, top([*shares["value"], *shares["high"]]))
            axes.yaxis.set_major_formatter(PERCENT)
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=5, columnspacing=1.2)


def _curve(axes: Axes, rows: pd.DataFrame, style: Mapping[str, Any] | None, strong: bool) -> Any:
    if style is None:  # a trivial baseline
        return axes.axhline(rows["value"].iloc[-1], **STEP_STYLES[rows["who"].iloc[0]])
    rows = rows.sort_values("step")
    if strong:
        axes.fill_between(rows["step"], rows["low"], rows["high"], color=style["color"], alpha=0.16, linewidth=0)
        return axes.plot(rows["step"], rows["value"], markersize=6, linewidth=2.4, zorder=3, **style)[0]
    return axes.plot(rows["step"], rows["value"], markersize=3.5, linewidth=0.9, alpha=0.8, **style)[0]


def forest(
    table: pd.DataFrame, *, titles: Mapping[str, str], order: Sequence[str], name: str, alt: str,
    percent: Sequence[str] = (),
) -> Drawing:  # fmt: skip
    """Draw differences with their intervals, a row each, a panel per metric; the line is "no difference".

    Args:
        table: Columns panel, who, value, low, high, verdict (a key of ``VERDICTS``).
        titles: Text above each panel, in order.
        order: Rows from above.
        name: See ``chart``.
        alt: See ``chart``.
        percent: Panels whose values are fractions, drawn in percent.
    """
    columns = min(3, len(titles))
    rows, place = -(-len(titles) // columns), {who: n for n, who in enumerate(order)}

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True, gridspec_kw={"hspace": 0.12}).flat)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        for axes, (panel, title) in zip(grid, titles.items(), strict=False):
            part = table[(table["panel"] == panel) & table["who"].isin(order)]
            axes.axvline(0, color=INK, linewidth=1.2)
            for row in part.itertuples():
                _difference(axes, row, place[row.who])
            axes.set_yticks(list(place.values()), list(place))
            axes.set(title=title, ylim=(len(order) - 0.4, -0.6))
            axes.margins(x=0.12)
            axes.locator_params(axis="x", nbins=4)
            if panel in percent:
                axes.xaxis.set_major_formatter(PERCENT)

    return chart(name, alt, (WIDTH, (90 + 30 * len(order)) * rows), draw)


def _difference(axes: Axes, row: Any, place: int) -> None:
    colour, clear = VERDICTS[row.verdict], row.verdict in CLEAR
    axes.hlines(place, row.low, row.high, color=colour, linewidth=2.4 if clear else 1.6)
    axes.plot(row.value, place, "o", color=colour, markersize=7, markerfacecolor=colour if clear else "none")


def step_ratios(
    table: pd.DataFrame, seeds: pd.DataFrame, *, titles: Mapping[str, str], order: Sequence[str], goal: float, alt: str
) -> Drawing:
    """Draw steps over the plain run's steps, a row per variant and a panel per metric, on a scale of ratios.

    Args:
        table: Columns panel, who, ratio, low, high, joint_low, joint_high (0 and infinity: open), null_factor,
            verdict.
        seeds: Columns panel, who, ratio, at_most, at_least; a row per seed.
        titles: Text above each panel, in order.
        order: Rows from above.
        goal: The ratio that the paper claims, drawn as a line.
        alt: See ``chart``.
    """
    columns = min(3, len(titles))
    rows, place = -(-len(titles) // columns), {who: n for n, who in enumerate(order)}

    def draw(figure: Figure) -> None:
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True, gridspec_kw={"hspace": 0.12}).flat)
        for axes in grid[len(titles) :]:
            axes.set_visible(False)
        for axes, (panel, title) in zip(grid, titles.items(), strict=False):
            part = table[(table["panel"] == panel) & table["who"].isin(order)]
            _ratio_axes(axes, title, goal, part["null_factor"])
            for row in part.itertuples():
                _ratio(axes, row, seeds[(seeds["panel"] == panel) & (seeds["who"] == row.who)], place[row.who])
            axes.set_yticks(list(place.values()), list(place))
            axes.set(ylim=(len(order) - 0.4, -0.6))

    return chart("reach", alt, (WIDTH, (90 + 30 * len(order)) * rows), draw)


def _ratio_axes(axes: Axes, title: str, goal: float, null_factor: pd.Series) -> None:
    axes.set(xscale="log", title=title, xlim=RATIOS)
    for factor in null_factor.dropna().head(1):
        axes.axvspan(max(1 / factor, RATIOS[0]), min(factor, RATIOS[1]), color=MUTED, alpha=0.18, linewidth=0)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.axvline(goal, color=GOLD, linewidth=1.4, linestyle="--")
    ticks = {1 / 8: "⅛", 1 / 4: "¼", 1 / 2: "½", 1: "1", 2: "2", 4: "4", 8: "8"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xticks([], minor=True)


def _ratio(axes: Axes, row: Any, seeds: pd.DataFrame, place: int) -> None:
    colour, clear = VERDICTS[row.verdict], row.verdict in CLEAR
    axes.hlines(place, *np.clip([row.joint_low, row.joint_high], *RATIOS), color=colour, linewidth=1)
    axes.hlines(place, *np.clip([row.low, row.high], *RATIOS), color=colour, linewidth=2.8)
    for seed in seeds.itertuples():
        mark = "|" if seed.at_most == seed.at_least else "<" if seed.at_most else ">"
        axes.plot(np.clip(seed.ratio, *RATIOS), place - 0.25, mark, color=BLUE, markersize=6, alpha=0.7)
    at = np.clip(row.ratio, *RATIOS)
    axes.plot(at, place, "o", color=colour, markersize=7, markerfacecolor=colour if clear else "none")


def columns_beside(
    tables: Sequence[tuple[str, str, pd.DataFrame]], *, name: str, alt: str, percent: Sequence[bool] = (True, True)
) -> Drawing:
    """Draw two tables in two frames with axes of their own: what may be looked at together but not compared.

    Args:
        tables: Title, name of the x axis, and columns x (text or numbers), who, value, low, high.
        name: See ``chart``.
        alt: See ``chart``.
        percent: Whether each frame's values are fractions.
    """

    def draw(figure: Figure) -> None:
        handles: dict[str, Any] = {}
        whos = list(dict.fromkeys(who for _, _, table in tables for who in table["who"]))
        styles = looks(whos)
        frames = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (title, xlabel, table), share in zip(frames, tables, percent, strict=True):
            places = list(dict.fromkeys(table["x"]))
            numeric = pd.api.types.is_numeric_dtype(table["x"])
            for who, part in table.groupby("who", sort=False):
                x = part["x"] if numeric else [places.index(value) for value in part["x"]]
                style = styles[str(who)] | ({} if numeric or len(places) > 1 else {"linestyle": ""})
                axes.vlines(x, part["low"], part["high"], color=style["color"], linewidth=1.6, alpha=0.7)
                handles[str(who)] = axes.plot(x, part["value"], markersize=6, linewidth=1.4, **style)[0]
            if not numeric:
                axes.set_xticks(range(len(places)), [str(place) for place in places])
            else:
                axes.xaxis.set_major_formatter(STEPS)
                axes.locator_params(axis="x", nbins=5, integer=True)
            axes.set(title=title, xlabel=xlabel, ylim=(0, top([*table["value"], *table["high"]])))
            if share:
                axes.yaxis.set_major_formatter(PERCENT)
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=4, columnspacing=1.2)

    return chart(name, alt, (WIDTH, 360), draw)


def dots(table: pd.DataFrame, *, order: Sequence[str], xlabel: str, name: str, alt: str) -> Drawing:
    """Draw one value per row with each seed as a small mark.

    Args:
        table: Columns who, value; several rows of one who are its seeds.
        order: Rows from above.
        xlabel: What the value is, with its unit.
        name: See ``chart``.
        alt: See ``chart``.
    """
    place = {who: n for n, who in enumerate(order)}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for who, part in table.groupby("who", sort=False):
            axes.plot(part["value"], np.full(len(part), place[str(who)]), "|", color=BLUE, markersize=9)
            axes.plot(part["value"].mean(), place[str(who)], "o", color=BLUE, markersize=7)
        axes.set_yticks(list(place.values()), list(place))
        axes.set(xlabel=xlabel, ylim=(len(order) - 0.4, -0.6), xlim=(0, top(table["value"])))
        axes.grid(axis="x")

    return chart(name, alt, (WIDTH, 90 + 30 * len(order)), draw)


def consistency(
    points: pd.DataFrame, *, styles: Mapping[str, Mapping[str, Any]], inside: str, outside: tuple[str, str], alt: str
) -> Drawing:  # fmt: skip
    """Draw precision against the quality of samples: all checkpoints, and what is left without each step's mean.

    Args:
        points: Columns variant, seed, step, precision, value.
        styles: Colour and marker of each variant.
        inside: What the precision is of.
        outside: What quality is measured by, alone and with its unit and direction.
        alt: See ``chart``.
    """
    both = ["precision", "value"]
    rest = points.assign(**(points[both] - points.groupby("step")[both].transform("mean")))

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        handles: dict[str, Any] = {}
        for axes, table in ((left, points), (right, rest)):
            for variant, part in table.groupby("variant", sort=False):
                handles[str(variant)] = _checkpoints(axes, part, points["step"].max(), styles[str(variant)])
        left.set(title="all checkpoints", xlabel=inside, ylabel=outside[1])
        right.set(title="minus the mean of each step", xlabel=f"{inside}, difference in points",
                  ylabel=f"{outside[0]}, difference")  # fmt: skip
        left.xaxis.set_major_formatter(PERCENT)
        right.xaxis.set_major_formatter(SIGNED_POINTS)
        right.yaxis.set_major_formatter(SIGNED)
        right.axhline(0, color=MUTED, linewidth=1)
        right.axvline(0, color=MUTED, linewidth=1)
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=5, columnspacing=1.2)

    return chart("consistency", alt, (WIDTH, 400), draw)


def _checkpoints(axes: Axes, rows: pd.DataFrame, last: float, style: Mapping[str, Any]) -> Any:
    """Draw a variant's checkpoints, later ones darker; return a mark of the last for the legend."""
    look = {"color": style["color"], "marker": style["marker"], "linestyle": "", "markersize": 6}
    for step, part in rows.groupby("step"):
        axes.plot(part["precision"], part["value"], alpha=0.2 + 0.7 * float(step) / max(last, 1), **look)
    return axes.plot([], [], **look)[0]
