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

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from probe.scenes.camera_models import MODELS, PANORAMA, PANORAMA_NUMBER, model_named
from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.lenses import Lens, make_lens, resized, straight
from probe.scenes.reading import Dropped, Folder, inside, read_all

PARTS = ("cameras", "images", "points3D")
NO_POINT = 2**64 - 1  # a keypoint that belongs to no track; -1 in text


@dataclass(frozen=True, kw_only=True)
class ListedCamera:
    """A camera as a file lists it."""

    model: str
    size: tuple[int, int]
    parameters: tuple[float, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class ListedPhoto:
    """An image as a file lists it; the quaternion is w x y z, the points are those that it sees, by their numbers."""

    name: str
    camera: int
    turn: tuple[float, ...]
    shift: tuple[float, ...]
    points: Int[Tensor, " t"]


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
    by_number = dict(_binary_cameras(cameras, root) if binary else _text_cameras(cameras, root))
    listed = list(_binary_images(images, root) if binary else _text_images(images, root))
    if not listed:
        raise ValueError(f"colmap: {images} names no image; the reconstruction is empty")
    known = [_with_places(photo, numbers, by_number, images) for photo in listed]
    build = lru_cache(maxsize=None)(lambda number: make_camera(by_number[number]))
    named = [(photo.name, partial(_photo, photo, build, images)) for photo in known]
    photos, dropped = read_all(named, root, str(images))
    return Model(photos=tuple(photos), points=places, dropped=dropped)


def _read_points(path: Path, root: Folder, binary: bool) -> tuple[Int[Tensor, " p"] | None, Float[Tensor, "p 3"]]:
    """Return the points and their numbers, ascending; None for numbers that nothing tells."""
    if not path.exists() and not path.is_symlink():
        return None, torch.zeros(0, 3, dtype=torch.float64)
    listed = sorted(_binary_points(path, root) if binary else _text_points(path, root))
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


def _photo(photo: ListedPhoto, build: Any, path: Path) -> Photo:
    origin = f"image {photo.name} of {path}"
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
        ValueError: If the model is none of :data:`probe.scenes.camera_models.MODELS`, or a parameter makes no sense.
    """
    kind, parameters = model_named(camera.model, camera.origin), camera.parameters
    if len(parameters) != kind.parameters or not np.isfinite(parameters).all():
        raise ValueError(f"{camera.origin} has parameters {parameters}, expected {kind.parameters} numbers")
    focals, centre = parameters[: kind.focals], parameters[kind.focals : kind.focals + 2]
    intrinsics = pinhole((focals[0], focals[-1]), (centre[0], centre[1]), camera.size, camera.origin)
    lens = make_lens(camera.model, intrinsics, parameters[kind.focals + 2 :], camera.size, camera.origin)
    return Camera(size=camera.size, intrinsics=intrinsics, lens=lens)


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


def _binary_cameras(path: Path, root: Folder) -> Iterator[tuple[int, ListedCamera]]:
    data = Bytes(path, root)
    names = {model.number: name for name, model in MODELS.items()} | {PANORAMA_NUMBER: PANORAMA}
    (count,) = data.values("Q")
    for _ in range(count):
        number, kind, width, height = data.values("IiQQ")
        origin = f"camera {number} of {path}"
        model = model_named(names.get(kind, f"number {kind}"), origin)  # without it the rest cannot be read
        parameters = data.values(f"{model.parameters}d")
        yield number, ListedCamera(model=names[kind], size=(height, width), parameters=parameters, origin=origin)
    data.end()


def _binary_images(path: Path, root: Folder) -> Iterator[ListedPhoto]:
    data = Bytes(path, root)
    (count,) = data.values("Q")
    for _ in range(count):
        _, *numbers, camera = data.values("I7dI")
        name = data.word()
        (keypoints,) = data.values("Q")
        points = data.rows(KEYPOINT, keypoints)["point"]
        seen = _seen(points[points != NO_POINT].astype(np.int64))
        yield ListedPhoto(name=name, camera=camera, turn=tuple(numbers[:4]), shift=tuple(numbers[4:]), points=seen)
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
        text = inside(path, root).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"colmap: {path} is no text: {error}") from None
    return [line for line in text.split("\n") if not line.startswith("#")]


def _numbers(words: list[str], path: Path, origin: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(f"colmap: {origin} of {path} is {' '.join(words)[:60]!r}, expected numbers") from None


def _whole(words: list[str], path: Path, origin: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise ValueError(f"colmap: {origin} of {path} is {' '.join(words)[:60]!r}, expected whole numbers") from None


def _text_cameras(path: Path, root: Folder) -> Iterator[tuple[int, ListedCamera]]:
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 4:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        number, width, height = _whole([words[0], *words[2:4]], path, "a camera")
        parameters = _numbers(words[4:], path, "a camera")
        origin = f"camera {number} of {path}"
        yield number, ListedCamera(model=words[1], size=(height, width), parameters=parameters, origin=origin)


def _text_images(path: Path, root: Folder) -> Iterator[ListedPhoto]:
    """Read two lines per image; the second, of its keypoints, may be empty or left out."""
    lines = _lines(path, root)
    place = 0
    while place < len(lines):
        line, after = lines[place], lines[place + 1] if place + 1 < len(lines) else ""
        place += 1
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected ID, 7 numbers, CAMERA_ID and NAME")
        numbers = _numbers(words[1:8], path, f"image {words[9]}")
        (camera,) = _whole(words[8:9], path, f"the camera of {words[9]}")
        keypoints = "" if _is_image(after) else after
        place += not _is_image(after)
        seen = _text_keypoints(keypoints, path, words[9])
        yield ListedPhoto(name=words[9].strip(), camera=camera, turn=numbers[:4], shift=numbers[4:], points=seen)


def _is_image(line: str) -> bool:
    """Return whether a line is an image's and not of keypoints, which are three numbers each."""
    words = line.split()
    return len(words) == 10 or (len(words) > 10 and not (_is_number(words[9]) and _is_number(words[-1])))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _text_keypoints(line: str, path: Path, name: str) -> Int[Tensor, " t"]:
    words = line.split()
    if len(words) % 3:
        raise ValueError(f"colmap: the keypoints of {name} in {path} are not whole, expected X Y POINT3D_ID")
    points = np.array(_numbers(words, path, f"the keypoints of {name}")).reshape(-1, 3)[:, 2]
    if not (np.abs(points) < 2**53).all():
        raise ValueError(f"colmap: the keypoints of {name} in {path} have a POINT3D_ID that is no whole number")
    return _seen(points[points >= 0].astype(np.int64))


def _text_points(path: Path, root: Folder) -> Iterator[tuple[int, tuple[float, ...]]]:
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 8 or len(words) % 2:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected ID X Y Z R G B ERROR and a track")
        (number,) = _whole(words[:1], path, "a point")
        yield number, _numbers(words[1:4], path, "a point")
