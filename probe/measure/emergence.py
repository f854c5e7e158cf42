"""Precision of every 3D layer at one step of a training."""

from collections.abc import Sequence

import pandas as pd

from probe.cli import flag
from probe.layers import Layer, select_layers
from probe.measure.model import measure_layers, scene_noise, timestep_indexes
from probe.measure.references import measure_references
from probe.measure.scene import make_scene, pair_table
from probe.metrics import Threshold, thresholds
from probe.models.model import MultiViewModel, model_layers
from probe.plan.settings import Watch
from probe.protocols import ATTENTION_V1, Protocol
from probe.records import ALL_HEADS, UNIFORM, digest, summarise
from probe.scenes import Request, SceneList, open_scenes
from probe.views import Views, without_images


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
