"""Compare sources of ground-truth points for supervision: ``python -m probe.truth_quality``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe import cli as command
from probe.scenes.reading import Reading

if TYPE_CHECKING:
    import pandas as pd

PROG = "python -m probe.truth_quality"


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
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
    """Device that networks compute on."""
    seed: int = 0
    """Random seed for scenes and noise."""
    out: Path = Path("runs/geometry-quality.csv")
    """File of the table: one row per source and scene."""


def main(settings: Settings) -> None:
    """Measure; write and show the table."""
    with command.flag("--scenes"):
        command.check_scenes(settings.scenes)
    if settings.count < 1 or settings.views < 2 or settings.grid < 1:
        raise ValueError(
            f"--count {settings.count} --views {settings.views} --grid {settings.grid}: expected at least 1 scene, "
            "2 views and 1 token"
        )
    from rich.console import Console

    from probe.correspondence.quality import show
    from probe.records import write

    table, title = _measure(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write(settings.out, lambda part: table.to_csv(part, index=False))
    console = Console(width=None if sys.stdout.isatty() else 120)
    show(console, table, title)
    console.print(f"table: {settings.out}", markup=False, soft_wrap=True)


def _measure(settings: Settings) -> tuple[pd.DataFrame, str]:
    """Measure every source on scene after scene; return the table and its title."""
    import pandas as pd
    import torch
    from tqdm import tqdm

    from probe.correspondence.noise import read_noise
    from probe.correspondence.quality import disturbing, scene_rows
    from probe.correspondence.sources import open_source
    from probe.scenes import Request, open_scenes
    from probe.seeds import derive

    with command.flag("--truth-noise"):
        noise = None if settings.truth_noise is None else read_noise(settings.truth_noise)
    with command.flag("--truth-source"):
        device = torch.device(settings.device)
        sources = {name: open_source(name, device) for name in settings.truth_source.split(",")}
    request = Request(
        groups=settings.count,
        views=settings.views,
        n_ref=1,
        seed=settings.seed,
        min_overlap=settings.min_overlap,
        size=settings.image_size,
        reading=settings.reading,
    )
    with command.flag("--scenes"):
        scenes = open_scenes(settings.scenes, request)
    grid, rows = (settings.grid, settings.grid), list[dict[str, object]]()
    for index in tqdm(range(len(scenes.names)), desc="scenes", unit="scene"):
        disturb = disturbing(noise, derive("truth noise", settings.seed, index))
        rows += scene_rows(scenes.load(index)[0], sources, grid, disturb)
    title = f"{settings.scenes}, {len(scenes.names)} scenes of {settings.views} views, {grid[0]}x{grid[1]}"
    return pd.DataFrame(rows), title


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
