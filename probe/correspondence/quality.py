"""Compare sources of ground-truth points: what supervision by each would see, beside the scene's own depth."""

import time
from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Bool, Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from probe.correspondence import TokenMatches, match_tokens, token_points
from probe.correspondence.noise import TruthNoise, perturb
from probe.correspondence.tracks import match_tracks, triangulated_tracks
from probe.geometry import point_map_to_depth
from probe.metrics import correct, grid_truth, thresholds
from probe.scenes.recordings import GeometrySource, with_geometry
from probe.views import Views

THOUSAND = 1000
NEAR = 0.03
"""Relative error of depth below which a point is near the truth."""
AS_TRACKS = "tracks, as tracks"
COLUMNS = {
    "pixels": "{:.1%}",
    "tokens": "{:.1%}",
    "cycle": "{:.1%}",
    "right": "{:.1%}",
    "found": "{:.1%}",
    "depth_error": "{:.3f}",
    "near": "{:.1%}",
    "scale": "{:.3f}",
    "seconds": "{:.1f}",
    "megabytes": "{:.0f}",
}
NOTES = (
    "pixels, tokens: share with a point; cycle: share of the tokens with a point whose match counts as truth",
    "right: share of the counted matches whose point the key view shows and that lie within one token of it; "
    "found: share of the truly visible tokens with such a match",
    f"depth error: median |depth / true depth - 1|; near: share below {NEAR:.0%}; scale: median true depth / depth",
    "seconds, megabytes: per thousand scenes, to make the geometry and to keep it; a dash: nothing to compare with",
)


def disturbing(noise: TruthNoise | None, seed: int) -> Callable[[Views], Views]:
    """Return a function that adds noise to a scene, the same at each call."""
    if noise is None:
        return lambda views: views
    return lambda views: perturb(views, noise, torch.Generator().manual_seed(seed))


def scene_rows(
    views: Views, sources: dict[str, GeometrySource], grid: tuple[int, int], disturb: Callable[[Views], Views]
) -> list[dict[str, object]]:
    """Measure every source on one scene; tracks twice: by the nearest of their points, and as what joins views.

    Noise disturbs points, so the second has none and is left out then.
    """
    rows: list[dict[str, object]] = []
    for name, source in sources.items():
        begun = time.perf_counter()
        plain = with_geometry(views, source)
        cost = {"seconds": THOUSAND * (time.perf_counter() - begun), "megabytes": kept_megabytes(plain)}
        noisy = disturb(plain)
        matches = match_tokens(noisy.point_map, noisy.valid, grid)
        rows.append({"source": name, "scene": views.names[0], **quality(views, noisy, matches, grid), **cost})
        if name == "tracks" and noisy is plain:
            matches = match_tracks(triangulated_tracks(views)[0], views.size, grid)
            rows.append({"source": AS_TRACKS, "scene": views.names[0], **quality(views, noisy, matches, grid), **cost})
    return rows


def kept_megabytes(views: Views) -> float:
    """Count the megabytes of a thousand such scenes' point maps and validity, as they are in memory."""
    tensors = (views.point_map, views.valid)
    return THOUSAND * sum(x.numel() * x.element_size() for x in tensors) / len(views.image) / 1e6


def quality(views: Views, source: Views, matches: TokenMatches, grid: tuple[int, int]) -> dict[str, float]:
    """Compare a source's geometry and the matches made of it with the scene's own.

    Args:
        views: The scene with its own depth; where it has none, what needs it is NaN.
        source: The same scene with the source's points.
        matches: Made of them.
        grid: Token rows and columns.

    Returns:
        Shares in [0, 1] and errors, as :data:`NOTES` says; NaN where there is nothing to take a share of.
    """
    _, known = token_points(source.point_map, source.valid, grid)
    own = matches.index.new_zeros(views.count, views.count).fill_diagonal_(1).bool()
    evaluated = known[:, :, :, None] & ~own[:, None, :]
    return {
        "pixels": share(source.valid),
        "tokens": share(known),
        "cycle": share(matches.counted[evaluated]),
        **match_quality(views, matches, grid),
        **depth_quality(views, source),
    }


def match_quality(views: Views, matches: TokenMatches, grid: tuple[int, int]) -> dict[str, float]:
    """Return how many counted matches are right, and how many of the visible points have a right one."""
    truth = grid_truth(views, grid)
    limit = next(limit for limit in thresholds(None) if limit.kind == "token")
    right = matches.counted & truth.visible & correct(matches.index[:, None], truth, limit)[:, 0]
    judged = matches.counted & truth.valid[..., None]  # a query without true depth cannot be judged
    return {"right": share(right[judged]), "found": share(right[truth.visible])}


def depth_quality(views: Views, source: Views) -> dict[str, float]:
    """Compare depths along the true cameras' axes, where both are known."""
    true, depth = (point_map_to_depth(x.point_map, views.world_to_cam) for x in (views, source))
    both = views.valid & source.valid & true.isfinite() & depth.isfinite()
    ratio = depth[both] / true[both]
    error = (ratio - 1).abs()
    return {"depth_error": middle(error), "near": share(error < NEAR), "scale": middle(1 / ratio)}


def share(mask: Bool[Tensor, "..."]) -> float:
    """Return the share that is true; NaN of nothing."""
    return float(mask.float().mean())


def middle(values: Float[Tensor, " n"]) -> float:
    """Return the median; NaN of nothing."""
    return float(values.median()) if len(values) else float("nan")


def show(console: Console, rows: pd.DataFrame, title: str) -> None:
    """Print the mean over scenes of every source, and what the columns mean."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("source", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    means = rows.groupby("source", sort=False)[list(COLUMNS)].mean()
    for source, row in means.iterrows():
        cells = ("–" if value != value else COLUMNS[str(name)].format(value) for name, value in row.items())
        table.add_row(str(source), *cells)
    console.print(table)
    for line in NOTES:
        console.print(line, markup=False, soft_wrap=True)
