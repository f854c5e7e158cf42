"""Tables -> SVG text for inlining: no namespace, no identifiers that clash, colours that follow the page's theme."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.words import METHOD_LABELS
from probe.records import CEILING, MODEL, SAME_POSITION, UNIFORM, describe, null_label

# Every colour is a CSS variable of the page in disguise; its value here is what it falls back to, on white.
INK, MUTED, RULE, PAPER = "#1d2127", "#626a75", "#dfe3e8", "#fefefd"
BLUE, VERMILION, GREEN, PURPLE, GOLD = "#0b64ad", "#c44e0c", "#15835a", "#9b4f8f", "#8f6f00"
THEME = {"ink": INK, "muted": MUTED, "rule": RULE, "paper": PAPER, "blue": BLUE, "vermilion": VERMILION,
         "green": GREEN, "purple": PURPLE, "gold": GOLD}  # fmt: skip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "font.size": 13, "axes.titlesize": 13, "axes.labelsize": 13, "xtick.labelsize": 12, "ytick.labelsize": 12,
    "legend.fontsize": 12.5, "legend.frameon": False, "legend.handlelength": 1.8, "text.color": INK,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlelocation": "left", "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": RULE,
    "grid.linewidth": 1, "axes.linewidth": 1, "xtick.major.size": 0, "ytick.major.size": 0, "lines.linewidth": 1.8,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip
THIS_MODEL = METHOD_LABELS[MODEL]
NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
WIDTH = 920
POINTS = 72  # an SVG unit of matplotlib; sizes below are in these units, which the page shows as pixels
PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 1):g} %")
REFERENCE_STYLES: dict[str, dict[str, Any]] = {
    CEILING: {"color": INK, "linestyle": "-", "linewidth": 1.4},
    SAME_POSITION: {"color": VERMILION, "linestyle": "--", "linewidth": 1.8},
    UNIFORM: {"color": MUTED, "linestyle": ":", "linewidth": 1.8},
}
RIVAL_STYLES: tuple[dict[str, Any], ...] = (
    {"color": GOLD, "marker": "x"},
    {"color": GOLD, "marker": "+", "markersize": 9},
    {"color": MUTED, "marker": "^"},
    {"color": MUTED, "marker": "s"},
    {"color": INK, "marker": "D"},
    {"color": INK, "marker": "v"},
)
LINE_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linewidth": 2.4, "marker": "o"},
    {"color": GREEN, "linewidth": 1.5, "marker": "s"},
    {"color": PURPLE, "linewidth": 1.5, "marker": "D"},
)


# --- from matplotlib to the page -------------------------------------------------------------------------------------


class Drawing(str):
    """An SVG element that can be drawn again, as a file.

    Attributes:
        size: Width and height in the page's pixels.
        draw: Fills an empty figure.
    """

    size: tuple[int, int]
    draw: Callable[[Figure], None]

    def __new__(cls, svg: str, size: tuple[int, int], draw: Callable[[Figure], None]) -> "Drawing":
        """Keep beside the text how it came about."""
        drawing = super().__new__(cls, svg)
        drawing.size, drawing.draw = size, draw
        return drawing


def chart(name: str, alt: str, size: tuple[int, int], draw: Callable[[Figure], None]) -> Drawing:
    """Draw one figure as an SVG element for a page.

    Args:
        name: Tells this figure's identifiers from those of the page's other figures.
        alt: What a reader hears who cannot see it.
        size: Width and height in the page's pixels.
        draw: Fills the empty figure.

    Returns:
        ``<svg class="chart" ...>...</svg>``, the same text for the same data.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser has its own fonts
        figure = Figure(figsize=(size[0] / POINTS, size[1] / POINTS), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    return Drawing(inline(buffer.getvalue(), alt), size, draw)


def inline(svg: str, alt: str) -> str:
    """Turn a matplotlib SVG file into an element that can stand beside others on one page.

    Args:
        svg: A whole file.
        alt: Becomes the element's label.
    """
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = body.replace("'DejaVu Sans'", "system-ui").replace("\n", " ")
    for variable, colour in THEME.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    width = float(box[1].split()[2])
    shape = f'viewBox="{box[1]}" width="{width:.0f}"'
    body = re.sub(r' style="([^"]*)"', lambda style: _attributes(style[1]), body)
    return f'<svg class="chart" role="img" aria-label="{escape(alt)}" {shape}>{body}'


def _attributes(style: str) -> str:
    """Turn a style into presentation attributes, which the pages' Content-Security-Policy allows.

    ``font`` has no attribute of its own: matplotlib 3.9 writes "italic 700 13px family", the first two at will.
    """
    parts = dict(part.split(":", 1) for part in style.split(";") if part.strip())
    attributes = {name.strip(): value.strip() for name, value in parts.items()}
    if font := re.fullmatch(r"(italic )?(\d+ |bold )?([\d.]+px) (.+)", attributes.pop("font", "")):
        names = ("font-style", "font-weight", "font-size", "font-family")
        attributes |= {name: value.strip() for name, value in zip(names, font.groups(), strict=True) if value}
    return "".join(f' {name}="{value}"' for name, value in attributes.items())


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put the legend above a figure: what was measured first, then rivals, then references."""
    entries = zip(*axes.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(entries, key=lambda entry: _rank(entry[1])), strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.4, borderaxespad=0.2)


def _rank(label: str) -> int:
    if label in REFERENCE_STYLES:
        return 2
    return 0 if label == THIS_MODEL or label.startswith("layer ") else 1


def top(values: Iterable[float]) -> float:
    """Return an axis' upper end a little above the highest known value; 1 where there is none."""
    known = [value for value in values if np.isfinite(value)]
    return 1.08 * max(known, default=1.0) or 1.0


def _interval(axes: Axes, x: Any, frame: pd.DataFrame, **style: Any) -> None:
    axes.vlines(x, frame["low"], frame["high"], linewidth=style.pop("linewidth", 2), **style)


# --- layers ----------------------------------------------------------------------------------------------------------


def layer_profile(
    profile: pd.DataFrame,
    *,
    model: str,
    selected: int,
    mark: str,
    labels: Mapping[int, str],
    rivals: Sequence[str],
    name: str,
    alt: str,
) -> Drawing:
    """Draw precision per 3D layer with what it has to be compared with.

    Args:
        profile: Columns model, layer, value, low, high.
        model: The probed model.
        selected: The chosen layer's index.
        mark: What is written above it.
        labels: Text under each layer, in the order of the axis.
        rivals: Nulls and baselines to draw beside the model.
        name: See ``chart``.
        alt: See ``chart``.
    """
    place = {layer: n for n, layer in enumerate(labels)}
    rows = profile.assign(x=profile["layer"].map(place)).sort_values("x")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvspan(place[selected] - 0.46, place[selected] + 0.46, color=BLUE, alpha=0.09, linewidth=0)
        _references(axes, rows)
        for n, rival in enumerate(rivals):
            _rival(axes, rows[rows["model"] == rival], null_label(rival), _shift(n), n)
        _probed(axes, rows[rows["model"] == model], selected, mark)
        axes.set_xticks(list(place.values()), list(labels.values()), linespacing=1.35)
        axes.set(xlim=(-0.6, len(place) - 0.4), ylim=(0, top([*rows["value"], *rows["high"]])))
        axes.set(xlabel="layer", ylabel="precision")
        axes.yaxis.set_major_formatter(PERCENT)
        legend(figure, axes)

    return chart(name, alt, (max(WIDTH, 76 * len(place)), 460), draw)


def _shift(n: int) -> float:
    return (-1) ** n * (0.16 + 0.13 * (n // 2))


def _references(axes: Axes, rows: pd.DataFrame) -> None:
    for reference, style in REFERENCE_STYLES.items():
        marks = rows[rows["model"] == reference]
        if len(marks):
            axes.hlines(marks["value"], marks["x"] - 0.42, marks["x"] + 0.42, label=reference, **style)


def _rival(axes: Axes, rows: pd.DataFrame, label: str, shift: float, n: int) -> None:
    style = {"markersize": 6, "linestyle": "", "markerfacecolor": "none", "markeredgewidth": 1.4, **_rival_style(n)}
    axes.vlines(rows["x"] + shift, rows["low"], rows["high"], color=style["color"], linewidth=1, alpha=0.7)
    axes.plot(rows["x"] + shift, rows["value"], label=label, **style)


def _rival_style(n: int) -> dict[str, Any]:
    return RIVAL_STYLES[n % len(RIVAL_STYLES)]


def _probed(axes: Axes, rows: pd.DataFrame, selected: int, mark: str) -> None:
    _interval(axes, rows["x"], rows, color=BLUE, linewidth=2.6)
    axes.plot(rows["x"], rows["value"], "o", color=BLUE, markersize=7.5, label=THIS_MODEL)
    best = rows[rows["layer"] == selected]
    axes.plot(best["x"], best["value"], "o", color=BLUE, markersize=13, markerfacecolor="none", markeredgewidth=1.6)
    for row in best.dropna(subset=["value"]).itertuples():
        axes.annotate(mark, (row.x, max(row.value, row.high if row.high == row.high else 0)), (0, 9),
                      textcoords="offset points", ha="center", color=BLUE, weight="bold", fontsize=11)  # fmt: skip


# --- rotation, coverage, training ------------------------------------------------------------------------------------


def rotation_bins(table: pd.DataFrame, *, captions: Mapping[str, str], rivals: Sequence[str], alt: str) -> Drawing:
    """Draw precision per rotation bin: layers as points with intervals, references as steps, baselines as marks.

    Args:
        table: Columns who, rotation_bin, value, low, high.
        captions: Text under each bin, in the order of the axis.
        rivals: Baselines; their order gives their marks.
        alt: See ``chart``.
    """
    place = {name: n for n, name in enumerate(captions)}
    rows = table.assign(x=table["rotation_bin"].map(place))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _references(axes, rows.rename(columns={"who": "model"}))
        layers = [who for who in dict.fromkeys(rows["who"]) if who.startswith("layer ")]
        for n, who in enumerate(layers):
            _marks(axes, rows[rows["who"] == who], who, 0.12 * (n - (len(layers) - 1) / 2), n)
        for n, who in enumerate(rivals):
            if (rows["who"] == who).any():
                _rival(axes, rows[rows["who"] == who], who, 0.24 + 0.05 * n, n)
        axes.set_xticks(list(place.values()), list(captions.values()), linespacing=1.35)
        axes.set(xlim=(-0.55, len(place) - 0.45), ylim=(0, top([*rows["value"], *rows["high"]])))
        axes.set(xlabel="rotation between the cameras", ylabel="precision")
        axes.yaxis.set_major_formatter(PERCENT)
        legend(figure, axes)

    return chart("rotation", alt, (WIDTH, 380), draw)


def _marks(axes: Axes, rows: pd.DataFrame, label: str, shift: float, n: int) -> None:
    style = {**LINE_STYLES[n % len(LINE_STYLES)], "linestyle": "", "markersize": 7.5 if n == 0 else 5.5}
    _interval(axes, rows["x"] + shift, rows, color=style["color"])
    axes.plot(rows["x"] + shift, rows["value"], label=label, **style)


def coverage_curve(table: pd.DataFrame, *, rivals: Sequence[str], alt: str) -> Drawing:
    """Draw precision against the share of matches kept when the least ambiguous are kept first.

    Args:
        table: Columns who, coverage, value, low, high.
        rivals: Baselines; their order gives their marks.
        alt: See ``chart``.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _lines(axes, table, "coverage", rivals)
        axes.set(
            xlabel="share of matches kept, least ambiguous first",
            ylabel="precision",
            ylim=(0, top(table["high"].fillna(table["value"]))),
        )
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
        legend(figure, axes)

    return chart("coverage", alt, (WIDTH, 360), draw)


def _lines(axes: Axes, table: pd.DataFrame, x: str, rivals: Sequence[str]) -> None:
    layers = [who for who in dict.fromkeys(table["who"]) if who.startswith("layer ")]
    styles = {who: LINE_STYLES[n % len(LINE_STYLES)] for n, who in enumerate(layers)}
    styles |= {who: _rival_style(n) for n, who in enumerate(rivals)} | REFERENCE_STYLES
    for who in dict.fromkeys(table["who"]):
        part, style = table[table["who"] == who].sort_values(x), {"markersize": 5, **styles[who]}
        axes.fill_between(part[x], part["low"], part["high"], color=style["color"], alpha=0.13, linewidth=0)
        axes.plot(part[x], part["value"], label=who, **style)


def emergence_curve(table: pd.DataFrame, *, highlighted: Sequence[int], alt: str) -> Drawing:
    """Draw precision over training iterations: some layers in colour, the others in grey, chance dotted.

    Args:
        table: Columns step, layer, value, low, high, chance.
        highlighted: Layers drawn in colour.
        alt: See ``chart``.
    """
    named = table.assign(who="layer " + table["layer"].astype(str))
    chance = named[named["layer"].isin(highlighted[:1])].assign(
        who=UNIFORM, value=named["chance"], low=np.nan, high=np.nan
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        label = "other layers"
        for _, part in named[~named["layer"].isin(highlighted)].groupby("layer"):
            axes.plot(part["step"], part["value"], color=MUTED, alpha=0.55, linewidth=1, label=label)
            label = "_nolegend_"
        coloured = pd.concat([named[named["layer"] == layer] for layer in highlighted] + [chance])
        _lines(axes, coloured, "step", ())
        axes.set(xlabel="training iterations", ylabel="precision", ylim=(0, top([*named["value"], *named["high"]])))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}".replace(",", "\u202f")))
        axes.yaxis.set_major_formatter(PERCENT)
        legend(figure, axes, 5)

    return chart("emergence", alt, (WIDTH, 360), draw)


# --- heat maps and small multiples -----------------------------------------------------------------------------------


def heat_map(cells: pd.DataFrame, *, xlabel: str, name: str, alt: str) -> Drawing:
    """Draw a grid of precisions, each written in its cell in percent; cells without a value stay empty.

    Args:
        cells: Index: text of each row; columns: text of each column; values in [0, 1] or NaN.
        xlabel: What the columns are.
        name: See ``chart``.
        alt: See ``chart``.
    """
    digits = 0 if cells.max().max() >= 0.1 else 1
    texts = cells.map(lambda value: "" if np.isnan(value) else f"{100 * value:.{digits}f}")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        bar = {"format": PERCENT, "pad": 0.015, "aspect": 30}
        style = {"cmap": "crest", "vmin": 0, "linewidths": 1.5, "linecolor": PAPER, "annot_kws": {"size": 11}}
        seaborn.heatmap(cells, ax=axes, annot=texts, fmt="", cbar_kws=bar, **style)
        _contrast(axes, len(cells.columns))
        axes.tick_params(axis="both", rotation=0)
        axes.set(xlabel=xlabel, ylabel="")

    return chart(name, alt, (WIDTH, 110 + 30 * len(cells)), draw)


def _contrast(axes: Axes, columns: int) -> None:
    """Write each cell's text in black or white, whichever stands out more (WCAG 2: at luminance 0.18 both do)."""
    colours = np.asarray(axes.collections[0].get_facecolor(), dtype=float)[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722] > 0.179
    for text in axes.texts:
        column, row = (int(part) for part in text.get_position())
        text.set_color("black" if light[row * columns + column] else "white")


def small_multiples(
    table: pd.DataFrame, *, titles: Mapping[str, str], selected: int, labels: Mapping[int, str], alt: str
) -> Drawing:
    """Draw one small panel per metric, layer by layer with intervals.

    Args:
        table: Columns model, metric, layer, value, low, high; rows of the uniform chance become marks.
        titles: Text above each panel, by metric, in order.
        selected: The chosen layer's index, drawn in colour.
        labels: Text under each layer, in the order of the axis.
        alt: See ``chart``.
    """
    place = {layer: n for n, layer in enumerate(labels)}
    rows = table.assign(x=table["layer"].map(place))

    def draw(figure: Figure) -> None:
        grid = figure.subplots((len(titles) + 1) // 2, 2, squeeze=False, gridspec_kw={"hspace": 0.12})
        for axes in grid.flat[len(titles) :]:
            axes.set_visible(False)
        for axes, (metric, title) in zip(grid.flat, titles.items(), strict=False):
            here = rows[rows["metric"] == metric]
            part = here[here["model"] != UNIFORM]
            _references(axes, here[here["model"] == UNIFORM])
            colours = [BLUE if layer == selected else MUTED for layer in part["layer"]]
            _interval(axes, part["x"], part, colors=colours)
            axes.scatter(part["x"], part["value"], c=colours, s=34, zorder=3)
            axes.set_xticks(list(place.values()), [str(layer) for layer in place])
            axes.set(title=title, xlabel="layer")
            axes.set(ylim=(0, top([*here["value"], *part["high"]])), xlim=(-0.6, len(place) - 0.4))
            if describe(metric).share:
                axes.yaxis.set_major_formatter(PERCENT)

    return chart("attention", alt, (WIDTH, 250 * ((len(titles) + 1) // 2)), draw)
