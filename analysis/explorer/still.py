"""The explorer's still picture, for print and for browsers that run no scripts: where it starts. Pure."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import escape

from analysis.explorer.payload import CELLS, MAP_LEVELS, Start
from analysis.explorer.reading import Explored
from analysis.probing import tables
from analysis.probing.pictures import SIDE, image_key
from probe.records import parse_grid

FAINT = 0.04
"""Level below which a cell is not shaded."""


@dataclass(frozen=True, kw_only=True)
class Still:
    """The picture of one view with its words."""

    title: str
    note: str
    svg: str


def stills(model: Explored, scenes: list[str], start: Start) -> tuple[Still, ...]:
    """Draw the query view, then what its token's attention finds in each of the others.

    Args:
        model: The page's own.
        scenes: Those shown.
        start: What to draw.
    """
    scene = scenes[start.scene]
    views = [int(view) for view in model.get("views", "-", scene)]
    image, number = model.run.images[f"image/{scene}"], _number(model, scene)
    aspect = image.shape[2] / image.shape[3]
    grid = tables.layer_grids(model.run)[start.layer]
    asked = _centre(int(model.get("asked", grid, scene)[start.token]), grid)
    said = f"view {views[start.view]}: the query token, x {100 * asked[0]:.0f} %, y {100 * asked[1]:.0f} %"
    first = Still(
        title=f"query: view {views[start.view]}",
        note="the token in the square",
        svg=_svg(image_key(number, views[start.view]), aspect, _token(asked, grid, aspect), said),
    )
    others = [n for n in range(len(views)) if n != start.view]
    return first, *(_found(model, scene, start, slot, views[n], number, aspect) for slot, n in enumerate(others))


def _number(model: Explored, scene: str) -> int:
    return [name.removeprefix("image/") for name in model.run.images].index(scene)


def _found(model: Explored, scene: str, start: Start, slot: int, view: int, number: int, aspect: float) -> Still:
    grid = tables.layer_grids(model.run)[start.layer]
    where = (start.view, start.token, slot)
    match = _centre(int(model.get("token", start.layer, scene)[start.time][where]), grid)
    right = bool(model.get("right", start.layer, scene)[start.time][where])
    seen = bool(model.get("visible", grid, scene)[where])
    true = model.get("true_xy", grid, scene)[where]
    heat = _heat(_levels(model, scene, start, slot), grid, aspect)
    marks = heat + (_ring(true, aspect) if seen else "") + _match(match, aspect, right=right)
    verdict = ("right" if right else "wrong") if seen else "not seen here: no truth"
    return Still(
        title=f"view {view}", note=verdict, svg=_svg(image_key(number, view), aspect, marks, f"view {view}: {verdict}")
    )


def _centre(token: int, grid: str) -> tuple[float, float]:
    h, w = parse_grid(grid)
    return (token % w + 0.5) / w, (token // w + 0.5) / h


def _svg(image: str, aspect: float, marks: str, alt: str) -> str:
    return (
        f'<svg class="panel" role="img" aria-label="{escape(alt)}" viewBox="0 0 {SIDE:g} {SIDE * aspect:.4g}">'
        f'<use href="#{image}"/>{marks}</svg>'
    )


def _token(at: tuple[float, float], grid: str, aspect: float) -> str:
    h, w = parse_grid(grid)
    x, y, width, height = SIDE * (at[0] - 0.5 / w), SIDE * aspect * (at[1] - 0.5 / h), SIDE / w, SIDE * aspect / h
    box = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="none"'
    return f'<rect {box} stroke="#000" stroke-width="2.2"/><rect {box} stroke="#fff" stroke-width="1"/>'


def _levels(model: Explored, scene: str, start: Start, slot: int) -> np.ndarray:
    """Return the root of each cell's weight over the highest's: of tokens, or of pooled cells where these were kept."""
    if not model.is_exact(start.layer, scene):
        return model.get("map", start.layer, scene)[start.time][start.view, start.token, slot] / MAP_LEVELS
    other = slot + (slot >= start.view)
    weights = attention(**model.attention(start.layer, scene, start.time), view=start.view, token=start.token)[other]
    return np.sqrt(weights / weights.max())


def attention(
    q: Float[np.ndarray, "fq a heads d"],
    k: Float[np.ndarray, "f n heads d"],
    within: Float[np.ndarray, "fq a heads"],
    *,
    view: int,
    token: int,
) -> Float[np.ndarray, "f n"]:
    """Compute where a query token looks, all heads together, as the page's script does.

    Args:
        q: Queries, times the factor of the logits.
        k: Keys.
        within: Share of each head's weight on the views kept.
        view: Of the query, among the kept ones.
        token: Its place among the asked ones.

    Returns:
        Weights over the tokens of all kept views, which sum to 1 where these are all tokens.
    """
    logits = np.einsum("hd,fnhd->hfn", q[view, token].astype(np.float64), k)
    weights = np.exp(logits - logits.max((1, 2), keepdims=True))
    weights *= within[view, token][:, None, None] / weights.sum((1, 2), keepdims=True)
    return weights.mean(0)


def _heat(levels: np.ndarray, grid: str, aspect: float) -> str:
    """Shade the cells: the darker, the more weight."""
    sides = parse_grid(grid)
    rows, columns = sides if len(levels) == sides[0] * sides[1] else (min(side, CELLS) for side in sides)
    width, height = SIDE / columns, SIDE * aspect / rows
    return "".join(
        f'<rect x="{n % columns * width:.2f}" y="{n // columns * height:.2f}" width="{width:.2f}" '
        f'height="{height:.2f}" fill="#d62f10" fill-opacity="{0.75 * level:.2f}"/>'
        for n, level in enumerate(levels)
        if level > FAINT
    )


def _ring(at: np.ndarray, aspect: float) -> str:
    ring = f'cx="{SIDE * at[0]:.2f}" cy="{SIDE * aspect * at[1]:.2f}" r="3.4" fill="none"'
    return f'<circle {ring} stroke="#000" stroke-width="2.2"/><circle {ring} stroke="#fff" stroke-width="1.1"/>'


def _match(at: tuple[float, float], aspect: float, *, right: bool) -> str:
    x, y = SIDE * at[0], SIDE * aspect * at[1]
    if right:
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="1.9" fill="#0b64ad" stroke="#fff" stroke-width=".7"/>'
    path = f'd="M{x - 2:.2f} {y - 2:.2f}l4 4m0 -4l-4 4" fill="none"'
    return f'<path {path} stroke="#fff" stroke-width="2.4"/><path {path} stroke="#b3390b" stroke-width="1.2"/>'
