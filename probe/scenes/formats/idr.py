"""IDR's layout, which pixelNeRF, VolSDF, NeuS and H3D-Net use too: projections in one file, beside images.

``scan1/image/000000.png`` (or .jpg) and ``scan1/cameras.npz`` (NeuS: ``cameras_sphere.npz``), whose ``world_mat_0`` is
K [R | t]. Masks are not read. There is no depth, and the unit is left as it is; ``--unit`` says how many metres it is.

An image takes the projection of the number in its name. Where the images' numbers are others and there are as many
images as projections, they belong together in order, as IDR itself reads them; else nothing tells, and it is refused.

Source:
    sxyu/pixel-nerf, src/data/DVRDataset.py; lioryariv/idr and Totoro97/NeuS, their data conventions
    (docs/references.md, "DTU").
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_world_to_cam
from probe.scenes.files import image_numbers, image_size, images_in, numbers, read_arrays, read_rgb
from probe.scenes.formats.mvsnet import centred_intrinsics, scene_folders, scene_name
from probe.scenes.reading import Dropped, Folder, read_all
from probe.scenes.recordings import Recording

CAMERAS = ("cameras.npz", "cameras_sphere.npz", "cameras_large.npz")
IMAGES = ("image", "images", "rgb")
MATRIX = re.compile(r"world_mat_(\d+)")
NO_MATRIX = "has no projection world_mat_{}"


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One image with its (height, width) and camera."""

    image: Path
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]


def scans(root: Folder) -> Iterator[tuple[str, Callable[[], Recording]]]:
    """Find the scans of a folder, or the folder itself where it is one: names, and what opens each."""
    for folder in scene_folders(root.path):
        path = next((folder / name for name in CAMERAS if (folder / name).exists()), None)
        if path is not None:
            name = scene_name(folder, root)
            yield name, partial(_load, root, path, name)


def _load(root: Folder, path: Path, name: str) -> Recording:
    images = _images(path.parent, root)
    arrays = read_arrays(path, root)
    matched, unmatched = match_numbers(images, sorted(_places(arrays)), path)
    scale = root.reading.unit or 1.0
    read = [(image.stem, partial(_posed, image, arrays, place, path, scale, root)) for image, place in matched]
    posed, dropped = read_all(read, root, name)
    return Recording(
        name=name,
        names=tuple(one.image.stem for one in posed),
        sizes=tuple(one.size for one in posed),
        world_to_cam=torch.stack([one.world_to_cam for one in posed]),
        intrinsics=torch.stack([one.intrinsics for one in posed]),
        colour=lambda index: read_rgb(posed[index].image, root, posed[index].size),
        unit=None if root.reading.unit is None else "m",
        dropped=(*unmatched, *dropped),
    )


def _images(folder: Path, root: Folder) -> list[Path]:
    names = IMAGES if root.reading.images is None else (root.reading.images,)
    images = next((found for name in names if (folder / name).is_dir() and (found := images_in(folder / name))), None)
    if images is None:
        raise FileNotFoundError(f"dtu: {folder} holds no {names[0]}/000000.png or .jpg beside its projections")
    return images


def _places(arrays: dict[str, np.ndarray]) -> list[int]:
    return [int(match.group(1)) for key in arrays if (match := MATRIX.fullmatch(key))]


# --- which projection is an image's ----------------------------------------------------------------------------------


def match_numbers(
    images: Sequence[Path], places: Sequence[int], path: Path
) -> tuple[list[tuple[Path, int]], tuple[Dropped, ...]]:
    """Match images with projections: by number, or by order where the numbers are others and there are as many.

    Where some images or projections are missing, numbers that begin elsewhere may count from another start.

    Args:
        images: In natural order.
        places: Numbers of the projections, in order.
        path: The file of the projections, for the error.

    Returns:
        Each image with its projection's number, and the images that have none.

    Raises:
        ValueError: If it cannot be told.
    """
    own = image_numbers([image.stem for image in images])
    same_start = bool(own and places) and min(own or ()) == min(places)
    if own is not None and set(own) <= set(places) and (same_start or len(images) == len(places)):
        return list(zip(images, own, strict=True)), ()
    if len(images) == len(places):
        return list(zip(images, places, strict=True)), ()
    if own is None or not same_start:
        raise ValueError(
            f"dtu: {path} has {len(places)} projections{_span(places)}, {path.parent} {len(images)} images"
            f"{_span(own or [])}: which belongs to which cannot be told; name the images by their projections' numbers"
        )
    paired = list(zip(images, own, strict=True))
    without = tuple(
        Dropped(image.stem, NO_MATRIX.format(place) + f" in {path}") for image, place in paired if place not in places
    )
    return [(image, place) for image, place in paired if place in places], without


def _span(values: Sequence[int]) -> str:
    return f" ({min(values)} to {max(values)})" if values else ""


# --- projections -----------------------------------------------------------------------------------------------------


def _posed(image: Path, arrays: dict[str, np.ndarray], place: int, path: Path, scale: float, root: Folder) -> Posed:
    size = image_size(image, root)
    world_to_cam, intrinsics = _decompose(arrays[f"world_mat_{place}"], size, f"world_mat_{place} of {path}")
    world_to_cam[:3, 3] *= scale
    return Posed(image=image, size=size, world_to_cam=world_to_cam, intrinsics=intrinsics)


def _decompose(
    matrix: np.ndarray, size: tuple[int, int], origin: str
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Split a projection K [R | t], known up to a factor of either sign."""
    rows = 3 if matrix.shape == (3, 4) else 4
    projection = numbers(matrix.tolist(), (rows, 4), origin)[:3].numpy()
    if not np.isfinite(projection).all() or abs(np.linalg.det(projection[:, :3])) < 1e-12:
        raise ValueError(f"{origin} is no projection: it is singular, or holds a NaN or infinite number")
    projection = projection * np.sign(np.linalg.det(projection[:, :3]))
    matrix, rotation, centre, *_ = cv2.decomposeProjectionMatrix(projection)
    shift = -rotation @ (centre[:3] / centre[3])
    world_to_cam = from_world_to_cam(torch.from_numpy(np.concatenate([rotation, shift], 1)), origin)
    return world_to_cam, centred_intrinsics(torch.from_numpy(matrix / matrix[2, 2]), size, origin)
