"""SIFT keypoints of an image and their matches with those of another, by OpenCV. Pure functions."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probe.correspondence.tracks import mutual_matches

SIDE = 256
"""Shorter side of the image that errors are expressed in; smaller ones are enlarged to it to find keypoints."""
CONTRAST, EDGE = 0.02, 30.0
"""Thresholds of SIFT: COLMAP's contrast (in OpenCV's units) and the edge of TSED's authors."""


@dataclass(frozen=True, kw_only=True)
class Keypoints:
    """SIFT keypoints of an image.

    Attributes:
        xy: Positions in pixels of the image; the first pixel's centre is (0.5, 0.5).
        descriptors: None where there is no keypoint.
    """

    xy: Float[Tensor, "n 2"]
    descriptors: Float[np.ndarray, "n 128"] | None


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Matches of a view's keypoints with those of a reference.

    Attributes:
        xy: Positions in the view, in pixels.
        other: Positions in the reference.
        index: Number of the view's keypoint.
    """

    xy: Float[Tensor, "n 2"]
    other: Float[Tensor, "n 2"]
    index: Int[Tensor, " n"]


def find_keypoints(image: Float[Tensor, "3 h w"]) -> Keypoints:
    """Find SIFT keypoints, by OpenCV, in the image enlarged bicubically to a shorter side of at least :data:`SIDE`.

    Args:
        image: Colours in [0, 1]; turned to 8-bit grey.

    Source:
        Lowe 2004 (IJCV 60:2); thresholds: COLMAP, and github.com/YorkUCVIL/Photoconsistent-NVS, which runs it.
    """
    bytes_ = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    grey = cv2.cvtColor(np.ascontiguousarray(rearrange(bytes_, "c h w -> h w c").numpy()), cv2.COLOR_RGB2GRAY)
    factor = max(1.0, SIDE / min(grey.shape))
    size = round(grey.shape[1] * factor), round(grey.shape[0] * factor)
    enlarged = grey if factor == 1 else cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
    sift = cv2.SIFT.create(contrastThreshold=CONTRAST, edgeThreshold=EDGE, enable_precise_upscale=True)
    points, descriptors = sift.detectAndCompute(enlarged, None)
    xy = torch.tensor([point.pt for point in points], dtype=torch.float64).reshape(-1, 2)
    back = torch.tensor([grey.shape[1] / size[0], grey.shape[0] / size[1]], dtype=torch.float64)
    return Keypoints(xy=(xy + 0.5) * back, descriptors=descriptors)  # OpenCV puts the first centre at (0, 0)


def match_keypoints(view: Keypoints, reference: Keypoints) -> Matches:
    """Match keypoints of a view with those of a reference: mutual nearest descriptors that pass Lowe's ratio test."""
    pairs = [(one.queryIdx, one.trainIdx) for one in mutual_matches(view.descriptors, reference.descriptors)]
    here, there = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return Matches(xy=view.xy[here], other=reference.xy[there], index=here)
