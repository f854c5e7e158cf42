"""DTU: objects photographed by a robot's arm, as MVSNet and as IDR and pixelNeRF lay them out.

MVSNet's training set: ``Rectified/scan1_train/rect_001_3_r5000.png`` (view 1 under light 3, the one taken here),
``Cameras/train/00000000_cam.txt``, ``Depths/scan1_train/depth_map_0000.pfm`` with ``depth_visual_0000.png``, where grey
values up to 10 mean no depth. Its cameras are for the depth maps' 160 x 128 pixels, its images have 640 x 512. In full
size: ``Rectified/scan1``, ``Cameras/00000000_cam.txt`` and ``Depths_raw/scan1``. MVSNet's test set, without depth:
``scan1/images/00000000.jpg`` and ``scan1/cams/00000000_cam.txt``. Millimetres become metres.

IDR's layout (pixelNeRF's, VolSDF's and NeuS's too): ``scan1/image/000000.png`` and ``scan1/cameras.npz``, whose
``world_mat_0`` is K [R | t]. There is no depth, and the unit is left as it is.

All of them count pixels from 0 at the first one's centre; half a pixel is added. A depth map of a quarter of the size
holds the depths of pixels 0, 4, 8, ... of the image, and a pixel between them takes the nearest one.

Source:
    xy-guo/MVSNet_pytorch, datasets/dtu_yao.py and data_io.py, and its warping, for pixels; sxyu/pixel-nerf,
    src/data/DVRDataset.py (docs/references.md, "DTU").
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.geometry import crop_intrinsics
from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.choosing import Recordings
from probe.scenes.files import image_size, natural, numbers, read_arrays, read_mask, read_rgb
from probe.scenes.reading import DEFAULT, Folder, Reading, inside
from probe.scenes.recordings import Recording

LIGHT = 3  # of 0 to 6; MVSNet is evaluated under it
GRID = 4  # pixels of a training image to one of its camera's
MASKED = 10
SKEW = 1e-2  # of the focal length
PFM = re.compile(rb"P([fF])\s+(\d{1,5})\s+(\d{1,5})\s+(-?[0-9.]+(?:[eE][-+]?\d+)?)\s")
EXPECTED = (
    "expected Rectified/scan1_train with Cameras/train, scan1/images with scan1/cams, or scan1/image with "
    "scan1/cameras.npz"
)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, and how many of its pixels its camera file calls one."""

    name: str
    image: Path
    camera: Path
    depth: Path | None
    mask: Path | None
    grid: int


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the scans of a folder, in any of the layouts.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"dtu: {root} is not a folder; {EXPECTED}")
    openers = dict((*_mvsnet_scans(root), *_idr_scans(root)))
    if not openers:
        raise FileNotFoundError(f"dtu: {root} holds no scans; {EXPECTED}")
    return Recordings(root=root.path, names=tuple(sorted(openers, key=natural)), open=lambda name: openers[name]())


# --- MVSNet ----------------------------------------------------------------------------------------------------------


def _mvsnet_scans(root: Folder) -> Iterator[tuple[str, Callable[[], Recording]]]:
    for folder in root.path.glob("Rectified/scan*"):
        yield folder.name.removesuffix("_train"), partial(_load_mvsnet, root, folder, _training_frames)
    for folder in root.path.glob("*/cams"):
        yield folder.parent.name, partial(_load_mvsnet, root, folder.parent, _test_frames)


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


def _test_frames(root: Folder, folder: Path) -> Iterator[Frame]:
    for image in (*folder.glob("images/*.jpg"), *folder.glob("images/*.png")):
        camera = folder / "cams" / f"{image.stem}_cam.txt"
        yield Frame(name=image.stem, image=image, camera=camera, depth=None, mask=None, grid=1)


def _load_mvsnet(root: Folder, folder: Path, list_frames: Callable[[Folder, Path], Iterator[Frame]]) -> Recording:
    frames = tuple(sorted(list_frames(root, folder), key=lambda frame: natural(frame.name)))
    if not frames:
        raise FileNotFoundError(f"dtu: {folder} holds no images of light {LIGHT}; {EXPECTED}")
    for frame in frames:
        if frame.depth is not None:
            inside(frame.depth, root)
    sizes = tuple(image_size(frame.image, root) for frame in frames)
    cameras = [_camera(frame, size, root) for frame, size in zip(frames, sizes, strict=True)]
    return Recording(
        name=folder.name.removesuffix("_train"),
        names=tuple(frame.name for frame in frames),
        sizes=sizes,
        world_to_cam=torch.stack([world_to_cam for world_to_cam, _ in cameras]),
        intrinsics=torch.stack([intrinsics for _, intrinsics in cameras]),
        colour=lambda index: read_rgb(frames[index].image, root),
        depth=partial(_read_depth, frames, sizes, root) if frames[0].depth is not None else None,
        unit="m",
    )


def _camera(frame: Frame, size: tuple[int, int], root: Folder) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Read a camera file: "extrinsic", 16 numbers in millimetres, "intrinsic", 9 numbers, the range of depth."""
    path = inside(frame.camera, root)
    words = path.read_text(encoding="utf-8", errors="replace").split()
    if len(words) < 27 or (words[0], words[17]) != ("extrinsic", "intrinsic"):
        raise ValueError(f"dtu: {frame.camera} is no camera: extrinsic, 4 x 4 numbers, intrinsic, 3 x 3 numbers")
    try:
        values = [float(word) for word in (*words[1:17], *words[18:27])]
    except ValueError as error:
        raise ValueError(f"dtu: {frame.camera} holds no numbers: {error}") from None
    world_to_cam = torch.tensor(values[:16], dtype=torch.float64).reshape(4, 4)
    world_to_cam[:3, 3] /= 1000
    matrix = torch.tensor(values[16:], dtype=torch.float64).reshape(3, 3)
    matrix[:2] *= frame.grid
    origin = f"dtu: {frame.camera}"
    return from_world_to_cam(world_to_cam, origin), _intrinsics(matrix, size, origin)


def _intrinsics(matrix: Float[Tensor, "3 3"], size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
    """Move the principal point from pixels counted from 0 to ours, whose first centre is (0.5, 0.5)."""
    moved = crop_intrinsics(matrix, -0.5, -0.5)
    fx, fy, cx, cy, skew = (float(moved[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    if not abs(skew) <= SKEW * abs(fx):
        raise ValueError(f"{origin} has skew {skew} beside the focal length {fx}, expected next to none")
    return pinhole((fx, fy), (cx, cy), size, origin)


def _read_depth(
    frames: tuple[Frame, ...], sizes: tuple[tuple[int, int], ...], root: Folder, index: int
) -> Float[Tensor, "height width"]:
    frame, size = frames[index], sizes[index]
    assert frame.depth is not None  # a recording with depth has it for every frame
    depth = read_pfm(frame.depth, root) / 1000
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


# --- IDR and pixelNeRF -----------------------------------------------------------------------------------------------


def _idr_scans(root: Folder) -> Iterator[tuple[str, Callable[[], Recording]]]:
    for path in (*root.path.glob("cameras.npz"), *root.path.glob("*/cameras.npz"), *root.path.glob("*/*/cameras.npz")):
        name = root.path.resolve().name if path.parent == root.path else path.parent.relative_to(root.path).as_posix()
        yield name, partial(_load_idr, root, path, name)


def _load_idr(root: Folder, path: Path, name: str) -> Recording:
    images = sorted(path.parent.glob("image/*.png"), key=lambda image: natural(image.name))
    if not images:
        raise FileNotFoundError(f"dtu: {path.parent} holds no image/000000.png beside its cameras.npz")
    arrays, sizes = read_arrays(path, root), tuple(image_size(image, root) for image in images)
    cameras = [_decompose(arrays, place, size, path) for place, size in enumerate(sizes)]
    return Recording(
        name=name,
        names=tuple(image.stem for image in images),
        sizes=sizes,
        world_to_cam=torch.stack([world_to_cam for world_to_cam, _ in cameras]),
        intrinsics=torch.stack([intrinsics for _, intrinsics in cameras]),
        colour=lambda index: read_rgb(images[index], root),
    )


def _decompose(
    arrays: dict[str, np.ndarray], place: int, size: tuple[int, int], path: Path
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Split a projection K [R | t], known up to a factor of either sign."""
    key = f"world_mat_{place}"
    if key not in arrays:
        raise ValueError(f"dtu: {path} has no {key}, of image {place} of {path.parent / 'image'}")
    origin = f"{key} of {path}"
    projection = numbers(arrays[key].tolist(), (4, 4), origin)[:3].numpy()
    if not np.isfinite(projection).all() or abs(np.linalg.det(projection[:, :3])) < 1e-12:
        raise ValueError(f"{origin} is no projection: it is singular, or holds a NaN or infinite number")
    projection = projection * np.sign(np.linalg.det(projection[:, :3]))
    matrix, rotation, centre, *_ = cv2.decomposeProjectionMatrix(projection)
    shift = -rotation @ (centre[:3] / centre[3])
    world_to_cam = from_world_to_cam(torch.from_numpy(np.concatenate([rotation, shift], 1)), origin)
    return world_to_cam, _intrinsics(torch.from_numpy(matrix / matrix[2, 2]), size, origin)
