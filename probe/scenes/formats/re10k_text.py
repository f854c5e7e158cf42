"""RealEstate10K's camera files, and the frames that users take from the videos.

Source:
    google/stereo-magnification, issue 5, for the tolerance (docs/references.md, "RealEstate10K").
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from probe.scenes.files import image_numbers, image_size, images_in, numbers, read_rgb
from probe.scenes.formats.re10k_cameras import CAMERA, Posed, posed_row, recording_of
from probe.scenes.reading import Dropped, Folder, inside, read_all
from probe.scenes.recordings import Recording

NO_FRAME = "no frame lies near its timestamp"
TOLERANCE = 8000  # microseconds between a camera's timestamp and its frame's; a quarter of a frame


def load_text(path: Path, root: Folder) -> Recording:
    """Read a camera file and find its frames.

    Args:
        path: The camera file.
        root: The data set's folder, which holds the frames too.

    Raises:
        FileNotFoundError: If there is no folder of frames.
        ValueError: If no line has a camera and a frame near its timestamp; if one is broken and reading is strict.
    """
    lines = _lines(path, root)
    parsed = [(str(place), partial(_row, line, place, path)) for place, line in enumerate(lines)]
    rows, broken = read_all(parsed, root, str(path))
    near = _match(rows, len(lines), list_frames(path, root), path)
    if not near:
        raise ValueError(f"re10k: no frame of {path.stem} lies within {TOLERANCE} microseconds of a line of {path}")
    posed, faulty = read_all(
        (
            (str(place), partial(_read_line, row, place, near[place], path, root))
            for place, row in rows
            if place in near
        ),
        root,
        path.stem,
    )
    without = [Dropped(str(place), NO_FRAME) for place, _ in rows if place not in near]
    return recording_of(path.stem, posed, partial(_read_frame, root), (*broken, *without, *faulty))


def _lines(path: Path, root: Folder) -> list[str]:
    """Return a camera file's lines after its URL, which some copies lack."""
    try:
        first, *rest = inside(path, root).read_text(encoding="utf-8-sig").splitlines() or [""]
    except (OSError, ValueError) as error:
        raise ValueError(f"re10k: {path} is not a URL and lines of numbers: {error}") from None
    lines = [line for line in ([first] if len(first.split()) == CAMERA + 1 else []) + rest if line.strip()]
    if not lines:
        raise ValueError(f"re10k: {path} has no line after its URL")
    return lines


def _row(line: str, place: int, path: Path) -> tuple[int, Float[Tensor, " 19"]]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise ValueError(f"re10k: {path} is not a URL and lines of numbers: {error}") from None
    if len(values) != CAMERA + 1:
        raise ValueError(f"re10k: line {place + 2} of {path} has {len(values)} numbers, expected {CAMERA + 1}")
    if not math.isfinite(values[0]):
        raise ValueError(f"re10k: line {place + 2} of {path} has the timestamp {values[0]}")
    return place, numbers(values, (CAMERA + 1,), str(path))


def list_frames(path: Path, root: Folder) -> list[Path]:
    """Find the frames of a camera file.

    Raises:
        FileNotFoundError: If there are none.
    """
    candidates = [
        folder / path.stem for folder in (path.parent, root, root / "frames", root / "frames" / path.parent.name)
    ]
    frames = next((images for one in candidates if one.is_dir() and (images := images_in(one))), None)
    if frames is None:
        raise FileNotFoundError(f"re10k: {path} has no folder of frames; expected {candidates[0]}/TIMESTAMP.png")
    return frames


def in_a_row(frames: Sequence[Path]) -> list[Path] | None:
    """Return frames in the order of their numbers, if those are 0, 1, 2, ... or 1, 2, 3, ..., and no timestamps."""
    own = image_numbers([frame.stem for frame in frames]) if len(frames) > 1 else None
    if own is None or min(own) > 1 or max(own) - min(own) + 1 != len(own):
        return None
    return [frame for _, frame in sorted(zip(own, frames, strict=True))]


def _match(
    rows: Sequence[tuple[int, Float[Tensor, " 19"]]], lines: int, frames: Sequence[Path], path: Path
) -> dict[int, Path]:
    """Return the frame of each line: in order where frames are numbered, else the nearest in time; each serves once."""
    ordered = in_a_row(frames)
    if ordered is None:
        times = {int(frame.stem): frame for frame in frames if frame.stem.isascii() and frame.stem.isdecimal()}
        near = {place: _nearest(int(row[0]), times) for place, row in rows}
        first = {frame: place for place, frame in reversed(near.items())}
        return {place: frame for place, frame in near.items() if frame is not None and first[frame] == place}
    if len(ordered) != lines:
        raise ValueError(
            f"re10k: {ordered[0].parent} has {len(ordered)} frames, numbered {ordered[0].stem} to {ordered[-1].stem}, "
            f"and {path} {lines} cameras: which belongs to which cannot be told; name frames by their timestamps"
        )
    return {place: ordered[place] for place, _ in rows}


def _nearest(timestamp: int, images: Mapping[int, Path]) -> Path | None:
    nearest = min(images, key=lambda other: abs(other - timestamp), default=None)
    return images[nearest] if nearest is not None and abs(nearest - timestamp) <= TOLERANCE else None


def _read_line(row: Float[Tensor, " 19"], place: int, image: Path, path: Path, root: Folder) -> Posed:
    return posed_row(row[1:], image_size(image, root), place, str(path), image)


def _read_frame(root: Folder, posed: Posed) -> Float[Tensor, "3 height width"]:
    assert posed.image is not None  # frames of a camera file have files of their own
    return read_rgb(posed.image, root)
