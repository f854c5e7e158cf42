"""Noise on the truth against what supervision still gives, at the small scale: python benchmarks/noisy_truth.py

Trains the small model once per kind and amount of noise and seed, in processes of their own; finished runs are read,
not made again, and a stopped one goes on. Beside each stands what the noisy truth is worth: how many of the matches
that it counts are right, and how many of the visible points have a right one.
"""

import statistics
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import torch
import tyro

from probe.correspondence import match_tokens
from probe.geometry_quality import match_quality
from probe.models import fresh_tiny
from probe.records import write
from probe.seeds import derive
from probe.truth_noise import perturb, read_noise
from train.batches import draw_batch
from train.cameo import Command, settings_of
from train.comparison import is_finished
from train.study import run_process

PLAIN, CLEAN, SHUFFLED = "plain", "clean", "shuffled"
LEVELS = ("depth:.02", "depth:.05", "depth:.2", "holes:.3", "holes:.7", "holes:.95", "rotation:1", "rotation:3",
          "rotation:10", "translation:.02", "translation:.1", "depth:.05,holes:.3,rotation:1")  # fmt: skip
MEASURED = ("loss", "loss_t900", "psnr", "match_error")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Train without supervision, with the true matches, with another scene's matches, and with noisy ones."""

    levels: str = ";".join(LEVELS)
    """As for --truth-noise of python -m train.cameo, by semicolons."""
    seeds: str = "0"
    """By commas."""
    layer: int = 12
    """Supervised layer."""
    mixing: str = "mlp"
    """How heads become one: mlp, mean or positive."""
    steps: int = 500
    """Optimiser steps of each run."""
    batch_size: int = 3
    """Scenes per step."""
    rotation_ramp: int = 200
    """Steps over which rotations grow."""
    evaluate_scenes: int = 16
    """Held-out scenes that are sampled."""
    sampling_steps: int = 20
    """Of DDIM."""
    worth_scenes: int = 12
    """Scenes that the truth's worth is measured on."""
    out: Path = Path("runs/noisy-truth")
    """Folder of the runs and the table."""


def flags(given: Benchmark, level: str, seed: str) -> list[str]:
    own = {
        PLAIN: ["--layer", "none"],
        CLEAN: ["--layer", str(given.layer)],
        SHUFFLED: ["--layer", str(given.layer), "--control", "shuffled"],
    }.get(level, ["--layer", str(given.layer), "--truth-noise", level])
    every = str(given.steps)
    shared = {"steps": given.steps, "batch-size": given.batch_size, "rotation-ramp": given.rotation_ramp, "seed": seed,
              "evaluate-scenes": given.evaluate_scenes, "sampling-steps": given.sampling_steps, "probe-every": every,
              "evaluate-every": every, "checkpoint-every": every, "mixing": given.mixing}  # fmt: skip
    return [*own, *(word for name, value in shared.items() for word in (f"--{name}", str(value)))]


def folder(given: Benchmark, level: str, seed: str) -> Path:
    return given.out / f"{level.replace(':', '-').replace(',', '_')}-seed{seed}"


def train(given: Benchmark, level: str, seed: str) -> None:
    out = folder(given, level, seed)
    if is_finished(out, given.steps):
        return
    words = [*flags(given, level, seed), "--out", str(out), "--resume", "--no-report"]
    code, said = run_process(words, torch.get_num_threads())
    if code:
        raise SystemExit(f"{out}: {said.strip().splitlines()[-1]}")


def final(given: Benchmark, level: str, seed: str) -> dict[str, float]:
    out = folder(given, level, seed)
    row = pd.read_json(out / "evaluation.jsonl", lines=True).iloc[-1]
    layers = pd.read_csv(out / "emergence.csv")
    at_layer = layers[(layers["layer"] == given.layer) & (layers["step"] == layers["step"].max())]
    return {**{name: float(row[name]) for name in MEASURED}, "precision": float(at_layer["value"].iloc[0])}


def worth(given: Benchmark, level: str) -> dict[str, float]:
    """Say what a truth is worth on scenes like those of training."""
    if level in (PLAIN, SHUFFLED):
        return {"right": float("nan"), "found": float("nan")}
    settings, model = settings_of(Command()), fresh_tiny(0)
    generator = torch.Generator().manual_seed(derive("worth"))
    views = draw_batch(settings, model, generator, given.worth_scenes, 1)
    noisy = views if level == CLEAN else perturb(views, read_noise(level), generator)
    grid = (16, 16)  # of layer 12
    return match_quality(views, match_tokens(noisy.point_map, noisy.valid, grid), grid)


def main(given: Benchmark) -> None:
    levels, seeds = [PLAIN, CLEAN, SHUFFLED, *given.levels.split(";")], given.seeds.split(",")
    rows = []
    for level in levels:
        for seed in seeds:
            train(given, level, seed)
            print(f"{level}, seed {seed}: trained", file=sys.stderr)
        found = [final(given, level, seed) for seed in seeds]
        means = {name: statistics.mean(one[name] for one in found) for name in found[0]}
        rows.append({"truth": level, **worth(given, level), **means})
        table = pd.DataFrame(rows)
        write(given.out / "table.csv", lambda part, table=table: table.to_csv(part, index=False))
    print(", ".join(f"{field.name} {getattr(given, field.name)}" for field in fields(given) if field.name != "levels"))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
