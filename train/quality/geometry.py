"""Geometry of a view by SIFT matches with its references: epipolar distance, camera, reprojection. Pure functions.

The cameras are known: a view that shows the scene from its camera has matches on their epipolar lines, its camera can
be found from the matches, and each match is the image of one point. Pixels are those of an image whose shorter side has
:data:`~train.quality.keypoints.SIDE`. What matches cannot tell is NaN, never 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

from probe.correspondence.tracks import Tracks, nearest_points
from probe.geometry import fundamental_matrix, inverse, project, relative_camera, rotation_degrees, stand_apart
from probe.records.names import (
    CAMERA_DEGREES,
    CAMERA_ROTATION,
    CAMERA_TRANSLATION,
    CAMERA_WITHIN,
    PAIR_METRICS,
    REGISTERED,
    SED,
    SIFT_MATCHES,
    TSED,
    TSED_PIXELS,
    within,
)
from train.quality.keypoints import SIDE, Matches

LEAST_MATCHES = 10
"""That a pair needs for an epipolar distance, and a view for a reprojection error."""
LEAST_INLIERS = 15
"""That a camera needs to count as registered, COLMAP's ``min_num_inliers``."""
FARTHEST = 1e6
"""Baselines that a point may be away to count as lying in front of the cameras."""
RANSAC_PIXELS = 2.0
"""That a match may lie off its epipolar line to count as an inlier of a camera."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The camera of a view.

    Attributes:
        intrinsics: In pixels of the image.
        world_to_cam: OpenCV axes.
        size: (height, width) of the image in pixels.
    """

    intrinsics: Float[Tensor, "3 3"]
    world_to_cam: Float[Tensor, "4 4"]
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Return how many pixels of :data:`SIDE` a pixel is."""
        return SIDE / min(self.size)


# --- one reference ---------------------------------------------------------------------------------------------------


def epipolar_distance(
    xy: Float[Tensor, "n 2"], other: Float[Tensor, "n 2"], fundamental: Float[Tensor, "3 3"]
) -> Float[Tensor, " n"]:
    """Compute the symmetric epipolar distance of matches, in pixels: of each point to the other's line, the mean.

    Args:
        xy: Positions in one view.
        other: Positions in the other.
        fundamental: Turns a pixel of the first into its line in the second (:func:`probe.geometry.fundamental_matrix`).

    Returns:
        At least 0; NaN where a point has no line, as the epipole.

    Source:
        arXiv 2304.10700; github.com/YorkUCVIL/Photoconsistent-NVS, src/scripts/compute_sed.py.
    """
    first, second = (torch.cat([part, torch.ones_like(part[:, :1])], dim=1) for part in (xy, other))
    line, back = first @ fundamental.mT, second @ fundamental
    error = einsum(second, line, "n i, n i -> n").abs()
    return (error / line[:, :2].norm(dim=1) + error / back[:, :2].norm(dim=1)) / 2


def find_camera(matches: Matches, view: Camera, reference: Camera) -> Float[Tensor, "4 4"] | None:
    """Find a view's camera in the frame of a reference's from their matches alone: the essential matrix, by OpenCV.

    Args:
        matches: Of the view with the reference.
        view: Its intrinsics are used.
        reference: Its intrinsics are used.

    Returns:
        A point in the reference's frame, to a point in the view's, with a translation of length 1; None where fewer
        than :data:`LEAST_INLIERS` matches agree on a camera that they lie in front of.

    Source:
        Nistér 2004 (TPAMI 26:6), in OpenCV's USAC_ACCURATE (RANSAC with local optimisation, which is nearer to the
        true cameras of real frames than plain RANSAC); COLMAP's least number of inliers.
    """
    if len(matches.xy) < LEAST_INLIERS:
        return None
    there, here = (_rays(xy, camera) for xy, camera in ((matches.other, reference), (matches.xy, view)))
    focal = float(torch.stack([view.intrinsics.diagonal()[:2], reference.intrinsics.diagonal()[:2]]).mean())
    threshold = RANSAC_PIXELS / max(view.scale, reference.scale) / focal
    essential, inliers = cv2.findEssentialMat(there, here, np.eye(3), cv2.USAC_ACCURATE, 0.9999, threshold)
    if essential is None or essential.shape != (3, 3):
        return None
    agreeing, rotation, translation, *_ = cv2.recoverPose(
        essential, there, here, np.eye(3), distanceThresh=FARTHEST, mask=inliers
    )
    if agreeing < LEAST_INLIERS:
        return None
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3] = torch.from_numpy(np.hstack([rotation, translation]))
    return camera


def _rays(xy: Float[Tensor, "n 2"], camera: Camera) -> Float[np.ndarray, "n 2"]:
    homogeneous = torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)
    return np.ascontiguousarray((homogeneous @ inverse(camera.intrinsics.double()).mT)[:, :2].numpy())


def camera_errors(camera: Float[Tensor, "4 4"] | None, view: Camera, reference: Camera) -> tuple[float, float]:
    """Compare a camera with the true one.

    Args:
        camera: From :func:`find_camera`.
        view: The true camera.
        reference: The camera whose frame it was found in.

    Returns:
        Angle between the rotations and angle between the directions of translation, in degrees from 0 to 180; NaN where
        no camera was found.
    """
    if camera is None:
        return math.nan, math.nan
    true = relative_camera(view.world_to_cam.double(), reference.world_to_cam.double())
    one, other = camera[:3, 3], true[:3, 3]
    angle = torch.atan2(torch.linalg.cross(one, other).norm(), one @ other)
    return float(rotation_degrees(camera, true)), float(torch.rad2deg(angle))


def pair_scores(matches: Matches, view: Camera, reference: Camera) -> dict[str, float]:
    """Score a view against one reference.

    Args:
        matches: Of the view with the reference.
        view: The camera that the view should be seen from.
        reference: The reference's camera.

    Returns:
        By name: how many matches; their median epipolar distance, NaN below :data:`LEAST_MATCHES`; TSED, 1 where there
        are as many and the median lies below the limit, else 0; whether the camera was registered, 1 or 0; the errors
        of its rotation and of its direction, NaN where it was not; whether it was and both are below the limit. All but
        the first are NaN where the true cameras have the same centre.
    """
    known = {SIFT_MATCHES: float(len(matches.xy))}
    if not stand_apart(view.world_to_cam, reference.world_to_cam):
        return known | dict.fromkeys(PAIR_METRICS[1:], math.nan)
    median = _median_distance(matches, view, reference)
    camera = find_camera(matches, view, reference)
    rotation, translation = camera_errors(camera, view, reference)
    return known | {
        SED: median,
        **{within(TSED, pixels, "px"): float(median < pixels) for pixels in TSED_PIXELS},
        REGISTERED: float(camera is not None),
        CAMERA_ROTATION: rotation,
        CAMERA_TRANSLATION: translation,
        CAMERA_WITHIN: float(max(rotation, translation) < CAMERA_DEGREES),
    }


def _median_distance(matches: Matches, view: Camera, reference: Camera) -> float:
    """Return the median epipolar distance in pixels of :data:`SIDE`; NaN of too few matches."""
    if len(matches.xy) < LEAST_MATCHES:
        return math.nan
    cameras = (view.intrinsics, view.world_to_cam, reference.intrinsics, reference.world_to_cam)
    distance = epipolar_distance(matches.xy, matches.other, fundamental_matrix(*(part.double() for part in cameras)))
    return view.scale * float(np.nanmedian(distance.numpy()))


# --- all references --------------------------------------------------------------------------------------------------


def reprojection_error(matches: Sequence[Matches], view: Camera, references: Sequence[Camera]) -> tuple[float, int]:
    """Triangulate the tracks of a view's keypoints through its references, and project the points back.

    A track is a keypoint of the view with its match in each reference that has one. Tracks whose rays differ by less
    than a degree are left out: their point is not determined.

    Args:
        matches: Of the view with each reference.
        view: The camera that the view should be seen from.
        references: The references' cameras, all of images of one size.

    Returns:
        Median over tracks of the mean distance from a track's positions to its projected point, in pixels, at most
        :data:`SIDE`, which a point behind a camera counts as; NaN of fewer than :data:`LEAST_MATCHES` tracks. And how
        many tracks there are.
    """
    tracks = _join(matches)
    cameras = [view, *references]
    intrinsics, world_to_cam = (
        torch.stack([getattr(camera, name).double() for camera in cameras])[None]
        for name in ("intrinsics", "world_to_cam")
    )
    points, determined = nearest_points(tracks, intrinsics, world_to_cam)
    count = int(determined.sum())
    if count < LEAST_MATCHES:
        return math.nan, count
    xy, _ = project(points[:, None].expand(-1, len(cameras), -1, -1), intrinsics, world_to_cam)
    error = (view.scale * (xy - tracks.xy).norm(dim=-1)).nan_to_num(nan=SIDE).clamp(max=SIDE)
    total = reduce(torch.where(tracks.seen, error, 0.0), "b f p -> b p", "sum")
    each = total / reduce(tracks.seen.double(), "b f p -> b p", "sum").clamp(min=1)
    return float(np.median(each[determined].numpy())), count


def _join(matches: Sequence[Matches]) -> Tracks:
    """Join matches that share a keypoint of the view: views are the view itself, then its references."""
    number = torch.cat([one.index for one in matches]).unique()
    xy = torch.zeros(1, 1 + len(matches), len(number), 2, dtype=torch.float64)
    seen = torch.zeros(xy.shape[:3], dtype=torch.bool)
    seen[:, 0] = True
    for place, one in enumerate(matches, start=1):
        track = torch.searchsorted(number, one.index.contiguous())
        xy[0, 0, track], xy[0, place, track], seen[0, place, track] = one.xy, one.other, True
    return Tracks(xy=xy, seen=seen)
