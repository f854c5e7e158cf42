"""Say what a source of geometry is worth for supervision: ``python -m probe.truth_quality``."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from probe import cli as command
from probe.correspondence import TokenMatches, match_tokens, token_points
from probe.correspondence.noise import TruthNoise, perturb, read_noise
from probe.correspondence.sources import open_source
from probe.correspondence.tracks import match_tracks, triangulated_tracks
from probe.geometry import point_map_to_depth
from probe.metrics import correct, grid_truth
from probe.protocols import thresholds
from probe.records import write
from probe.scenes import Request, open_scenes
from probe.scenes.recordings import GeometrySource, with_geometry
from probe.seeds import derive
from probe.views import Views

PROG = "python -m probe.truth_quality"
THOUSAND = 1000
NEAR = 0.03
"""Relative error of depth below which a point is near the truth."""
AS_TRACKS = "tracks, as tracks"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure sources of geometry on the same scenes, beside the scenes' own depth where there is some."""

    scenes: str = "shapes"
    """NAME or NAME:ROOT, as for python -m probe.run."""
    truth_source: str = "depth,tracks"
    """By commas: depth (the scene's own), tracks (SIFT matches that fit the cameras), vggt or vggt:FOLDER (its
    package), module:package.function (Views to point_map and valid)."""
    truth_noise: str | None = None
    """Noise on every source: KIND:AMOUNT by commas, of depth (relative std), holes (share of area), rotation (degrees)
    and translation (share of the scene's size), such as depth:.05,holes:.3."""
    count: int = 8
    """Scenes; those of shapes take the rotation bins in turn."""
    views: int = 3
    """Views per scene."""
    grid: int = 16
    """Token rows and columns."""
    image_size: int | None = None
    """Side of the images in pixels; default the data set's own."""
    min_overlap: float = 0.2
    """Real scenes: share of view 0 that each other view must see, 0 to 1."""
    device: str = "cpu"
    """That networks compute on."""
    seed: int = 0
    """Of scenes and noise."""
    out: Path = Path("runs/geometry-quality.csv")
    """File of the table: one row per source and scene."""


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


def main(given: Settings) -> None:
    """Measure; write and show the table."""
    if given.count < 1 or given.views < 2 or given.grid < 1:
        raise ValueError(
            f"--count {given.count} --views {given.views} --grid {given.grid}: expected at least 1 scene, 2 views and "
            "1 token"
        )
    noise = None if given.truth_noise is None else read_noise(given.truth_noise)
    sources = {name: open_source(name, torch.device(given.device)) for name in given.truth_source.split(",")}
    request = Request(
        groups=given.count,
        views=given.views,
        n_ref=1,
        seed=given.seed,
        min_overlap=given.min_overlap,
        size=given.image_size,
    )
    scenes = open_scenes(given.scenes, request)
    rows = [
        row
        for index in tqdm(range(len(scenes.names)), desc="scenes", unit="scene")
        for row in scene_rows(
            scenes.load(index)[0],
            sources,
            (given.grid, given.grid),
            disturbing(noise, derive("truth noise", given.seed, index)),
        )
    ]
    table = pd.DataFrame(rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write(given.out, lambda part: table.to_csv(part, index=False))
    console = Console(width=None if sys.stdout.isatty() else 120)
    show(
        console, table, f"{given.scenes}, {len(scenes.names)} scenes of {given.views} views, {given.grid}x{given.grid}"
    )
    console.print(f"table: {given.out}", markup=False, soft_wrap=True)


def disturbing(noise: TruthNoise | None, seed: int) -> Callable[[Views], Views]:
    """Give what noise makes of a scene: always the same."""
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
        given = disturb(plain)
        matches = match_tokens(given.point_map, given.valid, grid)
        rows.append({"source": name, "scene": views.names[0], **quality(views, given, matches, grid), **cost})
        if name == "tracks" and given is plain:
            matches = match_tracks(triangulated_tracks(views)[0], views.size, grid)
            rows.append({"source": AS_TRACKS, "scene": views.names[0], **quality(views, given, matches, grid), **cost})
    return rows


def kept_megabytes(views: Views) -> float:
    """Count the megabytes of a thousand such scenes' point maps and validity, as they are in memory."""
    tensors = (views.point_map, views.valid)
    return THOUSAND * sum(x.numel() * x.element_size() for x in tensors) / len(views.image) / 1e6


def quality(views: Views, given: Views, matches: TokenMatches, grid: tuple[int, int]) -> dict[str, float]:
    """Compare a source's geometry and the matches made of it with the scene's own.

    Args:
        views: The scene with its own depth; where it has none, what needs it is NaN.
        given: The same scene with the source's points.
        matches: Made of them.
        grid: Token rows and columns.

    Returns:
        Shares in [0, 1] and errors, as :data:`NOTES` says; NaN where there is nothing to take a share of.
    """
    _, known = token_points(given.point_map, given.valid, grid)
    own = matches.index.new_zeros(views.count, views.count).fill_diagonal_(1).bool()
    asked = known[:, :, :, None] & ~own[:, None, :]
    return {
        "pixels": share(given.valid),
        "tokens": share(known),
        "cycle": share(matches.counted[asked]),
        **match_quality(views, matches, grid),
        **depth_quality(views, given),
    }


def match_quality(views: Views, matches: TokenMatches, grid: tuple[int, int]) -> dict[str, float]:
    """Say how many counted matches are right, and how many of the visible points have a right one."""
    truth = grid_truth(views, grid)
    limit = next(limit for limit in thresholds(None) if limit.kind == "token")
    right = matches.counted & truth.visible & correct(matches.index[:, None], truth, limit)[:, 0]
    judged = matches.counted & truth.valid[..., None]  # a query without true depth tells nothing
    return {"right": share(right[judged]), "found": share(right[truth.visible])}


def depth_quality(views: Views, given: Views) -> dict[str, float]:
    """Compare depths along the true cameras' axes, where both are known."""
    true, found = (point_map_to_depth(x.point_map, views.world_to_cam) for x in (views, given))
    both = views.valid & given.valid & true.isfinite() & found.isfinite()
    ratio = found[both] / true[both]
    error = (ratio - 1).abs()
    return {"depth_error": middle(error), "near": share(error < NEAR), "scale": middle(1 / ratio)}


def share(mask: Bool[Tensor, "..."]) -> float:
    """Give the share that is true; NaN of nothing."""
    return float(mask.float().mean())


def middle(values: Float[Tensor, " n"]) -> float:
    """Give the median; NaN of nothing."""
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


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
