"""Generate views of held-out scenes and measure them beside trivial answers: ``python -m train.evaluate``."""

import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from tqdm import tqdm

from probe import cli as command
from probe.image_quality import (
    LPIPS,
    LPIPS_WEIGHTS,
    MATCH_ERROR,
    SSIM,
    WINDOW,
    Lpips,
    absence,
    load_lpips,
)
from probe.models import load_model
from probe.models.model import MultiViewModel, place
from probe.models.parts.files import Loading
from probe.models.sampling import OFFSET
from probe.records import open_run, write
from probe.records.names import (
    ALL_ROTATIONS,
    FID,
    IMAGES,
    KID,
    METHODS,
    PARTS,
    SAMPLES,
    SUMMARY,
    TRUTH,
    WORST,
    set_metric,
)
from probe.scenes import Request, SceneList, open_scenes
from probe.seeds import derive
from probe.views import Views
from train.quality import (
    EXTRACTORS,
    Quality,
    evaluate_quality,
    quality_summary,
    set_distances,
    worst_cases,
)

PROG = "python -m train.evaluate"
SEEDS = 2**32
NOT_DECISIVE = ("resume", "report")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Generate views of scenes that the model has not seen; measure PSNR, SSIM, LPIPS, FID, KID and 3D consistency."""

    model: str = "cat3d-tiny"
    """NAME or NAME:PATH_OR_HUB_ID: cat3d-tiny (shipped; cat3d-tiny:random is untrained), or any that python -m
    probe.run knows."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, where --model has one."""
    model_size: int | None = None
    """Side in pixels of the views; default the model's native size."""
    scenes: str = "shapes"
    """NAME or NAME:ROOT. shapes[:plain|cluttered|repetitive|textureless] (procedural); rgbd:FOLDER[#FOCAL] (colour,
    16-bit depth in mm, poses; raw 7-Scenes: #525)."""
    groups: int = 8
    """Scenes; procedural ones take the four 30-degree rotation bins in turn."""
    views: int = 3
    """Views per scene, denoised together."""
    n_ref: str = "1,2"
    """Clean reference views among them, by commas: each number is measured on the same scenes. They come first."""
    sampling_steps: int = 10
    """DDIM steps, 1 to 1000; the paper takes 50."""
    guidance: float = 1.0
    """Weight of the prediction with cameras against the one without: 1 is none; the paper takes 2 after training with
    dropped cameras."""
    features: str = "colour-cells,inception-v3-compat"
    """What FID and KID compare, by commas, or none: colour-cells (no weights; coarse), inception-v3-compat (the usual
    one; NaN unless its weights are in torch's cache)."""
    seed: int = 0
    """Of scenes and noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    out: Path = Path("runs/evaluate")
    """Run folder; it refuses other settings than those it was made with."""
    resume: bool = False
    """Continue the run in --out."""
    report: bool = True
    """Build OUT/report.html at the end."""


def main(settings: Settings) -> None:
    """Measure scene after scene, write the run folder, show the table."""
    plan = Plan.make(settings)
    open_run(settings.out, plan.record, resume=settings.resume)
    console = Console(width=None if sys.stdout.isatty() else 120)
    parts = settings.out / PARTS
    if (settings.out / SUMMARY).exists() and not parts.exists():
        console.print(f"{settings.out} is complete already")
    else:
        parts.mkdir(exist_ok=True)
        measure(plan, settings, parts)
        save(plan, settings.out, parts)
    show(console, plan, pd.read_csv(settings.out / SUMMARY), settings.out)
    if settings.report:
        console.print(f"page: {_report(settings.out)}", markup=False, soft_wrap=True)


def _report(out: Path) -> Path:
    from analysis.report import refresh  # an edge may call the report last; it draws every figure

    return refresh(out)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold everything a run needs, resolved from the settings."""

    model: MultiViewModel
    scenes: SceneList
    references: tuple[int, ...]
    extractors: tuple[str, ...]
    lpips: Lpips | None
    notes: tuple[str, ...]
    record: dict[str, object]

    @classmethod
    def make(cls, settings: Settings) -> "Plan":
        """Resolve settings; refuse what cannot be run before anything is written."""
        references, extractors = _references(settings), _extractors(settings.features)
        device = _device(settings.device)
        model = load_model(settings.model, Loading(base=settings.base, size=settings.model_size))
        _check_numbers(settings, len(model.alpha_bar) - OFFSET[model.spacing])
        request = Request(
            groups=settings.groups, views=settings.views, n_ref=max(references), seed=settings.seed, needs_truth=False
        )
        scenes = open_scenes(settings.scenes, request)
        scenes.load(0)
        absent = [absence(LPIPS, LPIPS_WEIGHTS)]
        absent += [absence(f"FID/KID by {name}", EXTRACTORS[name]) for name in extractors]
        notes = [scenes.note, *absent, _untrained_guidance(model, settings.guidance)]
        return cls(
            model=place(model, device),
            scenes=scenes,
            references=references,
            extractors=extractors,
            lpips=load_lpips(device),
            notes=tuple(note for note in notes if note),
            record=_record(settings, references, extractors),
        )


def _record(settings: Settings, references: tuple[int, ...], extractors: tuple[str, ...]) -> dict[str, object]:
    """Keep what decides the numbers, as plain values."""
    resolved = {**asdict(settings), "n_ref": list(references), "features": list(extractors), "out": str(settings.out)}
    return {name: value for name, value in resolved.items() if name not in NOT_DECISIVE}


def _references(settings: Settings) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in settings.n_ref.split(","))
    except ValueError:
        raise ValueError(f"--n-ref {settings.n_ref!r}: expected numbers separated by commas, such as 1,2") from None
    if len(set(numbers)) != len(numbers) or not all(1 <= number < settings.views for number in numbers):
        raise ValueError(
            f"--n-ref {settings.n_ref} --views {settings.views}: expected different numbers of references, from 1 "
            "up to one view less than all, and at least 2 views"
        )
    return tuple(sorted(numbers))


def _extractors(text: str) -> tuple[str, ...]:
    names = () if text in ("", "none") else tuple(dict.fromkeys(text.split(",")))
    unknown = sorted(set(names) - set(EXTRACTORS))
    if unknown:
        raise ValueError(f"--features {','.join(unknown)} is unknown; choose from {', '.join(EXTRACTORS)}, or none")
    return names


def _check_numbers(settings: Settings, timesteps: int) -> None:
    if settings.groups < 1:
        raise ValueError(f"--groups {settings.groups}: expected at least 1 scene")
    if not 1 <= settings.sampling_steps <= timesteps:
        raise ValueError(f"--sampling-steps {settings.sampling_steps}: expected 1 to {timesteps}")
    if not (math.isfinite(settings.guidance) and settings.guidance >= 0):
        raise ValueError(f"--guidance {settings.guidance}: expected a number of at least 0; 1 is no guidance")
    if not 0 <= settings.seed < SEEDS:
        raise ValueError(f"--seed {settings.seed}: expected 0 to {SEEDS - 1}")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _untrained_guidance(model: MultiViewModel, guidance: float) -> str:
    """Warn of guidance by a prediction that the model has not learned, as far as its card tells."""
    card = model.card or {}
    training = card.get("training", card)
    dropped = training.get("camera_dropout") if isinstance(training, dict) else None
    if guidance == 1 or dropped != 0:
        return ""
    return f"{model.name} was trained with no camera dropped, so a guidance of {guidance:g} asks what it never learned"


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(plan: Plan, settings: Settings, parts: Path) -> None:
    """Measure scene after scene, each to files of its own, so that a stopped run can go on."""
    for index in tqdm(range(len(plan.scenes.names)), desc="scenes", unit="scene"):
        rows = parts / f"scene-{index:05d}.parquet"
        if not rows.exists():
            views, _ = plan.scenes.load(index)
            found = {n_ref: _measure_scene(plan, settings, views, index, n_ref) for n_ref in plan.references}
            _write_part(rows, found)


def _measure_scene(plan: Plan, settings: Settings, views: Views, index: int, n_ref: int) -> Quality:
    generator = torch.Generator().manual_seed(derive("noise", settings.seed, index))
    noise = torch.randn(plan.model.latent_shape(1, views.count), generator=generator)
    how = {"steps": settings.sampling_steps, "guidance": settings.guidance}
    return evaluate_quality(plan.model, replace(views, n_ref=n_ref), noise, **how, lpips=plan.lpips)  # type: ignore[arg-type]


def _write_part(path: Path, found: Mapping[int, Quality]) -> None:
    """Write a scene's images, then its rows: where the rows are, the images are too."""
    images = {
        f"{n_ref}/{method}": targets[0].contiguous().cpu()
        for n_ref, quality in found.items()
        for method, targets in quality.targets.items()
    }
    write(path.with_suffix(".safetensors"), lambda part: part.write_bytes(serialise(images)))
    rows = pd.concat([quality.rows for quality in found.values()], ignore_index=True)
    write(path, lambda part: rows.to_parquet(part, index=False))


def save(plan: Plan, out: Path, parts: Path) -> None:
    """Write the run folder's tables and picture whole, the summary last; then drop the parts."""
    rows = pd.concat([pd.read_parquet(path) for path in sorted(parts.glob("*.parquet"))], ignore_index=True)
    images = [load_file(path) for path in sorted(parts.glob("*.safetensors"))]
    worst = worst_cases(rows)
    summary = pd.concat([quality_summary(rows), distance_table(plan, images)], ignore_index=True)
    picture = _draw(worst, dict(zip(plan.scenes.names, images, strict=True)))
    _write_table(out / IMAGES, rows)
    _write_table(out / WORST, worst)
    write(out / SAMPLES, lambda part: picture.savefig(part, format="png", metadata={"Software": None}))
    _write_table(out / SUMMARY, with_notes(summary))
    shutil.rmtree(parts)


def _draw(worst: pd.DataFrame, images: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    from analysis.evaluation.pictures import draw_cases  # an edge may call analysis

    return draw_cases(
        worst, {scene: {name: image.numpy() for name, image in own.items()} for scene, own in images.items()}
    )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def distance_table(plan: Plan, images: list[dict[str, Float[Tensor, "targets 3 h w"]]]) -> pd.DataFrame:
    """Measure FID and KID per number of references and method: rows of the summary, without intervals."""
    rows = []
    for n_ref in plan.references:
        sets = {name: torch.cat([scene[f"{n_ref}/{name}"] for scene in images]) for name in (*METHODS, TRUTH)}
        for extractor in plan.extractors:
            for method in METHODS:
                found = set_distances(sets[method], sets[TRUTH], extractor)
                rows += [
                    {"n_ref": n_ref, "rotation_bin": ALL_ROTATIONS, "method": method, "metric": metric, "value": value,
                     "low": math.nan, "high": math.nan, "scenes": 0 if math.isnan(value) else len(images),
                     "count": 0 if math.isnan(value) else len(sets[TRUTH])}
                    for metric, value in found.items()
                ]  # fmt: skip
    return pd.DataFrame(rows)


def with_notes(summary: pd.DataFrame) -> pd.DataFrame:
    """Say beside every missing value why it is missing."""
    reasons = {
        LPIPS: absence(LPIPS, LPIPS_WEIGHTS),
        SSIM: f"images are smaller than the window of {WINDOW} pixels",
        MATCH_ERROR: "no point of a target is seen in a reference",
    }
    for name, files in EXTRACTORS.items():
        for metric in (FID, KID):
            reasons[set_metric(metric, name)] = absence(f"{metric} by {name}", files) or "fewer than two images"
    return summary.assign(note=summary["metric"].map(reasons).where(summary["value"].isna(), ""))


# --- showing ---------------------------------------------------------------------------------------------------------


def show(console: Console, plan: Plan, summary: pd.DataFrame, out: Path) -> None:
    """Print the tables, what is absent, and where the worst cases are."""
    from analysis.evaluation import terminal  # an edge may call analysis; it draws every figure

    terminal.show(console, summary, f"{plan.model.name}, {len(plan.scenes.names)} scenes")
    for text in (*plan.notes, *terminal.LEGEND, f"worst cases first: {out / WORST}; pictures: {out / SAMPLES}"):
        console.print(text, markup=False, soft_wrap=True)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
