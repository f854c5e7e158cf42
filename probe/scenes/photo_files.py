"""Photos of one's own as files: what can be told of them before a model is loaded, without torch."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from probe.scenes.kinds import EXPECTED, HEAD, READ, kind_of

SMALLEST = 64
"""Side below which a photo is mostly made up by enlarging it, in pixels."""
LONGEST = 3.0
"""Ratio of sides above which the middle square shows less than a third."""
UNLIKE = 1.05
"""Ratio of two photos' shapes above which their middle squares show different shares."""


def check_photo_files(paths: Sequence[Path]) -> None:
    """Refuse what is no photo, by its first bytes.

    Args:
        paths: Of the files.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is only one, or one is a folder, of a kind that is not read, or HEIC without its package.
    """
    if len(paths) < 2:
        raise ValueError(f"{' '.join(map(str, paths))}: expected two or more photos, which attention joins")
    for path in paths:
        _check_photo(path)


def _check_photo(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; name photos that exist (now in {Path.cwd()})")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name two or more photos in it, such as {path}/*.jpg")
    with path.open("rb") as stream:
        kind = kind_of(stream.read(HEAD))
    if kind not in READ:
        raise ValueError(f"{path} is {kind}; {EXPECTED}")
    if kind == "HEIC" and find_spec("pillow_heif") is None:
        advice = "install it with: python -m pip install 'attention-probing[heic]'"
        raise ValueError(f"{path} is a HEIC photo, which needs pillow-heif; {advice}")


def photo_doubts(sizes: Mapping[str, tuple[int, int]], *, identical: bool) -> list[str]:
    """Return what makes photos a poor choice, in sentences.

    Args:
        sizes: Height and width of each photo, by name, in pixels.
        identical: Whether all hold the same pixels.
    """
    doubts = []
    for name, (height, width) in sizes.items():
        short, long = sorted((height, width))
        if short < SMALLEST:
            doubts.append(f"{name} is only {width} x {height} pixels, and is enlarged")
        if long > LONGEST * short:
            doubts.append(f"{name} is {width} x {height} pixels, and only its middle square is shown")
    shapes = {name: width / height for name, (height, width) in sizes.items()}
    if max(shapes.values()) > UNLIKE * min(shapes.values()):
        words = ", ".join(f"{name} {sizes[name][1]} x {sizes[name][0]}" for name in shapes)
        doubts.append(
            f"the photos differ in shape ({words}), so their middle squares show different shares of the scene"
        )
    if identical:
        doubts.append("all photos are the same picture: a match at the same place says nothing")
    return doubts
