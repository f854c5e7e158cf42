"""How fast data sets are read, in one process, at a model's size: python benchmarks/scene_loading.py

Without --scenes it reads the examples that the tests generate in the layouts of NAVI, DTU, ScanNet, COLMAP and plain
photos, in a VGA camera's size. Training keeps up while batch size over the seconds of a step stays below the samples
per second, times the workers.
"""

import importlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from probe import cli
from probe.scenes import find_recordings
from probe.scenes.recordings import load_views

PROG = "python benchmarks/scene_loading.py"
WRITERS = Path(__file__).parents[1] / "tests" / "helpers"
SIZE, FOCAL = (480, 640), 500.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read random frames of data sets and count them."""

    scenes: str | None = None
    """NAME:ROOT of real scenes; default the generated examples."""
    size: int = 256
    """Side of the views, in pixels."""
    views: int = 3
    """Views that make a sample."""
    seconds: float = 10.0
    """How long to read each, after the first view."""


def main(settings: Settings) -> None:
    """Print samples per second of one worker and processor milliseconds per view; the latter hold on a busy machine."""
    torch.set_num_threads(1)
    if settings.scenes is not None:
        print(measure(settings.scenes, settings))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # where photos are reconstructed
        for scenes in write_examples(Path(folder)):
            print(measure(scenes, settings), flush=True)


def write_examples(folder: Path) -> list[str]:
    """Write a room in each layout by the tests' own writers; give what --scenes calls them."""
    sys.path.insert(0, str(WRITERS))
    world, navi, dtu, scannet, colmap, photos = (
        importlib.import_module(name)
        for name in ("small_world", "small_navi", "small_dtu", "small_scannet", "small_colmap", "test_photos")
    )
    room = photos.textured(world.make_world(size=SIZE, focal=(FOCAL, FOCAL), centre=(0.0, 0.0), roll=0.0))
    navi.write_navi(folder / "navi", room)
    dtu.write_training(folder / "dtu", room)
    scannet.write_scannet(folder / "scannet", room, larger=2)
    colmap.write_colmap(folder / "colmap", room, dense=2)
    for index, image in enumerate(room.image):
        photos.save_rgb(folder / f"photos/{index}.jpg", image)
    return [f"{name}:{folder / name}" for name in ("navi", "dtu", "scannet", "colmap", "photos")]


def measure(scenes: str, settings: Settings) -> str:
    """Read random frames for some seconds."""
    name, _, root = scenes.partition(":")
    recordings = find_recordings(name, root)
    began = time.perf_counter()
    recording = recordings.open(recordings.names[0])
    opened = time.perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    load_views(recording, [0], size=settings.size, n_ref=0)
    count, began, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < settings.seconds:
        index = int(torch.randint(len(recording.names), (), generator=generator))
        load_views(recording, [index], size=settings.size, n_ref=0)
        count += 1
    rate, used = count / (time.perf_counter() - began), 1000 * (time.process_time() - busy) / count
    frames = f"{len(recording.names)} frames of {'x'.join(map(str, recording.sizes[0]))} opened in {opened:.2f} s"
    samples = f"{rate / settings.views:.1f} samples of {settings.views} views a second per worker"
    return f"{name}: {frames}; at {settings.size}: {samples}, {used:.1f} ms of processor per view"


if __name__ == "__main__":
    cli.run(main, cli.parse(Settings, prog=PROG), prog=PROG)
