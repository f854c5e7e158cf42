"""Geometry of generated views beside that of the truth, and of corruptions that must score worse. Pure functions.

A score that noise, a repeated reference, a view of another scene or a blurred view does not lower cannot say whether a
generated view is consistent with its references.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.records.names import (
    ALL_REFERENCES,
    BLURRED,
    COPY,
    GEOMETRY_METHODS,
    MATCH_ERROR,
    MODEL,
    NOISE,
    OTHER_SCENE,
    REPROJECTION,
    TRUTH,
)
from probe.views import Views, resample
from train.quality.geometry import Camera, pair_scores, reprojection_error
from train.quality.images import Quality, known_match_error
from train.quality.keypoints import Keypoints, find_keypoints, match_keypoints

BLUR = 0.02
"""Standard deviation of the gaussian blur, as a share of the shorter side."""
Score = tuple[int, str, float, int]
"""Reference, metric, value and count."""


def corrupt(
    views: Views, other: Float[Tensor, "1 f2 3 h2 w2"] | None, generator: torch.Generator
) -> dict[str, Float[Tensor, "1 targets 3 h w"]]:
    """Make images in the place of the target views that must score worse than the true ones.

    Args:
        views: The true views of one scene.
        other: Those of another scene, of any size and number; None where there is none.
        generator: Of the noise, on the CPU.

    Returns:
        By method: uniform noise, blurred true views, and the other scene's views, in turn, where there is one.
    """
    truth = views.image[:, views.n_ref :]
    images = {NOISE: torch.rand(truth.shape, generator=generator).to(truth), BLURRED: blur(truth)}
    if other is None:
        return images
    chosen = torch.arange(views.n_ref, views.count) % other.shape[1]
    return images | {OTHER_SCENE: resample(other[0, chosen], *views.size)[None].to(truth)}


def blur(image: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f 3 h w"]:
    """Blur images by a gaussian of :data:`BLUR`; beyond the border they are mirrored."""
    sigma = BLUR * min(image.shape[-2:])
    pixels = rearrange(image.cpu(), "b f c h w -> (b f) h w c").numpy()
    blurred = np.stack([cv2.GaussianBlur(one, (0, 0), sigma) for one in pixels])
    return rearrange(torch.from_numpy(blurred), "(b f) h w c -> b f c h w", f=image.shape[1]).to(image)


def geometry_rows(
    quality: Quality, other: Float[Tensor, "1 f2 3 h2 w2"] | None, generator: torch.Generator
) -> pd.DataFrame:
    """Measure the geometry of the target views of one scene: the generated ones, the true ones, and corruptions.

    Args:
        quality: Of one scene.
        other: True views of another scene; None leaves that corruption out.
        generator: Of the noise, on the CPU.

    Returns:
        Columns scene, view, rotation_deg (of the view against view 0), n_ref, reference (its number, or
        :data:`~probe.records.names.ALL_REFERENCES` where a score is of all together), method, metric, value, count (how
        many matches a match_error is a mean of, else 1, or 0 if the value is NaN).
    """
    views, kept = quality.views, (TRUTH, MODEL, COPY)
    images = {name: quality.targets[name] for name in kept} | corrupt(views, other, generator)
    references = [find_keypoints(image) for image in views.image[0, : views.n_ref]]
    return pd.DataFrame(
        [
            {**place, "reference": reference, "method": method, "metric": metric, "value": value, "count": count}
            for method in (name for name in GEOMETRY_METHODS if name in images)
            for place, scores in zip(_places(views), _scores(quality, images[method], references), strict=True)
            for reference, metric, value, count in scores
        ]
    )


def _places(views: Views) -> list[Mapping[str, object]]:
    """Return scene, view, rotation and number of references of each target view."""
    rotation = rotation_degrees(views.world_to_cam[0], views.world_to_cam[0, :1].expand(views.count, 4, 4)).tolist()
    scene = views.names[0] if views.names else "scene-0"
    return [
        {"scene": scene, "view": view, "rotation_deg": rotation[view], "n_ref": views.n_ref}
        for view in range(views.n_ref, views.count)
    ]


def _scores(
    quality: Quality, images: Float[Tensor, "1 targets 3 h w"], references: Sequence[Keypoints]
) -> list[list[Score]]:
    """Score images in the place of the target views, each against its references."""
    views = quality.views
    cameras = [_camera(views, view) for view in range(views.count)]
    whole = torch.cat([views.image[:, : views.n_ref], images], dim=1)
    error, count = (part[0].tolist() for part in known_match_error(whole, quality.seen, views.n_ref))
    return [
        [
            *_view_scores(find_keypoints(image), cameras[views.n_ref + place], references, cameras),
            (ALL_REFERENCES, MATCH_ERROR, error[place], count[place]),
        ]
        for place, image in enumerate(images[0])
    ]


def _camera(views: Views, view: int) -> Camera:
    intrinsics, world_to_cam = (part[0, view].cpu() for part in (views.intrinsics, views.world_to_cam))
    return Camera(intrinsics=intrinsics, world_to_cam=world_to_cam, size=views.size)


def _view_scores(
    keypoints: Keypoints, camera: Camera, references: Sequence[Keypoints], cameras: Sequence[Camera]
) -> list[Score]:
    """Score a view by its keypoints, against each reference and against all together."""
    matches = [match_keypoints(keypoints, reference) for reference in references]
    pairs = [pair_scores(one, camera, reference) for one, reference in zip(matches, cameras, strict=False)]
    error, _ = reprojection_error(matches, camera, cameras[: len(matches)])
    each = [(reference, *named) for reference, scores in enumerate(pairs) for named in scores.items()]
    scored = [*each, (ALL_REFERENCES, REPROJECTION, error)]
    return [(reference, metric, value, int(not math.isnan(value))) for reference, metric, value in scored]
