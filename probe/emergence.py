"""Measure precision over training iterations: ``python -m probe.emergence runs/train/averaged``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from tqdm import tqdm

from probe import cli as command
from probe.layers import Layer, select_layers
from probe.measure.model import measure_layers, measure_references, scene_noise, timestep_indexes, truths_of
from probe.metrics import Threshold
from probe.models import load_model
from probe.models.model import MultiViewModel, model_layers
from probe.protocols import PROTOCOLS, Protocol, pair_table, thresholds
from probe.records import ALL_HEADS, UNIFORM, digest, summarise, write
from probe.scenes import Request, SceneList, open_scenes
from probe.views import Views, without_images

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
    _try_first_scene(settings)
    tables = [
        measure_step(load_model(f"cat3d-tiny:{path}"), int(path.name.removeprefix("step-")), settings)
        for path in tqdm(found, desc="checkpoints")
    ]
    out = settings.out or settings.checkpoints / "emergence.csv"
    write(out, lambda part: pd.concat(tables).to_csv(part, index=False, float_format="%.6f"))
    print(out)


def measure_step(model: MultiViewModel, step: int, watch: Watch) -> pd.DataFrame:
    """Score a model's 3D layers at one step of its training.

    Returns:
        One row per layer: step, scenes (as named by ``watch``), layer, layer_name, grid, value, low, high, scene_count,
        count (of points), chance, protocol, metric, pair_list (digest of the pairs, as of a probe run).

    Raises:
        ValueError: If timesteps or metric are unknown.
    """
    protocol, layers = PROTOCOLS["attention-v1"], select_layers(model_layers(model), "3d")
    scores, pairs = _score(model, layers, watch, protocol)
    rows = scores[
        (scores["metric"] == watch.metric)
        & (scores["direction"] == protocol.direction)
        & (scores["protocol"] == protocol.name)
        & (scores["head"] == ALL_HEADS)
    ]
    chance = summarise(rows[rows["model"] == UNIFORM], ["grid"]).set_index("grid")["value"]
    table = summarise(rows[rows["layer"] >= 0], ["layer", "layer_name", "grid"])
    table = table.rename(columns={"scenes": "scene_count"})
    table.insert(0, "step", step)
    table.insert(1, "scenes", watch.scenes)
    return table.assign(
        chance=table["grid"].map(chance).astype(float),
        protocol=protocol.name,
        metric=watch.metric,
        pair_list=digest(pairs),
    )


def _score(
    model: MultiViewModel, layers: Sequence[Layer], watch: Watch, protocol: Protocol
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score layers and references on scene after scene; give the scores and the pairs."""
    scenes, frames, shown, shared = _scenes(watch), [], [], []
    for index in range(len(scenes.names)):
        views, overlap = scenes.load(index)
        truths, limits, timesteps = truths_of(views, layers), _limit(watch, views), timestep_indexes(watch.timesteps)
        noise = scene_noise(model, views, watch.seed, index)
        frames.append(measure_layers(model, views, layers, truths, timesteps, protocol, limits, noise))
        frames.append(measure_references(views, truths, protocol, limits))
        shown.append(without_images(views))
        shared.append(overlap)
    return pd.concat(frames, ignore_index=True), pair_table(shown, shared)


def _scenes(watch: Watch) -> SceneList:
    return open_scenes(watch.scenes, Request(groups=watch.groups, views=3, n_ref=1, seed=watch.seed))


def _try_first_scene(watch: Watch) -> None:
    """Refuse unknown scenes, timesteps or metric before the progress bar begins."""
    timestep_indexes(watch.timesteps)
    _limit(watch, _scenes(watch).load(0)[0])


def _limit(watch: Watch, views: Views) -> tuple[Threshold, ...]:
    """Pick the one threshold that is followed."""
    found = tuple(limit for limit in thresholds(views.unit) if limit.name == watch.metric)
    if not found:
        known = ", ".join(limit.name for limit in thresholds(views.unit))
        raise ValueError(f"--metric {watch.metric!r} is unknown; choose from {known}")
    return found


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
