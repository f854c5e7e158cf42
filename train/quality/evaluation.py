"""One evaluation, from its command line to its folder: views of held-out scenes, beside trivial baselines.

They are sampled from a model, or read from files that another program made (:mod:`train.quality.predictions`).
"""

import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from tqdm import tqdm

from probe.cli import flag
from probe.image_quality import LPIPS_WEIGHTS, WINDOW, Lpips, absence, load_lpips
from probe.models import load_model
from probe.models.model import MultiViewModel, check_predicts, to_device
from probe.models.parts.files import Loading
from probe.models.sampling import OFFSET
from probe.records import (
    ALL_ROTATIONS,
    FID,
    IMAGES,
    KID,
    LPIPS,
    MATCH_ERROR,
    METHODS,
    MODEL,
    PARTS,
    SAMPLES,
    SCENES_NOTE,
    SSIM,
    SUMMARY,
    TRUTH,
    WORST,
    alone,
    open_run,
    set_metric,
    write,
    write_json,
)
from probe.records.names import GEOMETRY
from probe.scenes import Request, SceneList, open_scenes
from probe.scenes.reading import Folder, record_reading
from probe.seeds import derive
from train.flags.evaluate import OF_A_MODEL, Settings, read_features, read_references
from train.quality.corruptions import geometry_rows
from train.quality.images import (
    Quality,
    evaluate_quality,
    quality_summary,
    set_distances,
    worst_cases,
)
from train.quality.predictions import Predictions, open_predictions
from train.settings import EXTRACTORS

NOT_DECISIVE = ("resume", "report")
GEOMETRY_PART = ".geometry"
"""What the file of a scene's geometry ends in, while a run is under way."""


def evaluate_model(settings: Settings) -> None:
    """Measure scene after scene, write the run folder, show the table.

    Args:
        settings: As :func:`train.flags.evaluate.check_settings` accepts them.

    Raises:
        ValueError: If the model or the scenes cannot be used; before anything is written.
    """
    plan = Plan.make(settings)
    open_run(settings.out, plan.record, resume=settings.resume)
    if plan.source.scenes.note:
        write_json(settings.out / SCENES_NOTE, {"note": plan.source.scenes.note})
    console = Console(width=None if sys.stdout.isatty() else 120)
    parts = settings.out / PARTS
    if (settings.out / SUMMARY).exists() and not parts.exists():
        console.print(f"{settings.out} is complete already")
    else:
        with alone(settings.out):
            parts.mkdir(exist_ok=True)
            measure(plan, parts)
            save(plan, settings.out, parts)
    show(console, plan, pd.read_csv(settings.out / SUMMARY), settings.out)
    if settings.report:
        console.print(f"page: {_report(settings.out)}", markup=False, soft_wrap=True)


def _report(out: Path) -> Path:
    from analysis.report import refresh  # commands may call the report last; it draws every figure

    return refresh(out)


# --- whose images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Images sampled from a model.

    Attributes:
        noun: What made the images, as the terminal's tables name it.
        unmatched: Why a match error is NaN.
        model: The denoiser.
        scenes: The true views.
        steps: Of DDIM.
        guidance: On the cameras; 1 is none.
        seed: Of the noise.
    """

    noun: ClassVar[str] = MODEL
    unmatched: ClassVar[str] = "no point of a target is seen in a reference"
    model: MultiViewModel
    scenes: SceneList
    steps: int
    guidance: float
    seed: int

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model.name

    @property
    def facts(self) -> dict[str, object]:
        """Return nothing: the settings say it all."""
        return {}

    @property
    def unposed(self) -> tuple[str, ...]:
        """Return the names of the scenes that lack cameras: data sets have them for all scenes, or for none."""
        return () if self.scenes.load(0)[0].has_cameras else self.scenes.names

    def measure(self, index: int, references: Sequence[int], lpips: Lpips | None) -> dict[int, Quality]:
        """Sample the targets of a scene from noise of its own, for each number of references, and measure them."""
        views, _ = self.scenes.load(index)
        generator = torch.Generator().manual_seed(derive("noise", self.seed, index))
        noise = torch.randn(self.model.latent_shape(1, views.count), generator=generator)
        how = {"steps": self.steps, "guidance": self.guidance, "lpips": lpips}
        return {n: evaluate_quality(self.model, replace(views, n_ref=n), noise, **how) for n in references}  # type: ignore[arg-type]


Source = Sampled | Predictions


def _open_source(settings: Settings, references: tuple[int, ...], device: torch.device) -> Source:
    if settings.predictions is None:
        return _open_model(settings, references, device)
    with flag("--predictions"):
        folder = Folder(settings.predictions, settings.reading)
        return open_predictions(folder, references[0], device, geometry=settings.geometry)


def _open_model(settings: Settings, references: tuple[int, ...], device: torch.device) -> Sampled:
    with flag("--model"):
        model = load_model(settings.model, Loading(base=settings.base, size=settings.model_size))
        check_predicts(model, "an evaluation of sampled views needs")
    timesteps = len(model.alpha_bar) - OFFSET[model.spacing]
    if settings.sampling_steps > timesteps:
        raise ValueError(f"--sampling-steps {settings.sampling_steps}: expected 1 to {timesteps}")
    request = Request(
        groups=settings.groups,
        views=settings.views,
        n_ref=max(references),
        seed=settings.seed,
        needs_truth=False,
        reading=settings.reading,
    )
    with flag("--scenes"):
        scenes = open_scenes(settings.scenes, request)
    scenes.load(0)
    return Sampled(
        model=to_device(model, device),
        scenes=scenes,
        steps=settings.sampling_steps,
        guidance=settings.guidance,
        seed=settings.seed,
    )


def _untrained_guidance(source: Source) -> str:
    """Return a warning of guidance by a prediction that the model has not learned, as far as its card says."""
    if not isinstance(source, Sampled):
        return ""
    model, guidance = source.model, source.guidance
    card = model.card or {}
    training = card.get("training", card)
    dropped = training.get("camera_dropout") if isinstance(training, dict) else None
    if guidance == 1 or dropped != 0:
        return ""
    return (
        f"{model.name} was trained with no camera dropped, so a guidance of {guidance:g} uses a prediction that it "
        "never learned"
    )


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs, resolved from the settings.

    Attributes:
        source: Whose images.
        references: Numbers of references.
        extractors: Of FID and KID.
        lpips: None where its weights are absent.
        noise_seed: Of the noise that geometry is compared with; None where geometry is not measured.
        notes: What the terminal says of the run.
        record: What decides the numbers.
    """

    source: Source
    references: tuple[int, ...]
    extractors: tuple[str, ...]
    lpips: Lpips | None
    noise_seed: int | None
    notes: tuple[str, ...]
    record: dict[str, object]

    @classmethod
    def make(cls, settings: Settings) -> "Plan":
        """Resolve settings; raise on those that cannot be run before anything is written."""
        references, extractors = read_references(settings), read_features(settings.features)
        device = _device(settings.device)
        source = _open_source(settings, references, device)
        if settings.geometry:
            _check_cameras(source)
        absent = [absence(LPIPS, LPIPS_WEIGHTS)]
        absent += [absence(f"FID/KID by {name}", EXTRACTORS[name].files) for name in extractors]
        notes = [source.scenes.note, *absent, _untrained_guidance(source)]
        return cls(
            source=source,
            references=references,
            extractors=extractors,
            lpips=load_lpips(device),
            noise_seed=settings.seed if settings.geometry else None,
            notes=tuple(note for note in notes if note),
            record={**_record(settings, references, extractors), **source.facts},
        )


def _check_cameras(source: Source) -> None:
    """Refuse scenes whose geometry cannot be measured."""
    names, count = source.unposed, len(source.scenes.names)
    if names:
        with flag("--geometry"):
            raise ValueError(
                f"{len(names)} of {count} scenes lack cameras or intrinsics (the first: {names[0]}), expected both for "
                "every view: add them, or leave the geometry out"
            )


def _record(settings: Settings, references: tuple[int, ...], extractors: tuple[str, ...]) -> dict[str, object]:
    """Return what decides the numbers, as plain values: without what says nothing of a model, or of predictions."""
    said = record_reading(asdict(settings))
    resolved = {**said, "n_ref": list(references), "features": list(extractors), "out": str(settings.out)}
    idle: Sequence[str] = ("predictions",)
    if settings.predictions is not None:
        resolved["predictions"], idle = str(settings.predictions.resolve()), OF_A_MODEL
    if not settings.geometry:
        idle = (*idle, "geometry")
    return {name: value for name, value in resolved.items() if name not in (*NOT_DECISIVE, *idle)}


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(plan: Plan, parts: Path) -> None:
    """Measure scene after scene, each to files of its own, so that a stopped run can be resumed."""
    for index in tqdm(range(len(plan.source.scenes.names)), desc="scenes", unit="scene"):
        rows = parts / f"scene-{index:05d}.parquet"
        if not rows.exists():
            measured = plan.source.measure(index, plan.references, plan.lpips)
            if plan.noise_seed is not None:
                _write_geometry(rows.with_suffix(GEOMETRY_PART), plan, index, measured.values())
            _write_part(rows, measured)


def _write_geometry(path: Path, plan: Plan, index: int, measured: Iterable[Quality]) -> None:
    generator = torch.Generator().manual_seed(derive("geometry", plan.noise_seed or 0, index))
    other = _other_scene(plan.source.scenes, index)
    rows = pd.concat([geometry_rows(quality, other, generator) for quality in measured], ignore_index=True)
    write(path, lambda part: rows.to_parquet(part, index=False))


def _other_scene(scenes: SceneList, index: int) -> Float[Tensor, "1 f 3 h w"] | None:
    """Return the true views of a scene of another unit, about half the list away; None where there is one unit alone.

    Of a lone recording units are blocks of time, which show the same place.
    """
    units, count = list(scenes.units or scenes.names), len(scenes.names)
    order = [(index + count // 2 + n) % count for n in range(count)]
    other = next((k for k in order if units[k] != units[index]), None)
    return None if other is None else scenes.load(other)[0].image


def _write_part(path: Path, measured: Mapping[int, Quality]) -> None:
    """Write a scene's images, then its rows: if the rows exist, so do the images."""
    images = {
        f"{n_ref}/{method}": targets[0].contiguous().cpu()
        for n_ref, quality in measured.items()
        for method, targets in quality.targets.items()
    }
    write(path.with_suffix(".safetensors"), lambda part: part.write_bytes(serialise(images)))
    rows = pd.concat([quality.rows for quality in measured.values()], ignore_index=True)
    write(path, lambda part: rows.to_parquet(part, index=False))


def save(plan: Plan, out: Path, parts: Path) -> None:
    """Write the run folder's tables and picture, the summary last; then remove the parts."""
    rows = _read_parts(plan, parts, ".parquet")
    images = [load_file(path) for path in sorted(parts.glob("*.safetensors"))]
    worst = worst_cases(rows)
    summary = pd.concat([quality_summary(rows), distance_table(plan, images)], ignore_index=True)
    picture = _draw(worst, dict(zip(plan.source.scenes.names, images, strict=True)))
    _write_table(out / IMAGES, rows)
    _write_table(out / WORST, worst)
    write(out / SAMPLES, lambda part: picture.savefig(part, format="png", metadata={"Software": None}))
    if plan.noise_seed is not None:
        _write_table(out / GEOMETRY, _read_parts(plan, parts, GEOMETRY_PART))
    _write_table(out / SUMMARY, with_notes(summary, plan.source.unmatched))
    shutil.rmtree(parts)


def _read_parts(plan: Plan, parts: Path, suffix: str) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(path) for path in sorted(parts.glob(f"*{suffix}"))], ignore_index=True)
    return plan.source.scenes.with_units(rows)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def distance_table(plan: Plan, images: list[dict[str, Float[Tensor, "_targets 3 _h _w"]]]) -> pd.DataFrame:
    """Return FID and KID per number of references and method: rows of the summary, without intervals."""
    rows, scenes = [], plan.source.scenes
    for n_ref in plan.references:
        sets = {name: [image for scene in images for image in scene[f"{n_ref}/{name}"]] for name in (*METHODS, TRUTH)}
        for extractor in plan.extractors:
            for method in METHODS:
                distances = set_distances(sets[method], sets[TRUTH], extractor)
                rows += [
                    {"n_ref": n_ref, "rotation_bin": ALL_ROTATIONS, "method": method, "metric": metric, "value": value,
                     "low": math.nan, "high": math.nan, "scenes": 0 if math.isnan(value) else len(images),
                     "units": 0 if math.isnan(value) else len(set(scenes.units or scenes.names)),
                     "count": 0 if math.isnan(value) else len(sets[TRUTH])}
                    for metric, value in distances.items()
                ]  # fmt: skip
    return pd.DataFrame(rows)


def with_notes(summary: pd.DataFrame, unmatched: str) -> pd.DataFrame:
    """Add a column with the reason of every missing value; ``unmatched`` is that of a match error."""
    reasons = {
        LPIPS: absence(LPIPS, LPIPS_WEIGHTS),
        SSIM: f"images are smaller than the window of {WINDOW} pixels",
        MATCH_ERROR: unmatched,
    }
    for name, (_, files) in EXTRACTORS.items():
        for metric in (FID, KID):
            reasons[set_metric(metric, name)] = absence(f"{metric} by {name}", files) or "fewer than two images"
    return summary.assign(note=summary["metric"].map(reasons).where(summary["value"].isna(), ""))


# --- showing ---------------------------------------------------------------------------------------------------------


def _draw(worst: pd.DataFrame, images: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    from analysis.evaluation.pictures import draw_cases  # commands may call analysis; it imports matplotlib

    arrays = {scene: {name: image.numpy() for name, image in own.items()} for scene, own in images.items()}
    return draw_cases(worst, arrays)


def show(console: Console, plan: Plan, summary: pd.DataFrame, out: Path) -> None:
    """Print the tables, what is absent, and where the worst cases are."""
    from analysis.evaluation import terminal

    source = plan.source
    terminal.show(console, summary, f"{source.name}, {len(source.scenes.names)} scenes", source.noun)
    where = f"worst cases first: {out / WORST}; pictures: {out / SAMPLES}"
    found = terminal.trust_lines(pd.read_csv(out / GEOMETRY)) if plan.noise_seed is not None else ()
    for text in (*plan.notes, *terminal.legend(source.noun), where, *found):
        console.print(text, markup=False, soft_wrap=True)
