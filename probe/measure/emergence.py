"""Precision of every 3D layer at one step of a training."""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from probe.cli import flag
from probe.layers import Layer, select_layers
from probe.measure.model import measure_layers, scene_noise, timestep_indexes
from probe.measure.references import measure_references
from probe.measure.scene import make_scene, pair_table
from probe.metrics import Threshold, thresholds
from probe.models import load_model
from probe.models.model import MultiViewModel, model_layers, to_device
from probe.plan.plan import device_named
from probe.plan.processes import Processes
from probe.plan.settings import Device, Watch
from probe.protocols import ATTENTION_V1, Protocol
from probe.records import ALL_HEADS, UNIFORM, alone, digest, open_run, read_emergence, summarise, write
from probe.scenes import Request, SceneList, open_scenes
from probe.views import Views, without_images


def measure_steps(checkpoints: Sequence[Path], watch: Watch, device: Device, out: Path, processes: Processes) -> None:
    """Score checkpoints, each to a file of its own until all are there; then write one table and drop the files.

    Args:
        checkpoints: Folders named step-NNNNNN.
        watch: On what, and by what.
        device: That measures.
        out: The table.
        processes: That share the checkpoints.

    Raises:
        RunError: If measurements of other settings wait beside the table, or another process is writing there.
    """
    parts = out.with_name(f"{out.name}.parts")
    with ExitStack() as stack:
        processes.first_does(lambda: _open(parts, watch, stack))
        missing = [path for path in checkpoints if not _part(parts, path).exists()]
        processes.wait()  # all have counted before anyone writes
        for path in tqdm(processes.share(missing), desc="checkpoints", disable=not processes.is_first):
            model = to_device(load_model(f"cat3d-tiny:{path}"), device_named(device))
            _write(measure_step(model, int(path.name.removeprefix("step-")), watch), _part(parts, path))
        processes.wait()
        if processes.is_first:
            _write(pd.concat([read_emergence(_part(parts, path)) for path in checkpoints]), out)
            shutil.rmtree(parts)


def _open(parts: Path, watch: Watch, stack: ExitStack) -> None:
    parts.parent.mkdir(parents=True, exist_ok=True)
    open_run(parts, {field.name: getattr(watch, field.name) for field in fields(Watch)}, resume=True)
    stack.enter_context(alone(parts))


def _part(parts: Path, checkpoint: Path) -> Path:
    """Return the file of a checkpoint: of its step and its weights, which another training has not."""
    weights = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            weights.update(hashlib.file_digest(file, "sha256").digest())
    return parts / f"{checkpoint.name}-{weights.hexdigest()[:12]}.csv"


def _write(table: pd.DataFrame, path: Path) -> None:
    write(path, lambda part: table.to_csv(part, index=False, float_format="%.6f"))


def measure_step(model: MultiViewModel, step: int, watch: Watch) -> pd.DataFrame:
    """Score a model's 3D layers at one step of its training.

    Returns:
        One row per layer: step, scenes (as named by ``watch``), layer, layer_name, grid, value, low, high, scene_count,
        units (independent ones among the scenes), count (of points), chance, protocol, metric, pair_list (digest of
        the pairs, as of a probe run).

    Raises:
        ValueError: If timesteps or metric are unknown.
    """
    protocol, layers = ATTENTION_V1, select_layers(model_layers(model), "3d")
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
    """Score layers and references on scene after scene; return the scores and the pairs."""
    scenes, frames, shown, shared = _scenes(watch), [], [], []
    timesteps = timestep_indexes(watch.timesteps)
    for index in range(len(scenes.names)):
        views, overlap = scenes.load(index)
        views = views.to(model.alpha_bar.device)
        scene = make_scene(views, layers, scene_noise(model, views, watch.seed, index), _limit(watch, views))
        frames.append(measure_layers(model, scene, layers, timesteps, protocol))
        frames.append(measure_references(scene, protocol))
        shown.append(without_images(views))
        shared.append(overlap)
    return scenes.with_units(pd.concat(frames, ignore_index=True)), pair_table(shown, shared)


def _scenes(watch: Watch) -> SceneList:
    with flag("--scenes"):
        return open_scenes(watch.scenes, Request(groups=watch.groups, views=3, n_ref=1, seed=watch.seed))


def try_first_scene(watch: Watch) -> None:
    """Refuse unknown scenes, timesteps or metric before the progress bar begins."""
    with flag("--timesteps"):
        timestep_indexes(watch.timesteps)
    _limit(watch, _scenes(watch).load(0)[0])


def _limit(watch: Watch, views: Views) -> tuple[Threshold, ...]:
    """Pick the one threshold that is followed."""
    known = thresholds(views.unit)
    followed = tuple(limit for limit in known if limit.name == watch.metric)
    if not followed:
        raise ValueError(f"--metric {watch.metric!r} is unknown; choose from {', '.join(x.name for x in known)}")
    return followed
