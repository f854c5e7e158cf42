"""Lens distortion: the pinhole camera that a distorted image is resampled to, by OpenCV."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A distorted camera.

    Attributes:
        intrinsics: In pixels of ``size``; the first pixel's centre is (0.5, 0.5).
        coefficients: k1, k2, p1, p2, k3 of OpenCV's model; k1 to k4 of its fisheye model.
        fisheye: Which of the two.
        size: (height, width) of the image.
    """

    intrinsics: Float[Tensor, "3 3"]
    coefficients: tuple[float, ...]
    fisheye: bool
    size: tuple[int, int]


def straight(lens: Lens) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of the largest undistorted image of the same size all of whose pixels the lens saw."""
    height, width = lens.size
    matrix, coefficients = _for_opencv(lens)
    if lens.fisheye:
        estimate = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify
        new = estimate(matrix, coefficients, (width, height), np.eye(3), balance=0.0)
    else:
        new, _ = cv2.getOptimalNewCameraMatrix(matrix, coefficients, (width, height), 0)
    intrinsics = torch.from_numpy(np.ascontiguousarray(new)).float()
    intrinsics[:2, 2] += 0.5
    return intrinsics


def straighten(image: Float[Tensor, "c height width"], lens: Lens, *, nearest: bool) -> Float[Tensor, "c height width"]:
    """Resample an image to the camera of :func:`straight`.

    Args:
        image: As the lens saw it.
        lens: The lens.
        nearest: Take the nearest pixel (depth, masks) instead of mixing four (colours).
    """
    height, width = lens.size
    matrix, coefficients = _for_opencv(lens)
    new = straight(lens).double().numpy()
    new[:2, 2] -= 0.5
    maps = cv2.fisheye.initUndistortRectifyMap if lens.fisheye else cv2.initUndistortRectifyMap
    x, y = maps(matrix, coefficients, np.eye(3), new, (width, height), cv2.CV_32FC1)
    source = rearrange(image, "c height width -> height width c").contiguous().numpy()
    mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    resampled = cv2.remap(source, x, y, mode, borderMode=cv2.BORDER_REPLICATE)
    return rearrange(torch.from_numpy(resampled.reshape(source.shape)), "height width c -> c height width")


def _for_opencv(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix and coefficients for OpenCV, to which the first pixel's centre is (0, 0)."""
    matrix = lens.intrinsics.double().numpy().copy()
    matrix[:2, 2] -= 0.5
    return matrix, np.array(lens.coefficients, dtype=np.float64)
