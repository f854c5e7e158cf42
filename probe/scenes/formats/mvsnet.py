"""MVSNet's layouts: camera files beside images, of DTU, BlendedMVS, Tanks and Temples and ETH3D.

DTU's training set: ``Rectified/scan1_train/rect_001_3_r5000.png`` (view 1 under light 3, the one taken here),
``Cameras/train/00000000_cam.txt``, ``Depths/scan1_train/depth_map_0000.pfm`` with ``depth_visual_0000.png``, where grey
values up to 10 mean no depth. Its cameras are for the depth maps' 160 x 128 pixels, its images have 640 x 512. In full
size: ``Rectified/scan1``, ``Cameras/00000000_cam.txt`` and ``Depths_raw/scan1``.

Others have a folder for each scene: ``images/00000000.jpg`` and ``cams/00000000_cam.txt`` (``cams_1`` in Tanks and
Temples), BlendedMVS ``blended_images``, ``cams`` and ``rendered_depth_maps/00000000.pfm``; ``pair.txt`` is ignored.

Only DTU's scenes, ``scan1`` and so on with ``images`` and ``cams``, are in millimetres, which become metres. The others
have no unit; ``--unit`` says how many metres theirs is.

All of them count pixels from 0 at the first one's centre; half a pixel is added. A depth map of a quarter of the size
holds the depths of pixels 0, 4, 8, ... of the image, and a pixel between them takes the nearest one.

Source:
    xy-guo/MVSNet_pytorch, datasets/dtu_yao.py and data_io.py, and its warping, for pixels; YoYo000/BlendedMVS, README;
    (docs/references.md, "DTU").
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.geometry import crop_intrinsics
from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.files import image_size, images_in, natural, read_mask, read_rgb
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import Folder, flag_of, inside, read_all
from probe.scenes.recordings import Recording

LIGHT = 3  # of 0 to 6; MVSNet is evaluated under it
GRID = 4  # pixels of a training image to one of its camera's
MASKED = 10
SKEW = 1e-2  # of the focal length
MILLIMETRE = 1e-3
LEAST_CENTRE = 0.3
"""Shares of an image, along both sides, below which a principal point is that of a smaller one."""
IMAGES = ("images", "blended_images", "image")
CAMERAS = ("cams", "cams_1", "cam")
BLENDED_DEPTHS = "rendered_depth_maps"
DTU = re.compile(r"scan\d+")
PFM = re.compile(rb"P([fF])\s+([1-9]\d{0,4})\s+([1-9]\d{0,4})\s+(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, and how many of its pixels its camera file calls one."""

    name: str
    image: Path
    camera: Path
    depth: Path | None
    mask: Path | None
    grid: int


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One frame with its (height, width) and camera, in the recording's unit."""

    frame: Frame
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]


def scans(root: Folder) -> Iterator[tuple[str, Callable[[], Recording]]]:
    """Find the scans of a folder, or the folder itself where it is one: names, and what opens each."""
    for folder in root.path.glob("Rectified/scan*"):
        if folder.is_dir():
            name = folder.name.removesuffix("_train")
            yield name, partial(_load, root, name, partial(_training_frames, root, folder), MILLIMETRE)
    for folder in scene_folders(root.path):
        images, cameras = _first(folder, IMAGES, root.reading.images), _first(folder, CAMERAS)
        if images is not None and cameras is not None:
            name = scene_name(folder, root)
            unit = MILLIMETRE if _is_dtu(folder, images, cameras) else None
            yield name, partial(_load, root, name, partial(_test_frames, folder, images, cameras), unit)


def scene_folders(folder: Path, deepest: int = 2) -> Iterator[Path]:
    """Return a folder and those below it, without hidden ones."""
    yield folder
    if deepest:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path)):
            yield from scene_folders(inner, deepest - 1)


def scene_name(folder: Path, root: Folder) -> str:
    """Name a scene by its folder's path below the data set's."""
    return root.path.resolve().name if folder == root.path else folder.relative_to(root.path).as_posix()


def _first(folder: Path, names: tuple[str, ...], chosen: str | None = None) -> Path | None:
    candidates = names if chosen is None else (chosen,)
    return next((folder / name for name in candidates if (folder / name).is_dir()), None)


def _is_dtu(folder: Path, images: Path, cameras: Path) -> bool:
    usual = (images.name, cameras.name) == (IMAGES[0], CAMERAS[0])
    return usual and DTU.fullmatch(folder.resolve().name) is not None


# --- frames ----------------------------------------------------------------------------------------------------------


def _training_frames(root: Folder, folder: Path) -> Iterator[Frame]:
    """List the frames of a folder of rectified images, small (``_train``) or in full size."""
    small = folder.name.endswith("_train")
    cameras = root / "Cameras" / "train" if small else root / "Cameras"
    depths = root / ("Depths" if small else "Depths_raw") / folder.name
    for image in folder.glob(f"rect_*_{LIGHT}_r5000.png"):
        name = image.name.split("_")[1]
        if name.isascii() and name.isdecimal() and int(name):
            view = int(name) - 1
            yield Frame(
                name=name,
                image=image,
                camera=cameras / f"{view:08d}_cam.txt",
                depth=depths / f"depth_map_{view:04d}.pfm" if depths.is_dir() else None,
                mask=mask if (mask := depths / f"depth_visual_{view:04d}.png").exists() else None,
                grid=GRID if small else 1,
            )


def _test_frames(folder: Path, images: Path, cameras: Path) -> Iterator[Frame]:
    """List the images that are not BlendedMVS's masked copies."""
    depths = folder / BLENDED_DEPTHS
    for image in images_in(images):
        if not image.stem.endswith("_masked"):
            camera, depth = cameras / f"{image.stem}_cam.txt", depths / f"{image.stem}.pfm"
            there = depth if depths.is_dir() else None
            yield Frame(name=image.stem, image=image, camera=camera, depth=there, mask=None, grid=1)


def _load(root: Folder, name: str, list_frames: Callable[[], Iterator[Frame]], unit: float | None) -> Recording:
    listed = sorted(list_frames(), key=lambda frame: natural(frame.name))
    if not listed:
        raise FileNotFoundError(f"dtu: {root} holds no images of {name} (of DTU's training set, of light {LIGHT})")
    metres = root.reading.unit or unit
    scale = metres or 1.0
    posed, dropped = read_all(((frame.name, partial(_posed, frame, scale, root)) for frame in listed), root, name)
    return Recording(
        name=name,
        names=tuple(one.frame.name for one in posed),
        sizes=tuple(one.size for one in posed),
        world_to_cam=torch.stack([one.world_to_cam for one in posed]),
        intrinsics=torch.stack([one.intrinsics for one in posed]),
        colour=lambda index: read_rgb(posed[index].frame.image, root, posed[index].size),
        depth=partial(_read_depth, posed, scale, root) if posed[0].frame.depth is not None else None,
        unit=None if metres is None else "m",
        dropped=dropped,
    )


def _posed(frame: Frame, scale: float, root: Folder) -> Posed:
    for path in (frame.image, frame.depth):
        if path is not None:
            inside(path, root)
    size = image_size(frame.image, root)
    world_to_cam, intrinsics = _camera(frame, size, scale, root)
    return Posed(frame=frame, size=size, world_to_cam=world_to_cam, intrinsics=intrinsics)


def _camera(
    frame: Frame, size: tuple[int, int], scale: float, root: Folder
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Read a camera file: "extrinsic", 16 numbers, "intrinsic", 9 numbers, the range of depth."""
    path = inside(frame.camera, root)
    words = path.read_text(encoding="utf-8-sig", errors="replace").split()
    if len(words) < 27 or (words[0], words[17]) != ("extrinsic", "intrinsic"):
        raise ValueError(f"dtu: {frame.camera} is no camera: extrinsic, 4 x 4 numbers, intrinsic, 3 x 3 numbers")
    try:
        values = [float(word) for word in (*words[1:17], *words[18:27])]
    except ValueError as error:
        raise ValueError(f"dtu: {frame.camera} holds no numbers: {error}") from None
    world_to_cam = torch.tensor(values[:16], dtype=torch.float64).reshape(4, 4)
    world_to_cam[:3, 3] *= scale
    matrix = torch.tensor(values[16:], dtype=torch.float64).reshape(3, 3)
    matrix[:2] *= frame.grid
    origin = f"dtu: {frame.camera}"
    return from_world_to_cam(world_to_cam, origin), centred_intrinsics(matrix, size, origin)


def centred_intrinsics(matrix: Float[Tensor, "3 3"], size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
    """Move the principal point from pixels counted from 0 to ours, whose first centre is (0.5, 0.5).

    Raises:
        ValueError: If there is skew, or it is not the camera of an image of this size.
    """
    moved = crop_intrinsics(matrix, -0.5, -0.5)
    fx, fy, cx, cy, skew = (float(moved[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    if not abs(skew) <= SKEW * abs(fx):
        raise ValueError(f"{origin} has skew {skew} beside the focal length {fx}, expected next to none")
    if cx < LEAST_CENTRE * size[1] and cy < LEAST_CENTRE * size[0] and min(cx, cy, fx, fy) > 0:
        raise ValueError(
            f"{origin} has its principal point at ({cx}, {cy}), which is that of a smaller image than the "
            f"{size[0]} x {size[1]} one; take the images that it is for, by {flag_of('images')}"
        )
    return pinhole((fx, fy), (cx, cy), size, origin)


# --- depth -----------------------------------------------------------------------------------------------------------


def _read_depth(posed: list[Posed], scale: float, root: Folder, index: int) -> Float[Tensor, "height width"]:
    frame, size = posed[index].frame, posed[index].size
    assert frame.depth is not None  # a recording with depth has it for every frame
    depth = read_pfm(frame.depth, root) * scale
    step = size[0] // depth.shape[0]
    if not step or tuple(side * step for side in depth.shape) != size:
        raise ValueError(f"dtu: {frame.depth} is {tuple(depth.shape)}, expected a whole part of {size}, as the image")
    if frame.mask is not None:
        mask = read_mask(frame.mask, root, above=MASKED)
        if mask.shape != depth.shape:
            raise ValueError(f"dtu: {frame.mask} is {tuple(mask.shape)}, expected {tuple(depth.shape)}, as the depth")
        depth = torch.where(mask, depth, 0)
    rows, columns = (((torch.arange(side * step) + step // 2) // step).clamp(max=side - 1) for side in depth.shape)
    return depth[rows[:, None], columns]


def read_pfm(path: Path, root: Folder) -> Float[Tensor, "height width"]:
    """Read a portable float map of one channel, whose rows go upwards.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder or is no whole map of one channel.
    """
    data = inside(path, root).read_bytes()
    header = PFM.match(data)
    origin = f"read_pfm: {path} is not a whole map of one channel: Pf, WIDTH HEIGHT, a scale, and 4-byte numbers"
    if header is None or header.group(1) != b"f" or float(header.group(4)) == 0:
        raise ValueError(origin)
    width, height = int(header.group(2)), int(header.group(3))
    if len(data) != header.end() + 4 * width * height:
        raise ValueError(origin)
    order = "<f4" if float(header.group(4)) < 0 else ">f4"
    values = np.frombuffer(data, order, offset=header.end()).reshape(height, width)
    return torch.from_numpy(values[::-1].astype(np.float32))
