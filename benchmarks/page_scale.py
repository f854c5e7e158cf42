"""Measure what a page costs from a score table of millions of rows: ``python benchmarks/page_scale.py --rows 5000000``.

The run folder is made up: as many layers, heads and metrics as a large model has, and as many scenes as fill the table.
"""

import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

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
    folder.mkdir(parents=True)
    per_scene = len(VIEWS) * scale.layers * (scale.heads + 1) * len(TIMESTEPS) * len(METRICS)
    scenes = -(-scale.rows // per_scene)
    pairs = pair_list(scenes)
    scores = score_table(scenes, scale).assign(pair_list=digest(pairs))
    scores = scores.astype({"pair_list": "category"})[list(SCORE_COLUMNS)]
    scores.to_parquet(folder / "scores.parquet", index=False)
    pairs.to_csv(folder / "pairs.csv", index=False)
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
    return len(scores)


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


def score_table(scenes: int, scale: Scale) -> pd.DataFrame:
    heads = np.arange(ALL_HEADS, scale.heads)
    axes = (scenes, len(VIEWS), scale.layers, len(heads), len(TIMESTEPS), len(METRICS))
    own = rows_of(axes, "large", np.arange(scale.layers), heads, TIMESTEPS)
    references = [
        rows_of((*axes[:2], 1, 1, 1, len(METRICS)), name, np.array([NO_LAYER]), np.array([ALL_HEADS]), (-1,))
        for name in (UNIFORM, SAME_POSITION, CEILING)
    ]
    table = pd.concat([own, *references], ignore_index=True)
    text = ("model", "scene", "pair", "direction", "layer_name", "grid", "protocol", "metric")
    return table.astype(dict.fromkeys(text, "category"))


def rows_of(
    axes: tuple[int, ...], model: str, layers: np.ndarray, heads: np.ndarray, timesteps: tuple[int, ...]
) -> pd.DataFrame:
    scene, view, layer, head, timestep, metric = (n.ravel() for n in np.indices(axes))
    names = [f"s{n}" for n in range(axes[0])]
    turns = np.array([[turn(n, max(pair)) for pair in VIEWS] for n in range(axes[0])])
    value = np.random.default_rng(0).random(len(scene)) * 0.5

    def text(codes: np.ndarray, kinds: list[str]) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, kinds)

    once = np.zeros(len(scene), dtype=np.int8)
    ways = sorted(set(DIRECTIONS))
    return pd.DataFrame(
        {"model": text(once, [model]), "step": 0, "scene": text(scene, names), "pair": text(scene, names),
         "query_view": np.array([q for q, _ in VIEWS])[view], "key_view": np.array([k for _, k in VIEWS])[view],
         "direction": text(np.array([ways.index(way) for way in DIRECTIONS])[view], ways),
         "rotation_deg": turns[scene, view], "layer": layers[layer], "layer_name": text(once, ["blocks.0.attn1"]),
         "grid": text(once, ["32x32"]), "head": heads[head], "timestep": np.array(timesteps)[timestep],
         "protocol": text(once, ["attention-v1"]), "metric": text(metric, list(METRICS)), "value": value, "count": 512}
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Scale, prog="python benchmarks/page_scale.py"))
