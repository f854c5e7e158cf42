"""A probe run on disk: scene after scene to files of its own, so that a stopped run resumes, then the tables whole."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from tqdm import tqdm

from probe.image_quality import load_lpips
from probe.interventions.effects import measure_effects
from probe.measure.examples import example_matches
from probe.measure.explored import explore_scene
from probe.measure.hidden import hidden_rows, queries_of_scene
from probe.measure.matcher import measure_matcher
from probe.measure.model import cameras_only, measure_layers, timestep_table
from probe.measure.references import measure_references
from probe.measure.scene import LayerCall, Scene, pair_table
from probe.metrics import Threshold
from probe.models.model import MultiViewModel
from probe.plan.plan import Plan
from probe.plan.processes import Processes
from probe.records import CAMERAS_ONLY, PARTS, SCORES, Rows, digest, score_table, write, write_json
from probe.records.hidden import hidden_table
from probe.records.names import HIDDEN_TABLE
from probe.records.scores import write_scores
from probe.seeds import derive
from probe.selection import HeadSelection, Selection

EXAMPLES = 4  # scenes whose matches are kept for the pictures: the first of each rotation bin
EXPLORED = 4  # of them, scenes whose attention is kept for the page's match explorer
SCENE_FILES, PAIR_FILES, HIDDEN_FILES = "scene-*.parquet", "pairs-*.parquet", "hidden-*.parquet"
KEPT = {"image": "examples.safetensors", "edited": "edited.safetensors", "explorer": "explorer.safetensors"}


def open_parts(out: Path) -> None:
    """Make the folder of the scenes' files in a run's folder; those of a stopped run stay."""
    (out / PARTS).mkdir(exist_ok=True)


def measure_scenes(plan: Plan, processes: Processes) -> None:
    """Measure the scenes that are not measured yet, each to a file of its own, shared out among the processes.

    Scenes are whole: a stopped run resumes with any number of processes, and its numbers do not depend on it.

    Args:
        plan: Of the run, whose parts are open.
        processes: That share it.
    """
    parts, total = plan.settings.out / PARTS, len(plan.scenes.names)
    missing = [index for index in range(total) if not _file(parts, SCENE_FILES, index).exists()]
    processes.wait()  # all have counted before anyone writes
    with tqdm(desc="scenes", unit="scene", total=total, disable=not processes.is_first) as bar:
        bar.update(total - len(missing))
        for index in processes.share(missing):
            _measure_scene(plan, index, parts)
            bar.update(len(list(parts.glob(SCENE_FILES))) - bar.n)


def join_scenes(plan: Plan) -> pd.DataFrame:
    """Write the score table from the files of all scenes, a few of which are in memory at a time.

    Returns:
        The list of pairs.
    """
    parts = plan.settings.out / PARTS
    pairs = pd.concat([pd.read_parquet(path) for path in sorted(parts.glob(PAIR_FILES))], ignore_index=True)
    pair_list = digest(pairs)
    scenes = (pd.read_parquet(path).assign(pair_list=pair_list) for path in sorted(parts.glob(SCENE_FILES)))
    write_scores(plan.settings.out / SCORES, map(plan.scenes.with_units, scenes))
    return pairs


def _file(parts: Path, files: str, index: int) -> Path:
    return parts / files.replace("*", f"{index:05d}")


def _measure_scene(plan: Plan, index: int, parts: Path) -> None:
    views, overlap = plan.scenes.load(index)
    pairs = pair_table([views], [overlap])
    write(_file(parts, PAIR_FILES, index), lambda part: pairs.to_parquet(part, index=False))
    table = _score_scene(plan, plan.scene(index, views.to(plan.model.alpha_bar.device)), index, parts)
    write(_file(parts, SCENE_FILES, index), lambda part: table.to_parquet(part, index=False))


def _score_scene(plan: Plan, scene: Scene, index: int, parts: Path) -> pd.DataFrame:
    """Score the references, the model, its nulls and the matchers on one scene; keep what the pictures show."""
    frames, hidden = [measure_references(scene, plan.protocol)], list[Rows]()
    on_call = _hidden_listener(scene, hidden) if plan.settings.hidden else None
    for model, shown, timesteps in _models(plan, scene):
        frames.append(measure_layers(model, shown, plan.layers, timesteps, plan.protocol, on_call))
    if hidden:
        _save_hidden(plan, score_table(hidden), _file(parts, HIDDEN_FILES, index))
    frames += [measure_matcher(name, matcher, scene, plan.protocol) for name, matcher in plan.matchers.items()]
    if index < EXAMPLES:
        _save_example(plan, scene, parts, index)
    if plan.experiment.covers(index):
        frames.append(_edit(plan, scene, parts, index))
    return pd.concat(frames, ignore_index=True)


def _hidden_listener(scene: Scene, rows: list[Rows]) -> Callable[[LayerCall], None]:
    """Return what measures where each call looks from points that a key view does not show, into ``rows``."""
    queries = queries_of_scene(scene)
    return lambda call: rows.append(hidden_rows(call, scene, queries))


def _save_hidden(plan: Plan, rows: pd.DataFrame, path: Path) -> None:
    """Write what was measured of hidden points, of the direction that layers are ranked by."""
    way = plan.protocol.direction
    kept = rows if way == "all" else rows[rows["direction"] == way]
    write(path, lambda part: plan.scenes.with_units(kept).to_parquet(part, index=False))


def _models(plan: Plan, scene: Scene) -> Iterator[tuple[MultiViewModel, Scene, tuple[int, ...]]]:
    """List the model and its nulls, each with the scene it is shown and the timesteps it is scored at."""
    yield plan.model, scene, plan.timesteps
    if plan.random is not None:
        yield plan.random, scene, (plan.middle,)
    if "null" in plan.baselines:
        yield *cameras_only(plan.model, scene, plan.model.name + CAMERAS_ONLY), (plan.middle,)


def _save_example(plan: Plan, scene: Scene, parts: Path, index: int) -> None:
    matches = example_matches(plan.model, scene, plan.layers, plan.middle, plan.protocol)
    _write_tensors(parts / f"image-{index:05d}.safetensors", {f"image/{scene.name}": _bytes(scene.views.image[0])})
    if index < EXPLORED:
        seen = explore_scene(plan.model, scene, plan.layers, plan.timesteps, ranked_threshold(plan, scene))
        _write_tensors(parts / f"explorer-{index:05d}.safetensors", seen)
    write(parts / f"matches-{index:05d}.parquet", lambda part: matches.to_parquet(part, index=False))


def ranked_threshold(plan: Plan, scene: Scene) -> Threshold:
    """Return which matches are right by the metric that layers are ranked by."""
    name = plan.select_by.partition("|")[0]
    return next(limit for limit in plan.protocol.limits(scene.thresholds) if limit.name == name)


def _edit(plan: Plan, scene: Scene, parts: Path, index: int) -> pd.DataFrame:
    """Edit the layers one after the other; keep the first scenes' sampled views for the pictures."""
    lpips = load_lpips(plan.model.alpha_bar.device) if plan.experiment.steps else None
    experiment = replace(plan.experiment, seed=derive("edits", plan.settings.seed, index))
    effects = measure_effects(plan.model, scene, plan.layers, experiment, lpips)
    if effects.images and index < EXAMPLES:
        images = {f"{scene.name}/{name}": _bytes(image) for name, image in effects.images.items()}
        _write_tensors(parts / f"edited-{index:05d}.safetensors", images)
    return effects.rows


def _bytes(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().to(torch.uint8).cpu().contiguous()


def save(
    plan: Plan, pairs: pd.DataFrame, layers: pd.DataFrame, selection: Selection, heads: HeadSelection | None
) -> None:
    """Write the run folder's other tables whole, then drop the parts."""
    out = plan.settings.out
    write(out / "layers.csv", lambda part: layers.to_csv(part, index=False))
    write(out / "pairs.csv", lambda part: pairs.to_csv(part, index=False))
    write(out / "timesteps.csv", lambda part: timestep_table(plan.model, plan.timesteps).to_csv(part, index=False))
    write_json(out / "selection.json", {**selection.record(), "heads": heads and heads.record()})
    write_json(out / "model.json", {"name": plan.model.name, **(plan.model.card or {})})
    _copy_emergence(plan.model, out)
    _join_hidden(out)
    _join_parts(out)


def _join_hidden(out: Path) -> None:
    """Write the table of hidden points, where they were measured."""
    paths = sorted((out / PARTS).glob(HIDDEN_FILES))
    if paths:
        table = hidden_table(pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True))
        write(out / HIDDEN_TABLE, lambda part: table.to_csv(part, index=False, float_format="%.6g"))


def _join_parts(out: Path) -> None:
    parts = out / PARTS
    examples = sorted(parts.glob("matches-*.parquet"))
    if examples:
        matches = pd.concat([pd.read_parquet(path) for path in examples], ignore_index=True)
        write(out / "matches.parquet", lambda part: matches.to_parquet(part, index=False))
    for kind, name in KEPT.items():
        paths = sorted(parts.glob(f"{kind}-*"))
        tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
        if tensors:
            _write_tensors(out / name, tensors)
    shutil.rmtree(parts)


def _copy_emergence(model: MultiViewModel, out: Path) -> None:
    """Keep the history of precision that lies beside the weights (:mod:`probe.emergence`), where there is one."""
    if model.folder is not None and (history := model.folder / "emergence.csv").is_file():
        write(out / "emergence.csv", lambda part: shutil.copyfile(history, part))


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(path, lambda part: part.write_bytes(serialise(tensors)))  # save_file would make a file of its owner alone
