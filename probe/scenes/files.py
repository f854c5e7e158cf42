"""Reading a user's files: inside the folder that was named, and with one line where something is wrong with them."""

import codecs
import gzip
import importlib
import io
import pickle
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from probe.records import parse_json
from probe.scenes.kinds import EXPECTED, HEAD, READ, is_hidden, kind_of
from probe.scenes.reading import IMAGES, Folder, inside

ORIENTATION = 0x0112
"""EXIF's tag of how a stored image is turned."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN = 65535
MOST_BYTES = 2**31
"""Of an archive that is unpacked into memory."""
MOST_PIXELS = 64e6
"""Of an image: as colours these take .8 GB."""
COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of pixels that become colours, beside 16-bit grey."""
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, MemoryError),
    *(RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
    *(zipfile.BadZipFile, pickle.UnpicklingError, tokenize.TokenError),
)
"""What Pillow, NumPy and PyTorch raise on damaged files."""


def read_text(path: Path, root: Folder | Path) -> str:
    """Read a text file in UTF-8, or in the Unicode form that its byte-order mark names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder or is no text.
    """
    file = inside(path, root)
    try:
        data = file.read_bytes()
        return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"read_text: {path} is not a text file: {error}") from None


def read_rows(path: Path, root: Folder | Path) -> list[list[str]]:
    """Read the words of a text file by lines; commas and semicolons count as blanks, lines with # are comments.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_text`.
    """
    lines = (line.strip() for line in read_text(path, root).splitlines())
    return [row for line in lines if not line.startswith("#") and (row := re.findall(r"[^\s,;]+", line))]


def read_matrix(path: Path, root: Folder | Path) -> Float[Tensor, "rows columns"]:
    """Read a text file of numbers, one row a line, in double precision; NaN and infinities are kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder or holds something else than rows of equal length.
    """
    words = read_rows(path, root)
    try:
        rows = [[float(word) for word in row] for row in words]
    except ValueError as error:
        raise ValueError(f"read_matrix: {path} is not a text file of numbers: {error}") from None
    if not rows or len({len(row) for row in rows}) > 1:
        lengths = [len(row) for row in rows[:5]]
        raise ValueError(f"read_matrix: {path} has rows of {lengths} numbers, expected equal rows")
    return torch.tensor(rows, dtype=torch.float64)


class UnfitPixelsError(ValueError):
    """Pixels of a whole image that are not what is read."""


@contextmanager
def open_image(path: Path, root: Folder | Path) -> Iterator[Image.Image]:
    """Open an image: PNG, JPEG (MPO too), WebP, TIFF, BMP, and HEIC if pillow-heif is installed.

    Its pixels are decoded inside the ``with``, so that a fault found late becomes one line too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, is truncated, damaged, too large or of another kind, which is named;
            if its pixels do not serve.
    """
    with _open(inside(path, root), str(path)) as image:
        yield image


@contextmanager
def open_bytes(data: bytes, origin: str) -> Iterator[Image.Image]:
    """Open an encoded image that lies in memory; decode it inside the ``with``.

    Args:
        data: The encoded image.
        origin: Where it came from, for the error.

    Raises:
        ValueError: As :func:`open_image`.
    """
    with _open(io.BytesIO(data), origin) as image:
        yield image


@contextmanager
def _open(source: Path | io.BytesIO, origin: str) -> Iterator[Image.Image]:
    """Open an image by the reader of its kind."""
    kind = kind_of(_head(source))
    if kind not in READ:
        raise ValueError(f"{origin} is {kind}; {EXPECTED}")
    if kind == "HEIC":
        _register_heic(origin)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=(READ[kind],)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnfitPixelsError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:.0e}")
            yield image
    except UnidentifiedImageError:
        raise ValueError(f"{origin} is not a whole {kind} image: its header is damaged") from None
    except UnfitPixelsError as error:
        raise ValueError(f"{origin} cannot be used: {error}") from None
    except DAMAGE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{origin} is not a whole {kind} image: {why}") from None


def _head(source: Path | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:HEAD]
    with source.open("rb") as stream:
        return stream.read(HEAD)


def _register_heic(origin: str) -> None:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        advice = "install it with: python -m pip install 'attention-probing[heic]'"
        raise ValueError(f"{origin} is a HEIC photo, which needs pillow-heif ({error}); {advice}") from None


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder by their endings, in the natural order of their names, without hidden files."""
    seen = (path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not is_hidden(path))
    return sorted((path for path in seen if not path.is_dir()), key=lambda path: natural(path.name))


def orientation(image: Image.Image) -> int:
    """Return how EXIF says that a stored image is turned, from 1 (upright) to 8; 1 where it says nothing sound.

    It is 1 of TIFF files, which Pillow turns itself when it decodes them.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if value in TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF says."""
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _turned_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of the upright image."""
    return (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)


def _is_turned(image: Image.Image, size: tuple[int, int] | None) -> bool:
    """Return whether an image has the size that its cameras are for only when it is turned as its EXIF says."""
    return size is not None and (image.height, image.width) != size == _turned_size(image)


def image_size(path: Path, root: Folder | Path, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) of an image by its header.

    Args:
        path: The image.
        root: The folder that it lies in.
        size: (height, width) that its camera is for; see :func:`read_rgb`.

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`.
    """
    with _open(inside(path, root), str(path)) as image:
        return _turned_size(image) if _is_turned(image, size) else (image.height, image.width)


def decode_rgb(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Turn an opened image into colours in [0, 1]: colour, grey of 1, 8 or 16 bits, palettes, CMYK.

    White shows where it is transparent.

    Raises:
        UnfitPixelsError: If its pixels are no colours, such as a depth map's.
    """
    if image.mode.startswith("I"):
        grey = torch.from_numpy(_sixteen_bits(image).astype(np.float32)) / SIXTEEN
        return repeat(grey, "height width -> c height width", c=3)
    if image.mode not in COLOURS:
        kind = "32-bit numbers (mode F)" if image.mode == "F" else f"of mode {image.mode}"
        raise UnfitPixelsError(f"its pixels are {kind}, expected colours")
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return rearrange(torch.from_numpy(np.array(image.convert("RGB"))), "height width c -> c height width") / 255


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    values = np.array(image)
    if values.min() < 0 or values.max() > SIXTEEN:
        raise UnfitPixelsError(f"its pixels reach from {values.min()} to {values.max()}, expected 16 bits")
    return values.astype(np.uint16)


def read_rgb(path: Path, root: Folder | Path, size: tuple[int, int] | None = None) -> Float[Tensor, "3 height width"]:
    """Read an image's colours, as :func:`decode_rgb`.

    Args:
        path: The image.
        root: The folder that it lies in.
        size: (height, width) that its camera is for. An image that is of this size only when it is turned as its EXIF
            says is turned; any other one is read as stored.

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image` and :func:`decode_rgb`.
    """
    with open_image(path, root) as image:
        return decode_rgb(upright(image) if _is_turned(image, size) else image)


def read_sixteen(path: Path, root: Folder | Path) -> np.ndarray:
    """Read a 16-bit single-channel PNG or TIFF as unsigned integers [height width].

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`, or if its pixels are not 16-bit.
    """
    with open_image(path, root) as image:
        if not image.mode.startswith("I"):
            raise UnfitPixelsError(f"its pixels are of mode {image.mode}, expected a 16-bit single-channel PNG")
        return _sixteen_bits(image)


def read_mask(path: Path, root: Folder | Path, *, above: int = 0) -> Bool[Tensor, "height width"]:
    """Read a mask image: true where a pixel's grey value lies above a number (0: where it is not black).

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`.
    """
    with open_image(path, root) as image:
        return torch.from_numpy(np.array(image.convert("L"))) > above


def read_arrays(path: Path, root: Folder | Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file; objects, which would need pickle, are rejected.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, or is no whole file of arrays.
    """
    file = inside(path, root)
    try:
        with zipfile.ZipFile(file) as packed:
            if sum(part.file_size for part in packed.infolist()) > MOST_BYTES:
                raise ValueError(f"unpacked it has more than {MOST_BYTES} bytes")
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except DAMAGE as error:
        raise ValueError(f"read_arrays: {path} is not a whole .npz of arrays: {error}") from None


def read_array(path: Path, root: Folder | Path) -> np.ndarray:
    """Read the array of an ``.npy`` file, as :func:`read_arrays`."""
    file = inside(path, root)
    try:
        with file.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except DAMAGE as error:
        raise ValueError(f"read_array: {path} is not a whole .npy array: {error}") from None


def read_json(path: Path, root: Folder | Path) -> Any:
    """Read JSON, unpacking ``.jgz`` and ``.gz``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, or is no whole JSON.
    """
    data = inside(path, root).read_bytes()
    try:
        return parse_json(_unpack(data) if path.suffix in (".jgz", ".gz") else data)
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise ValueError(f"read_json: {path} is not whole JSON: {error}; is the download whole?") from None


def _unpack(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        unpacked = packed.read(MOST_BYTES + 1)
    if len(unpacked) > MOST_BYTES:
        raise ValueError(f"unpacked it has more than {MOST_BYTES} bytes")
    return unpacked


def take(record: Any, key: str, kind: type | tuple[type, ...], origin: str) -> Any:
    """Take a value of a JSON object.

    Raises:
        ValueError: If it is no object, lacks the key, or the value is of another kind.
    """
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{origin} has no {key!r}")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{origin} has {key} = {str(value)[:40]!r}, expected {_kind(kind)}")
    return value


def _kind(kind: type | tuple[type, ...]) -> str:
    return " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))


def numbers(value: Any, shape: tuple[int, ...], origin: str) -> Float[Tensor, "..."]:
    """Turn nested lists into a tensor of double precision; NaN and infinities are kept.

    Raises:
        ValueError: If it is of another shape or holds something else than numbers.
    """
    try:
        matrix = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{origin} is {str(value)[:40]!r}, expected {_by(shape)} numbers") from None
    if tuple(matrix.shape) != shape:
        raise ValueError(f"{origin} has {_by(tuple(matrix.shape)) or 'one'} numbers, expected {_by(shape)}")
    return matrix


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names as people do: frame_9 before frame_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name))


def image_numbers(stems: Sequence[str]) -> list[int] | None:
    """Return the numbers of files by the digits of their names that differ; None if several groups of digits do."""
    groups = [[int(part) for part in re.findall(r"[0-9]+", stem)] for stem in stems]
    if len({len(group) for group in groups}) != 1:
        return None
    differing = [column for column in zip(*groups, strict=True) if len(set(column)) == len(stems)]
    changing = [column for column in zip(*groups, strict=True) if len(set(column)) > 1]
    if len(stems) == 1:
        return groups[0][-1:] or None
    return list(differing[0]) if len(differing) == len(changing) == 1 else None
