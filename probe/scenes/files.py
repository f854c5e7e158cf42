"""Reading a user's files: inside the folder that was named, and with one line where something is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def inside(path: Path, root: Path) -> Path:
    """Resolve a file of a folder, refusing one that a link or ``..`` leads out of it.

    Raises:
        FileNotFoundError: If there is no such file or the link is broken.
        ValueError: If it lies outside the folder.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise FileNotFoundError(f"inside: {path} does not exist or is a broken link") from None
    if not resolved.is_relative_to(root.resolve()):
        raise ValueError(f"inside: {path} leads outside {root}, to {resolved}; only files inside the folder are read")
    return resolved


def read_matrix(path: Path, root: Path) -> Float[Tensor, "rows columns"]:
    """Read a text file of numbers, one row a line, in double precision; NaN and infinities are kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder or holds something else than rows of equal length.
    """
    file = inside(path, root)
    try:
        rows = [[float(word) for word in line.split()] for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"read_matrix: {path} is not a text file of numbers: {error}") from None
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(f"read_matrix: {path} has rows of {[len(row) for row in rows]} numbers, expected equal rows")
    return torch.tensor(rows, dtype=torch.float64)


@contextmanager
def open_image(path: Path, root: Path) -> Iterator[Image.Image]:
    """Open a PNG or JPEG image; decode it inside the ``with``, so that a fault found late is told in one line too.

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
