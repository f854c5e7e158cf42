"""The command line of ``python -m train.evaluate``: its flags and their ranges."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from probe.cli import check_model, check_scenes, flag
from probe.scenes.reading import Reading, flag_of
from train.settings import EXTRACTORS, Device

SEEDS = 2**32
NONE = "none"
OF_A_MODEL = (
    *("model", "base", "model_size", "scenes", "groups", "views", "sampling_steps", "guidance", "seed"),
    *("images", "depth_scale", "unit"),
)
"""Settings that say nothing of predictions."""


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """Generate views of scenes that the model has not seen; measure PSNR, SSIM, LPIPS, FID, KID and 3D consistency."""

    model: str = "cat3d-tiny"
    """Model, NAME or NAME:PATH_OR_HUB_ID: cat3d-tiny (shipped; cat3d-tiny:random is untrained), or any other of python
    -m probe.run."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, for models that need one."""
    model_size: int | None = None
    """Side of the views in pixels; default the model's native size."""
    scenes: str = "shapes"
    """Scenes, NAME or NAME:FOLDER: shapes[:DIFFICULTY] or shapes-v1[:DIFFICULTY] (procedural), or a data set of
    python -m probe.run, such as rgbd:FOLDER."""
    predictions: Path | None = None
    """Score images that another program made, without a model: a folder of SCENE.npz (gt_rgb, pred_rgb) or of
    SCENE/truth/*.png and SCENE/prediction/*.png. --n-ref is then one number: how many of the first views are
    references."""
    groups: int = 8
    """Number of scenes; procedural ones take the four 30-degree rotation bins in turn."""
    views: int = 3
    """Views per scene, denoised together."""
    n_ref: str = "1,2"
    """Numbers of clean reference views among them, separated by commas, all on the same scenes; references come
    first."""
    sampling_steps: int = 10
    """DDIM steps, 1 to 1000 (50 in the paper)."""
    guidance: float = 1.0
    """Weight of the prediction with cameras against the one without: 1 is no guidance; 2 in the paper, after training
    with dropped cameras."""
    features: Annotated[
        str,
        arg(
            help="Features that FID and KID compare, separated by commas, or none: "
            + "; ".join(f"{name} ({extractor.about})" for name, extractor in EXTRACTORS.items())
            + "."
        ),
    ] = ",".join(EXTRACTORS)
    geometry: bool = False
    """Measure the geometry of the views by SIFT matches with their references: epipolar distance (SED, TSED), error of
    the camera, reprojection error; and whether each score can be trusted: noise, repeated references, views of another
    scene and blurred views must score worse than the truth. Needs cameras and intrinsics."""
    seed: int = 0
    """Random seed for scenes and noise."""
    device: Device = "auto"
    """Device; auto takes CUDA if it is available."""
    out: Path = Path("runs/evaluate")
    """Folder of the run; rejected if it has a run with other settings."""
    resume: bool = False
    """Resume the run in --out."""
    report: bool = True
    """Build OUT/report.html at the end."""


def check_settings(settings: Settings) -> None:
    """Check what can be checked before PyTorch is loaded.

    Raises:
        ValueError: If a number is out of range, or a choice is unknown.
        FileNotFoundError: If a folder does not exist.
    """
    read_references(settings)
    read_features(settings.features)
    if settings.predictions is not None:
        _check_predictions(settings, settings.predictions)
    if settings.groups < 1:
        raise ValueError(f"--groups {settings.groups}: expected at least 1 scene")
    if settings.sampling_steps < 1:
        raise ValueError(f"--sampling-steps {settings.sampling_steps}: expected 1 to 1000")
    if not (math.isfinite(settings.guidance) and settings.guidance >= 0):
        raise ValueError(f"--guidance {settings.guidance}: expected a number of at least 0; 1 is no guidance")
    if not 0 <= settings.seed < SEEDS:
        raise ValueError(f"--seed {settings.seed}: expected 0 to {SEEDS - 1}")
    with flag("--scenes"):
        check_scenes(settings.scenes)
    with flag("--model"):
        check_model(settings.model)


def _check_predictions(settings: Settings, folder: Path) -> None:
    default = {one.name: one.default for one in fields(Settings)}
    other = [flag_of(name) for name in OF_A_MODEL if getattr(settings, name) != default[name]]
    if other:
        raise ValueError(f"--predictions takes images as they are, without a model: leave out {' '.join(other)}")
    if not folder.is_dir():
        raise ValueError(f"--predictions {folder}: there is no such folder; give one that exists (now in {Path.cwd()})")


def read_references(settings: Settings) -> tuple[int, ...]:
    """Return the numbers of reference views, in rising order.

    Raises:
        ValueError: If one is no number, is named twice, or leaves no target view.
    """
    try:
        numbers = tuple(int(part) for part in settings.n_ref.split(","))
    except ValueError:
        raise ValueError(f"--n-ref {settings.n_ref!r}: expected numbers separated by commas, such as 1,2") from None
    if settings.predictions is not None:
        return _reference_of_predictions(numbers)
    if len(set(numbers)) != len(numbers) or not all(1 <= number < settings.views for number in numbers):
        raise ValueError(
            f"--n-ref {settings.n_ref} --views {settings.views}: expected different numbers of references, from 1 "
            "up to one view less than all, and at least 2 views"
        )
    return tuple(sorted(numbers))


def _reference_of_predictions(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of references that the predictions were made from: it cannot be told from the images."""
    if len(numbers) != 1 or numbers[0] < 1:
        raise ValueError(
            f"--n-ref {','.join(map(str, numbers))}: expected one number with --predictions, how many of the first "
            "views they were made from, such as --n-ref 2"
        )
    return numbers


def read_features(text: str) -> tuple[str, ...]:
    """Return the names of feature extractors, each once.

    Raises:
        ValueError: If one is unknown.
    """
    names = () if text in ("", NONE) else tuple(dict.fromkeys(text.split(",")))
    unknown = sorted(set(names) - set(EXTRACTORS))
    if unknown:
        raise ValueError(f"--features {','.join(unknown)} is unknown; choose from {', '.join(EXTRACTORS)}, or none")
    return names
