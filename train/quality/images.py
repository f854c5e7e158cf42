"""Quality of a model's generated views, one by one and as a set, beside trivial baselines. Pure functions.

The trivial baselines are measured like the model: a copy of the reference that is rotated least against the target, and
that reference's mean colour. A model that does not beat them has not used its cameras. Missing is NaN, never 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from probe.compat import declare_torchvision_operators
from probe.correspondence import TokenProjections, project_tokens
from probe.geometry import rotation_degrees
from probe.image_quality import Lpips, Measured, image_metrics, match_error, missing_weights
from probe.models.model import MultiViewModel
from probe.models.parts.unet import targets_only
from probe.models.sampling import predict_views, sample_views
from probe.records import (
    ALL_ROTATIONS,
    COPY,
    FID,
    KID,
    MATCH_ERROR,
    MEAN_COLOUR,
    METHODS,
    MODEL,
    PSNR,
    PSNR_ONE_STEP,
    SAMPLE_METRICS,
    TRIVIAL,
    TRUTH,
    rotation_bin,
    set_metric,
    summarise,
    trivial_column,
)
from probe.views import Views, resize
from train.settings import COLOUR_CELLS, EXTRACTORS

declare_torchvision_operators()  # before the first import of torch-fidelity, which imports torchvision

from torch_fidelity import calculate_metrics, register_feature_extractor  # noqa: E402
from torch_fidelity.feature_extractor_base import FeatureExtractorBase  # noqa: E402
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY  # noqa: E402

MOST_KID = 1000  # images of a KID subset
BATCH = 64  # images that an extractor sees at a time, torch-fidelity's default
Images = Float[Tensor, "n 3 h w"] | Sequence[Float[Tensor, "3 _h _w"]]
GROUP = ["n_ref", "rotation_bin", "method", "metric"]


# --- one batch of scenes ---------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Where true points of the targets lie in the references.

    Attributes:
        tokens: Their positions, and whether they are seen.
        size: (height, width) in pixels that the positions are expressed in.
    """

    tokens: TokenProjections
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The metrics of a batch of scenes, and what was measured.

    Attributes:
        rows: scene, view, rotation_deg (of the target against view 0; NaN without cameras), n_ref, method, metric,
            value, count: how many matches a match_error is a mean of, else 1, or 0 if the value is NaN.
        targets: Target views, at the model's size, per method, and the true ones under "truth".
        views: The true views, at that size.
        seen: True matches; None where they are not known.
    """

    rows: pd.DataFrame
    targets: Mapping[str, Float[Tensor, "b targets 3 h w"]]
    views: Views
    seen: Seen | None


@torch.no_grad()
def evaluate_quality(
    model: MultiViewModel,
    views: Views,
    noise: Float[Tensor, "b f c h w"],
    *,
    steps: int = 50,
    guidance: float = 1.0,
    lpips: Lpips | None = None,
) -> Quality:
    """Generate the target views of scenes and measure them beside the trivial baselines.

    The PSNR of one step is that of :func:`probe.models.sampling.predict_views`, from the same noise; a trivial
    baseline's is its PSNR.

    Args:
        model: The denoiser.
        views: The views, with names and point maps, at any size; they are resized to the model's.
        noise: Standard normal, of the shape of the model's latents.
        steps: Of DDIM.
        guidance: On the cameras; 1 is none.
        lpips: From :func:`probe.image_quality.load_lpips`; None leaves LPIPS NaN.
    """
    device = model.alpha_bar.device
    views = views.to(device)
    small = resize(views, model.size, model.size)
    with targets_only(model.network, small.n_ref):
        drawn = sample_views(model, small, noise.to(device), steps=steps, guidance=guidance)
        predicted = predict_views(model, small, noise.to(device), steps=steps, guidance=guidance)
    seen = project_tokens(views, (min(views.size[0], model.size), min(views.size[1], model.size)))
    return measure_images(small, drawn, single=predicted, seen=Seen(seen, views.size), lpips=lpips)


@torch.no_grad()
def measure_images(
    views: Views,
    image: Float[Tensor, "b f 3 h w"],
    *,
    single: Float[Tensor, "b f 3 h w"] | None = None,
    seen: Seen | None = None,
    lpips: Lpips | None = None,
) -> Quality:
    """Measure images of target views, whoever made them, beside the trivial baselines.

    Args:
        views: The true views, with names.
        image: References first, then the images to measure under the name of the model.
        single: Single predictions from pure noise; None leaves their PSNR out, for the baselines too.
        seen: True matches; None leaves the match error NaN.
        lpips: From :func:`probe.image_quality.load_lpips`; None leaves LPIPS NaN.
    """
    images = {MODEL: image, **trivial_baselines(views), TRUTH: views.image}
    rows: list[dict[str, object]] = []
    for method, shown in images.items():
        metrics = {} if method == TRUTH else image_metrics(shown, views, lpips)
        if method != TRUTH and single is not None:
            metrics[PSNR_ONE_STEP] = image_metrics(single if method == MODEL else shown, views, None)[PSNR]
        rows += _rows(views, method, {**metrics, MATCH_ERROR: known_match_error(shown, seen, views.n_ref)})
    targets = {method: shown[:, views.n_ref :] for method, shown in images.items()}
    return Quality(rows=pd.DataFrame(rows), targets=targets, views=views, seen=seen)


def known_match_error(image: Float[Tensor, "b f 3 h w"], seen: Seen | None, n_ref: int) -> Measured:
    """Return the match error of target views (:func:`probe.image_quality.match_error`); NaN without true matches.

    Args:
        image: References first, then generated targets.
        seen: True matches; None where they are not known.
        n_ref: Number of references.
    """
    if seen is None:
        shape = (image.shape[0], image.shape[1] - n_ref)
        return torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.long)
    return match_error(image, seen.tokens, seen.size, n_ref)


def trivial_baselines(views: Views) -> dict[str, Float[Tensor, "b f 3 h w"]]:
    """Return all views with each target replaced by the reference rotated least against it, or its mean colour."""
    nearest = nearest_reference(views)
    scene = rearrange(torch.arange(len(nearest), device=nearest.device), "b -> b 1")
    copied, references = views.image[scene, nearest], views.image[:, : views.n_ref]
    mean = reduce(copied, "b t c h w -> b t c 1 1", "mean").expand_as(copied)
    return {name: torch.cat([references, targets], dim=1) for name, targets in ((COPY, copied), (MEAN_COLOUR, mean))}


def nearest_reference(views: Views) -> Int[Tensor, "b targets"]:
    """Return the reference view rotated least against each target view; of equal or unknown ones (NaN) the first."""
    targets = rearrange(views.world_to_cam[:, views.n_ref :], "b t i j -> b t 1 i j")
    references = rearrange(views.world_to_cam[:, : views.n_ref], "b r i j -> b 1 r i j")
    shape = (len(views.image), targets.shape[1], views.n_ref, 4, 4)
    rotation = rotation_degrees(targets.expand(shape), references.expand(shape))
    return rotation.nan_to_num(nan=torch.inf).argmin(-1)


def _rows(views: Views, method: str, measured: Mapping[str, Measured]) -> list[dict[str, object]]:
    """List one row per target view and metric."""
    first = repeat(views.world_to_cam[:, 0], "b i j -> b f i j", f=views.count)
    rotation = rotation_degrees(views.world_to_cam, first).tolist()
    names = views.names or tuple(f"scene-{index}" for index in range(len(views.image)))
    return [
        {
            "scene": name,
            "view": view,
            "rotation_deg": rotation[scene][view],
            "n_ref": views.n_ref,
            "method": method,
            "metric": metric,
            "value": float(value[scene, view - views.n_ref]),
            "count": int(count[scene, view - views.n_ref]),
        }
        for scene, name in enumerate(names)
        for view in range(views.n_ref, views.count)
        for metric, (value, count) in measured.items()
    ]


# --- a set of images -------------------------------------------------------------------------------------------------


class ColourCells(FeatureExtractorBase):
    """Describe an image by the mean and standard deviation of each colour in four quarters: 24 numbers, no weights."""

    def __init__(self, name: str, features_list: Sequence[str], **_settings: object) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Return the names of the features."""
        return ("cells",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Return the features of a metric: the same for all."""
        return "cells"

    @staticmethod
    def can_be_compiled() -> bool:
        """Return False: compiling gains nothing."""
        return False

    def forward(self, image: UInt8[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 24"]]:
        """Return the 24 numbers of each image."""
        colour = image.double() / 255
        mean, square = (F.adaptive_avg_pool2d(part, 2).flatten(1) for part in (colour, colour.square()))
        return (torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()], dim=1).float(),)


class _Images(Dataset):
    """Images for torch-fidelity, in 8 bits."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return (self.images[index] * 255).round().to(torch.uint8).cpu()


def set_distances(images: Images, truth: Images, extractor: str) -> dict[str, float]:
    """Measure FID and KID of a set of images against the true ones, by torch-fidelity.

    Few images make both noisy and FID too high; compare sets of equal size, of one extractor, only.

    Args:
        images: Colours in [0, 1]; compared in 8 bits. They may differ in size: an extractor sees each on its own then.
        truth: As many true ones.
        extractor: A name registered with torch-fidelity. "colour-cells" is the suite's own: mean and standard deviation
            of each colour in four quarters of the image; its distances ignore details.

    Returns:
        "fid[extractor]", not below 0 but for rounding, and "kid[extractor]", unbiased and so also below 0 (over all
        images at once up to 1000, else the mean of 100 subsets of 1000). NaN for fewer than two images, and where the
        extractor's weights are not in torch's cache.

    Raises:
        ValueError: If nothing of this name is registered.

    Source:
        arXiv 1706.08500 and arXiv 1801.01401.
    """
    if COLOUR_CELLS not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(COLOUR_CELLS, ColourCells)
    if extractor not in FEATURE_EXTRACTORS_REGISTRY:
        raise ValueError(
            f"set_distances: {extractor!r} is not registered with torch-fidelity, which knows "
            f"{', '.join(sorted(FEATURE_EXTRACTORS_REGISTRY))}; register it or choose one of these"
        )
    names = {
        set_metric(FID, extractor): "frechet_inception_distance",
        set_metric(KID, extractor): "kernel_inception_distance_mean",
    }
    if len(images) < 2 or missing_weights(EXTRACTORS[extractor].files if extractor in EXTRACTORS else ()):
        return dict.fromkeys(names, float("nan"))
    distances = calculate_metrics(
        input1=_Images(images),
        input2=_Images(truth),
        feature_extractor=extractor,
        fid=True,
        kid=True,
        kid_subset_size=min(len(images), MOST_KID),
        kid_subsets=1 if len(images) <= MOST_KID else 100,
        batch_size=BATCH if len({image.shape for image in (*images, *truth)}) == 1 else 1,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    return {name: float(distances[key]) for name, key in names.items()}


# --- tables ----------------------------------------------------------------------------------------------------------


def quality_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Average images per number of references, rotation bin (and "all"), method and metric.

    Returns:
        Columns n_ref, rotation_bin, method, metric, value (mean over images), low, high (95 % over independent units;
        NaN for fewer than five), scenes, units, count. A metric without any value has a row of NaN with 0 scenes.
    """
    binned = rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]))
    names = [*binned["rotation_bin"].cat.categories, ALL_ROTATIONS]
    both = pd.concat([binned, binned.assign(rotation_bin=ALL_ROTATIONS)], ignore_index=True)
    for column, kinds in (("rotation_bin", names), ("method", [*METHODS, TRUTH])):
        both[column] = pd.Categorical(both[column].astype(str), kinds)  # in this order the table is sorted
    both = both[both["rotation_bin"].notna()]  # views of unknown rotation count in all alone
    groups = both[GROUP].drop_duplicates().sort_values(GROUP[:-1], kind="stable", ignore_index=True)
    table = groups.merge(summarise(both, GROUP, shares=False), on=GROUP, how="left")
    counts = {name: table[name].fillna(0).astype(int) for name in ("scenes", "units", "count")}
    return table.astype({"rotation_bin": str, "method": str}).assign(**counts)


def worst_cases(rows: pd.DataFrame) -> pd.DataFrame:
    """List every generated view, the lowest PSNR first.

    Returns:
        Columns scene, view, rotation_deg, n_ref, the model's metrics, copy_psnr and mean_colour_psnr (of the trivial
        baselines) and truth_match_error (the floor).
    """
    keys = ["scene", "view", "rotation_deg", "n_ref"]

    def wide(method: str) -> pd.DataFrame:
        chosen = rows[rows["method"] == method]
        return chosen.set_index([*keys, "metric"])["value"].unstack("metric")  # noqa: PD010, pivot_table drops NaN

    own = wide(MODEL).reindex(columns=[*SAMPLE_METRICS])
    others = {trivial_column(method, PSNR): wide(method)[PSNR] for method in TRIVIAL}
    others["truth_match_error"] = wide(TRUTH)[MATCH_ERROR]
    return own.assign(**others).reset_index().sort_values([PSNR, *keys], ignore_index=True)
