"""A probe run on disk: scene after scene to files of its own, so that a stopped run resumes, then the tables whole."""

import shutil
from collections.abc import Iterator
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
from probe.measure.matcher import measure_matcher
from probe.measure.model import cameras_only, measure_layers, timestep_table
from probe.measure.references import measure_references
from probe.measure.scene import Scene, pair_table
from probe.models.model import MultiViewModel
from probe.plan.plan import Plan
from probe.records import CAMERAS_ONLY, digest, write, write_json
from probe.seeds import derive
from probe.selection import Selection
from probe.views import without_images

EXAMPLES = 4  # scenes whose matches are kept for the pictures: the first of each rotation bin
EXPLORED = 2  # of them, scenes whose attention is kept for the page's match explorer
KEPT = {"image": "examples.safetensors", "edited": "edited.safetensors", "explorer": "explorer.safetensors"}


def measure(plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure scene after scene, each to a file of its own.

    Returns:
        The score table, and the list of pairs.
    """
    parts = plan.settings.out / "parts"
    parts.mkdir(exist_ok=True)
    shown, shared = [], []
    for index in tqdm(range(len(plan.scenes.names)), desc="scenes", unit="scene"):
        views, overlap = plan.scenes.load(index)
        path = parts / f"scene-{index:05d}.parquet"
        if not path.exists():
            scene = plan.scene(index, views.to(plan.model.alpha_bar.device))
            table = _measure_scene(plan, scene, index, parts)
            write(path, lambda part, table=table: table.to_parquet(part, index=False))  # type: ignore[misc]
        shown.append(without_images(views))
        shared.append(overlap)
    pairs = pair_table(shown, shared)
    frames = [pd.read_parquet(path) for path in sorted(parts.glob("scene-*.parquet"))]
    scores = pd.concat(frames, ignore_index=True).assign(pair_list=digest(pairs))
    return plan.scenes.with_units(scores), pairs


def _measure_scene(plan: Plan, scene: Scene, index: int, parts: Path) -> pd.DataFrame:
    """Score the references, the model, its nulls and the matchers on one scene; keep what the pictures show."""
    frames = [measure_references(scene, plan.protocol)]
    for model, shown, timesteps in _models(plan, scene):
        frames.append(measure_layers(model, shown, plan.layers, timesteps, plan.protocol))
    frames += [measure_matcher(name, matcher, scene, plan.protocol) for name, matcher in plan.matchers.items()]
    if index < EXAMPLES:
        _save_example(plan, scene, parts, index)
    if plan.experiment.covers(index):
        frames.append(_edit(plan, scene, parts, index))
    return pd.concat(frames, ignore_index=True)


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
        name = plan.select_by.partition("|")[0]
        threshold = next(limit for limit in plan.protocol.limits(scene.thresholds) if limit.name == name)
        seen = explore_scene(plan.model, scene, plan.layers, plan.timesteps, threshold)
        _write_tensors(parts / f"explorer-{index:05d}.safetensors", seen)
    write(parts / f"matches-{index:05d}.parquet", lambda part: matches.to_parquet(part, index=False))


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


def save(plan: Plan, scores: pd.DataFrame, pairs: pd.DataFrame, layers: pd.DataFrame, selection: Selection) -> None:
    """Write the run folder's tables whole, then drop the parts."""
    out = plan.settings.out
    write(out / "scores.parquet", lambda part: scores.to_parquet(part, index=False))
    write(out / "layers.csv", lambda part: layers.to_csv(part, index=False))
    write(out / "pairs.csv", lambda part: pairs.to_csv(part, index=False))
    write(out / "timesteps.csv", lambda part: timestep_table(plan.model, plan.timesteps).to_csv(part, index=False))
    write_json(out / "selection.json", selection.record())
    write_json(out / "model.json", {"name": plan.model.name, **(plan.model.card or {})})
    _copy_emergence(plan.model, out)
    _join_parts(out)


def _join_parts(out: Path) -> None:
    parts = out / "parts"
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
