"""Measure where a multi-view model's 3D attention finds the true corresponding point: ``python -m probe.run``."""

import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from tqdm import tqdm

from probe import cli as command
from probe.baselines import baseline_names, open_matchers
from probe.baselines.describing import Matcher
from probe.correspondence.sources import open_source
from probe.image_quality import load_lpips
from probe.interventions.effects import Experiment, measure_effects, plan_experiment
from probe.layers import Layer, select_layers
from probe.measure.explored import explore_scene
from probe.measure.model import (
    cameras_only,
    example_matches,
    measure_layers,
    measure_matcher,
    measure_references,
    scene_noise,
    timestep_indexes,
    timestep_table,
    truths_of,
)
from probe.measure.score import joint_layout
from probe.metrics import Threshold
from probe.models import CAMERAS_ONLY, load_model, randomised
from probe.models.model import MultiViewModel, model_layers, place
from probe.models.parts.files import META, Loading
from probe.plan import dry_run
from probe.plan.settings import Settings, count_groups
from probe.protocols import PROTOCOLS, Protocol, pair_table, thresholds
from probe.records import digest, open_run, write, write_json
from probe.records.names import split_coverage, with_coverage
from probe.scenes import Request, SceneList, open_scenes
from probe.scenes.recordings import GeometrySource
from probe.seeds import derive
from probe.selection import Selection, layer_table, select_layer
from probe.selection.terminal import show
from probe.selection.ties import supervision_costs
from probe.views import Views, without_images

PROG = "python -m probe.run"
EXAMPLES = 4  # scenes whose matches are kept for the pictures: the first of each rotation bin
EXPLORED = 2  # of them, scenes whose attention is kept for the page's match explorer
KEPT = {"image": "examples.safetensors", "edited": "edited.safetensors", "explorer": "explorer.safetensors"}


def main(settings: Settings) -> None:
    """Measure, choose the layer, write the run folder, show the table."""
    plan = Plan.make(settings)
    if settings.dry_run:
        console = Console(width=None if sys.stdout.isatty() else 120)
        dry_run.show(console, plan, dry_run.estimate(plan, _device(settings.device), EXAMPLES), settings.views)
        return
    open_run(settings.out, plan.record, resume=settings.resume)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for note in filter(None, (plan.scenes.note, plan.experiment.note)):
        console.print(note)
    if _is_complete(settings.out):
        console.print(f"{settings.out} is complete already")
    else:
        _measure_and_choose(plan, settings, console)
    if settings.report:
        from analysis.report import refresh  # an edge may call the report last; matplotlib is slow to import

        console.print(f"page: {refresh(settings.out)}")


def _is_complete(out: Path) -> bool:
    return (out / "selection.json").exists() and not (out / "parts").exists()


def _measure_and_choose(plan: "Plan", settings: Settings, console: Console) -> None:
    scores, pairs = measure(plan, settings)
    costs = supervision_costs(plan.layers, settings.views)
    selection = select_layer(scores, metric=settings.select_by, model=plan.model.name, costs=costs)
    layers = layer_table(scores, selection)
    save(settings.out, plan, scores, pairs, layers, selection)
    show(console, layers, selection, pairs, scores)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold everything a run needs, resolved from the settings."""

    model: MultiViewModel
    layers: list[Layer]
    scenes: SceneList
    protocol: Protocol
    timesteps: tuple[int, ...]
    baselines: tuple[str, ...]
    matchers: dict[str, Matcher]
    random: MultiViewModel | None
    experiment: Experiment
    record: dict[str, object]

    @property
    def middle(self) -> int:
        """Give the timestep of the nulls and the pictures: the middle one asked for."""
        return self.timesteps[len(self.timesteps) // 2]

    @classmethod
    def make(cls, settings: Settings) -> "Plan":
        """Resolve settings; refuse what cannot be run before anything is written."""
        timesteps = timestep_indexes(settings.timesteps)
        baselines = baseline_names(settings.baselines)
        groups = count_groups(settings)
        device, dtype = META if settings.dry_run else _device(settings.device), getattr(torch, settings.dtype)
        loading = Loading(base=settings.base, size=settings.model_size, outline=settings.dry_run)
        model = place(load_model(settings.model, loading), device, dtype)
        layers = select_layers(model_layers(model), settings.layers or model.default_layers)
        request = Request(
            groups=groups,
            views=settings.views,
            n_ref=settings.n_ref,
            seed=settings.seed,
            min_overlap=settings.min_overlap,
            size=settings.image_size,
            view_list=settings.view_list,
            geometry=_source_of_points(settings),
        )
        scenes, protocol = open_scenes(settings.scenes, request), PROTOCOLS[settings.protocol]
        _try_first_scene(scenes, layers, protocol, settings.select_by)
        experiment = plan_experiment(
            settings.interventions,
            layers,
            timesteps,
            during=settings.edit_timesteps,
            scenes=settings.edit_scenes,
            each_head=settings.edit_heads,
            steps=settings.sampling_steps,
        )
        return cls(
            model=model,
            layers=layers,
            scenes=scenes,
            protocol=protocol,
            timesteps=timesteps,
            baselines=baselines,
            matchers=open_matchers(baselines, _device(settings.device)),
            random=_untrained(model, settings, device, dtype) if "random" in baselines else None,
            experiment=experiment,
            record=_record(replace(settings, layers=settings.layers or model.default_layers), timesteps, experiment),
        )


def _source_of_points(settings: Settings) -> GeometrySource | None:
    """Open what true points come from; None for the scenes' own."""
    if settings.truth_source in (None, "depth"):
        return None
    return open_source(settings.truth_source, _device(settings.device))


def _untrained(model: MultiViewModel, settings: Settings, device: torch.device, dtype: torch.dtype) -> MultiViewModel:
    """Give the network with random weights; a rehearsal needs none."""
    return model if settings.dry_run else place(randomised(model, settings.seed), device, dtype)


def _record(settings: Settings, timesteps: tuple[int, ...], experiment: Experiment) -> dict[str, object]:
    """Keep what decides the numbers, as plain values."""
    resolved = {**asdict(settings), "timesteps": list(timesteps), "out": str(settings.out), **experiment.record()}
    resolved["select_by"] = settings.select_by or PROTOCOLS[settings.protocol].select_by
    return {name: value for name, value in resolved.items() if name not in ("resume", "report", "dry_run")}


def _try_first_scene(scenes: SceneList, layers: list[Layer], protocol: Protocol, select_by: str | None) -> None:
    """Refuse what only a scene can tell: images smaller than a token grid, layers on no grid, an unknown metric."""
    views, _ = scenes.load(0)
    truths_of(views, layers)
    for layer in layers:
        joint_layout(layer, views.count)
    names = [limit.name for limit in thresholds(views.unit)]
    names += [with_coverage(name, coverage) for name in names for coverage in protocol.coverages]
    if select_by not in (None, *names):
        raise ValueError(f"--select-by {select_by!r} is unknown; choose from {', '.join(names)}")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def measure(plan: Plan, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure scene after scene, each to a file of its own, so that a stopped run can go on."""
    parts = settings.out / "parts"
    parts.mkdir(exist_ok=True)
    scenes, shared = [], []
    for index in tqdm(range(len(plan.scenes.names)), desc="scenes", unit="scene"):
        views, overlap = plan.scenes.load(index)
        scenes.append(views)
        shared.append(overlap)
        path = parts / f"scene-{index:05d}.parquet"
        if not path.exists():
            _measure_scene(plan, settings, views, index, parts)
        scenes[-1] = without_images(views)
    pairs = pair_table(scenes, shared)
    frames = [pd.read_parquet(path) for path in sorted(parts.glob("scene-*.parquet"))]
    return pd.concat(frames, ignore_index=True).assign(pair_list=digest(pairs)), pairs


def _measure_scene(plan: Plan, settings: Settings, views: Views, index: int, parts: Path) -> None:
    """Score the model, its nulls, the baselines and the references on one scene."""
    limits = thresholds(views.unit)
    noise = scene_noise(plan.model, views, settings.seed, index)
    truths = truths_of(views, plan.layers)
    frames = [measure_references(views, truths, plan.protocol, limits)]
    for model, seen in _models(plan, views):
        frames.append(_layers(plan, model, seen, truths, limits, noise))
    for name, matcher in plan.matchers.items():
        frames.append(measure_matcher(name, matcher, views, truths, plan.protocol, limits))
    if index < EXAMPLES:
        _save_example(plan, views, truths, noise, parts, index)
    if plan.experiment.covers(index):
        frames.append(_edit(plan, settings, views, truths, noise, parts, index))
    table = pd.concat(frames, ignore_index=True)
    write(parts / f"scene-{index:05d}.parquet", lambda part: table.to_parquet(part, index=False))


def _models(plan: Plan, views: Views) -> list[tuple[MultiViewModel, Views]]:
    """List the model and its nulls, each with the views it is shown."""
    chosen = [(plan.model, views)]
    if plan.random is not None:
        chosen.append((plan.random, views))
    if "null" in plan.baselines:
        chosen.append(cameras_only(plan.model, views, plan.model.name + CAMERAS_ONLY))
    return chosen


def _layers(
    plan: Plan,
    model: MultiViewModel,
    views: Views,
    truths: dict,
    limits: tuple[Threshold, ...],
    noise: torch.Tensor,
) -> pd.DataFrame:
    timesteps = plan.timesteps if model is plan.model else (plan.middle,)
    return measure_layers(model, views, plan.layers, truths, timesteps, plan.protocol, limits, noise)


def _save_example(plan: Plan, views: Views, truths: dict, noise: torch.Tensor, parts: Path, index: int) -> None:
    matches = example_matches(plan.model, views, plan.layers, truths, plan.middle, plan.protocol, noise)
    _write_tensors(parts / f"image-{index:05d}.safetensors", {f"image/{views.names[0]}": _bytes(views.image[0])})
    if index < EXPLORED:
        name = split_coverage(str(plan.record["select_by"]))[0]
        threshold = next(limit for limit in thresholds(views.unit) if limit.name == name)
        seen = explore_scene(plan.model, views, plan.layers, truths, plan.timesteps, threshold, noise)
        _write_tensors(parts / f"explorer-{index:05d}.safetensors", seen)
    write(parts / f"matches-{index:05d}.parquet", lambda part: matches.to_parquet(part, index=False))


def _edit(
    plan: Plan, settings: Settings, views: Views, truths: dict, noise: torch.Tensor, parts: Path, index: int
) -> pd.DataFrame:
    """Edit the layers one after the other; keep the first scenes' sampled views for the pictures."""
    lpips = load_lpips(plan.model.alpha_bar.device) if plan.experiment.steps else None
    experiment = replace(plan.experiment, seed=derive("edits", settings.seed, index))
    effects = measure_effects(plan.model, views, plan.layers, truths, experiment, noise, lpips)
    if effects.images and index < EXAMPLES:
        images = {f"{views.names[0]}/{name}": _bytes(image) for name, image in effects.images.items()}
        _write_tensors(parts / f"edited-{index:05d}.safetensors", images)
    return effects.rows


def _bytes(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().to(torch.uint8).cpu().contiguous()


def _copy_emergence(model: MultiViewModel, out: Path) -> None:
    """Keep the history of precision that lies beside the weights (:mod:`probe.emergence`), where there is one."""
    if model.folder is not None and (found := model.folder / "emergence.csv").is_file():
        write(out / "emergence.csv", lambda part: shutil.copyfile(found, part))


def save(
    out: Path, plan: Plan, scores: pd.DataFrame, pairs: pd.DataFrame, layers: pd.DataFrame, selection: Selection
) -> None:
    """Write the run folder's tables whole, then drop the parts."""
    write(out / "scores.parquet", lambda part: scores.to_parquet(part, index=False))
    write(out / "layers.csv", lambda part: layers.to_csv(part, index=False))
    write(out / "pairs.csv", lambda part: pairs.to_csv(part, index=False))
    write(out / "timesteps.csv", lambda part: timestep_table(plan.model, plan.timesteps).to_csv(part, index=False))
    write_json(out / "selection.json", selection.record())
    write_json(out / "model.json", {"name": plan.model.name, **(plan.model.card or {})})
    _copy_emergence(plan.model, out)
    parts = out / "parts"
    examples = sorted(parts.glob("matches-*.parquet"))
    if examples:
        matches = pd.concat([pd.read_parquet(path) for path in examples], ignore_index=True)
        write(out / "matches.parquet", lambda part: matches.to_parquet(part, index=False))
    for kind, name in KEPT.items():
        tensors = _joined(parts, kind)
        if tensors:
            _write_tensors(out / name, tensors)
    shutil.rmtree(parts)


def _joined(parts: Path, kind: str) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(parts.glob(f"{kind}-*")) for name, tensor in load_file(path).items()}


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(path, lambda part: part.write_bytes(serialise(tensors)))  # save_file would make a file of its owner alone


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
