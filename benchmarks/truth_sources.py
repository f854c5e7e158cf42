"""Seconds per thousand scenes for each source of truth: python benchmarks/truth_sources.py

What it takes to have a scene's points (draw or load it; ask a network; match and triangulate features), and to make
token matches of them by each rule. Sources that are not at hand here are named, not timed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from probe.correspondence.quality import kept_megabytes
from probe.correspondence.sources import open_source
from probe.correspondence.tracks import match_tracks, triangulated_tracks
from probe.scenes import Request, open_scenes
from probe.scenes.recordings import GeometrySource, with_geometry
from probe.views import Views
from train.objectives import TRUTHS

AS_TRACKS = "tracks"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time every source on the same scenes; medians over scenes, after one that is not counted."""

    scenes: str = "shapes"
    """As for python -m probe.run."""
    sources: str = "depth,tracks,vggt"
    """By commas, as for python -m probe.truth_quality."""
    count: int = 9
    """Scenes, the first of which warms up."""
    views: int = 3
    """Views per scene."""
    grids: str = "16,32"
    """Sides of the token grids."""
    image_size: int | None = None
    """Side of the images in pixels."""
    device: str = "cpu"
    """Of networks and of the matching."""
    threads: int = 2
    """CPU threads."""


@dataclass(frozen=True, kw_only=True)
class Seconds:
    wall: float
    cpu: float


def seconds(work: Callable[[], object], device: str) -> Seconds:
    """The processor's own time stands beside that of the clock, which a busy machine stretches."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return Seconds(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def rules(views: Views, given: Views, source: str, grid: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Name the ways to make matches of a source."""
    ways = {name: lambda rule=rule: rule(given, grid, 1.5) for name, rule in TRUTHS.items()}
    if source != AS_TRACKS:
        return ways
    found = triangulated_tracks(views)[0]
    return {**ways, AS_TRACKS: lambda: match_tracks(found, views.size, grid)}


def scene_seconds(views: Views, sources: dict[str, GeometrySource], given: Benchmark) -> dict[tuple[str, str], Seconds]:
    found = {}
    for name, source in sources.items():
        with_points = with_geometry(views, source)
        found[name, "points"] = seconds(lambda source=source: source(views), given.device)
        for side in map(int, given.grids.split(",")):
            for rule, work in rules(views, with_points, name, (side, side)).items():
                found[name, f"{rule} {side}x{side}"] = seconds(work, given.device)
    return found


def open_those_at_hand(given: Benchmark) -> dict[str, GeometrySource]:
    sources = {}
    for name in given.sources.split(","):
        try:
            sources[name] = open_source(name, torch.device(given.device))
        except ValueError as error:
            print(f"{name}: not timed: {error}")
    return sources


def main(given: Benchmark) -> None:
    torch.set_num_threads(given.threads)
    request = Request(groups=given.count, views=given.views, n_ref=1, size=given.image_size)
    scenes, sources, rows = open_scenes(given.scenes, request), open_those_at_hand(given), []
    for index in range(given.count):
        views = scenes.load(index)[0].to(given.device)
        loaded = seconds(lambda index=index: scenes.load(index), given.device)
        rows.append({("any", "draw or load"): loaded, **scene_seconds(views, sources, given)})
    print(f"{given.scenes}: {given.count - 1} scenes of {given.views} views of {views.size}, {given.device}, "
          f"{given.threads} threads; points of 1000 scenes in memory: {kept_megabytes(views):.0f} MB")  # fmt: skip
    print(f"seconds per thousand scenes {'wall':>7} {'cpu':>8}")
    for name, what in rows[0]:
        times = [row[name, what] for row in rows[1:]]
        wall, cpu = (1000 * statistics.median(values) for values in zip(*((t.wall, t.cpu) for t in times), strict=True))
        print(f"{name:8} {what:16} {wall:9.1f} {cpu:8.1f}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
