"""Measure what a page costs from a score table of millions of rows: ``python benchmarks/page_scale.py --rows 5000000``.

The run folder is made up: as many layers, heads and metrics as a large model has, and as many scenes as fill the table.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from pyarrow import parquet

from analysis.report import build_index, build_report
from probe.records import (
    ALL_HEADS,
    CEILING,
    NO_LAYER,
    SAME_POSITION,
    SCORE_COLUMNS,
    UNIFORM,
    digest,
    rotation_bin,
    write_json,
)
from probe.records.scores import write_scores

METRICS = ("precision@2%", "precision@5%", "precision@10%", "precision@1token", "precision@1%scene",
           "precision@2%scene", "precision@5%scene", "precision@10%scene", "mass_3x3", "mass_key_view", "entropy",
           "cross_entropy")  # fmt: skip
DIRECTIONS = ("tgt-ref", "ref-tgt", "tgt-tgt", "tgt-tgt", "ref-tgt", "tgt-ref")
VIEWS = ((1, 0), (0, 1), (1, 2), (2, 1), (0, 2), (2, 0))
TIMESTEPS = (100, 300, 500, 700, 900)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Say how large the made-up run is."""

    rows: int = 5_000_000
    """Of the score table, at least."""
    layers: int = 32
    """3D layers."""
    heads: int = 16
    """Of each layer; all of them together are one more row."""
    views: Literal[2, 3] = 3
    """Of a scene, in all ordered pairs."""
    timesteps: int = 5
    """Of each layer, five at most."""
    out: Path | None = None
    """Folder to keep the run in; default a temporary one."""


def main(scale: Scale) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = scale.out or Path(temporary) / "run"
        rows = make_run(folder, scale)
        print(f"{rows:,} rows, {(folder / 'scores.parquet').stat().st_size / 1e6:.0f} MB of parquet")
        before = peak()
        started = time.perf_counter(), time.process_time()
        page = build_report(folder)
        wall, busy = time.perf_counter() - started[0], time.process_time() - started[1]
        print(f"page: {busy:.1f} s of processor, {wall:.1f} s on the clock, {page.stat().st_size / 1e6:.2f} MB")
        print(f"memory: {before:.0f} MB before, {peak():.0f} MB at most")
        started = time.perf_counter(), time.process_time()
        build_index([folder], Path(temporary) / "reports" / "index.html")
        print(f"index: {time.process_time() - started[1]:.2f} s of processor, without the score table")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def make_run(folder: Path, scale: Scale) -> int:
    """Make up a run; return how many rows its score table has."""
    folder.mkdir(parents=True)
    scenes = -(-scale.rows // len(scene_table(0, scale, "")))
    pairs = pair_list(scenes)
    pairs.to_csv(folder / "pairs.csv", index=False)
    write_scores(folder / "scores.parquet", (scene_table(scene, scale, digest(pairs)) for scene in range(scenes)))
    describe_run(folder, scale, scenes)
    return parquet.read_metadata(folder / "scores.parquet").num_rows


def describe_run(folder: Path, scale: Scale, scenes: int) -> None:
    """Write what a run folder holds beside scores and pairs."""
    pd.DataFrame({"timestep": TIMESTEPS, "alpha_bar": 0.5, "snr": 1.0}).to_csv(folder / "timesteps.csv", index=False)
    layers = layer_list(scale, scenes)
    layers.to_csv(folder / "layers.csv", index=False)
    settings = {"model": "large", "scenes": "shapes", "out": str(folder)}
    (folder / "config.json").write_text(json.dumps({"settings": settings, "environment": {}}))
    best = layers.iloc[-1]
    write_json(folder / "selection.json", {
        "layer": best["layer"], "name": best["name"], "model": "large", "metric": "precision@5%",
        "direction": "tgt-ref",
        "protocol": "attention-v1", "ties": [], "runners_up": [],
    })  # fmt: skip


def pair_list(scenes: int) -> pd.DataFrame:
    rows = [(f"s{n}:0-{view}", f"s{n}", 0, view, turn(n, view)) for n in range(scenes) for view in (1, 2)]
    table = pd.DataFrame(rows, columns=["pair", "scene", "view_a", "view_b", "rotation_deg"])
    return table.assign(rotation_bin=rotation_bin(table["rotation_deg"]).astype(str), overlap=0.5)


def turn(scene: int, view: int) -> float:
    return float((17 * scene + 40 * view) % 120)


def layer_list(scale: Scale, scenes: int) -> pd.DataFrame:
    layer = np.arange(scale.layers)
    value = 0.02 + 0.4 * layer / scale.layers
    return pd.DataFrame(
        {"layer": layer, "name": [f"blocks.{n}.attn1" for n in layer], "grid_h": 32, "grid_w": 32, "precision": value,
         "precision_low": 0.9 * value, "precision_high": 1.1 * value, "chance": 0.002, "same_position": 0.05,
         "ceiling": 0.99, "share_of_ceiling": value / 0.99, "count": 1000, "scenes": scenes}
    )  # fmt: skip


def scene_table(scene: int, scale: Scale, pair_list: str) -> pd.DataFrame:
    """Make up the scores of one scene: of the layers, and of the references."""
    heads, pairs = np.arange(ALL_HEADS, scale.heads), range(scale.views * (scale.views - 1))
    own = axes(["large"], pairs, range(scale.layers), heads, TIMESTEPS[: scale.timesteps], METRICS)
    references = axes((UNIFORM, SAME_POSITION, CEILING), pairs, [NO_LAYER], [ALL_HEADS], [-1], METRICS)
    table = pd.concat([own, references], ignore_index=True)
    place = table["place"].to_numpy()
    query, key = np.array(VIEWS)[place].T
    names = {"scene": f"s{scene}", "unit": f"s{scene}", "pair": f"s{scene}", "grid": "32x32", "pair_list": pair_list}
    table = table.assign(
        **names, query_view=query, key_view=key, direction=np.array(DIRECTIONS)[place], count=512, step=0,
        rotation_deg=[turn(scene, max(pair)) for pair in zip(query, key, strict=True)], protocol="attention-v1",
        layer_name=np.where(table["layer"] < 0, "", "blocks." + table["layer"].astype(str) + ".attn1"),
        value=np.random.default_rng(scene).integers(0, 256, len(table)) / 512,
    )  # fmt: skip
    text = ("model", "direction", "layer_name", "protocol", "metric", *names)
    return table.astype(dict.fromkeys(text, "category"))[list(SCORE_COLUMNS)]


def axes(*values: Sequence[object]) -> pd.DataFrame:
    """List every combination of what a row of the score table is about."""
    names = ["model", "place", "layer", "head", "timestep", "metric"]
    return pd.MultiIndex.from_product(values, names=names).to_frame(index=False)


if __name__ == "__main__":
    main(tyro.cli(Scale, prog="python benchmarks/page_scale.py"))
