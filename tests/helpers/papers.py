"""A made-up study with every part of ``python -m train.study --paper``, whose leads a test chooses."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.study.seeds import FinishedRun, study_tables
from probe.records import STUDY_TABLES, rotation_bin, summarise

STEPS = (250, 500, 750, 1000, 1250, 1500)
LAYERS = {2: ("down_blocks.1.attentions.0", 8), 7: ("mid_block.attentions.0", 4), 10: ("up_blocks.2.attentions.0", 8),
          12: ("up_blocks.2.attentions.2", 8)}  # fmt: skip
SETTINGS: dict[str, dict[str, str]] = {
    "plain": {"layer": "none"}, "cameo": {}, "mean": {"mixing": "mean"}, "visible": {"truth": "visible"},
    "weight-high": {"weight": "0.2"}, "early-stop": {"weight_until": "500"}, "layer-2": {"layer": "2"},
    "random": {"layer": "7"}, "worst": {"layer": "12"}, "repa-dsift": {"objective": "repa-dsift"},
    "trd-dsift": {"objective": "trd-dsift"}, "geometry": {"objective": "geometry"}, "shuffled": {"control": "shuffled"},
}  # fmt: skip
GAINS = {
    "plain": 0.0, "cameo": 1.5, "mean": 1.9, "visible": 1.4, "weight-high": 0.4, "early-stop": 1.5, "layer-2": 0.2,
    "random": 0.1, "worst": -0.3, "repa-dsift": 0.3, "trd-dsift": 0.5, "geometry": 0.4, "shuffled": -0.4,
}  # fmt: skip
DEFAULTS = {"layer": "10", "mixing": "mlp", "truth": "cycle", "weight": "0.02", "weight_until": "0",
            "objective": "cameo", "control": "none"}  # fmt: skip
PLAIN_QUALITY = {2: 0.08, 7: 0.05, 10: 0.35, 12: 0.4}
FIVE = ("plain", "cameo", "mean")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
Probe = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the study holds.

    Attributes:
        gains: What each variant ends above plain, in dB; other metrics follow.
        seeds: Of the variants in ``FIVE``; the others have at most three.
        noise: Of a run's last values, in dB.
        draw: Of the luck of runs.
        parts: Which parts to write, of probes, evaluations, samples.
        qualities: Of a probed model's layers: precision over its ceiling; by name.
        effect: By how much an edit of layer 10 raises the error of plain, and twice that of the others.
    """

    gains: Mapping[str, float] = field(default_factory=lambda: GAINS)
    seeds: int = 5
    noise: float = 0.05
    draw: int = 0
    parts: tuple[str, ...] = ("probes", "evaluations", "samples")
    qualities: Mapping[str, Mapping[int, float]] = field(
        default_factory=lambda: {
            "base": {2: 0.05, 7: 0.05, 10: 0.08, 12: 0.06},
            "plain": PLAIN_QUALITY,
            "cameo": {2: 0.1, 7: 0.05, 10: 0.7, 12: 0.6},
            "mean": {2: 0.1, 7: 0.05, 10: 0.75, 12: 0.6},
        }
    )
    effect: float = 0.05


def make_paper(folder: Path, probe: Probe | None = None, paper: Paper = Paper()) -> Path:
    """Write the study.

    Args:
        folder: Of the study.
        probe: Writes a probe run: the fixture ``make_probe``.
        paper: What it holds.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(paper.draw)
    runs = [
        _run(name, seed, gain, paper, random)
        for name, gain in paper.gains.items()
        for seed in range(paper.seeds if name in FIVE else min(3, paper.seeds))
    ]
    tables = study_tables(runs)
    for name in STUDY_TABLES:
        getattr(tables, name).to_csv(folder / f"{name}.csv", index=False)
    settings = {"paper": True, "layer": 10, "other_layer": 2, "model": "cat3d-tiny:base", "steps": STEPS[-1],
                "evaluate_scenes": 64, "sampling_steps": 20, "out": f"runs/{folder.name}"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"settings": settings, "environment": {"commit": "0123"}}))
    for run in runs:
        _logs(folder / f"{run.variant}-seed{run.seed}", run, random)
    if probe is not None and "probes" in paper.parts:
        _probes(folder / "probes", probe, paper)
    if "evaluations" in paper.parts:
        _evaluations(folder / "evaluations", paper, random)
    if "samples" in paper.parts:
        _samples(folder, paper)
    return folder


def _run(name: str, seed: int, gain: float, paper: Paper, random: np.random.Generator) -> FinishedRun:
    rows = []
    luck = paper.noise * random.standard_normal() + 0.1 * seed
    for step in STEPS:
        grown = 1 - np.exp(-step / 600)
        better = (3 + gain) * grown + luck + 0.3 * paper.noise * random.standard_normal()
        values = {"psnr": 11 + better, "ssim": 0.1 + 0.05 * better, "match_error": 0.25 - 0.03 * better,
                  "loss_t900": 0.2 - 0.02 * better, "loss": 0.3 - 0.02 * better, "copy_psnr": 12.0,
                  "mean_colour_psnr": 11.8}  # fmt: skip
        final = paper.qualities.get(name, paper.qualities["plain"])
        values |= {f"precision_{layer}": max(0, final[layer] * grown**2 + 0.002 * random.standard_normal())
                   for layer in LAYERS}  # fmt: skip
        rows += [(step, metric, value) for metric, value in values.items()]
    return FinishedRun(variant=name, seed=seed, settings=DEFAULTS | SETTINGS.get(name, {}),
                       values=pd.DataFrame(rows, columns=["step", "metric", "value"]))  # fmt: skip


def _logs(folder: Path, run: FinishedRun, random: np.random.Generator) -> None:
    (folder / "final").mkdir(parents=True)
    rows = [(STEPS[-1], layer, 0.008) for layer in LAYERS]
    pd.DataFrame(rows, columns=["step", "layer", "chance"]).to_csv(folder / "emergence.csv", index=False)
    seconds = (1.0 if run.variant == "plain" else 1.1) + 0.01 * random.random()
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "seconds": {seconds}}}\n' for n in range(3)))


def _probes(folder: Path, probe: Probe, paper: Paper) -> None:
    for name, quality in paper.qualities.items():
        for kind, share in {"": 1.0, "textureless": 0.15}.items():
            if kind and name == "base":
                continue
            place = folder / (f"{name}-{kind}" if kind else name)
            probe(
                place, model=name, scenes=tuple(f"room-{number:02d}" for number in range(16)), quality={
                    layer: value * share for layer, value in quality.items()
                },
                names={layer: f"{module}.transformer_blocks.0.attn1" for layer, (module, _) in LAYERS.items()},
                grids={layer: f"{side}x{side}" for layer, (_, side) in LAYERS.items()},
                heads=dict.fromkeys(LAYERS, 1),
            )  # fmt: skip
            _edited(place, 0 if name == "base" else paper.effect * (1 if name == "plain" else 2))


def _edited(folder: Path, effect: float) -> None:
    """Add causal rows, and the intervals of leads that the probe writes."""
    layers = pd.read_csv(folder / "layers.csv")
    below, above = layers["precision"] - layers["precision_low"], layers["precision_high"] - layers["precision"]
    layers = layers.assign(lead_low=layers["lead"] - 1.4 * below, lead_high=layers["lead"] + 1.4 * above)
    layers.assign(above_null=layers["lead_low"] > 0).to_csv(folder / "layers.csv", index=False)
    scores = pd.read_parquet(folder / "scores.parquet")
    first = scores[(scores["layer"] == 10) & (scores["head"] == -1)].drop_duplicates("scene").iloc[:8]
    random = np.random.default_rng(1)
    rows = [
        first.assign(layer=layer, protocol="interventions-v1", metric=f"effect_error@{kind}", count=2,
                     value=sign * effect * (1 if layer == 10 else 0.2) + 0.004 * random.standard_normal(len(first)))
        for layer in LAYERS for kind, sign in {"identity": 1, "true_match": -0.5}.items()
    ]  # fmt: skip
    pd.concat([scores, *rows], ignore_index=True).to_parquet(folder / "scores.parquet")


def _evaluations(folder: Path, paper: Paper, random: np.random.Generator) -> None:
    for name in (variant for variant in FIVE if variant in paper.gains):
        for seed in range(paper.seeds):
            _evaluation(folder / f"{name}-seed{seed}", paper.gains[name], paper, random)


def _evaluation(folder: Path, gain: float, paper: Paper, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    luck = paper.noise * random.standard_normal()
    rows: list[dict[str, Any]] = []
    for scene in range(32):
        turn, own = 10.0 + 30 * (scene % 4), 0.5 * np.sin(7.0 * scene)
        levels = {"model": 14.5 + gain + luck + own - turn / 60 + 0.3 * random.standard_normal(),
                  "copy": 13.5 + own - turn / 40, "mean colour": 12 + own}  # fmt: skip
        for method, psnr in levels.items():
            for metric, value in {"psnr": psnr, "ssim": psnr / 50, "match_error": 0.5 - psnr / 50}.items():
                rows.append({"scene": f"room-{scene}", "view": 1, "rotation_deg": turn, "n_ref": 1, "method": method,
                             "metric": metric, "value": value, "count": 1})  # fmt: skip
    images = pd.DataFrame(rows)
    both = pd.concat([images.assign(rotation_bin=rotation_bin(images["rotation_deg"]).astype(str)),
                      images.assign(rotation_bin="all")])  # fmt: skip
    images.to_csv(folder / "images.csv", index=False)
    summary = summarise(both, ["n_ref", "rotation_bin", "method", "metric"], shares=False).assign(note="")
    summary.to_csv(folder / "summary.csv", index=False)
    worst = {"scene": "room-0", "view": 1, "n_ref": 1, "rotation_deg": 10.0, "psnr": 14, "ssim": 0.3, "lpips": None,
             "match_error": 0.2, "copy_psnr": 13, "truth_match_error": 0.1}  # fmt: skip
    pd.DataFrame([worst]).to_csv(folder / "worst.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"settings": {"views": 2}, "environment": {}}))


def _samples(folder: Path, paper: Paper) -> None:
    scenes = [
        {"name": f"room-{n}", "rotation_deg": 15.0 * n, "psnr": {
            name: [11 + n / 10 + paper.gains.get(name, 0) * share for share in (0.3, 0.6, 1.0)]
            for name in ("plain", "mean")
        }}
        for n in range(4)
    ]  # fmt: skip
    rule = "The first held-out room of each rotation bin, in their order; quality plays no part."
    content = {"rule": rule, "steps": [500, 1000, 1500], "scenes": scenes, "methods": ["plain", "mean"]}
    (folder / "samples.json").write_text(json.dumps(content))
    (folder / "samples.png").write_bytes(PIXEL)
