"""One evaluation, from its command line to its folder: generated views of held-out scenes, beside trivial baselines."""

import math
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from tqdm import tqdm

from probe.image_quality import (
    LPIPS,
    LPIPS_WEIGHTS,
    MATCH_ERROR,
    PSNR,
    SSIM,
    WINDOW,
    Lpips,
    absence,
    load_lpips,
)
from probe.models import load_model
from probe.models.model import MultiViewModel, to_device
from probe.models.parts.files import Loading
from probe.models.sampling import OFFSET
from probe.records import open_run, write
from probe.scenes import Request, SceneList, open_scenes
from probe.seeds import derive
from probe.views import Views
from train.flags.evaluate import Settings, read_features, read_references
from train.quality import (
    ALL_BINS,
    COPY,
    MEAN,
    METHODS,
    MODEL,
    TRUTH,
    Quality,
    evaluate_quality,
    quality_summary,
    set_distances,
    worst_cases,
)
from train.settings import EXTRACTORS

NOT_DECISIVE = ("resume", "report")
SHOWN = 3  # worst cases in the picture, and as many median ones
# Columns of the terminal's table: heading, metric, method, decimals
COLUMNS = (
    ("PSNR", PSNR, MODEL, 2), ("copy", PSNR, COPY, 2), ("mean", PSNR, MEAN, 2), ("SSIM", SSIM, MODEL, 3),
    ("copy", SSIM, COPY, 3), ("mean", SSIM, MEAN, 3), ("LPIPS", LPIPS, MODEL, 3), ("copy", LPIPS, COPY, 3),
    ("match", MATCH_ERROR, MODEL, 3), ("copy", MATCH_ERROR, COPY, 3), ("mean", MATCH_ERROR, MEAN, 3),
    ("truth", MATCH_ERROR, TRUTH, 3),
)  # fmt: skip

LEGEND = (
    "95 %: of the model's PSNR, by bootstrap over scenes. copy, mean: of the reference rotated least to the target",
    "SSIM: gaussian window 11, sigma 1.5. match: colour difference to references at true matches; truth is its floor",
)


def evaluate_model(settings: Settings) -> None:
    """Measure scene after scene, write the run folder, show the table.

    Args:
        settings: As :func:`train.flags.evaluate.check_settings` accepts them.

    Raises:
        ValueError: If the model or the scenes cannot be used; before anything is written.
    """
    plan = Plan.make(settings)
    open_run(settings.out, plan.record, resume=settings.resume)
    console = Console(width=None if sys.stdout.isatty() else 120)
    parts = settings.out / "parts"
    if (settings.out / "summary.csv").exists() and not parts.exists():
        console.print(f"{settings.out} is complete already")
    else:
        parts.mkdir(exist_ok=True)
        measure(plan, settings, parts)
        save(plan, settings.out, parts)
    show(console, plan, pd.read_csv(settings.out / "summary.csv"), settings.out)
    if settings.report:
        console.print(f"page: {_report(settings.out)}", markup=False, soft_wrap=True)


def _report(out: Path) -> Path:
    from analysis.report import refresh  # commands may call the report last; it draws every figure

    return refresh(out)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs, resolved from the settings."""

    model: MultiViewModel
    scenes: SceneList
    references: tuple[int, ...]
    extractors: tuple[str, ...]
    lpips: Lpips | None
    notes: tuple[str, ...]
    record: dict[str, object]

    @classmethod
    def make(cls, settings: Settings) -> "Plan":
        """Resolve settings; raise on those that cannot be run before anything is written."""
        references, extractors = read_references(settings), read_features(settings.features)
        device = _device(settings.device)
        model = load_model(settings.model, Loading(base=settings.base, size=settings.model_size))
        timesteps = len(model.alpha_bar) - OFFSET[model.spacing]
        if settings.sampling_steps > timesteps:
            raise ValueError(f"--sampling-steps {settings.sampling_steps}: expected 1 to {timesteps}")
        request = Request(
            groups=settings.groups, views=settings.views, n_ref=max(references), seed=settings.seed, needs_truth=False
        )
        scenes = open_scenes(settings.scenes, request)
        scenes.load(0)
        absent = [absence(LPIPS, LPIPS_WEIGHTS)]
        absent += [absence(f"FID/KID by {name}", EXTRACTORS[name].files) for name in extractors]
        notes = [scenes.note, *absent, _untrained_guidance(model, settings.guidance)]
        return cls(
            model=to_device(model, device),
            scenes=scenes,
            references=references,
            extractors=extractors,
            lpips=load_lpips(device),
            notes=tuple(note for note in notes if note),
            record=_record(settings, references, extractors),
        )


def _record(settings: Settings, references: tuple[int, ...], extractors: tuple[str, ...]) -> dict[str, object]:
    """Return what decides the numbers, as plain values."""
    resolved = {**asdict(settings), "n_ref": list(references), "features": list(extractors), "out": str(settings.out)}
    return {name: value for name, value in resolved.items() if name not in NOT_DECISIVE}


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _untrained_guidance(model: MultiViewModel, guidance: float) -> str:
    """Return a warning of guidance by a prediction that the model has not learned, as far as its card says."""
    card = model.card or {}
    training = card.get("training", card)
    dropped = training.get("camera_dropout") if isinstance(training, dict) else None
    if guidance == 1 or dropped != 0:
        return ""
    return (
        f"{model.name} was trained with no camera dropped, so a guidance of {guidance:g} uses a prediction that it "
        "never learned"
    )


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(plan: Plan, settings: Settings, parts: Path) -> None:
    """Measure scene after scene, each to files of its own, so that a stopped run can be resumed."""
    for index in tqdm(range(len(plan.scenes.names)), desc="scenes", unit="scene"):
        rows = parts / f"scene-{index:05d}.parquet"
        if not rows.exists():
            views, _ = plan.scenes.load(index)
            measured = {n_ref: _measure_scene(plan, settings, views, index, n_ref) for n_ref in plan.references}
            _write_part(rows, measured)


def _measure_scene(plan: Plan, settings: Settings, views: Views, index: int, n_ref: int) -> Quality:
    generator = torch.Generator().manual_seed(derive("noise", settings.seed, index))
    noise = torch.randn(plan.model.latent_shape(1, views.count), generator=generator)
    sampling = {"steps": settings.sampling_steps, "guidance": settings.guidance}
    return evaluate_quality(plan.model, replace(views, n_ref=n_ref), noise, **sampling, lpips=plan.lpips)  # type: ignore[arg-type]


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
    rows = pd.concat([pd.read_parquet(path) for path in sorted(parts.glob("*.parquet"))], ignore_index=True)
    images = [load_file(path) for path in sorted(parts.glob("*.safetensors"))]
    worst = worst_cases(rows)
    summary = pd.concat([quality_summary(rows), distance_table(plan, images)], ignore_index=True)
    picture = draw_cases(worst, dict(zip(plan.scenes.names, images, strict=True)))
    _write_table(out / "images.csv", rows)
    _write_table(out / "worst.csv", worst)
    write(out / "samples.png", lambda part: picture.savefig(part, format="png", metadata={"Software": None}))
    _write_table(out / "summary.csv", with_notes(summary))
    shutil.rmtree(parts)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def distance_table(plan: Plan, images: list[dict[str, Float[Tensor, "targets 3 h w"]]]) -> pd.DataFrame:
    """Return FID and KID per number of references and method: rows of the summary, without intervals."""
    rows = []
    for n_ref in plan.references:
        sets = {name: torch.cat([scene[f"{n_ref}/{name}"] for scene in images]) for name in (*METHODS, TRUTH)}
        for extractor in plan.extractors:
            for method in METHODS:
                distances = set_distances(sets[method], sets[TRUTH], extractor)
                rows += [
                    {"n_ref": n_ref, "rotation_bin": ALL_BINS, "method": method, "metric": metric, "value": value,
                     "low": math.nan, "high": math.nan, "scenes": 0 if math.isnan(value) else len(images),
                     "count": 0 if math.isnan(value) else len(sets[TRUTH])}
                    for metric, value in distances.items()
                ]  # fmt: skip
    return pd.DataFrame(rows)


def with_notes(summary: pd.DataFrame) -> pd.DataFrame:
    """Add a column with the reason of every missing value."""
    reasons = {
        LPIPS: absence(LPIPS, LPIPS_WEIGHTS),
        SSIM: f"images are smaller than the window of {WINDOW} pixels",
        MATCH_ERROR: "no point of a target is seen in a reference",
    }
    for name, (_, files) in EXTRACTORS.items():
        for metric in ("fid", "kid"):
            reasons[f"{metric}[{name}]"] = absence(f"{metric} by {name}", files) or "fewer than two images"
    return summary.assign(note=summary["metric"].map(reasons).where(summary["value"].isna(), ""))


# --- showing ---------------------------------------------------------------------------------------------------------


def draw_cases(worst: pd.DataFrame, images: Mapping[str, Mapping[str, Float[Tensor, "targets 3 h w"]]]) -> Figure:
    """Draw reference, truth and sample (rows) of the worst cases and of the median ones (columns).

    Args:
        worst: From :func:`train.quality.worst_cases`.
        images: Per scene, ``"N_REF/METHOD"``: target views.
    """
    worst = worst.drop_duplicates(
        ["scene", "view"]
    )  # a target appears once, with the number of references it is worst at
    middle = max(SHOWN, (len(worst) - SHOWN) // 2)
    chosen = {"worst": range(min(SHOWN, len(worst))), "median": range(middle, min(middle + SHOWN, len(worst)))}
    cases = [(kind, worst.iloc[place]) for kind, places in chosen.items() for place in places]
    figure = Figure(figsize=(2.2 * len(cases) + 0.6, 7.4), layout="constrained")
    axes = figure.subplots(3, len(cases), squeeze=False)
    for column, (kind, case) in zip(axes.T, cases, strict=True):
        for axis, (name, method) in zip(
            column, (("reference", COPY), ("truth", TRUTH), ("sample", MODEL)), strict=True
        ):
            image = images[case["scene"]][f"{case['n_ref']}/{method}"][case["view"] - case["n_ref"]]
            axis.imshow(rearrange(image.numpy(), "c h w -> h w c"), interpolation="nearest")
            axis.set(xticks=[], yticks=[], ylabel=name if axis in axes[:, 0] else "")
        place = f"view {case['view']}, {case['rotation_deg']:.0f}° from view 0"
        column[0].set_title(textwrap.fill(f"{kind}: {case['scene']}", 30) + f"\n{place}", fontsize=9)
        references = "1 reference" if case["n_ref"] == 1 else f"{case['n_ref']} references"
        column[2].set_xlabel(f"{references}\nPSNR {case[PSNR]:.1f} dB, copy {case['copy_psnr']:.1f}", fontsize=9)
    figure.suptitle("Reference rotated least against the target; true target; generated target", fontsize=11)
    return figure


def show(console: Console, plan: Plan, summary: pd.DataFrame, out: Path) -> None:
    """Print the table per number of references and rotation bin, the distances of sets, and what is absent."""
    of_sets = summary["metric"].str.contains("[", regex=False)
    console.print(_table(summary[~of_sets], f"{plan.model.name}, {len(plan.scenes.names)} scenes"))
    for (n_ref, metric), group in summary[of_sets].groupby(["n_ref", "metric"], sort=False):
        if group["value"].notna().any():
            values = ", ".join(f"{row.method} {row.value:.4f}" for row in group.itertuples())
            console.print(f"{metric} of {group['count'].iloc[0]} images, n_ref {n_ref}: {values}", markup=False)
    for text in (*plan.notes, *LEGEND, f"worst cases first: {out / 'worst.csv'}; pictures: {out / 'samples.png'}"):
        console.print(text, markup=False, soft_wrap=True)


def _table(summary: pd.DataFrame, title: str) -> Table:
    """Lay out one row per number of references and rotation bin; columns of which nothing is known are left out."""
    known = summary[summary["value"].notna()]
    columns = [column for column in COLUMNS if ((known["metric"] == column[1]) & (known["method"] == column[2])).any()]
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for heading in ("n_ref", "rotation", "scenes", "95 %", *(column[0] for column in columns)):
        table.add_column(heading, justify="right", no_wrap=True)
    for (n_ref, rotation), group in summary.groupby(["n_ref", "rotation_bin"], sort=False):
        cells = group.set_index(["metric", "method"])
        own = cells.loc[(PSNR, MODEL)]
        texts = [
            f"{cells['value'].get((metric, method), math.nan):.{digits}f}" for _, metric, method, digits in columns
        ]
        interval = f"{own['low']:.1f}-{own['high']:.1f}" if own["scenes"] > 1 else ""
        table.add_row(str(n_ref), str(rotation), str(own["scenes"]), interval, *texts, end_section=rotation == ALL_BINS)
    return table
