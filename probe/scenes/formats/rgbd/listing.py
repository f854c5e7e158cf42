"""What a layout tells of an RGB-D folder, and how its frames are read: broken ones are left out and counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras.lenses import Lens, make_lens
from probe.scenes.files import image_size, open_image
from probe.scenes.formats.rgbd.frames import Frames, by, colour_box
from probe.scenes.formats.rgbd.written import Written, colour_camera
from probe.scenes.reading import Dropped, Folder, read_all

SIXTEEN = ("I;16", "I;16B", "I")
Sizes = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A frame's files and camera.

    Attributes:
        name: Its number or time, as written.
        colour: Its colour image.
        depth: Its depth image.
        world_to_cam: OpenCV axes, in the unit of the files.
    """

    name: str
    colour: Path
    depth: Path
    world_to_cam: Float[Tensor, "4 4"]


FrameReader = Callable[[], Posed | Dropped]
"""Finds a frame's files and reads its pose, or tells why the data set has no such frame (its tracking was lost);
raises ValueError or FileNotFoundError where a file is broken or missing."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A folder as its layout reads it.

    Attributes:
        root: The folder.
        frames: Names and readers, in order.
        camera: The depth camera.
        colour: The colour camera, where it is written of its own.
        shared: Whether colour is of the depth camera too, at any size.
        depth_scale: What a depth file counts as one metre.
        notes: What the reader should know of how the folder was read.
    """

    root: Folder
    frames: tuple[tuple[str, FrameReader], ...]
    camera: Written
    colour: Callable[[], Written] | None = None
    shared: bool = False
    depth_scale: float = 1000.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A kind of folder.

    Attributes:
        expected: Its files, for errors.
        present: Returns whether a folder is laid out so, by few of its files.
        read: Lists a folder that is.
    """

    expected: str
    present: Callable[[Path], bool]
    read: Callable[[Folder], Listing]


def read_frames(listing: Listing, colour_focal: float | None) -> Frames:
    """Read the poses and sizes of a folder's frames, and what its cameras are, but no pixels.

    Args:
        listing: The folder.
        colour_focal: Focal length of the colour camera, in pixels of the colour image; None: as the layout has it.

    Raises:
        FileNotFoundError: If a file is missing and reading is strict, or no frame is left.
        ValueError: If a file is broken and reading is strict, or no frame is left; if the cameras do not serve.
    """
    root = listing.root
    if not listing.frames:
        raise FileNotFoundError(f"load_frames: the files of {root} list no frames")
    readers = [(name, partial(_measured, root, read)) for name, read in listing.frames]
    read, broken = read_all(readers, root, str(root))
    lost = [frame for frame in read if isinstance(frame, Dropped)]
    posed = [frame for frame in read if not isinstance(frame, Dropped)]
    if not posed:
        raise ValueError(f"load_frames: none of the {len(readers)} frames of {root} is left: {lost[0].reason}")
    posed, others = _of_one_size(posed, root)
    sizes = posed[0][1]
    intrinsics, colour_intrinsics = _both_cameras(listing, sizes, colour_focal)
    scale = root.reading.depth_scale
    frames = [frame for frame, _ in posed]
    return Frames(
        root=root,
        names=tuple(frame.name for frame in frames),
        colour=tuple(frame.colour for frame in frames),
        depth=tuple(frame.depth for frame in frames),
        world_to_cam=_in_metres(torch.stack([frame.world_to_cam for frame in frames]), root.reading.unit),
        intrinsics=intrinsics,
        colour_intrinsics=colour_intrinsics,
        size=sizes[1],
        colour_size=sizes[0],
        depth_scale=listing.depth_scale if scale is None else scale,
        lens=_lens(listing, sizes, intrinsics, colour_focal),
        dropped=(*lost, *broken, *others),
        notes=_notes(listing, colour_focal),
    )


def _measured(root: Folder, read: FrameReader) -> tuple[Posed, Sizes] | Dropped:
    """Read a frame and the sizes of its colour and depth images."""
    frame = read()
    if isinstance(frame, Dropped):
        return frame
    colour_size = image_size(frame.colour, root)
    with open_image(frame.depth, root) as image:
        size, mode = (image.height, image.width), image.mode
    if mode not in SIXTEEN:
        eight = "; 8 bits hold a picture of the distances, not the distances" if mode in ("L", "RGB", "P") else ""
        expected = "a 16-bit single-channel PNG in millimetres, or in what --depth-scale says"
        raise ValueError(f"load_frames: {frame.depth} has pixels of mode {mode}, expected {expected}{eight}")
    return frame, (colour_size, size)


def _of_one_size(
    frames: list[tuple[Posed, Sizes]], root: Folder
) -> tuple[list[tuple[Posed, Sizes]], tuple[Dropped, ...]]:
    """Keep the frames of the commonest sizes, if more than half of them are."""
    counts = Counter(sizes for _, sizes in frames)
    common, number = counts.most_common(1)[0]
    other = next(((frame, sizes) for frame, sizes in frames if sizes != common), None)
    if other is None:
        return frames, ()
    if root.reading.strict or 2 * number <= len(frames):
        first = next(frame for frame, sizes in frames if sizes == common)
        kind = "colour" if other[1][0] != common[0] else "depth"
        index = 0 if kind == "colour" else 1
        names = [getattr(frame, kind).name for frame in (first, other[0])]
        both = f"{names[0]} is {by(common[index])}, {names[1]} is {by(other[1][index])} (height x width)"
        raise ValueError(f"load_frames: {kind} images of {root} have mixed sizes: {both}; expected one size")
    expected = f"expected {by(common[0])} and {by(common[1])} as the others"
    return [frame for frame in frames if frame[1] == common], tuple(
        Dropped(frame.name, f"its colour is {by(sizes[0])} and its depth {by(sizes[1])}, {expected}")
        for frame, sizes in frames
        if sizes != common
    )


def _in_metres(world_to_cam: Float[Tensor, "frames 4 4"], unit: float | None) -> Float[Tensor, "frames 4 4"]:
    scaled = world_to_cam.clone()
    scaled[:, :3, 3] *= 1 if unit is None else unit
    return scaled


def _both_cameras(
    listing: Listing, sizes: Sizes, colour_focal: float | None
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Return the intrinsics of depth and of colour.

    Raises:
        ValueError: If colour's cannot be told, or it sees less than half of what depth does.
    """
    colour_size, size = sizes
    intrinsics, own = listing.camera.at(size), _colour_camera(listing, sizes, colour_focal)
    colour_intrinsics = intrinsics if own is None else own.at(colour_size)
    left, top, right, bottom = colour_box(intrinsics, colour_intrinsics, size)
    wide, high = min(right, colour_size[1]) - max(left, 0), min(bottom, colour_size[0]) - max(top, 0)
    share = max(wide, 0) * max(high, 0) / ((right - left) * (bottom - top))
    if share < 0.5 and own is not None:
        both = f"{_short(listing.camera)} and {_short(own)} of {listing.root}"
        raise ValueError(f"load_frames: by {both} colour sees {share:.0%} of the depth image, expected half or more")
    return intrinsics, colour_intrinsics


def _short(camera: Written) -> str:
    return Path(camera.origin.removeprefix("load_frames: ")).name


def _colour_camera(listing: Listing, sizes: Sizes, colour_focal: float | None) -> Written | None:
    """Return the camera of colour; None where it is depth's, at depth's size.

    Raises:
        ValueError: If it cannot be told.
    """
    colour_size, size = sizes
    if colour_focal is not None and listing.colour is not None:
        name = listing.colour().origin.removeprefix(f"load_frames: {listing.root}/")
        raise ValueError(f"load_frames: {listing.root} has its colour camera in {name}; leave #{colour_focal:g} out")
    if colour_focal is not None:
        return colour_camera(listing.camera, colour_focal, size, colour_size)
    if colour_size == size:
        return None
    if listing.colour is not None:
        return listing.colour()
    if listing.shared and listing.camera.size is not None:
        return listing.camera
    raise ValueError(_which_camera(listing, sizes))


def _which_camera(listing: Listing, sizes: Sizes) -> str:
    """Ask for the colour camera, with the number to write where both may show the same field of view."""
    colour_size, size = sizes
    apart = f"colour is {by(colour_size)} and depth {by(size)} (height x width) in {listing.root}"
    ask = "expected one size, or FOLDER#FOCAL, the colour camera's focal length in pixels of the colour image"
    scale = colour_size[1] / size[1]
    if abs(colour_size[0] / size[0] / scale - 1) > 0.02:
        return f"load_frames: {apart}, {ask}"
    focal = float(listing.camera.at(size)[0, 0]) * scale
    return f"load_frames: {apart}, {ask}; #{focal:g} if both show the same field of view (one camera, or registered)"


def _lens(listing: Listing, sizes: Sizes, intrinsics: Float[Tensor, "3 3"], colour_focal: float | None) -> Lens | None:
    if not listing.camera.distortion or colour_focal is not None or sizes[0] != sizes[1]:
        return None
    coefficients = (*listing.camera.distortion, 0.0, 0.0, 0.0)  # no denominator
    return make_lens("FULL_OPENCV", intrinsics, coefficients, sizes[1], str(listing.root))


def _notes(listing: Listing, colour_focal: float | None) -> tuple[str, ...]:
    known = colour_focal is not None or listing.colour is not None or listing.shared
    taken = "colour is taken as registered to depth; if it is not (raw 7-Scenes: #525), name FOLDER#FOCAL"
    return (*(() if known else (taken,)), *listing.notes)


def both_kept(paths: Sequence[Path], name: str) -> str:
    """Return the note that a frame has two files of one kind."""
    return f"load_frames: frame {name} has both {paths[0]} and {paths[1]}; keep one"
