"""COLMAP's sparse models, binary and text: cameras, images and the tracks of points. Read whole or rejected.

pycolmap, which makes the reconstruction of photos, reads such files too; but version 4.2.1 takes a truncated
``cameras.bin`` or ``images.bin`` for a whole one, and an empty ``points3D.bin`` ends its process. Its reading is the
reference of the tests.

Source:
    COLMAP's documentation, output format and camera models (docs/references.md, "COLMAP"). Rigs and frames of newer
    versions add nothing: each image's own camera is written beside them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.lenses import Lens
from probe.scenes.reading import Folder, inside

PARTS = ("cameras", "images", "points3D")
NO_POINT = 2**64 - 1  # a keypoint that belongs to no track; -1 in text


Listed = tuple[str, int, Any, Any, Any]
"""An image's name, camera, quaternion, shift and the numbers of the points it sees."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The order of a camera model's parameters: focal lengths, principal point, coefficients of the lens."""

    number: int
    focals: int
    coefficients: int = 0
    fisheye: bool = False


KINDS = {
    "SIMPLE_PINHOLE": Kind(number=0, focals=1),
    "PINHOLE": Kind(number=1, focals=2),
    "SIMPLE_RADIAL": Kind(number=2, focals=1, coefficients=1),
    "RADIAL": Kind(number=3, focals=1, coefficients=2),
    "OPENCV": Kind(number=4, focals=2, coefficients=4),
    "OPENCV_FISHEYE": Kind(number=5, focals=2, coefficients=4, fisheye=True),
    "FULL_OPENCV": Kind(number=6, focals=2, coefficients=8),
    "SIMPLE_RADIAL_FISHEYE": Kind(number=8, focals=1, coefficients=1, fisheye=True),
    "RADIAL_FISHEYE": Kind(number=9, focals=1, coefficients=2, fisheye=True),
}
"""Models that OpenCV has too, with the same coefficients in the same order."""


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


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A registered image.

    Attributes:
        name: Of its file, relative to the folder of images.
        camera: Number of its camera.
        world_to_cam: OpenCV axes, in the model's own unit.
        tracks: Places, in the model's points, of those it sees; ascending.
    """

    name: str
    camera: int
    world_to_cam: Float[Tensor, "4 4"] = field(repr=False)
    tracks: Int[Tensor, " t"] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A sparse model: cameras by number, registered images as listed, and the tracks' points."""

    cameras: dict[int, Camera]
    photos: tuple[Photo, ...]
    points: Float[Tensor, "p 3"] = field(repr=False)


def has_model(folder: Path) -> bool:
    """Return whether a folder holds a sparse model."""
    return any((folder / f"cameras{suffix}").exists() for suffix in (".bin", ".txt"))


def read_model(folder: Path, root: Folder) -> Model:
    """Read the sparse model of a folder; of a binary and a text one the binary one.

    Raises:
        FileNotFoundError: If a part is missing.
        ValueError: If a file is truncated, longer than it says, names something that is not there, or has a camera that
            this suite cannot undistort.
    """
    binary = (folder / "cameras.bin").exists()
    cameras, images, points = (folder / f"{part}{'.bin' if binary else '.txt'}" for part in PARTS)
    numbers, places = _points(_binary_points(points, root) if binary else _text_points(points, root), points)
    by_number = dict(_binary_cameras(cameras, root) if binary else _text_cameras(cameras, root))
    listed = _binary_images(images, root) if binary else _text_images(images, root)
    photos = tuple(_photo(*entry, numbers, by_number, images) for entry in listed)
    if not photos:
        raise ValueError(f"colmap: {images} names no image; the reconstruction is empty")
    return Model(cameras=by_number, photos=photos, points=places)


def _points(
    entries: Iterator[tuple[int, tuple[float, ...]]], path: Path
) -> tuple[Int[Tensor, " p"], Float[Tensor, "p 3"]]:
    """Order the points by their numbers."""
    listed = sorted(entries)
    numbers = torch.tensor([number for number, _ in listed], dtype=torch.int64)
    places = torch.tensor([place for _, place in listed], dtype=torch.float64).reshape(-1, 3)
    if not places.isfinite().all() or (numbers.diff() == 0).any():
        raise ValueError(f"colmap: {path} names a point twice, or one that is not finite")
    return numbers, places


def _photo(
    name: str,
    camera: int,
    turn: tuple[float, ...],
    shift: tuple[float, ...],
    seen: Int[Tensor, " t"],
    numbers: Int[Tensor, " p"],
    cameras: dict[int, Camera],
    path: Path,
) -> Photo:
    origin = f"image {name} of {path}"
    if camera not in cameras:
        raise ValueError(f"{origin} has camera {camera}, which {path.parent} does not have")
    tracks = torch.searchsorted(numbers, seen).clamp(max=len(numbers) - 1) if len(numbers) else seen[:0]
    if len(tracks) != len(seen) or not torch.equal(numbers[tracks], seen):
        raise ValueError(f"{origin} sees points that {path.parent} does not have; are the files of one model?")
    return Photo(name=name, camera=camera, world_to_cam=_world_to_cam(turn, shift, origin), tracks=tracks)


def _world_to_cam(turn: tuple[float, ...], shift: tuple[float, ...], origin: str) -> Float[Tensor, "4 4"]:
    w, x, y, z = turn
    length = float(np.linalg.norm(turn))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"{origin} has the quaternion {turn}, expected one of length 1")
    rotation = torch.from_numpy(Rotation.from_quat((x, y, z, w)).as_matrix())
    return from_world_to_cam(torch.cat([rotation, torch.tensor(shift, dtype=torch.float64)[:, None]], -1), origin)


def make_camera(name: str, size: tuple[int, int], parameters: tuple[float, ...], origin: str) -> Camera:
    """Turn a model's parameters into intrinsics and a lens.

    Args:
        name: Of COLMAP's camera model.
        size: (height, width) in pixels.
        parameters: In COLMAP's order.
        origin: Where it stands, for the error.

    Raises:
        ValueError: If the model is none of :data:`KINDS`, or a parameter makes no sense.
    """
    if name not in KINDS:
        raise ValueError(
            f"{origin} has the camera model {name}, expected one of {', '.join(KINDS)}; COLMAP's image_undistorter "
            "turns it into a pinhole: name the folder that it writes"
        )
    kind = KINDS[name]
    if len(parameters) != kind.focals + 2 + kind.coefficients or not np.isfinite(parameters).all():
        raise ValueError(
            f"{origin} has parameters {parameters}, expected {kind.focals + 2 + kind.coefficients} numbers"
        )
    focals, rest = parameters[: kind.focals], parameters[kind.focals :]
    intrinsics = pinhole((focals[0], focals[-1]), (rest[0], rest[1]), size, origin)
    coefficients = rest[2:] + (0.0,) * (4 - len(rest[2:]))
    bent = kind.fisheye or any(coefficients)
    lens = Lens(intrinsics=intrinsics, coefficients=coefficients, fisheye=kind.fisheye, size=size) if bent else None
    return Camera(size=size, intrinsics=intrinsics, lens=lens)


# --- binary ----------------------------------------------------------------------------------------------------------


class Bytes:
    """Read a file's little-endian values one after the other; reject reading past its end, and a rest."""

    def __init__(self, path: Path, root: Folder) -> None:
        self.path, self.data, self.place = path, inside(path, root).read_bytes(), 0

    def values(self, layout: str) -> tuple[Any, ...]:
        """Read values of ``struct``'s layout."""
        return struct.unpack("<" + layout, self._next(struct.calcsize("<" + layout)))

    def rows(self, kind: np.dtype, count: int) -> np.ndarray:
        """Read rows of a structured type."""
        return np.frombuffer(self._next(kind.itemsize * count), kind)

    def word(self) -> str:
        """Read text up to a zero byte."""
        end = self.data.find(b"\0", self.place)
        text = self._next(end - self.place + 1)[:-1] if end >= 0 else self._next(len(self.data) + 1)
        return text.decode("utf-8", "surrogateescape")

    def end(self) -> None:
        """Reject what is left over."""
        if self.place != len(self.data):
            raise ValueError(f"colmap: {self.path} is longer than its entries; is it a file of COLMAP?")

    def _next(self, size: int) -> bytes:
        part = self.data[self.place : self.place + size]
        if len(part) != size:
            raise ValueError(f"colmap: {self.path} ends in the middle of an entry; it was not written whole")
        self.place += size
        return part


KEYPOINT = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])
TRACK = np.dtype([("image", "<u4"), ("keypoint", "<u4")])


def _binary_cameras(path: Path, root: Folder) -> Iterator[tuple[int, Camera]]:
    data = Bytes(path, root)
    names = {kind.number: name for name, kind in KINDS.items()}
    (count,) = data.values("Q")
    for _ in range(count):
        number, kind, width, height = data.values("IiQQ")
        origin = f"camera {number} of {path}"
        name = names.get(kind, f"number {kind}")
        wanted = KINDS[name].focals + 2 + KINDS[name].coefficients if name in KINDS else 0
        yield number, make_camera(name, (height, width), data.values(f"{wanted}d"), origin)
    data.end()


def _binary_images(path: Path, root: Folder) -> Iterator[Listed]:
    data = Bytes(path, root)
    (count,) = data.values("Q")
    for _ in range(count):
        _, *numbers, camera = data.values("I7dI")
        name = data.word()
        (keypoints,) = data.values("Q")
        points = data.rows(KEYPOINT, keypoints)["point"]
        yield name, camera, tuple(numbers[:4]), tuple(numbers[4:]), _seen(points[points != NO_POINT].astype(np.int64))
    data.end()


def _binary_points(path: Path, root: Folder) -> Iterator[tuple[int, tuple[float, ...]]]:
    data = Bytes(path, root)
    (count,) = data.values("Q")
    for _ in range(count):
        number, *place, _, _, _, _, length = data.values("Q3d3BdQ")
        data.rows(TRACK, length)
        yield number, tuple(place)
    data.end()


def _seen(points: np.ndarray) -> Int[Tensor, " t"]:
    return torch.from_numpy(np.unique(points))


# --- text ------------------------------------------------------------------------------------------------------------


def _lines(path: Path, root: Folder) -> list[str]:
    try:
        return [line for line in inside(path, root).read_text().split("\n") if not line.startswith("#")]
    except UnicodeDecodeError as error:
        raise ValueError(f"colmap: {path} is no text: {error}") from None


def _numbers(words: list[str], path: Path, origin: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(f"colmap: {origin} of {path} is {' '.join(words)[:60]!r}, expected numbers") from None


def _text_cameras(path: Path, root: Folder) -> Iterator[tuple[int, Camera]]:
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 4:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        number, width, height, *parameters = _numbers([words[0], *words[2:]], path, "a camera")
        origin = f"camera {int(number)} of {path}"
        yield int(number), make_camera(words[1], (int(height), int(width)), tuple(parameters), origin)


def _text_images(path: Path, root: Folder) -> Iterator[Listed]:
    """Read two lines per image; the second, of its keypoints, may be empty."""
    lines = iter(_lines(path, root))
    for line in lines:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected ID, 7 numbers, CAMERA_ID and NAME")
        numbers = _numbers(words[1:9], path, f"image {words[9]}")
        keypoints = _numbers(next(lines, "").split(), path, f"the keypoints of {words[9]}")
        if len(keypoints) % 3:
            raise ValueError(f"colmap: the keypoints of {words[9]} in {path} are not whole, expected X Y POINT3D_ID")
        points = rearrange(np.array(keypoints), "(n c) -> n c", c=3)[:, 2].astype(np.int64)
        yield words[9].strip(), int(numbers[7]), numbers[:4], numbers[4:7], _seen(points[points >= 0])


def _text_points(path: Path, root: Folder) -> Iterator[tuple[int, tuple[float, ...]]]:
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 8 or len(words) % 2:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected ID X Y Z R G B ERROR and a track")
        number, *place = _numbers(words[:4], path, "a point")
        yield int(number), tuple(place)
