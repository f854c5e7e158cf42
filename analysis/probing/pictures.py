"""Match pictures: where each layer's attention sends the points of a view, and where they truly lie."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from markupsafe import escape
from PIL import Image

from analysis.probing.rotation import bins
from analysis.probing.tables import ProbeRun
from probe.records import parse_grid, rotation_bin, split_threshold

PAPER_LAYERS = (2, 4, 6, 7, 10)  # the columns of the paper's figure (CAMEO, arXiv 2512.03045)
SIDE = 100.0  # width of a panel in its own units
DOT, DOTS_PER_SIDE = 2.5, 8
# Colours of a view's corners (top left, top right; bottom left, bottom right): yellow to blue along x, light to dark
# along y, which readers with any kind of colour vision can tell apart
CORNERS = np.array([[[255, 226, 90], [120, 205, 255]], [[186, 66, 0], [28, 32, 150]]], dtype=float)
PHOTO = 256  # pixels: larger images are embedded as JPEG and smoothed
DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Example:
    """One ordered pair of views and what each layer's attention finds in it.

    Attributes:
        scene: Its name.
        query_view: Index of the view whose tokens ask.
        key_view: Index of the view in which they look.
        n_ref: How many views are references; these come first.
        rotation_deg: Between the two cameras; NaN if the scores do not tell.
        rotation_bin: Its 30-degree bin.
        timestep: At which the attention was read.
        matches: Rows of this pair at this timestep.
    """

    scene: str
    query_view: int
    key_view: int
    n_ref: int
    rotation_deg: float
    rotation_bin: str
    timestep: int
    matches: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture with its title and the numbers under it."""

    title: str
    note: str
    svg: str
    selected: bool = False


# --- which pairs -----------------------------------------------------------------------------------------------------


def choose_examples(run: ProbeRun, count: int = 6) -> list[Example]:
    """Choose pairs of views to show: the first of each rotation bin in turn, another scene wherever there is one.

    Quality plays no part. Of several timesteps the middle one is taken.

    Args:
        run: The probe run.
        count: How many at most.
    """
    if run.matches is None or run.matches.empty:
        return []
    rows = _with_rotation(run.matches[run.matches["scene"].isin(_scenes(run))], run.scores)
    steps = sorted(rows["timestep"].unique())
    rows = rows[rows["timestep"] == steps[len(steps) // 2]] if steps else rows
    groups = [_example(key, group) for key, group in rows.groupby(["scene", "query_view", "key_view"], sort=True)]
    groups = [group for group in groups if run.selection["direction"] in ("all", _direction(group))] or groups
    order = [*bins(run), "nan"]
    return sorted(_in_turn(groups, order, count), key=lambda e: (order.index(e.rotation_bin), e.scene))


def _scenes(run: ProbeRun) -> list[str]:
    return [name.removeprefix("image/") for name in run.images]


def _direction(example: Example) -> str:
    roles = ["ref" if view < example.n_ref else "tgt" for view in (example.query_view, example.key_view)]
    return "-".join(roles)


def _with_rotation(matches: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    views = ["scene", "query_view", "key_view"]
    rows = matches.merge(scores[[*views, "rotation_deg"]].drop_duplicates(views), on=views, how="left")
    return rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]).astype(str))


def _example(key: tuple[str, int, int], group: pd.DataFrame) -> Example:
    first = group.iloc[0]
    return Example(
        scene=str(key[0]),
        query_view=int(key[1]),
        key_view=int(key[2]),
        n_ref=int(first["n_ref"]),
        rotation_deg=float(first["rotation_deg"]),
        rotation_bin=str(first["rotation_bin"]),
        timestep=int(first["timestep"]),
        matches=group,
    )


def _in_turn(groups: Sequence[Example], order: Sequence[str], count: int) -> list[Example]:
    left, chosen = list(groups), list[Example]()
    while left and len(chosen) < count:
        for name in order:
            shown = {example.scene for example in chosen}
            here = sorted((e for e in left if e.rotation_bin == name), key=lambda e: e.scene in shown)
            chosen += here[:1]
            left = [e for e in left if e is not (here[0] if here else None)]
    return chosen[:count]


def panel_layers(example: Example, selected: int) -> list[int]:
    """Choose the layers to show: those of the paper's figure (if two are there, else five spread evenly), the selected.

    Args:
        example: What is to be shown.
        selected: The chosen layer's index.
    """
    present = sorted(int(layer) for layer in example.matches["layer"].unique())
    named = [layer for layer in PAPER_LAYERS if layer in present]
    spread = sorted({present[round(n)] for n in np.linspace(0, len(present) - 1, 5)})
    wanted = {*(named if len(named) > 1 else spread), selected}
    return [layer for layer in present if layer in wanted]


# --- drawing ---------------------------------------------------------------------------------------------------------


def is_right(rows: pd.DataFrame, metric: str, grid: str, aspect: float) -> pd.Series:
    """Return which matches are drawn as right: their error in the image is below the metric's threshold.

    Args:
        rows: match_x, match_y, true_x, true_y as fractions of the image's width and height.
        metric: "precision@5%" of the image's side, the geometric mean of height and width; "precision@1token"; any
            other, such as a distance in 3D, stands for 5 %.
        grid: Token rows x columns.
        aspect: Image height over width.
    """
    across, down = rows["match_x"] - rows["true_x"], rows["match_y"] - rows["true_y"]
    amount, unit = split_threshold(metric) or (0.0, "")
    if unit == "token":
        h, w = parse_grid(grid)
        return np.hypot(across * w, down * h) < amount
    limit = amount / 100 if unit == "%" else DEFAULT_TOLERANCE
    return np.hypot(across / aspect**0.5, down * aspect**0.5) < limit


def best_possible(rows: pd.DataFrame, grid: str) -> pd.DataFrame:
    """Replace each match by the centre of the token that contains the truth: the best that the grid allows.

    Args:
        rows: Query tokens with a truth.
        grid: Token rows x columns.
    """
    h, w = parse_grid(grid)
    x, y = ((np.floor(rows[f"true_{axis}"] * n).clip(0, n - 1) + 0.5) / n for axis, n in (("x", w), ("y", h)))
    return rows.assign(match_x=x, match_y=y)


def image_key(scene: int, view: int) -> str:
    """Return the identifier of an embedded image within the page."""
    return f"image-{scene}-{view}"


def embedded_images(run: ProbeRun, examples: Iterable[Example], views: Iterable[tuple[str, int]] = ()) -> str:
    """Embed each image that the examples show once, as SVG definitions that panels refer to.

    Args:
        run: Holds the images.
        examples: Those to be shown.
        views: More images, by scene and view.
    """
    scenes = _scenes(run)
    named = {(e.scene, view) for e in examples for view in (e.query_view, e.key_view)} | set(views)
    wanted = sorted((scenes.index(scene), view) for scene, view in named)
    images = [_embedded(run.images[f"image/{scenes[n]}"][view], image_key(n, view)) for n, view in wanted]
    return f'<svg class="store" width="0" height="0" aria-hidden="true"><defs>{"".join(images)}</defs></svg>'


def _embedded(image: UInt8[np.ndarray, "3 height width"], key: str) -> str:
    photo = max(image.shape[1:]) > PHOTO
    buffer, kind = io.BytesIO(), "jpeg" if photo else "png"
    pixels = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    pixels.save(buffer, kind, **({"quality": 88} if photo else {"optimize": True}))
    data = base64.b64encode(buffer.getvalue()).decode()
    height = SIDE * image.shape[1] / image.shape[2]
    style = "auto" if photo else "pixelated"
    return (
        f'<image id="{key}" width="{SIDE:g}" height="{height:.4g}" preserveAspectRatio="none" '
        f'image-rendering="{style}" href="data:image/{kind};base64,{data}"/>'
    )


def panels(run: ProbeRun, example: Example, names: Mapping[int, str]) -> list[Panel]:
    """Draw an example: the query view, the truth in the key view, and each layer's matches.

    Args:
        run: Holds the images and the selection.
        example: What to draw.
        names: A layer's place in the model, by index.
    """
    height, width = run.images[f"image/{example.scene}"].shape[2:]
    aspect = height / width
    scene = _scenes(run).index(example.scene)
    asked, found = image_key(scene, example.query_view), image_key(scene, example.key_view)
    layers = panel_layers(example, run.layer)
    rows = {layer: example.matches[example.matches["layer"] == layer] for layer in layers}
    finest = rows[max(layers, key=lambda layer: len(rows[layer]))]
    seen = int(finest["visible"].sum())
    drawn = thinned(finest)
    shown = drawn[drawn["visible"]]
    asked_marks = _hidden(drawn, aspect) + _dots(shown, "query", shown, aspect)
    counted, drawn_of = f"{seen} of {len(finest)} tokens seen in both views", f"{len(shown)} of {seen} tokens drawn"
    first = [
        Panel(
            title=f"query: view {example.query_view}",
            note=counted.replace(" seen", "\nseen"),
            svg=_panel(asked, aspect, asked_marks, f"query view, {counted}"),
        ),
        Panel(
            title=f"truth in view {example.key_view}",
            note=drawn_of,
            svg=_panel(found, aspect, _dots(shown, "true", shown, aspect), f"true matches, {drawn_of}"),
        ),
    ]
    return first + [_layer_panel(run, layer, rows[layer], found, aspect, names) for layer in layers]


def _layer_panel(
    run: ProbeRun, layer: int, rows: pd.DataFrame, image: str, aspect: float, names: Mapping[int, str]
) -> Panel:
    seen = rows[rows["visible"]]
    grid = str(rows["grid"].iloc[0])
    right = is_right(seen, run.metric, grid, aspect)
    possible = is_right(best_possible(seen, grid), run.metric, grid, aspect)
    drawn = thinned(rows)
    drawn = drawn[drawn["visible"]]
    note = f"{int(right.sum())} of {len(seen)} right\n{grid} allows {int(possible.sum())}"
    return Panel(
        title=f"layer {layer} · {names[layer]}",
        note=note,
        svg=_panel(image, aspect, _matches(drawn, right.reindex(drawn.index), aspect), f"layer {layer}: {note}"),
        selected=layer == run.layer,
    )


def thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep at most 8 x 8 query tokens, evenly spread over the grid.

    Args:
        rows: One row per query token.
    """
    keep = pd.Series(data=True, index=rows.index)
    for axis in ("query_x", "query_y"):
        rank = rows[axis].rank(method="dense").astype(int) - 1
        step = math.ceil((int(rank.max()) + 1) / DOTS_PER_SIDE)
        keep &= rank % step == step // 2
    return rows[keep]


def _panel(image: str, aspect: float, marks: str, alt: str) -> str:
    return (
        f'<svg class="panel" role="img" aria-label="{escape(alt)}" viewBox="0 0 {SIDE:g} {SIDE * aspect:.4g}">'
        f'<use href="#{image}"/>{marks}</svg>'
    )


def colour(x: float, y: float) -> str:
    """Colour a place in the query view: yellow to blue along x, light to dark along y.

    Args:
        x: From 0 (left) to 1 (right).
        y: From 0 (top) to 1 (bottom).
    """
    top, bottom = (CORNERS[row][0] * (1 - x) + CORNERS[row][1] * x for row in (0, 1))
    return "#{:02x}{:02x}{:02x}".format(*(round(part) for part in top * (1 - y) + bottom * y))


def _dots(rows: pd.DataFrame, place: str, colours: pd.DataFrame, aspect: float) -> str:
    spots = zip(rows[f"{place}_x"], rows[f"{place}_y"], colours["query_x"], colours["query_y"], strict=True)
    return "".join(_dot(SIDE * x, SIDE * y * aspect, colour(qx, qy)) for x, y, qx, qy in spots)


def _dot(x: float, y: float, fill: str) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{fill}"/>'


def _hidden(rows: pd.DataFrame, aspect: float) -> str:
    lost = rows[~rows["visible"]]
    spots = zip(SIDE * lost["query_x"], SIDE * lost["query_y"] * aspect, strict=True)
    return "".join(f'<circle class="hidden" cx="{x:.1f}" cy="{y:.1f}" r=".9"/>' for x, y in spots)


def _matches(rows: pd.DataFrame, right: pd.Series, aspect: float) -> str:
    hit = rows[right.astype(bool)]
    misses = "".join(_miss(row, aspect) for row in rows[~right.astype(bool)].itertuples())
    return misses + _dots(hit, "match", hit, aspect)


def _miss(row: Any, aspect: float) -> str:
    stroke, down = colour(row.query_x, row.query_y), SIDE * aspect
    x, y, true_x, true_y = SIDE * row.match_x, down * row.match_y, SIDE * row.true_x, down * row.true_y
    ring = f'cx="{x:.1f}" cy="{y:.1f}" r="{DOT}"'
    return (
        f'<path class="miss" stroke="{stroke}" d="M{x:.1f} {y:.1f}L{true_x:.1f} {true_y:.1f}"/>'
        f'<circle class="rim" {ring}/><circle class="ring" {ring} stroke="{stroke}"/>'
    )
