"""The bytes of a run's folder before it is made: one scene is scored with random queries and keys."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from probe.baselines import NULLS
from probe.measure.examples import match_rows
from probe.measure.explored import explored_bytes
from probe.measure.matcher import measure_matcher
from probe.measure.references import guesses_of_layers, measure_references
from probe.measure.scene import LayerCall, Scene
from probe.measure.score import score_call
from probe.plan.parts import EXAMPLES, EXPLORED, ranked_threshold
from probe.plan.plan import Plan
from probe.plan.rehearsal import random_call
from probe.records import score_table

MEASURES_OF_EDITS = 2
"""Rows of an edit, a timestep and a target view: the error's growth, and the prediction's change."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What a run's folder holds, without the page.

    Attributes:
        rows: Of the score table.
        scores: Bytes of the score table.
        pictures: Bytes of the example scenes' images and matches, of the match explorer, and of edited samples.
        parts: Bytes of the scenes' own files, which are there besides until the run is complete.
    """

    rows: int
    scores: int
    pictures: int
    parts: int


def disk_of(plan: Plan, scene: Scene) -> Disk:
    """Estimate what a run writes: a scene's own texts and numbers once, and further rows by what more of them take.

    Args:
        plan: Of the run.
        scene: Its first one.
    """
    scenes = len(plan.scenes.names)
    calls = [random_call(layer, scene) for layer in plan.layers]
    once, each, null = (
        _without_layers(plan, scene),
        _scored(plan, scene, calls),
        _scored(plan, scene, calls, guess=False),
    )
    more = _scored(plan, scene, [random_call(layer, scene) for layer in plan.layers]).assign(timestep=1)
    first = parquet_bytes(pd.concat([once, each]))
    per_row = (parquet_bytes(pd.concat([once, each, more])) - first) / len(more)
    nulls = sum(name in plan.baselines for name in NULLS)
    per_scene = len(once) + len(plan.timesteps) * len(each) + nulls * len(null)
    edits = _edits(plan, scenes) * MEASURES_OF_EDITS * len(plan.experiment.timesteps) * _targets(scene)
    rows, known = scenes * per_scene + edits, len(once) + len(each)
    return Disk(
        rows=rows,
        scores=round(first + (rows - known) * per_row),
        pictures=_pictures(plan, scene, calls, scenes),
        parts=round(scenes * first + (rows - scenes * known) * per_row),
    )


def _without_layers(plan: Plan, scene: Scene) -> pd.DataFrame:
    matchers = [measure_matcher(name, matcher, scene, plan.protocol) for name, matcher in plan.matchers.items()]
    return pd.concat([measure_references(scene, plan.protocol), *matchers], ignore_index=True)


def _scored(plan: Plan, scene: Scene, calls: Sequence[LayerCall], *, guess: bool = True) -> pd.DataFrame:
    """Score the calls of one denoising step."""
    guesses = guesses_of_layers(scene, plan.protocol) if guess else {}
    return score_table([rows for call in calls for rows in score_call(call, scene, plan.protocol, guesses)])


def _pictures(plan: Plan, scene: Scene, calls: Sequence[LayerCall], scenes: int) -> int:
    """Count the bytes of all that is kept of the first scenes only."""
    image = scene.views.image.numel()
    matches = pd.concat([match_rows(call, scene, plan.protocol) for call in calls], ignore_index=True)
    example = min(EXAMPLES, scenes) * (image + parquet_bytes(matches))
    explorer = explored_bytes(scene, plan.timesteps, ranked_threshold(plan, scene), calls)
    shown = 2 + len(list(plan.experiment.trials(plan.layers, heads=False)))  # true and unedited views stand beside
    sampled = shown * image // scene.views.count * _targets(scene) if plan.experiment.steps else 0
    edited = sum(plan.experiment.covers(index) for index in range(min(EXAMPLES, scenes)))
    return example + min(EXPLORED, scenes) * explorer + edited * sampled


def _edits(plan: Plan, scenes: int) -> int:
    trials = len(list(plan.experiment.trials(plan.layers, heads=plan.experiment.each_head)))
    return trials * sum(plan.experiment.covers(index) for index in range(scenes))


def _targets(scene: Scene) -> int:
    return scene.views.count - scene.views.n_ref


def parquet_bytes(table: pd.DataFrame) -> int:
    """Count the bytes of a table as a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return len(buffer.getvalue())
