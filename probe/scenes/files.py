"""Reading a user's files: inside the folder that was named, and with one line where something is wrong with them."""

import codecs
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from probe.scenes.reading import Folder, inside


def read_text(path: Path, root: Folder) -> str:
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


def read_rows(path: Path, root: Folder) -> list[list[str]]:
    """Read the words of a text file by lines; commas and semicolons count as blanks, lines with # are comments.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_text`.
    """
    lines = (line.strip() for line in read_text(path, root).splitlines())
    return [row for line in lines if not line.startswith("#") and (row := re.findall(r"[^\s,;]+", line))]


def read_matrix(path: Path, root: Folder) -> Float[Tensor, "rows columns"]:
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


@contextmanager
def open_image(path: Path, root: Folder) -> Iterator[Image.Image]:
    """Open a PNG or JPEG image; decode it inside the ``with``, so that a fault found late becomes one line too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, or is truncated, corrupt, too large or of another format.
    """
    file = inside(path, root)
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"open_image: {path} is not a whole PNG or JPEG image: {error}") from None


@contextmanager
def open_bytes(data: bytes, origin: str) -> Iterator[Image.Image]:
    """Open an encoded PNG or JPEG image that lies in memory; decode it inside the ``with``.

    Args:
        data: The encoded image.
        origin: Where it came from, for the error.

    Raises:
        ValueError: If it is truncated, corrupt, too large or of another format.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"open_bytes: {origin} is not a whole PNG or JPEG image: {error}") from None


def image_size(path: Path, root: Folder) -> tuple[int, int]:
    """Return (height, width) of an image by its header.

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`.
    """
    with open_image(path, root) as image:
        return image.height, image.width


def decode_rgb(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Decode an opened 8-bit image to colours in [0, 1]; white shows where it is transparent.

    Raises:
        ValueError: If its pixels are not 8-bit.
    """
    if image.mode not in ("RGB", "RGBA", "L", "LA", "P"):
        raise ValueError(f"its pixels are of mode {image.mode}, expected an 8-bit colour image")
    if image.mode in ("RGBA", "LA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return rearrange(torch.from_numpy(np.array(image.convert("RGB"))), "height width c -> c height width") / 255


def read_rgb(path: Path, root: Folder) -> Float[Tensor, "3 height width"]:
    """Read an 8-bit colour image.

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`, or if its pixels are not 8-bit.
    """
    with open_image(path, root) as image:
        return decode_rgb(image)


def read_sixteen(path: Path, root: Folder) -> np.ndarray:
    """Read a 16-bit single-channel PNG as unsigned integers [height width].

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`, or if its pixels are not 16-bit.
    """
    with open_image(path, root) as image:
        if image.mode not in ("I;16", "I"):
            raise ValueError(f"its pixels are of mode {image.mode}, expected a 16-bit single-channel PNG")
        return np.array(image).astype(np.uint16)


def read_mask(path: Path, root: Folder, *, above: int = 0) -> Bool[Tensor, "height width"]:
    """Read a mask image: true where a pixel's grey value lies above a number (0: where it is not black).

    Raises:
        FileNotFoundError, ValueError: As :func:`open_image`.
    """
    with open_image(path, root) as image:
        return torch.from_numpy(np.array(image.convert("L"))) > above


def read_arrays(path: Path, root: Folder) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file; objects, which would need pickle, are rejected.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, or is no whole file of arrays.
    """
    file = inside(path, root)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"read_arrays: {path} is not a whole .npz of arrays: {error}") from None


def read_json(path: Path, root: Folder) -> Any:
    """Read JSON, unpacking ``.jgz`` and ``.gz``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, or is no whole JSON.
    """
    data = inside(path, root).read_bytes()
    try:
        return json.loads(gzip.decompress(data) if path.suffix in (".jgz", ".gz") else data)
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise ValueError(f"read_json: {path} is not whole JSON: {error}") from None


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
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{origin} is {str(value)[:40]!r}, expected {_by(shape)} numbers") from None
    if tuple(matrix.shape) != shape:
        raise ValueError(f"{origin} has {_by(tuple(matrix.shape)) or 'one'} numbers, expected {_by(shape)}")
    return matrix


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names as people do: frame_9 before frame_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name))
