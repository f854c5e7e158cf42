"""TUM RGB-D and ICL-NUIM: images and poses by time.

``rgb.txt`` and ``depth.txt`` list TIME FILE, or ``associations.txt`` lists both in one line; without them the files'
names in ``rgb/`` and ``depth/`` are the times. ``groundtruth.txt`` holds TIME TX TY TZ QX QY QZ QW, camera to world.
A colour image goes with the depth and the pose nearest in time, at most 20 ms away; the others are left out. Depth
counts 5000 for a metre and is registered to colour.

Cameras: ``camera-intrinsics.txt`` (or ``calibration.txt``, as ETH3D writes it) in the folder; else the published ones:
of freiburg1, 2 and 3 where the folder's name has them, with the distortion of the first two, of ICL-NUIM, or the one
that TUM's page gives for all sequences, which is said. They count pixels from 0 at the first one's centre; half a pixel
is added. ICL-NUIM (``livingRoom0.gt.freiburg``) writes poses in a world whose y goes up while its images are stored
from the top: the poses are mirrored in y.

Source:
    docs/references.md, "RGB-D recordings".
"""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.files import read_rows
from probe.scenes.formats.rgbd.listing import FrameReader, Layout, Listing, Posed
from probe.scenes.formats.rgbd.written import Written, find_text, from_first_centre, from_quaternion, read_camera
from probe.scenes.reading import IMAGES, Dropped, Folder, find_file

NEAR = 0.02  # seconds between an image and the depth and pose that go with it
SCALE = 5000.0
ASSOCIATED = 4  # words in a line of associations: time, file, time, file
LATEST = 1e18  # seconds
INTRINSICS = ("camera-intrinsics.txt", "intrinsics.txt", "calibration.txt")
ASSOCIATIONS = ("associations.txt", "association.txt", "associate.txt", "associated.txt", "assoc.txt")
GROUND_TRUTH = ("groundtruth.txt", "pose.txt", "poses.txt")
COLOUR, DEPTH = ("rgb", "color", "colour"), ("depth",)
PUBLISHED = {
    "freiburg1": ((517.3, 516.5), (318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0), (325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2), (320.1, 247.6), ()),
    "TUM": ((525.0, 525.0), (319.5, 239.5), ()),
    "ICL-NUIM": ((481.2, 480.0), (319.5, 239.5), ()),
}
"""Focal lengths, principal point (pixels from 0 at the first one's centre) and distortion, of 640 x 480 pixels."""
ICL = re.compile(r"icl[-_ ]?nuim|traj\d+n?_(frei|loop)", re.IGNORECASE)
SEQUENCE = re.compile(r"(?:freiburg|(?<![a-z])fr)([123])(?!\d)", re.IGNORECASE)
EXPECTED = "rgb.txt, depth.txt, groundtruth.txt (TUM), or rgb/, depth/, associations.txt, *.gt.freiburg (ICL-NUIM)"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Values by time, in order: names of files, or poses as written."""

    times: tuple[float, ...]
    values: tuple[tuple[str, ...], ...]

    def nearest(self, time: float) -> tuple[str, ...] | None:
        """Return the value nearest in time; None if it lies more than :data:`NEAR` away."""
        place = bisect.bisect_left(self.times, time)
        near = [index for index in (place - 1, place) if 0 <= index < len(self.times)]
        best = min(near, key=lambda index: abs(self.times[index] - time), default=None)
        return None if best is None or abs(self.times[best] - time) > NEAR + 1e-9 else self.values[best]


def _present(folder: Path) -> bool:
    lists = find_text((*ASSOCIATIONS, "rgb.txt"), Folder(folder)) or any((folder / name).is_dir() for name in COLOUR)
    return bool(lists) and _truth_file(folder) is not None


def _truth_file(folder: Path) -> Path | None:
    named = find_text(GROUND_TRUTH, Folder(folder))
    return named[0] if named else next(iter(sorted(folder.glob("*.gt.freiburg"))), None)


def _read(root: Folder) -> Listing:
    truth = _truth_file(root.path)
    assert truth is not None  # as _present says
    mirrored = truth.name.endswith(".gt.freiburg") or ICL.search(root.path.resolve().name) is not None
    poses = _timed(truth, root, 8)
    pairs, unpaired = _pairs(root)
    camera, notes = _camera(root, mirrored)
    frames: list[tuple[str, FrameReader]] = [
        (name, partial(_read_frame, root, name, files, poses, truth, mirrored)) for name, files in pairs
    ]
    apart = f"has no depth within {1000 * NEAR:.0f} ms"
    frames += [(name, partial(Dropped, name, apart)) for name in unpaired]
    return Listing(root=root, frames=tuple(frames), camera=camera, shared=True, depth_scale=SCALE, notes=notes)


def _pairs(root: Folder) -> tuple[list[tuple[str, tuple[float, str, str]]], list[str]]:
    """Return the frames (time, colour and depth file) by name, and those without depth."""
    listed = find_text(ASSOCIATIONS, root)
    if listed is not None:
        rows = [row for row in read_rows(*listed) if root.reading.strict or len(row) >= ASSOCIATED]
        return [_association(row, listed[0]) for row in rows or read_rows(*listed)], []
    colour, depth = (_stream(root, names) for names in (COLOUR, DEPTH))
    matched = [(time, file[0], depth.nearest(time)) for time, file in zip(colour.times, colour.values, strict=True)]
    pairs = [(Path(file).stem, (time, file, other[0])) for time, file, other in matched if other is not None]
    return pairs, [Path(file).stem for _, file, other in matched if other is None]


def _association(row: Sequence[str], path: Path) -> tuple[str, tuple[float, str, str]]:
    """Read TIME FILE TIME FILE, in either order: depth is the one whose path says so."""
    if len(row) < ASSOCIATED:
        raise ValueError(f"load_frames: {path} has the line {' '.join(row)[:60]!r}, expected TIME FILE TIME FILE")
    swapped = "depth" in row[1].casefold() and "depth" not in row[3].casefold()
    (time, colour), depth = ((row[2], row[3]), row[1]) if swapped else ((row[0], row[1]), row[3])
    return Path(colour).stem, (_number(time, path), colour, depth)


def _stream(root: Folder, names: Sequence[str]) -> Timed:
    """List the images of a kind by time: from NAME.txt, or by the names of the files of the folder NAME."""
    listed = find_text([f"{name}.txt" for name in names], root)
    if listed is not None:
        return _timed(listed[0], root, 2)
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    paths = [] if folder is None else [path for path in folder.iterdir() if path.suffix.casefold() in IMAGES]
    stamped = sorted((float(path.stem), path) for path in paths if re.fullmatch(r"\d+(\.\d+)?", path.stem))
    if not stamped:
        raise FileNotFoundError(f"load_frames: {root} has neither {names[0]}.txt nor {names[0]}/TIME.png; {EXPECTED}")
    values = tuple((f"{path.parent.name}/{path.name}",) for _, path in stamped)
    return Timed(times=tuple(time for time, _ in stamped), values=values)


def _timed(path: Path, root: Folder, columns: int) -> Timed:
    """Read lines TIME VALUES; one that is cut off or begins with no time is left out unless reading is strict."""
    rows = read_rows(path, root)
    whole = [row for row in rows if len(row) >= columns and (root.reading.strict or _is_time(row[0]))]
    if not whole or (root.reading.strict and len(whole) < len(rows)):
        short = next((row for row in rows if row not in whole), [])
        if len(short) >= columns:
            _number(short[0], path)
        raise ValueError(f"load_frames: {path} has the line {' '.join(short)[:60]!r}, expected {columns} values a line")
    stamped = sorted((_number(row[0], path), tuple(row[1:columns])) for row in whole)
    return Timed(times=tuple(time for time, _ in stamped), values=tuple(values for _, values in stamped))


def _is_time(word: str) -> bool:
    try:
        return abs(float(word)) < LATEST
    except ValueError:
        return False


def _number(word: str, path: Path) -> float:
    if not _is_time(word):
        raise ValueError(f"load_frames: {path} has the time {word[:40]!r}, expected seconds")
    return float(word)


def _read_frame(
    root: Folder, name: str, files: tuple[float, str, str], poses: Timed, truth: Path, mirrored: bool
) -> Posed | Dropped:
    time, *named = files
    pose = poses.nearest(time)
    if pose is None:
        return Dropped(name, f"{truth.name} has no pose within {1000 * NEAR:.0f} ms")
    origin = f"load_frames: the pose of {name} in {truth}"
    try:
        numbers = [float(word) for word in pose]
    except ValueError:
        raise ValueError(f"{origin} is {' '.join(pose)[:60]!r}, expected tx ty tz qx qy qz qw") from None
    world_to_cam = _upright(from_quaternion(numbers, origin)) if mirrored else from_quaternion(numbers, origin)
    colour, depth = (_image(root, file, name) for file in named)
    return Posed(name=name, colour=colour, depth=depth, world_to_cam=world_to_cam)


def _upright(world_to_cam: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """Mirror world and camera in y: from a camera whose y goes up, of a left-handed world, to ours."""
    signs = torch.tensor([1.0, -1, 1, 1], dtype=world_to_cam.dtype)
    return signs[:, None] * world_to_cam * signs


def _image(root: Folder, named: str, name: str) -> Path:
    path = find_file(named, root.path)
    if path is None:
        raise FileNotFoundError(f"load_frames: frame {name} of {root} has no file {named}")
    return path


def _camera(root: Folder, mirrored: bool) -> tuple[Written, tuple[str, ...]]:
    """Return the camera of colour and depth, and what is to be said of it."""
    written = find_text(INTRINSICS, root)
    mirror = (f"the poses of {root} are mirrored in y, as ICL-NUIM needs",) if mirrored else ()
    if written is not None:
        return read_camera(*written), mirror
    name = SEQUENCE.search(root.path.resolve().name)
    sequence = "ICL-NUIM" if mirrored else f"freiburg{name.group(1)}" if name else "TUM"
    focal, centre, distortion = PUBLISHED[sequence]
    origin = f"load_frames: the published camera of {sequence}"
    camera = Written(focal=focal, centre=centre, size=(480, 640), origin=origin, distortion=distortion)
    unknown = "and its name no freiburg1, 2 or 3: the one camera that TUM's page gives for all sequences"
    taken = unknown if sequence == "TUM" else f": the published camera of {sequence}"
    numbers = f"{focal[0]:g} and {focal[1]:g} pixels, principal point {centre[0]:g}, {centre[1]:g} of 640 x 480"
    note = f"{root} has no {INTRINSICS[0]} {taken} is taken ({numbers})".replace(" :", ":")
    return from_first_centre(camera), (note, *mirror)


TUM_LAYOUT = Layout(expected=EXPECTED, present=_present, read=_read)
