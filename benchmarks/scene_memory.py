"""Measure how memory grows with scenes: ``python benchmarks/scene_memory.py --scenes 100 1000 10000``.

The scenes' files are made up. Two processes of their own then do what a probe does when all scenes are measured: join
the files and select the layer; and make the page.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import tyro
from page_scale import Scale, describe_run, pair_list, peak, scene_table
from tqdm import tqdm

from analysis.report import build_report
from probe.plan.parts import join_scenes
from probe.protocols import PROTOCOLS
from probe.scenes.opening import SceneList
from probe.selection import layer_table, select_layer
from probe.selection.reading import read_ranked

SCALE = Scale(layers=10, heads=8, views=2, timesteps=1)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Say how many scenes, or which step to measure in this process."""

    scenes: tuple[int, ...] = (100, 1000)
    """Numbers of scenes, smallest first."""
    step: Literal["select", "page"] | None = None
    """Do this in the folder and say what it took."""
    folder: Path | None = None
    """Of the run whose step is done."""


def main(memory: Memory) -> None:
    if memory.step and memory.folder:
        before, started = peak(), time.perf_counter()
        STEPS[memory.step](memory.folder)
        print(f"{memory.step}: {peak():.0f} MB at most, {before:.0f} before, {time.perf_counter() - started:.1f} s")
        return
    with tempfile.TemporaryDirectory() as temporary:
        for scenes in memory.scenes:
            folder = Path(temporary) / str(scenes)
            make_parts(folder, scenes)
            for step in STEPS:
                words = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                print(f"{scenes} scenes, {done.stdout.splitlines()[-1]}", flush=True)
            print(f"{scenes} scenes, scores.parquet: {(folder / 'scores.parquet').stat().st_size / 1e6:.1f} MB")
            shutil.rmtree(folder)


def make_parts(folder: Path, scenes: int) -> None:
    """Make up the files of all scenes, and the other files of a run."""
    (folder / "parts").mkdir(parents=True)
    pairs = pair_list(scenes)
    pairs = pairs[pairs["view_b"] < SCALE.views]
    pairs.to_csv(folder / "pairs.csv", index=False)
    for scene in tqdm(range(scenes), desc="made up", unit="scene"):
        mine = pairs[pairs["scene"] == f"s{scene}"]
        mine.to_parquet(folder / f"parts/pairs-{scene:05d}.parquet", index=False)
        scene_table(scene, SCALE, "").to_parquet(folder / f"parts/scene-{scene:05d}.parquet", index=False)
    describe_run(folder, SCALE, scenes)


def select(folder: Path) -> None:
    """Join the scenes' files, select the layer, and sum the layers up."""
    names = tuple(f"s{n}" for n in range(len(list((folder / "parts").glob("scene-*")))))
    scenes = SceneList(names=names, load=lambda index: None)  # type: ignore[arg-type, return-value]
    join_scenes(SimpleNamespace(settings=SimpleNamespace(out=folder), scenes=scenes))  # type: ignore[arg-type]
    scores = read_ranked(folder / "scores.parquet", PROTOCOLS["attention-v1"], "precision@5%")
    layer_table(scores, select_layer(scores, metric="precision@5%", model="large"))


def page(folder: Path) -> None:
    """Make the page."""
    build_report(folder)


STEPS = {"select": select, "page": page}

if __name__ == "__main__":
    main(tyro.cli(Memory, prog="python benchmarks/scene_memory.py"))
