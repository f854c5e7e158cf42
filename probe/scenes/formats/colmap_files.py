"""The files of a COLMAP model, binary and text, read as they are: each raises ValueError if it is broken."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from probe.scenes.cameras.models import MODELS, PANORAMA, PANORAMA_NUMBER, model_named
from probe.scenes.files import read_text
from probe.scenes.reading import Folder, inside

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


def binary_cameras(path: Path, root: Folder) -> Iterator[tuple[int, ListedCamera]]:
    """Read the cameras of a binary model, by number."""
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


def binary_images(path: Path, root: Folder) -> Iterator[ListedPhoto]:
    """Read the images of a binary model."""
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


def binary_points(path: Path, root: Folder) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read the points of a binary model: number and place."""
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
    return [line for line in read_text(path, root).split("\n") if not line.startswith("#")]


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


def text_cameras(path: Path, root: Folder) -> Iterator[tuple[int, ListedCamera]]:
    """Read the cameras of a text model, by number."""
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 4:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
        number, width, height = _whole([words[0], *words[2:4]], path, "a camera")
        parameters = _numbers(words[4:], path, "a camera")
        origin = f"camera {number} of {path}"
        yield number, ListedCamera(model=words[1], size=(height, width), parameters=parameters, origin=origin)


def text_images(path: Path, root: Folder) -> Iterator[ListedPhoto]:
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
        numbers = tuple(float(word) if _is_number(word) else math.nan for word in words[1:8])  # left out by its pose
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


def text_points(path: Path, root: Folder) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Read the points of a text model: number and place."""
    for line in filter(str.strip, _lines(path, root)):
        words = line.split()
        if len(words) < 8 or len(words) % 2:
            raise ValueError(f"colmap: {path} has the line {line[:60]!r}, expected ID X Y Z R G B ERROR and a track")
        (number,) = _whole(words[:1], path, "a point")
        yield number, _numbers(words[1:4], path, "a point")
