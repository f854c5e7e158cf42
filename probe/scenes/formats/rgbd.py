"""Real RGB-D recordings: colour images, 16-bit depth images in millimetres, camera poses and intrinsics in text files.

Two layouts are read. 7-Scenes-like: ``frame-000000.color.jpg|png``, ``.depth.png`` and ``.pose.txt`` with one
``camera-intrinsics.txt``, the depth camera's. ``rgbd:FOLDER`` takes colour as registered to depth, of the same camera;
``rgbd:FOLDER#525`` says that it is not, and that the colour camera's focal length is 525 pixels of the colour image,
its principal point at the depth camera's share of the image. The raw 7-Scenes release needs it. ScanNet-like:
``color/0.jpg``, ``depth/0.png``, ``pose/0.txt``, ``intrinsic/intrinsic_depth.txt``. Where its colour has another size
than its depth, ``intrinsic/intrinsic_color.txt`` is the colour camera's; where the sizes agree, the two are taken as
registered and only ``intrinsic_depth.txt`` is read.

Colour of another camera is resampled into the depth camera, both taken to stand at one place and to look the same way
(ScanNet's extrinsics are the identity). What that leaves on the kitchen of 7-Scenes: SIFT matches of its raw colour
images (98 pairs, freed of outliers by their epipolar geometry alone) miss the place that depth and poses tell by these
pixels of 256, median and 90 % quantile: 5.9 and 16.1 at focal length 585 (depth's own), 3.2 and 8.8 at 545, 2.6 and 6.1
at 525, 2.4 and 6.4 at 505. Depth reprojected into a colour camera 2.5 cm to either side gives 2.4 and 5.9, or 2.8 and
6.5, at 525: the rest is not the baseline's.

Depths of 0 and 65535 are missing. Poses are cam-to-world, in metres, with OpenCV axes. Intrinsics are taken as written,
for a first pixel whose centre is (0.5, 0.5). A frame whose tracking was lost (ScanNet writes -inf) is dropped and named
in ``Frames.dropped``; every other fault of a folder is rejected with one line.
"""

import math
from collections.abc import Iterator, Sequence
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
from probe.scenes.cameras import from_cam_to_world, pinhole
from probe.scenes.choosing import Recordings
from probe.scenes.files import open_image, read_matrix
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, split_detail
from probe.scenes.recordings import Recording

LOST = "tracking was lost: its pose is infinite"
MISSING = 65535  # a depth that 7-Scenes writes for "missing"; so is 0
MODES = {
    "colour": (("RGB", "RGBA", "L", "P"), "an 8-bit colour image"),
    "depth": (("I;16", "I"), "a 16-bit single-channel PNG in millimetres"),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a kind of folder keeps its files; ``{}`` stands for a frame's number."""

    colour: tuple[str, ...]
    depth: tuple[str, ...]
    pose: tuple[str, ...]
    intrinsics: str
    colour_intrinsics: str | None
    loses_tracking: bool


LAYOUTS = {
    "7-Scenes": Layout(
        colour=("frame-{}.color.jpg", "frame-{}.color.png"),
        depth=("frame-{}.depth.png",),
        pose=("frame-{}.pose.txt",),
        intrinsics="camera-intrinsics.txt",
        colour_intrinsics=None,
        loses_tracking=False,
    ),
    "ScanNet": Layout(
        colour=("color/{}.jpg", "color/{}.png"),
        depth=("depth/{}.png",),
        pose=("pose/{}.txt",),
        intrinsics="intrinsic/intrinsic_depth.txt",
        colour_intrinsics="intrinsic/intrinsic_color.txt",
        loses_tracking=True,
    ),
}
EXPECTED = (
    "expected frame-000000.color.jpg, frame-000000.depth.png, frame-000000.pose.txt, ... and camera-intrinsics.txt, or "
    "color/0.jpg, depth/0.png, pose/0.txt, ... and intrinsic/intrinsic_depth.txt"
)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The files and cameras of a recording's frames, in order of their numbers, without pixels.

    Attributes:
        root: The folder; every file lies inside it.
        names: The frames' numbers, as written in their file names.
        colour: Colour images.
        depth: Depth images.
        world_to_cam: OpenCV axes, metres.
        intrinsics: In pixels of ``size``.
        colour_intrinsics: In pixels of ``colour_size``.
        size: (height, width) of the depth images, and of the views that are made.
        colour_size: (height, width) of the colour images.
        dropped: Frames that were left out, such as those whose tracking was lost.
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
    dropped: tuple[Dropped, ...] = ()

    @property
    def registered(self) -> bool:
        """Return whether colour and depth are of one camera."""
        return self.colour_size == self.size and torch.equal(self.colour_intrinsics, self.intrinsics)


def load_frames(path: Path, *, colour_focal: float | None = None, reading: Reading = DEFAULT) -> Frames:
    """Find a recording's frames and read their poses, intrinsics and sizes, but no pixels.

    Args:
        path: A folder in one of the two layouts.
        colour_focal: Focal length of the colour camera of a 7-Scenes-like folder, in pixels of the colour image; None:
            colour is registered to depth.
        reading: How its files are read.

    Raises:
        FileNotFoundError: If the folder, its frames, one of a frame's three files or the intrinsics are missing.
        ValueError: If a file cannot be read, lies outside the folder or does not hold what it should; if sizes
            differ, the focal length is not positive, or colour sees less than half of what depth does.
    """
    root = Folder(Path(path), reading)
    layout, names = _find_layout(root)
    files = {kind: [_frame_file(root, layout, kind, name) for name in names] for kind in ("colour", "depth", "pose")}
    poses = [_read_pose(path, root, may_be_lost=layout.loses_tracking) for path in files["pose"]]
    kept = [index for index, pose in enumerate(poses) if pose is not None]
    if not kept:
        raise ValueError(f"load_frames: tracking was lost in all {len(names)} frames of {root}; none is left")
    colour, depth = ([files[kind][index] for index in kept] for kind in ("colour", "depth"))
    size = _common_size(root, depth, "depth")
    colour_size = _common_size(root, colour, "colour")
    intrinsics, colour_intrinsics = _both_intrinsics(root, layout, size, colour_size, colour_focal)
    return Frames(
        root=root,
        names=tuple(names[index] for index in kept),
        colour=tuple(colour),
        depth=tuple(depth),
        world_to_cam=torch.stack([pose for pose in poses if pose is not None]),
        intrinsics=intrinsics,
        colour_intrinsics=colour_intrinsics,
        size=size,
        colour_size=colour_size,
        dropped=tuple(Dropped(name, LOST) for name, pose in zip(names, poses, strict=True) if pose is None),
    )


def to_recording(frames: Frames) -> Recording:
    """Turn the files into a recording, in metres; a pixel that the colour camera does not see has no depth."""
    count = len(frames.names)
    return Recording(
        name=frames.root.path.resolve().name,
        names=frames.names,
        sizes=(frames.size,) * count,
        world_to_cam=frames.world_to_cam,
        intrinsics=frames.intrinsics.expand(count, 3, 3),
        colour=partial(_read_colour, frames),
        depth=partial(_read_depth, frames, seen=_seen(frames)),
        unit="m",
        dropped=frames.dropped,
    )


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the one recording of a folder; ``root`` may end in ``#FOCAL``, the colour camera's focal length in pixels.

    Raises:
        FileNotFoundError: If the folder holds no frames.
        ValueError: If FOCAL is no positive number.
    """
    folder, focal_text = split_detail(path)
    colour_focal = _read_focal(focal_text, folder) if focal_text else None
    layout, _ = _find_layout(Folder(folder, reading))
    taken = colour_focal is None and layout.colour_intrinsics is None
    return Recordings(
        root=folder,
        names=(folder.resolve().name,),
        open=lambda _: to_recording(load_frames(folder, colour_focal=colour_focal, reading=reading)),
        note="colour is taken as registered to depth; if it is not (raw 7-Scenes: #525), name FOLDER#FOCAL"
        if taken
        else "",
    )


def _read_focal(text: str, folder: Path) -> float:
    try:
        focal = float(text)
    except ValueError:
        focal = math.nan
    if not 0 < focal < math.inf:
        raise ValueError(f"rgbd: {folder}#{text} names no focal length of the colour camera, expected pixels: #525")
    return focal


def _find_layout(root: Folder) -> tuple[Layout, list[str]]:
    if not root.path.is_dir():
        raise FileNotFoundError(f"load_frames: {root} is not a folder; {EXPECTED}")
    for layout in LAYOUTS.values():
        templates = layout.colour + layout.depth + layout.pose
        names = {name for template in templates for name in _numbers(root, template)}
        if names:
            return layout, sorted(names, key=lambda name: (int(name), name))
    raise FileNotFoundError(f"load_frames: {root} holds no frames; {EXPECTED}")


def _numbers(root: Folder, template: str) -> Iterator[str]:
    folder, (prefix, suffix) = (root / template).parent, Path(template).name.split("{}")
    for path in folder.iterdir() if folder.is_dir() else ():
        number = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name == prefix + number + suffix and number.isascii() and number.isdecimal():
            yield number


def _frame_file(root: Folder, layout: Layout, kind: str, name: str) -> Path:
    candidates = [root / template.format(name) for template in getattr(layout, kind)]
    present = [path for path in candidates if path.exists() or path.is_symlink()]
    if not present:
        raise FileNotFoundError(
            f"load_frames: frame {name} of {root} has no {kind} file; expected {candidates[0].name}"
        )
    if len(present) > 1:
        raise ValueError(f"load_frames: frame {name} has both {present[0]} and {present[1]}; keep one")
    return present[0]


def _read_pose(path: Path, root: Folder, *, may_be_lost: bool) -> Float[Tensor, "4 4"] | None:
    cam_to_world = read_matrix(path, root)
    lost = may_be_lost and cam_to_world.isinf().any() and not cam_to_world.isnan().any()
    return None if lost and len(cam_to_world) == 4 else _from_pose(cam_to_world, path)


def _from_pose(cam_to_world: Float[Tensor, "rows columns"], path: Path) -> Float[Tensor, "4 4"]:
    if tuple(cam_to_world.shape) != (4, 4):
        raise ValueError(f"load_frames: {path} is a {_by(cam_to_world.shape)} matrix, expected a 4 x 4 pose")
    return from_cam_to_world(cam_to_world, f"load_frames: {path}")


def _both_intrinsics(
    root: Folder, layout: Layout, size: tuple[int, int], colour_size: tuple[int, int], colour_focal: float | None
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    intrinsics, own = _read_intrinsics(root / layout.intrinsics, root, size), layout.colour_intrinsics
    if colour_focal is not None:
        if own is not None:
            raise ValueError(f"load_frames: {root} has its colour camera in {own}; leave #{colour_focal:g} out")
        origin, colour_intrinsics = f"#{colour_focal:g}", _colour_camera(intrinsics, colour_focal, size, colour_size)
    elif colour_size == size:
        return intrinsics, intrinsics
    elif own is not None:
        origin, colour_intrinsics = own, _read_intrinsics(root / own, root, colour_size)
    else:
        sizes = f"colour is {_by(colour_size)} and depth {_by(size)} (height x width)"
        expected = "expected one size, or FOLDER#FOCAL, the colour camera's focal length in pixels"
        raise ValueError(f"load_frames: {sizes} in {root}, {expected}")
    left, top, right, bottom = _colour_box(intrinsics, colour_intrinsics, size)
    wide, high = min(right, colour_size[1]) - max(left, 0), min(bottom, colour_size[0]) - max(top, 0)
    share = max(wide, 0) * max(high, 0) / ((right - left) * (bottom - top))
    if share < 0.5:
        both = f"{layout.intrinsics} and {origin} of {root}"
        raise ValueError(f"load_frames: by {both} colour sees {share:.0%} of the depth image, expected half or more")
    return intrinsics, colour_intrinsics


def _colour_camera(
    intrinsics: Float[Tensor, "3 3"], focal: float, size: tuple[int, int], colour_size: tuple[int, int]
) -> Float[Tensor, "3 3"]:
    """Return a camera of that focal length, whose principal point is at the same share of its image."""
    centre = (intrinsics[0, 2].item() * colour_size[1] / size[1], intrinsics[1, 2].item() * colour_size[0] / size[0])
    return pinhole((focal, focal), centre, colour_size, f"load_frames: #{focal:g}")


def _read_intrinsics(path: Path, root: Folder, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    if not path.exists():
        raise FileNotFoundError(f"load_frames: intrinsics {path} are missing; {EXPECTED}")
    matrix = read_matrix(path, root)
    if tuple(matrix.shape) not in ((3, 3), (4, 4)):
        raise ValueError(f"load_frames: {path} is a {_by(matrix.shape)} matrix, expected 3 x 3 or 4 x 4 intrinsics")
    fx, fy, cx, cy = matrix[0, 0].item(), matrix[1, 1].item(), matrix[0, 2].item(), matrix[1, 2].item()
    plain = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    if not matrix.isfinite().all() or fx <= 0 or fy <= 0 or not torch.equal(matrix[:3, :3], plain):
        raise ValueError(
            f"load_frames: {path} is no pinhole camera; expected rows fx 0 cx, 0 fy cy, 0 0 1 with fx, fy > 0"
        )
    return pinhole((fx, fy), (cx, cy), size, f"load_frames: {path}")


def _common_size(root: Folder, paths: list[Path], kind: str) -> tuple[int, int]:
    headers = [_header(path, root) for path in paths]
    modes, wanted = MODES[kind]
    for path, (size, mode) in zip(paths, headers, strict=True):
        if mode not in modes:
            raise ValueError(f"load_frames: {path} has pixels of mode {mode}, expected {wanted}")
        if size != headers[0][0]:
            both = f"{paths[0].name} is {_by(headers[0][0])}, {path.name} is {_by(size)} (height x width)"
            raise ValueError(f"load_frames: {kind} images of {root} have mixed sizes: {both}; expected one size")
    return headers[0][0]


def _header(path: Path, root: Folder) -> tuple[tuple[int, int], str]:
    with open_image(path, root) as image:
        return (image.height, image.width), image.mode


def _read_depth(frames: Frames, index: int, seen: Bool[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    with open_image(frames.depth[index], frames.root) as image:
        millimetres = torch.from_numpy(np.array(image).astype(np.float32))
    return torch.where((millimetres < MISSING) & seen, millimetres / 1000, 0)


def _read_colour(frames: Frames, index: int) -> Float[Tensor, "3 height width"]:
    """Return the colour as the depth camera would see it."""
    with open_image(frames.colour[index], frames.root) as image:
        colour = np.array(image.convert("RGB"))
    if not frames.registered:
        colour = _resample(colour, frames)
    return rearrange(torch.from_numpy(colour), "height width c -> c height width") / 255


def _resample(colour: np.ndarray, frames: Frames) -> np.ndarray:
    left, top, right, bottom = _colour_box(frames.intrinsics, frames.colour_intrinsics, frames.size)
    (height, width), (colour_height, colour_width) = frames.size, frames.colour_size
    margin = math.ceil(max(0, -left, -top, right - colour_width, bottom - colour_height))
    padded = Image.fromarray(np.pad(colour, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    box = (left + margin, top + margin, right + margin, bottom + margin)
    return np.array(padded.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _seen(frames: Frames) -> Bool[Tensor, "height width"]:
    """Return which pixels of the depth camera the colour camera looked at."""
    (height, width), (colour_height, colour_width) = frames.size, frames.colour_size
    if frames.registered:
        return torch.ones(frames.size, dtype=torch.bool)
    left, top, right, bottom = _colour_box(frames.intrinsics, frames.colour_intrinsics, frames.size)
    corner, span = torch.tensor([left, top]), torch.tensor([(right - left) / width, (bottom - top) / height])
    xy = corner + pixel_centres(height, width) * span
    return ((xy >= 0) & (xy < torch.tensor([colour_width, colour_height]))).all(-1)


def _colour_box(
    intrinsics: Float[Tensor, "3 3"], colour_intrinsics: Float[Tensor, "3 3"], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the depth image's outline, in colour pixels."""
    corners = torch.tensor([[0, 0, 1], [size[1], size[0], 1]], dtype=torch.float64)
    change = colour_intrinsics.double() @ torch.linalg.inv(intrinsics.double())
    (left, top), (right, bottom) = (corners @ change.mT)[:, :2].tolist()
    return left, top, right, bottom


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(side) for side in size)
