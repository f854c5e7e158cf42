"""The frames of an RGB-D recording: files and cameras, and how their pixels become a recording's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from probe.geometry import pixel_centres
from probe.scenes.cameras.lenses import Lens, straight, straighten
from probe.scenes.files import open_image, read_rgb
from probe.scenes.reading import Dropped, Folder
from probe.scenes.recordings import Recording

MISSING = 65535  # a depth that 7-Scenes writes for "missing"; so is 0
SAME = 1e-3  # of a camera's numbers: two cameras that differ less are one


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The files and cameras of a recording's frames, in order, without pixels.

    Attributes:
        root: The folder; every file lies inside it.
        names: The frames' numbers or times, as written in their file names.
        colour: Colour images.
        depth: Depth images.
        world_to_cam: OpenCV axes, metres.
        intrinsics: In pixels of ``size``.
        colour_intrinsics: In pixels of ``colour_size``.
        size: (height, width) of the depth images.
        colour_size: (height, width) of the colour images.
        depth_scale: What a depth file counts as one metre.
        lens: The lens of colour and depth, where both show its distortion.
        dropped: Frames that were left out, such as those whose tracking was lost.
        notes: What the reader should know of how they were read.
    """

    root: Folder
    names: tuple[str, ...]
    colour: tuple[Path, ...]
    depth: tuple[Path, ...]
    world_to_cam: Float[Tensor, "frames 4 4"] = field(repr=False)
    intrinsics: Float[Tensor, "3 3"]
    colour_intrinsics: Float[Tensor, "3 3"]
    size: tuple[int, int]
    colour_size: tuple[int, int]
    depth_scale: float = 1000.0
    lens: Lens | None = None
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def registered(self) -> bool:
        """Return whether colour and depth are of one camera, at one size or two: both show the same field of view."""
        ratio = [colour / depth for colour, depth in zip(self.colour_size[::-1], self.size[::-1], strict=True)]
        scaled = self.intrinsics * self.intrinsics.new_tensor([*ratio, 1])[:, None]
        return torch.allclose(self.colour_intrinsics, scaled, rtol=SAME, atol=SAME)

    @property
    def view(self) -> tuple[tuple[int, int], Float[Tensor, "3 3"]]:
        """Return size and intrinsics of the views: colour's where both are of one camera, else depth's."""
        if self.lens is not None:
            return self.size, straight(self.lens)
        return (self.colour_size, self.colour_intrinsics) if self.registered else (self.size, self.intrinsics)


def to_recording(frames: Frames) -> Recording:
    """Turn the files into a recording, in metres; a pixel that the colour camera does not see has no depth."""
    count = len(frames.names)
    size, intrinsics = frames.view
    return Recording(
        name=frames.root.path.resolve().name,
        names=frames.names,
        sizes=(size,) * count,
        world_to_cam=frames.world_to_cam,
        intrinsics=intrinsics.expand(count, 3, 3),
        colour=partial(_read_colour, frames),
        depth=partial(_read_depth, frames, seen=_seen(frames)),
        unit="m",
        dropped=frames.dropped,
    )


def _read_depth(frames: Frames, index: int, seen: Bool[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    with open_image(frames.depth[index], frames.root) as image:
        values = torch.from_numpy(np.array(image).astype(np.float32))
    if tuple(values.shape) != frames.size:
        raise ValueError(f"{frames.depth[index]} is {by(values.shape)}, expected {by(frames.size)} as the others")
    depth = torch.where((values < MISSING) & seen, values / frames.depth_scale, 0)
    return depth if frames.lens is None else straighten(depth[None], frames.lens, nearest=True)[0]


def _read_colour(frames: Frames, index: int) -> Float[Tensor, "3 height width"]:
    """Return the colour as the depth camera would see it, or as it is where both are of one camera."""
    colour = read_rgb(frames.colour[index], frames.root)
    if tuple(colour.shape[1:]) != frames.colour_size:
        expected = f"expected {by(frames.colour_size)} as the others"
        raise ValueError(f"{frames.colour[index]} is {by(colour.shape[1:])}, {expected}")
    if frames.lens is not None:
        return straighten(colour, frames.lens, nearest=False)
    return colour if frames.registered else _resample(colour, frames)


def _resample(colour: Float[Tensor, "3 h w"], frames: Frames) -> Float[Tensor, "3 height width"]:
    left, top, right, bottom = colour_box(frames.intrinsics, frames.colour_intrinsics, frames.size)
    (height, width), (colour_height, colour_width) = frames.size, frames.colour_size
    margin = math.ceil(max(0, -left, -top, right - colour_width, bottom - colour_height))
    pixels = rearrange((colour * 255).round().to(torch.uint8), "c h w -> h w c").numpy()
    padded = Image.fromarray(np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    box = (left + margin, top + margin, right + margin, bottom + margin)
    resized = np.array(padded.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return rearrange(torch.from_numpy(resized), "h w c -> c h w") / 255


def _seen(frames: Frames) -> Bool[Tensor, "height width"]:
    """Return which pixels of the depth camera the colour camera looked at."""
    (height, width), (colour_height, colour_width) = frames.size, frames.colour_size
    if frames.registered:
        return torch.ones(frames.size, dtype=torch.bool)
    left, top, right, bottom = colour_box(frames.intrinsics, frames.colour_intrinsics, frames.size)
    corner, span = torch.tensor([left, top]), torch.tensor([(right - left) / width, (bottom - top) / height])
    xy = corner + pixel_centres(height, width) * span
    return ((xy >= 0) & (xy < torch.tensor([colour_width, colour_height]))).all(-1)


def colour_box(
    intrinsics: Float[Tensor, "3 3"], colour_intrinsics: Float[Tensor, "3 3"], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the depth image's outline, in colour pixels."""
    corners = torch.tensor([[0, 0, 1], [size[1], size[0], 1]], dtype=torch.float64)
    change = colour_intrinsics.double() @ torch.linalg.inv(intrinsics.double())
    (left, top), (right, bottom) = (corners @ change.mT)[:, :2].tolist()
    return left, top, right, bottom


def by(size: Sequence[int]) -> str:
    """Return "height x width", for messages."""
    return " x ".join(str(side) for side in size)
