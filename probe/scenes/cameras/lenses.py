"""Lens distortion: the pinhole camera that a distorted image is resampled to.

The straightened image shows the largest field of the image's own shape all of whose pixels the lens saw, at most
:data:`FIELD` degrees across each side: a plane cannot show a fisheye's whole field. A lens that cannot be straightened
is refused: a model that folds, or a reconstruction that failed, whose image would be a few stretched pixels.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras.models import MODELS, model_named

FIELD = 100.0
"""The widest field of view of a straightened image, in degrees across its width and across its height."""
CORNER = 65.0  # the largest angle from the axis that is looked at, in degrees; FIELD reaches 59 in a square's corner
STRETCH = 10.0
"""The largest ratio of two places' magnification in a straightened image; FIELD alone makes 4 of a fisheye."""
LEAST_SHARE = 0.05  # of the distorted image's area that the straightened one shows
FLAT = 0.15  # of its steepest slope, below which a model is about to turn back; an ideal fisheye has .18 at CORNER
SIDE = 32766  # pixels, the most that OpenCV resamples
SAMPLES = 33  # per side of the image
RADII = 512
ROWS = 256  # that are computed at once


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A distorted camera.

    Attributes:
        focal: Focal lengths (x, y) in pixels of ``size``.
        centre: Principal point (x, y) in pixels; the first pixel's centre is (0.5, 0.5).
        model: A key of :data:`probe.scenes.cameras.models.MODELS` that distorts.
        coefficients: In the model's order.
        size: (height, width) of the image.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    model: str
    coefficients: tuple[float, ...]
    size: tuple[int, int]


def make_lens(
    model: str,
    intrinsics: Float[Tensor, "3 3"],
    coefficients: tuple[float, ...],
    size: tuple[int, int],
    origin: str,
) -> Lens | None:
    """Return the lens of a camera, or None where it does not distort.

    Args:
        model: COLMAP's name of the camera model.
        intrinsics: In pixels of ``size``.
        coefficients: In the model's order.
        size: (height, width) of the image.
        origin: Where the numbers stand, for the error.

    Raises:
        ValueError: If the model is unknown, or the lens cannot be straightened.
    """
    if not model_named(model, origin).distorts(coefficients):
        return None
    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    lens = Lens(focal=(fx, fy), centre=(cx, cy), model=model, coefficients=coefficients, size=size)
    try:
        straight(lens)
    except ValueError as error:
        raise ValueError(f"{origin} has a {model} lens that {error}") from None
    return lens


@lru_cache(maxsize=1024)
def straight(lens: Lens) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of the straightened image: of the same size and shape of pixels, all of which the lens saw.

    Raises:
        ValueError: If there is no such image worth the name.
    """
    if max(lens.size) > SIDE:
        raise ValueError(f"cannot be straightened: the image has more than {SIDE} pixels along a side")
    new = _fit(lens, _field(lens))
    _check(lens, new)
    (fx, fy), (cx, cy) = new.focal, new.centre
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float32)


def straighten(image: Float[Tensor, "c height width"], lens: Lens, *, nearest: bool) -> Float[Tensor, "c height width"]:
    """Resample an image to the camera of :func:`straight`.

    Args:
        image: As the lens saw it.
        lens: The lens.
        nearest: Take the nearest pixel (depth, masks) instead of mixing four (colours).
    """
    x, y = _maps(lens)
    source = rearrange(image, "c height width -> height width c").contiguous().numpy()
    mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    resampled = cv2.remap(source, x, y, mode, borderMode=cv2.BORDER_REPLICATE)
    return rearrange(torch.from_numpy(resampled.reshape(source.shape)), "height width c -> c height width")


# --- finding the straight camera -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Pinhole:
    focal: tuple[float, float]
    centre: tuple[float, float]

    def rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rays of pixels."""
        return (x - self.centre[0]) / self.focal[0], (y - self.centre[1]) / self.focal[1]


def _image_of(lens: Lens, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (x, y) of the distorted image in which rays are seen."""
    distort = MODELS[lens.model].distort
    assert distort is not None  # a lens distorts
    with np.errstate(all="ignore"):
        u, v = distort(x, y, *lens.coefficients)
    return u * lens.focal[0] + lens.centre[0], v * lens.focal[1] + lens.centre[1]


def _border(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres of pixels along an image's left, right, top and bottom."""
    height, width = size
    across, down = np.linspace(0.5, width - 0.5, SAMPLES), np.linspace(0.5, height - 0.5, SAMPLES)
    x = np.stack([np.full(SAMPLES, 0.5), np.full(SAMPLES, width - 0.5), across, across])
    y = np.stack([down, down, np.full(SAMPLES, 0.5), np.full(SAMPLES, height - 0.5)])
    return x, y


def _field(lens: Lens) -> tuple[float, float, float, float]:
    """Return the rectangle of rays (left, right, top, bottom) that lies within the image and within :data:`FIELD`."""
    x, y = _border(lens.size)
    u, v = (x - lens.centre[0]) / lens.focal[0], (y - lens.centre[1]) / lens.focal[1]
    far = np.hypot(u, v)
    radius = _radius(lens, u / far, v / far, far)
    ray_x, ray_y = radius * u / far, radius * v / far
    most = math.tan(math.radians(FIELD / 2))
    left, right = max(float(ray_x[0].max()), -most), min(float(ray_x[1].min()), most)
    top, bottom = max(float(ray_y[2].max()), -most), min(float(ray_y[3].min()), most)
    if not (left < 0 < right and top < 0 < bottom):
        raise ValueError("shows no field around its axis; the model is broken")
    return left, right, top, bottom


def _radius(lens: Lens, along_x: np.ndarray, along_y: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Return how far from the axis the ray is that is seen at a distance from the centre, along a direction.

    A distance that no ray reaches, before the model turns back or :data:`CORNER`, gives the last ray before that.
    """
    radii = np.tan(np.linspace(0, math.radians(CORNER), RADII))
    x, y = _image_of(lens, along_x[..., None] * radii, along_y[..., None] * radii)
    reach = (x - lens.centre[0]) / lens.focal[0] * along_x[..., None]
    reach = reach + (y - lens.centre[1]) / lens.focal[1] * along_y[..., None]
    with np.errstate(invalid="ignore"):
        slope = np.diff(reach) / np.diff(radii)
        rising = np.logical_and.accumulate(slope > FLAT * np.maximum.accumulate(slope, -1).clip(min=0), axis=-1)
        steps = (rising & (reach[..., 1:] <= far[..., None])).sum(-1)
    last = rising.sum(-1)
    here, after = (np.take_along_axis(reach, np.minimum(n, last)[..., None], -1)[..., 0] for n in (steps, steps + 1))
    share = np.where(after > here, (far - here) / np.where(after > here, after - here, 1), 0)
    return radii[steps] + np.clip(share, 0, 1) * (radii[np.minimum(steps + 1, RADII - 1)] - radii[steps])


def _fit(lens: Lens, field: tuple[float, float, float, float]) -> _Pinhole:
    """Return the camera of the image's shape in the middle of a field, made smaller until the lens saw its border."""
    left, right, top, bottom = field
    height, width = lens.size
    wide, high = max(width - 1, 1) / lens.focal[0], max(height - 1, 1) / lens.focal[1]
    scale = min((right - left) / wide, (bottom - top) / high)
    for shrink in np.linspace(1, 0.7, 31):
        focal = lens.focal[0] / (scale * shrink), lens.focal[1] / (scale * shrink)
        new = _Pinhole(
            focal=focal,
            centre=(width / 2 - focal[0] * (left + right) / 2, height / 2 - focal[1] * (top + bottom) / 2),
        )
        x, y = _image_of(lens, *new.rays(*_border(lens.size)))
        if bool(((x >= 0.49) & (x <= width - 0.49) & (y >= 0.49) & (y <= height - 0.49)).all()):
            return new
    raise ValueError("shows no rectangle that lies within the image; the model is broken")


def _check(lens: Lens, new: _Pinhole) -> None:
    """Refuse a straightened image that folds, is stretched beyond use or shows next to nothing of the image."""
    height, width = lens.size
    columns, rows = np.meshgrid(np.linspace(0, width, SAMPLES), np.linspace(0, height, SAMPLES))
    x, y = _image_of(lens, *new.rays(columns, rows))
    steps = width / (SAMPLES - 1), height / (SAMPLES - 1)
    (down_x, across_x), (down_y, across_y) = (np.gradient(place, steps[1], steps[0]) for place in (x, y))
    area = across_x * down_y - across_y * down_x
    if not (np.isfinite(area).all() and area.min() > 0):
        raise ValueError("folds within the image: two of its rays have one pixel; the model is broken")
    moved = rearrange(np.stack([across_x, across_y, down_x, down_y]), "(b a) y x -> y x a b", a=2)
    sizes = np.linalg.svd(moved, compute_uv=False)
    if sizes.max() > STRETCH * sizes.min():
        raise ValueError(
            f"magnifies one place {sizes.max() / sizes.min():.0f} times as much as another, more than {STRETCH:g}; a "
            "failed reconstruction has such lenses"
        )
    if area.mean() < LEAST_SHARE:
        raise ValueError(f"shows {area.mean():.1%} of the image once it is straightened; the model is broken")


@lru_cache(maxsize=2)
def _maps(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Return for each straightened pixel where it lies in the image, as OpenCV counts: the first centre is (0, 0)."""
    height, width = lens.size
    (fx, _, cx), (_, fy, cy), _ = straight(lens).tolist()
    new = _Pinhole(focal=(fx, fy), centre=(cx, cy))
    maps = np.empty((2, height, width), np.float32)
    for start in range(0, height, ROWS):
        rows = np.arange(start, min(start + ROWS, height))
        x, y = np.meshgrid(np.arange(width) + 0.5, rows + 0.5)
        maps[:, rows] = np.stack(_image_of(lens, *new.rays(x, y))) - 0.5
    return maps[0], maps[1]


def resized(lens: Lens, size: tuple[int, int]) -> Lens:
    """Return the lens of the same images at another size."""
    down, across = size[0] / lens.size[0], size[1] / lens.size[1]
    focal = lens.focal[0] * across, lens.focal[1] * down
    return replace(lens, focal=focal, centre=(lens.centre[0] * across, lens.centre[1] * down), size=size)
