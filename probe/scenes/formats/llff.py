"""LLFF: photos of a scene from the front, with ``poses_bounds.npy``, as NeRF's first real scenes.

``llff:FOLDER`` is one scene or a folder of scenes: ``poses_bounds.npy`` beside ``images``, or smaller copies of them in
``images_4`` or ``images_8`` (``--images`` names one). Its rows are the images in the order of their names, as bytes
sort: a 3 x 5 matrix, whose first three columns are the camera's axes (down, right, back) in the world, the fourth its
centre, the fifth height, width and focal length in pixels, and then the nearest and farthest distance of the scene. The
focal length is scaled to the images' own size; the principal point is their middle.

As rows name no image, there must be as many rows as images. There is no depth, and no unit unless ``--unit`` says how
many metres it is; overlaps suppose the scene between the two distances.

Source:
    Fyusion/LLFF, README, "Using your own poses"; bmild/nerf, load_llff.py (docs/references.md, "LLFF").
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_cam_to_world, pinhole
from probe.scenes.choosing import Recordings
from probe.scenes.files import image_size, images_in, natural, read_array, read_rgb
from probe.scenes.formats.mvsnet import scene_folders, scene_name
from probe.scenes.reading import DEFAULT, Folder, Reading, flag_of, read_all
from probe.scenes.recordings import SUPPOSED, Recording

POSES = "poses_bounds.npy"
IMAGES = ("images", "images_4", "images_8", "images_2")
NUMBERS = 17  # of a row
ALIKE = 0.02  # difference of two shapes of one image, as resizing rounds
EXPECTED = f"expected {POSES} beside images (or images_4, images_8)"


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One image with its (height, width), camera and the distance of its scene."""

    image: Path
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    distance: float


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the scenes of a folder, or the folder itself where it is one.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"llff: {root} is not a folder; {EXPECTED}")
    openers = dict(_scenes(root))
    if not openers:
        raise FileNotFoundError(f"llff: {root} holds no {POSES}; {EXPECTED}")
    return Recordings(root=root.path, names=tuple(sorted(openers, key=natural)), open=lambda name: openers[name]())


def _scenes(root: Folder) -> Iterator[tuple[str, Callable[[], Recording]]]:
    for folder in scene_folders(root.path):
        if (folder / POSES).exists():
            name = scene_name(folder, root)
            yield name, partial(_load, root, folder, name)


def _load(root: Folder, folder: Path, name: str) -> Recording:
    rows = _rows(folder / POSES, root)
    images = _images(folder, len(rows), root)
    scale = root.reading.unit or 1.0
    read = [
        (image.stem, partial(_posed, image, row, scale, root, f"row {place} of {folder / POSES}"))
        for place, (image, row) in enumerate(zip(images, rows, strict=True))
    ]
    posed, dropped = read_all(read, root, name)
    middle = float(np.median([one.distance for one in posed]))
    return Recording(
        name=name,
        names=tuple(one.image.stem for one in posed),
        sizes=tuple(one.size for one in posed),
        world_to_cam=torch.stack([one.world_to_cam for one in posed]),
        intrinsics=torch.stack([one.intrinsics for one in posed]),
        colour=lambda index: read_rgb(posed[index].image, root, posed[index].size),
        supposed=tuple(share * middle for share in SUPPOSED),
        unit=None if root.reading.unit is None else "m",
        dropped=dropped,
    )


def _rows(path: Path, root: Folder) -> Float[Tensor, "images 17"]:
    rows = read_array(path, root)
    if rows.ndim != 2 or rows.shape[1] != NUMBERS or rows.dtype.kind not in "fiu" or not len(rows):
        raise ValueError(f"llff: {path} holds {rows.shape} {rows.dtype}, expected a row of {NUMBERS} numbers per image")
    return torch.from_numpy(rows.astype(np.float64))


def _images(folder: Path, count: int, root: Folder) -> list[Path]:
    """Return the images, in the order of the rows, of the first folder that has as many."""
    names = IMAGES if root.reading.images is None else (root.reading.images,)
    listed = {name: images_in(folder / name) for name in names if (folder / name).is_dir()}
    images = next((images for images in listed.values() if len(images) == count), None)
    if images is None:
        counts = ", ".join(f"{name} {len(images)}" for name, images in listed.items()) or f"no {' or '.join(names)}"
        raise ValueError(
            f"llff: {folder / POSES} has {count} poses, beside it are: {counts} images; as poses name no image, "
            f"expected as many in one folder, which {flag_of('images')} names"
        )
    return sorted(images, key=lambda image: image.name.encode("utf-8", "surrogateescape"))


def _posed(image: Path, row: Float[Tensor, " 17"], scale: float, root: Folder, origin: str) -> Posed:
    matrix, (near, far) = row[:15].reshape(3, 5), row[15:].tolist()
    down, right, back, centre, (height, width, focal) = (*matrix[:, :4].unbind(1), matrix[:, 4].tolist())
    size = image_size(image, root, (round(height), round(width)) if height < 1e6 and width < 1e6 else None)
    if not (height > 0 and width > 0 and abs(size[1] * height / (size[0] * width) - 1) <= ALIKE):
        raise ValueError(f"{origin} is for a {height:g} x {width:g} image, {image} is {size[0]} x {size[1]}")
    if not 0 < near < far:
        raise ValueError(f"{origin} has the distances {near:g} and {far:g}, expected a nearest and a farther one")
    camera = torch.stack([right, down, -back, centre * scale], dim=1)
    focals = focal * size[1] / width, focal * size[0] / height
    return Posed(
        image=image,
        size=size,
        world_to_cam=from_cam_to_world(camera, origin),
        intrinsics=pinhole(focals, (size[1] / 2, size[0] / 2), size, origin),
        distance=scale * 2 / (1 / near + 1 / far),
    )
