"""Stray Scanner's folders: ``odometry.csv``, ``camera_matrix.csv``, ``depth/000000.png`` and the frames of ``rgb.mp4``.

The video is not read: its frames are expected in ``rgb/000000.jpg``, ... with the numbers of the column ``frame``.
Depth (256 x 192, millimetres) and colour (1920 x 1440) show the same field of view; ``camera_matrix.csv`` is colour's,
of the full size. Poses are camera to world with OpenCV axes. The matrix is that of the whole video; ``confidence/`` and
the intrinsics per frame of newer versions are not read.

Source:
    docs/references.md, "RGB-D recordings".
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from probe.scenes.files import image_size, read_rows
from probe.scenes.formats.rgbd.frames import by
from probe.scenes.formats.rgbd.listing import FrameReader, Layout, Listing, Posed
from probe.scenes.formats.rgbd.written import Written, find_text, from_quaternion, read_camera
from probe.scenes.reading import IMAGES, Folder

FULL = (1440, 1920)
CENTRED = 0.05  # of the size: how far its principal point lies from the middle, at most
COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
ODOMETRY, MATRIX, VIDEO = "odometry.csv", "camera_matrix.csv", "rgb.mp4"
EXTRACT = "ffmpeg -noautorotate -i rgb.mp4 -fps_mode passthrough -start_number 0 rgb/%06d.jpg"
EXPECTED = "odometry.csv, camera_matrix.csv, depth/000000.png and rgb/000000.jpg, ... (Stray Scanner)"


def _present(folder: Path) -> bool:
    return find_text((ODOMETRY,), Folder(folder)) is not None


def _read(root: Folder) -> Listing:
    colour, depth = ({int(path.stem): path for path in _images(root / kind)} for kind in ("rgb", "depth"))
    if not colour:
        video = f"{VIDEO}, a video, which is not read; make" if (root / VIDEO).exists() else "no colour images; make"
        raise FileNotFoundError(f"load_frames: {root} has {video} rgb/000000.jpg, ... by: mkdir rgb; {EXTRACT}")
    frames: list[tuple[str, FrameReader]] = []
    for name, row in _odometry(root):
        files = {"rgb": colour.get(int(name)), "depth": depth.get(int(name))}
        frames.append((name, partial(_read_frame, root, name, row, files)))
    return Listing(root=root, frames=tuple(frames), camera=_camera(root, next(iter(colour.values()))), shared=True)


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.casefold() in IMAGES and path.stem.isascii() and path.stem.isdecimal():
            yield path


def _odometry(root: Folder) -> Iterator[tuple[str, Mapping[str, str]]]:
    """List the rows by their frames."""
    file = find_text((ODOMETRY,), root)
    assert file is not None  # as _present says
    header, *rows = read_rows(*file) or [[]]
    missing = [name for name in ("frame", *COLUMNS) if name not in header]
    if missing:
        raise ValueError(f"load_frames: {file[0]} has no columns {', '.join(missing)}; its first line names {header}")
    for row in rows:
        values = dict(zip(header, row, strict=False))
        name = values.get("frame", "")
        if name.isascii() and name.isdecimal():
            yield name, values
        elif root.reading.strict:
            raise ValueError(f"load_frames: {file[0]} has the line {' '.join(row)[:60]!r}, expected a frame's number")


def _read_frame(root: Folder, name: str, row: Mapping[str, str], files: Mapping[str, Path | None]) -> Posed:
    origin = f"load_frames: frame {name} of {root / ODOMETRY}"
    try:
        numbers = [float(row[column]) for column in COLUMNS]
    except (KeyError, ValueError):
        raise ValueError(f"{origin} has no pose: expected {', '.join(COLUMNS)}") from None
    world_to_cam = from_quaternion(numbers, origin)
    colour, depth = files["rgb"], files["depth"]
    if colour is None or depth is None:
        missing = "rgb" if colour is None else "depth"
        raise FileNotFoundError(f"load_frames: frame {name} of {root} has no {missing} file")
    return Posed(name=name, colour=colour, depth=depth, world_to_cam=world_to_cam)


def _camera(root: Folder, colour: Path) -> Written:
    """Read colour's camera; its principal point tells whether it is of the images' size or of the full one."""
    file = find_text((MATRIX,), root)
    if file is None:
        raise FileNotFoundError(f"load_frames: {root / MATRIX} is missing; expected {EXPECTED}")
    camera, sizes = read_camera(*file), (image_size(colour, root), FULL)
    for size in sizes:
        shares = (camera.centre[0] / size[1], camera.centre[1] / size[0])
        if max(abs(share - 0.5) for share in shares) < CENTRED:
            return replace(camera, size=size)
    raise ValueError(
        f"load_frames: {file[0]} has the principal point {camera.centre}, the middle neither of {by(sizes[0])} nor of "
        f"{by(FULL)} images; were the frames turned? {EXTRACT}"
    )


STRAY_LAYOUT = Layout(expected=EXPECTED, present=_present, read=_read)
