"""Scenes as a picture: a row per scene, its views side by side, lines between true matches with view 0."""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from probe.correspondence import own_view, project_tokens
from probe.geometry import project, unproject
from probe.records.words import shorten
from probe.scenes.recordings import supposed_distances
from probe.views import Views

GRID = 32  # tokens a side, of which some are drawn
GAP = 0.04  # between views, in their width
LETTERS = 44  # of a title that fit over a view


def draw_scenes(scenes: list[Views], matches: int) -> Figure:
    """Draw a row per scene: its views, and lines from view 0 to where its points are really seen in the others.

    Scenes without depth show the epipolar lines of pixels of view 0 instead.

    Args:
        scenes: Batches of one.
        matches: Lines per pair of views, at most.
    """
    columns = max(views.count for views in scenes)
    figure = Figure(figsize=(3 * columns, 3.15 * len(scenes)), layout="constrained")
    axes = figure.subplots(len(scenes), 1, squeeze=False)[:, 0]
    for views, axis in zip(scenes, axes, strict=True):
        _draw_scene(axis, views, matches)
    return figure


def _draw_scene(axis: Axes, views: Views, matches: int) -> None:
    height, width = views.size
    step = width * (1 + GAP)
    for view in range(views.count):
        pixels = rearrange(views.image[0, view], "c height width -> height width c").numpy()
        axis.imshow(pixels, extent=(view * step, view * step + width, height, 0))
    axis.set(xlim=(0, views.count * step - width * GAP), ylim=(height, 0))
    axis.set_axis_off()
    ending = "" if views.valid.any() else " (no depth: epipolar lines)"
    axis.set_title(shorten(views.names[0], LETTERS * views.count - len(ending)) + ending, fontsize=8, parse_math=False)
    for view in range(1, views.count):
        known = _matches(views, view, matches) if views.valid.any() else _epipolar_lines(views, view, matches)
        for rank, (start, end) in enumerate(known):
            moved = end + torch.tensor([view * step, 0.0])
            line = torch.cat([start, moved]) if views.valid.any() else moved
            _draw_line(axis, line, start, colormaps["hsv"](rank / matches))


def _draw_line(
    axis: Axes, line: Float[Tensor, "k 2"], start: Float[Tensor, "1 2"], colour: tuple[float, float, float, float]
) -> None:
    outline = [withStroke(linewidth=1.8, foreground="white")]
    axis.plot(*line.mT.tolist(), color=colour, linewidth=0.8, path_effects=outline)
    axis.plot(*start.mT.tolist(), color=colour, marker="o", markersize=3, markeredgecolor="white", markeredgewidth=0.5)
    ends = line[-1:].mT.tolist()
    axis.plot(*ends, color=colour, marker="o", markersize=3, markeredgecolor="white", markeredgewidth=0.5)


def _matches(views: Views, view: int, most: int) -> Iterator[tuple[Float[Tensor, "1 2"], Float[Tensor, "1 2"]]]:
    """Yield tokens of view 0 that a view sees, evenly spaced, and where it sees them."""
    grid = min(GRID, *views.size)
    projected = project_tokens(views, (grid, grid))
    seen = projected.visible[0, 0, :, view].nonzero().flatten()
    for token in seen[torch.linspace(0, len(seen) - 1, min(most, len(seen))).round().long()].tolist():
        yield projected.xy[0, 0, token, :1], projected.xy[0, 0, token, view : view + 1]


def moving_share(views: Views) -> float:
    """Return the share of the true matches between all views whose point moves between them, on the drawn grid.

    Returns:
        In [0, 1]; NaN where there is no true match.
    """
    grid = min(GRID, *views.size)
    projected = project_tokens(views, (grid, grid))
    matched = projected.visible & ~own_view(views.count, device=projected.visible.device)
    return float(projected.moves[matched].float().mean())


def _epipolar_lines(views: Views, view: int, most: int) -> Iterator[tuple[Float[Tensor, "1 2"], Float[Tensor, "k 2"]]]:
    """Yield pixels of view 0 and the parts of their epipolar lines that a view shows: all that cameras alone know."""
    cameras, intrinsics = views.world_to_cam[0], views.intrinsics[0]
    middle = supposed_distances(cameras)[1]
    depths = middle * torch.logspace(-1, 1, 200)
    size = torch.tensor([views.size[1], views.size[0]], dtype=torch.float32)
    for share in torch.linspace(0.1, 0.9, most):
        start = size * torch.stack([share, (share * 7).frac()])
        points = unproject(start.expand(len(depths), 2), depths, intrinsics[0], cameras[0])
        xy, _ = project(points, intrinsics[view], cameras[view])
        shown = xy[((xy >= 0) & (xy < size)).all(-1)]
        if len(shown):
            yield start[None], shown
