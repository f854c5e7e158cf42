"""Measure where a multi-view model's 3D attention finds the true corresponding point: ``python -m probe.run``."""

import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from tqdm import tqdm

from probe import command, dry_run
from probe.baselines import baseline_names, open_matchers
from probe.baselines.describing import Matcher
from probe.effects import Experiment, measure_effects, plan_experiment
from probe.explorer import explore_scene
from probe.geometry_sources import open_source
from probe.image_quality import load_lpips
from probe.layers import Layer, select_layers
from probe.measuring import (
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
from probe.metrics import Threshold
from probe.models import CAMERAS_ONLY, load_model, randomised
from probe.models.denoising import MultiViewModel, model_layers, place
from probe.models.files import META, Loading
from probe.protocols import PROTOCOLS, Protocol, pair_table, thresholds
from probe.records import digest, open_run, write, write_json
from probe.scenes import Request, SceneList, open_scenes
from probe.scenes.recordings import GeometrySource
from probe.scoring import joint_layout
from probe.seeds import derive
from probe.selection import Selection, layer_table, select_layer
from probe.summary import show
from probe.views import Views, without_images
from probe.weighing import supervision_costs

PROG = "python -m probe.run"
BINS = 4
SEEDS = 2**32
EXAMPLES = 4  # scenes whose matches are kept for the pictures: the first of each rotation bin
EXPLORED = 2  # of them, scenes whose attention is kept for the page's match explorer
KEPT = {"image": "examples.safetensors", "edited": "edited.safetensors", "explorer": "explorer.safetensors"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure, layer by layer, how well 3D attention finds the true corresponding point in another view."""

    model: str = "cat3d-tiny"
    """NAME[:PATH_OR_HUB_ID]. Names: cat3d-tiny (shipped, trained plainly; cat3d-tiny:cameo is shipped too, trained with
    CAMEO; cat3d-tiny:random is untrained; cat3d-tiny:FOLDER as the suite saved it), cat3d (the release's
    checkpoints; cat3d:random), sd21 (Stable Diffusion's folder or hub id; each view alone), sd21-extended (views
    joined in every layer), mvgenmaster (its unpacked archive), hunyuan-dit (a diffusers folder or hub id), seva
    and mvdream (their packages installed), and module:package.function (your own)."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, where --model has one; default the model's usual
    one."""
    model_size: int | None = None
    """Side in pixels of the views that the model sees; default its native size. Half the side, a sixteenth of the
    attention."""
    scenes: str = "shapes"
    """NAME or NAME:ROOT. shapes[:plain|cluttered|repetitive|textureless] (procedural); rgbd:FOLDER[#FOCAL] (colour,
    16-bit depth in mm, poses; FOCAL: the colour camera's, in pixels, where colour is not registered to depth: #525 for
    raw 7-Scenes); co3d:FOLDER[#SUBSET/SPLIT]; nerfstudio:FOLDER (transforms.json); navi:, dtu:, scannet: (published
    layouts); colmap:FOLDER; photos:FOLDER (plain photos, reconstructed first); re10k: and dl3dv:, which have no
    depth. See python -m probe.scenes.preview."""
    out: Path = Path("runs/probe")
    """Run folder; it refuses other settings than those it was made with."""
    protocol: Literal["attention-v1", "ratio-v1"] = "attention-v1"
    """attention-v1: argmax of the head-averaged weights, on visible queries. ratio-v1: concatenated heads, L2, ratio
    test."""
    layers: str | None = None
    """3d, all (per-view layers too; the default of models without 3d ones), or indexes among all self-attentions or
    names, by commas: 10,12."""
    timesteps: str = "100,300,500,700,900"
    """Timestep indexes (0 clean to 999 pure noise), by commas; timesteps.csv tells alpha-bar and SNR of each."""
    pairs: int = 32
    """View pairs (view 0 with another view); rounded up to equal numbers per 30-degree rotation bin."""
    views: int = 3
    """Views per scene, denoised together."""
    n_ref: int = 1
    """Clean reference views among them; they come first."""
    min_overlap: float = 0.2
    """Real scenes: share of view 0 that each other view must see, 0 to 1."""
    truth_source: str | None = None
    """Where true points come from; default depth, the scenes' own. Or tracks (SIFT matches that fit the cameras), vggt
    or vggt:FOLDER (its package), module:package.function: a source's errors then count as the layers'."""
    view_list: str | None = None
    """Real scenes: a published list, such as re10k-pixelsplat-v1:INDEX.json, or a FILE.json that probe.scenes.preview
    froze, in place of drawing by rotation bin."""
    image_size: int | None = None
    """Side in pixels of the images that truth is computed on; default 128 (shapes) or 256 (rgbd). The model sees its
    own size."""
    select_by: str | None = None
    """Metric that layers are ranked by; default the protocol's own, precision@5% (error under 5 % of the image's
    side)."""
    baselines: str = "pixels,dsift,random,null"
    """Comparisons, by commas, or none. Matchers: pixels, dsift, epipolar (oracle: a draw on the true epipolar line),
    and NAME or NAME:FOLDER_OR_HUB_ID of dinov2, dinov3 (transformers), dift (Stable Diffusion's features), vggt (its
    package). Nulls: random (same network, random weights), null (cameras alone: images blanked)."""
    interventions: str | None = None
    """Edits whose effect each 3D layer is tested by, by commas, or none: identity (the paper's), uniform, within_view,
    shuffled_views, true_match. Default identity, on predictions at the middle timestep."""
    edit_timesteps: str | None = None
    """Range of timestep indexes at which edits act, such as 0-499; default all."""
    edit_scenes: int | None = None
    """Edit in this many scenes, the first; default all, or 8 where --interventions is left out."""
    edit_heads: bool = False
    """Edit each head alone as well (predictions only)."""
    sampling_steps: int | None = None
    """DDIM steps of the views that edits are judged on as well, 0 for predictions only; default 10 where
    --interventions is given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the network runs in; scores are computed in float32."""
    seed: int = 0
    """Of scenes, noise and random weights."""
    resume: bool = False
    """Continue the run in --out."""
    report: bool = True
    """Write report.html at the end."""
    dry_run: bool = False
    """Load no model and write nothing: print layers, tokens, memory and an estimate of the time. Takes seconds;
    minutes for a full-size model on a CPU."""


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
        groups = _groups(settings)
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


def _groups(settings: Settings) -> int:
    """Count scenes: each gives views - 1 pairs with view 0, and each rotation bin gets as many scenes."""
    if settings.views < 2 or not 1 <= settings.n_ref < settings.views or settings.pairs < 1:
        raise ValueError(
            f"--views {settings.views} --n-ref {settings.n_ref} --pairs {settings.pairs}: expected at least 2 views, "
            "from 1 reference up to one view less than all, and at least 1 pair"
        )
    if settings.image_size is not None and settings.image_size < 1:
        raise ValueError(f"--image-size {settings.image_size}: expected at least as many pixels as tokens, such as 128")
    if not 0 <= settings.min_overlap <= 1:
        raise ValueError(f"--min-overlap {settings.min_overlap}: expected a share from 0 to 1")
    if not 0 <= settings.seed < SEEDS:
        raise ValueError(f"--seed {settings.seed}: expected 0 to {SEEDS - 1}")
    per_round = BINS * (settings.views - 1)
    return BINS * -(-settings.pairs // per_round)


def _try_first_scene(scenes: SceneList, layers: list[Layer], protocol: Protocol, select_by: str | None) -> None:
    """Refuse what only a scene can tell: images smaller than a token grid, layers on no grid, an unknown metric."""
    views, _ = scenes.load(0)
    truths_of(views, layers)
    for layer in layers:
        joint_layout(layer, views.count)
    names = [limit.name for limit in thresholds(views.unit)]
    names += [f"{name}|coverage={coverage}" for name in names for coverage in protocol.coverages]
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
        name = str(plan.record["select_by"]).partition("|")[0]
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
