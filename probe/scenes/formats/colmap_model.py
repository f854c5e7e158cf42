"""COLMAP's sparse models, binary and text: cameras, images and the tracks of points.

A broken file is refused whole; an image whose camera or pose makes no sense is left out. Points may be missing, as
where poses are known from elsewhere, or lie in a ``points3D.ply``, which has no tracks: there are none then.

pycolmap, which makes the reconstruction of photos, reads such files too; but version 4.2.1 takes a truncated
``cameras.bin`` or ``images.bin`` for a whole one, and an empty ``points3D.bin`` ends its process. Its reading is the
reference of the tests.

Source:
    COLMAP's documentation, output format and camera models (docs/references.md, "COLMAP"). Rigs and frames of newer
    versions add nothing: each image's own camera is written beside them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.cameras.lenses import Lens, make_lens, resized, straight
from probe.scenes.cameras.models import model_named
from probe.scenes.formats.colmap_files import (
    ListedCamera,
    ListedPhoto,
    binary_cameras,
    binary_images,
    binary_points,
    text_cameras,
    text_images,
    text_points,
)
from probe.scenes.reading import Dropped, Folder, read_all

PARTS = ("cameras", "images", "points3D")


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera.

    Attributes:
        size: (height, width) of its images.
        intrinsics: In pixels of ``size``; the first pixel's centre is (0.5, 0.5), which is COLMAP's convention too.
        lens: How it distorts; None if it does not.
    """

    size: tuple[int, int]
    intrinsics: Float[Tensor, "3 3"]
    lens: Lens | None

    @property
    def straight(self) -> Float[Tensor, "3 3"]:
        """Return the intrinsics of its straightened images."""
        return self.intrinsics if self.lens is None else straight(self.lens)

    def resized(self, size: tuple[int, int]) -> "Camera":
        """Return the camera of the same images at another size."""
        if size == self.size:
            return self
        across, down = size[1] / self.size[1], size[0] / self.size[0]
        intrinsics = self.intrinsics * torch.tensor([[across], [down], [1.0]])
        lens = None if self.lens is None else resized(self.lens, size)
        return Camera(size=size, intrinsics=intrinsics, lens=lens)


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A registered image.

    Attributes:
        name: Of its file, relative to the folder of images.
        camera: Of it.
        world_to_cam: OpenCV axes, in the model's own unit.
        tracks: Places, in the model's points, of those it sees; ascending.
    """

    name: str
    camera: Camera
    world_to_cam: Float[Tensor, "4 4"] = field(repr=False)
    tracks: Int[Tensor, " t"] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A sparse model: registered images as listed, those left out, and the tracks' points."""

    photos: tuple[Photo, ...]
    points: Float[Tensor, "p 3"] = field(repr=False)
    dropped: tuple[Dropped, ...] = ()


def has_model(folder: Path) -> bool:
    """Return whether a folder holds a sparse model."""
    return any((folder / f"cameras{suffix}").exists() for suffix in (".bin", ".txt"))


def read_model(folder: Path, root: Folder) -> Model:
    """Read the sparse model of a folder; of a binary and a text one the binary one.

    Raises:
        FileNotFoundError: If cameras or images are missing.
        ValueError: If a file is truncated, longer than it says, names something that is not there, or no image has a
            camera and a pose that make sense.
    """
    binary = (folder / "cameras.bin").exists()
    cameras, images, points = (folder / f"{part}{'.bin' if binary else '.txt'}" for part in PARTS)
    numbers, places = _read_points(points, root, binary)
    by_number = dict(binary_cameras(cameras, root) if binary else text_cameras(cameras, root))
    listed = list(binary_images(images, root) if binary else text_images(images, root))
    if not listed:
        raise ValueError(f"colmap: {images} names no image; the reconstruction is empty")
    build = lru_cache(maxsize=None)(lambda number: make_camera(by_number[number]))
    known = partial(_with_places, numbers=numbers, cameras=by_number, path=images)
    named = [(photo.name, partial(_photo, photo, known, build, images)) for photo in listed]
    photos, dropped = read_all(named, root, str(images))
    return Model(photos=tuple(photos), points=places, dropped=dropped)


def _read_points(path: Path, root: Folder, binary: bool) -> tuple[Int[Tensor, " p"] | None, Float[Tensor, "p 3"]]:
    """Return the points and their numbers, ascending; None for numbers that nothing tells."""
    if not path.exists() and not path.is_symlink():
        return None, torch.zeros(0, 3, dtype=torch.float64)
    listed = sorted(binary_points(path, root) if binary else text_points(path, root))
    if any(not -(2**63) <= number < 2**63 for number, _ in listed):
        raise ValueError(f"colmap: {path} has a point whose number is beyond 64 bits")
    numbers = torch.tensor([number for number, _ in listed], dtype=torch.int64)
    places = torch.tensor([place for _, place in listed], dtype=torch.float64).reshape(-1, 3)
    if not places.isfinite().all() or (numbers.diff() == 0).any():
        raise ValueError(f"colmap: {path} names a point twice, or one that is not finite")
    return numbers, places


def _with_places(
    photo: ListedPhoto, numbers: Int[Tensor, " p"] | None, cameras: Mapping[int, ListedCamera], path: Path
) -> ListedPhoto:
    """Replace the points' numbers by their places; refuse files that are not of one model."""
    origin = f"image {photo.name} of {path}"
    if photo.camera not in cameras:
        raise ValueError(f"{origin} has camera {photo.camera}, which {path.parent} does not have")
    seen = photo.points
    if numbers is None:
        return replace(photo, points=seen[:0])
    tracks = torch.searchsorted(numbers, seen).clamp(max=len(numbers) - 1) if len(numbers) else seen[:0]
    if len(tracks) != len(seen) or not torch.equal(numbers[tracks], seen):
        raise ValueError(f"{origin} sees points that {path.parent} does not have; are the files of one model?")
    return replace(photo, points=tracks)


def _photo(listed: ListedPhoto, known: Callable[[ListedPhoto], ListedPhoto], build: Any, path: Path) -> Photo:
    origin, photo = f"image {listed.name} of {path}", known(listed)
    return Photo(
        name=photo.name,
        camera=build(photo.camera),
        world_to_cam=_world_to_cam(photo.turn, photo.shift, origin),
        tracks=photo.points,
    )


def _world_to_cam(turn: tuple[float, ...], shift: tuple[float, ...], origin: str) -> Float[Tensor, "4 4"]:
    w, x, y, z = turn
    length = float(np.linalg.norm(turn))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"{origin} has the quaternion {turn}, expected one of length 1")
    rotation = torch.from_numpy(Rotation.from_quat((x, y, z, w)).as_matrix())
    return from_world_to_cam(torch.cat([rotation, torch.tensor(shift, dtype=torch.float64)[:, None]], -1), origin)


def make_camera(camera: ListedCamera) -> Camera:
    """Turn a model's parameters into intrinsics and a lens.

    Raises:
        ValueError: If the model is none of :data:`probe.scenes.cameras.models.MODELS`, or a parameter makes no sense.
    """
    kind, parameters = model_named(camera.model, camera.origin), camera.parameters
    if len(parameters) != kind.parameters or not np.isfinite(parameters).all():
        raise ValueError(f"{camera.origin} has parameters {parameters}, expected {kind.parameters} numbers")
    focals, centre = parameters[: kind.focals], parameters[kind.focals : kind.focals + 2]
    intrinsics = pinhole((focals[0], focals[-1]), (centre[0], centre[1]), camera.size, camera.origin)
    lens = make_lens(camera.model, intrinsics, parameters[kind.focals + 2 :], camera.size, camera.origin)
    return Camera(size=camera.size, intrinsics=intrinsics, lens=lens)
