"""RealEstate10K's cameras: rows of numbers, as its files and pixelSplat's chunks have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.reading import Dropped
from probe.scenes.recordings import Recording

CAMERA = 18  # numbers of a camera: fx fy cx cy 0 0 and 3 x 4


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One frame: its place among the camera's lines, (height, width) and camera; its file, if it has one of its own."""

    place: int
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    image: Path | None = None


def posed_row(
    row: Float[Tensor, " 18"], size: tuple[int, int], place: int, origin: str, image: Path | None = None
) -> Posed:
    """Turn a row of a camera file, without its timestamp, into a camera with intrinsics in pixels.

    Args:
        row: fx, fy, cx, cy in units of the image, two zeros, and 3 x 4 numbers.
        size: (height, width) of the image.
        place: Of the row.
        origin: Where it stands, for the error.
        image: Its file, if it has one of its own.

    Raises:
        ValueError: If there is distortion, or the numbers are no camera.
    """
    fx, fy, cx, cy, first, second = row[:6].tolist()
    (height, width), where = size, f"frame {place} of {origin}"
    if (first, second) != (0, 0):
        raise ValueError(f"{where} has {first}, {second} after its principal point, expected 0 0 (no distortion)")
    return Posed(
        place=place,
        size=size,
        world_to_cam=from_world_to_cam(row[6:].double().reshape(3, 4), where),
        intrinsics=pinhole((fx * width, fy * height), (cx * width, cy * height), size, where),
        image=image,
    )


def recording_of(
    name: str,
    posed: Sequence[Posed],
    colour: Callable[[Posed], Float[Tensor, "3 height width"]],
    dropped: Sequence[Dropped],
) -> Recording:
    """Make a recording without depth and unit of posed frames, whose colours a function reads."""
    return Recording(
        name=name,
        names=tuple(str(one.place) for one in posed),
        sizes=tuple(one.size for one in posed),
        world_to_cam=torch.stack([one.world_to_cam for one in posed]),
        intrinsics=torch.stack([one.intrinsics for one in posed]),
        colour=lambda index: colour(posed[index]),
        dropped=tuple(dropped),
    )
