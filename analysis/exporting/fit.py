"""A drawn figure -> the same figure, arranged for its width: panels stacked, labels shortened, nothing overlaps."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation

NARROW = 640
"""Width below which legends stand under the axes, as in a column of a paper."""
PANEL, SHARING = 250, 100
"""Least width of a panel beside others, and of one that shares the names of its rows with them."""
PAD = 7
"""Room above the labels of the x axis: where the axes meet stand labels of both."""
ROW = 24
"""Height of a row that has a name of its own."""
SHORTEST, SHAPE = 150.0, 0.68
"""Least height of a panel, and its height over its width where the canvas is narrow."""
PASSES = 3
"""Rounds of arranging: a shorter label leaves more room for its neighbours."""
SHORT = 3
"""Letters of labels, such as indexes, of which every other one is enough; longer ones are turned upright."""
GAP = 3.0
"""Least room between the labels of an axis."""


def fit(figure: Figure) -> None:
    """Arrange a drawn figure for its width, and set the height that it then needs.

    Panels that would be too thin are stacked; the legend takes as many columns as fit, below the axes where the canvas
    is narrow; titles and labels are wrapped; an axis whose labels would touch keeps the first line of each, turned
    upright if they are long, or fewer numbers; values that no cell holds are left to the colour bar. Letters keep
    their size.

    Args:
        figure: With a constrained layout, at 72 pixels per inch: lengths here are in points.
    """
    canvas = FigureCanvasAgg(figure)
    panels = _panels(figure)
    height = figure.bbox.height / max(_grid(panels).nrows, 1)
    _stack(figure, panels)
    for axes in panels:
        axes.tick_params(axis="x", pad=PAD)
        for mark in (*axes.lines, *axes.collections, *axes.patches):
            mark.set_in_layout(False)  # none leaves its panel, and measuring them takes most of the time
    _place_legends(figure, canvas)
    for _ in range(PASSES):
        _lay_out(figure)
        for axes in figure.axes:
            _wrap_words(axes)
        _thin_labels(figure)
        for axes in panels:
            _thin_cells(axes, figure)
        _lay_out(figure)
        if not _set_height(figure, panels, height):
            return


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)


def _grid(panels: Sequence[Axes]) -> GridSpec:
    grid = panels[0].get_gridspec()
    assert grid is not None
    return grid


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_subplotspec() is not None]


# --- panels ----------------------------------------------------------------------------------------------------------


def _stack(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put fewer panels in a row where they would be thinner than ``PANEL``; those that share names need less."""
    before, columns = _grid(panels), _columns(figure, panels)
    if columns == before.ncols:
        return
    grid = figure.add_gridspec(-(-len(panels) // columns), columns)
    figure.set_figheight(figure.get_figheight() * grid.nrows / before.nrows)
    for place, axes in enumerate(panels):
        axes.set_subplotspec(grid[place])
        if _is_named(axes.yaxis) or place % columns == 0:
            axes.tick_params(labelleft=place % columns == 0)
    for axes in figure.axes:
        if not axes.get_visible():
            axes.remove()


def _columns(figure: Figure, panels: Sequence[Axes]) -> int:
    """Return how many panels stand in a row."""
    room, least = figure.bbox.width, PANEL
    if _is_named(panels[0].yaxis):
        names = [label.get_window_extent().width for axes in panels for label in axes.get_yticklabels()]
        room, least = room - max(names, default=0), SHARING
    return min(_grid(panels).ncols, max(1, int(room // least)))


def _set_height(figure: Figure, panels: Sequence[Axes], natural: float) -> bool:
    """Make each row of panels as high as it needs to be; return whether that moved anything."""
    rows = _grid(panels).nrows
    short = max(_wanted_height(axes, natural) - _height(figure, axes) for axes in panels)
    figure.set_figheight(max(figure.bbox.height + rows * short, SHORTEST) / figure.dpi)
    return bool(abs(short) > 1)


def _height(figure: Figure, axes: Axes) -> float:
    """Return the height that the layout leaves to an axes, which takes less of it where its shape is fixed."""
    return axes.get_position(original=True).height * figure.bbox.height


def _wanted_height(axes: Axes, natural: float) -> float:
    if _is_named(axes.yaxis):
        return ROW * (len(axes.get_yticks()) + 0.2)
    if axes.get_aspect() != "auto":
        return min(axes.get_position(original=True).width * axes.figure.bbox.width, natural - 80)
    return max(SHORTEST, min(SHAPE * axes.bbox.width, natural - 80))


# --- legends ---------------------------------------------------------------------------------------------------------


def _place_legends(figure: Figure, canvas: FigureCanvasAgg) -> None:
    narrow = figure.bbox.width < NARROW
    for legend in list(figure.legends):
        where = {"loc": f"outside {'lower' if narrow else 'upper'} left", "borderaxespad": 0.2}
        made = _refill(figure, legend, canvas, **where)
        figure.set_figheight((figure.bbox.height + made.get_window_extent().height) / figure.dpi)
    for axes in figure.axes if narrow else ():
        own = axes.get_legend()
        if own is not None:
            below = axes.transAxes + ScaledTranslation(0, -_below(figure, axes) / figure.dpi, figure.dpi_scale_trans)
            where = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}
            _refill(axes, own, canvas, **where)


def _below(figure: Figure, axes: Axes) -> float:
    """Return how far an axes' labels reach below it."""
    _lay_out(figure)
    tight = axes.xaxis.get_tightbbox()
    return 6.0 if tight is None else axes.bbox.y0 - tight.y0 + 6


def _refill(owner: Any, legend: Legend, canvas: FigureCanvasAgg, **where: Any) -> Legend:
    """Make a legend anew with as many columns as fit, its words wrapped if one column is too wide."""
    room = owner.bbox.width - (8 if isinstance(owner, Figure) else 0)
    handles, labels = list(legend.legend_handles), [text.get_text() for text in legend.get_texts()]
    size = legend.get_texts()[0].get_fontsize()
    most = min(len(labels), 6 if isinstance(owner, Figure) else 3)
    legend.remove()
    for columns in range(most, 0, -1):
        made = owner.legend(handles, labels, ncols=columns, columnspacing=1.4, fontsize=size, **where)
        if made.get_window_extent(canvas.get_renderer()).width <= room:
            return made
        made.remove()
    words = [textwrap.fill(label, int(room / size / 0.62)) for label in labels]
    return owner.legend(handles, words, fontsize=size, **where)


# --- words -----------------------------------------------------------------------------------------------------------


def _wrap_words(axes: Axes) -> None:
    """Break titles and names of axes that are longer than their panel."""
    for title in _titles(axes):
        _wrap(title, axes.bbox.width)
    _wrap(axes.xaxis.label, axes.bbox.width)
    _wrap(axes.yaxis.label, axes.bbox.height)


def _titles(axes: Axes) -> list[Text]:
    return [text for text in axes.get_children() if isinstance(text, Text) and text.get_text() in {
        axes.get_title("left"), axes.get_title("center")} and text.get_text() and text not in axes.texts]  # fmt: skip


def _wrap(text: Text, room: float) -> None:
    extent = text.get_window_extent()
    length = extent.height if text.get_rotation() == 90 else extent.width
    words = " ".join(text.get_text().split("\n"))
    if words and length > room:
        longest = max(len(line) for line in text.get_text().split("\n"))
        text.set_text(textwrap.fill(words, max(6, int(longest * room / length)), break_long_words=False))


# --- labels of axes --------------------------------------------------------------------------------------------------


def tick_labels(axis: Axis) -> list[Text]:
    """Return the labels of an axis that are seen.

    Args:
        axis: Of a figure that was laid out.
    """
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    ticks = (tick for tick in axis.get_major_ticks() if low - slack <= tick.get_loc() <= high + slack)
    labels = (label for tick in ticks for label in (tick.label1, tick.label2))
    return [label for label in labels if label.get_visible() and label.get_text() and axis.axes.get_visible()]


def crowded(labels: Sequence[Text], gap: float = GAP) -> bool:
    """Return whether labels touch or nearly touch one another.

    Args:
        labels: Of one axis.
        gap: Room that they need between them, in pixels.
    """
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: (box.x0, box.y0))
    return any(_touch(first, second, gap) for first, second in pairwise(boxes))


def _touch(first: Bbox, second: Bbox, gap: float) -> bool:
    beside = first.x1 + gap <= second.x0 or second.x1 + gap <= first.x0
    return not (beside or first.y1 <= second.y0 or second.y1 <= first.y0)


def _is_named(axis: Axis) -> bool:
    """Return whether an axis has names at its ticks, one per place."""
    return isinstance(axis.get_major_locator(), FixedLocator)


def _thin_labels(figure: Figure) -> None:
    """Make the labels of crowded axes smaller, a step at a time, until none is; rows get the height that they need."""
    steps = {axis: _shorter(axis) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
             if axis.axis_name == "x" or not _is_named(axis)}  # fmt: skip
    while steps:
        steps = {axis: step for axis, step in steps.items() if crowded(tick_labels(axis)) and next(step, False)}
        if steps:
            _lay_out(figure)


def _shorter(axis: Axis) -> Iterator[bool]:
    """Take one way after the other of making labels smaller, and return True for each."""
    if not _is_named(axis):
        for bins in (5, 4, 3, 2, 1):
            axis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 5, 10], min_n_ticks=min(2, bins)))
            yield True
        return
    names = [label.get_text().partition("\n")[0] for label in axis.get_ticklabels()]
    axis.set_ticks(axis.get_ticklocs(), names)
    yield True
    if max(map(len, names)) > SHORT:
        axis.set_tick_params(rotation=90)
        yield True
    for every in range(2, len(names)):
        axis.set_ticks(axis.get_ticklocs(), [name if place % every == 0 else "" for place, name in enumerate(names)])
        yield True


def _thin_cells(axes: Axes, figure: Figure) -> None:
    """Leave a heat map's values to its cells where these hold them, else to its colour bar."""
    meshes = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    if not meshes or not axes.texts:
        return
    cell = axes.bbox.width / (axes.get_xlim()[1] - axes.get_xlim()[0])
    if max(text.get_window_extent().width for text in axes.texts) > 0.94 * cell:
        for text in list(axes.texts):
            text.remove()
    elif meshes[0].colorbar is not None and figure.bbox.width < NARROW:
        meshes[0].colorbar.remove()
