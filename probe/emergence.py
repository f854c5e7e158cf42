"""Measure precision over training iterations: ``python -m probe.emergence runs/train/averaged``."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro
from tqdm import tqdm

from probe import command
from probe.layers import find_layers, select_layers
from probe.measuring import measure_layers, measure_references, truths_of
from probe.models import load_model
from probe.models.denoising import MultiViewModel
from probe.protocols import PROTOCOLS, thresholds
from probe.records import ALL_HEADS, UNIFORM, summarise, write
from probe.scenes import Request, open_scenes
from probe.seeds import derive

PROG = "python -m probe.emergence"


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Hold on what, and by what, precision is followed over training."""

    scenes: str = "shapes"
    """As for python -m probe.run."""
    groups: int = 16
    """Scenes of three views, the four rotation bins in turn."""
    timesteps: str = "100,300,500,700,900"
    """Timestep indexes, by commas; precision is averaged over them."""
    metric: str = PROTOCOLS["attention-v1"].select_by
    """Metric to follow, over target queries and reference keys."""
    seed: int = 0
    """Of scenes and noise."""


@dataclass(frozen=True, kw_only=True)
class Settings(Watch):
    """Score every checkpoint of a training run on the same scenes; write emergence.csv."""

    checkpoints: tyro.conf.Positional[Path]
    """Folder of checkpoints named step-NNNNNN, as the trainer's OUT/averaged."""
    out: Path | None = None
    """File to write; default emergence.csv in the folder of checkpoints."""


def main(settings: Settings) -> None:
    """Measure checkpoint after checkpoint; write one row per step and layer."""
    found = sorted(settings.checkpoints.glob("step-*"))
    if not found:
        raise ValueError(
            f"{settings.checkpoints} holds no checkpoint named step-NNNNNN; train with python -m train.cameo"
        )
    tables = [
        measure_step(load_model(f"cat3d-tiny:{path}"), int(path.name.removeprefix("step-")), settings)
        for path in tqdm(found, desc="checkpoints")
    ]
    out = settings.out or settings.checkpoints / "emergence.csv"
    write(out, lambda part: pd.concat(tables).to_csv(part, index=False, float_format="%.6f"))
    print(out)


def measure_step(model: MultiViewModel, step: int, watch: Watch) -> pd.DataFrame:
    """Score a model's 3D layers at one step of its training; give step, layer, layer_name, value, low, high, chance."""
    protocol, layers = PROTOCOLS["attention-v1"], select_layers(find_layers(model.network), "3d")
    scenes = open_scenes(watch.scenes, Request(groups=watch.groups, views=3, n_ref=1, seed=watch.seed))
    timesteps = [int(t) for t in watch.timesteps.split(",")]
    frames = []
    for index in range(len(scenes.names)):
        views, _ = scenes.load(index)
        truths, limits = truths_of(views, layers), thresholds(views.unit)
        generator = torch.Generator().manual_seed(derive("noise", watch.seed, index))
        noise = torch.randn(1, 3, 3, model.size, model.size, generator=generator)
        frames.append(measure_layers(model, views, layers, truths, timesteps, protocol, limits, noise))
        frames.append(measure_references(views, truths, protocol, limits))
    scores = pd.concat(frames, ignore_index=True)
    rows = scores[
        (scores["metric"] == watch.metric)
        & (scores["direction"] == protocol.direction)
        & (scores["protocol"] == protocol.name)
        & (scores["head"] == ALL_HEADS)
    ]
    chance = summarise(rows[rows["model"] == UNIFORM], ["grid"]).set_index("grid")["value"]
    table = summarise(rows[rows["layer"] >= 0], ["layer", "layer_name", "grid"])
    table.insert(0, "step", step)
    return table.assign(chance=table["grid"].map(chance).astype(float)).drop(columns=["scenes", "count"])


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
