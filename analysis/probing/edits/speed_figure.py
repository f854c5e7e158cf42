"""The figure of a plan for speed: its table -> SVG, in the look of :mod:`analysis.figures`. Pure."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import BLUE, INK, MUTED, PAPER, PERCENT, VERMILION, WIDTH, Drawing, chart, legend
from analysis.probing.edits.causal_figures import SIGNED_PERCENT


def error_against_cost(curve: pd.DataFrame, *, budget: float, kept: int, alt: str) -> Drawing:
    """Draw the error of the prediction against the multiply-adds that remain, one point after each move.

    Args:
        curve: Columns moves, share (of multiply-adds, 0 to 1), growth, low and high (fractions), in the plan's order.
        budget: The most that the error may grow by, a fraction.
        kept: After how many moves the point is filled; 0 for none.
        alt: See :func:`~analysis.figures.chart`.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=MUTED, linewidth=1)
        label = f"the budget: {100 * budget:g} %"
        axes.axhline(budget, color=VERMILION, linestyle="--", linewidth=1.8, label=label)
        axes.plot([1, *curve["share"]], [0, *curve["growth"]], color=BLUE, linewidth=1, alpha=0.5)
        axes.vlines(curve["share"], curve["low"], curve["high"], color=BLUE, linewidth=1.8)
        _points(axes, curve[curve["moves"] != kept], "the plan after each of its moves", PAPER)
        _points(axes, curve[curve["moves"] == kept], f"after {kept} of them: the most that is shown to keep it", BLUE)
        _number(axes, curve)
        axes.set(xlabel="share of the multiply-adds of 3D attention that remains", ylabel="growth of the error")
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(SIGNED_PERCENT)
        axes.margins(x=0.12, y=0.12)
        legend(figure, axes)

    return chart("speed", alt, (WIDTH, 400), draw)


def _points(axes: Axes, rows: pd.DataFrame, label: str, face: str) -> None:
    known = rows.dropna(subset=["growth"])
    style: dict[str, Any] = {"color": BLUE, "markerfacecolor": face, "markeredgewidth": 1.6, "markersize": 8}
    if len(known):
        axes.plot(known["share"], known["growth"], "o", linestyle="", label=label, zorder=3, **style)


def _number(axes: Axes, curve: pd.DataFrame) -> None:
    """Write how many moves the last point stands for on its left, where no other point is."""
    for row in curve.tail(1).dropna(subset=["growth"]).itertuples():
        words = f"{row.moves} move{'s' if row.moves > 1 else ''}"
        where: dict[str, Any] = {"xytext": (-9, 0), "textcoords": "offset points"}
        axes.annotate(words, (row.share, row.growth), ha="right", va="center", color=INK, fontsize=12, **where)
