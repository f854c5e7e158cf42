"""Real RGB-D recordings: colour images, 16-bit depth images, camera poses and intrinsics in text files.

Layouts, one a module: three files per frame by number (:mod:`.numbered`: 7-Scenes, 3DMatch, BundleFusion, ScanNet),
lists by time (:mod:`.timed`: TUM RGB-D, ICL-NUIM), Replica as NICE-SLAM ships it (:mod:`.replica`) and Stray Scanner
(:mod:`.stray`). A folder of several such folders, up to two levels down, has one recording each.

``rgbd:FOLDER`` takes colour as registered to depth, of the same camera, unless the files say otherwise;
``rgbd:FOLDER#525`` says that it is not, and that the colour camera's focal length is 525 pixels of the colour image,
its principal point at the depth camera's share of the image. The raw 7-Scenes release needs it. Where colour and depth
of a ScanNet-like folder have one size, the two are taken as registered and only the depth camera is read.

Colour of another camera is resampled into the depth camera, both taken to stand at one place and to look the same way
(ScanNet's extrinsics are the identity). What that leaves on the kitchen of 7-Scenes: SIFT matches of its raw colour
images (98 pairs, freed of outliers by their epipolar geometry alone) miss the place that depth and poses tell by these
pixels of 256, median and 90 % quantile: 5.9 and 16.1 at focal length 585 (depth's own), 3.2 and 8.8 at 545, 2.6 and 6.1
at 525, 2.4 and 6.4 at 505. Depth reprojected into a colour camera 2.5 cm to either side gives 2.4 and 5.9, or 2.8 and
6.5, at 525: the rest is not the baseline's.

Depths of 0 and 65535 are missing; others are divided by ``--depth-scale``, 1000 or the layout's own. Poses are
cam-to-world, in metres (or ``--unit``), with OpenCV axes. Intrinsics in a user's file are taken as written, for a first
pixel whose centre is (0.5, 0.5). A broken frame is left out and named in ``Frames.dropped``, or refused by
``--strict``. A frame that the data set does not have (its tracking was lost: ScanNet writes -inf; no depth or pose is
near in time) is left out by both. Where the frames' depths do not agree by the cameras but would at another scale, the
note says so (:mod:`.agreement`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from probe.scenes.choosing import Recordings
from probe.scenes.files import natural
from probe.scenes.formats.rgbd.agreement import join_notes, scale_note
from probe.scenes.formats.rgbd.frames import Frames, to_recording
from probe.scenes.formats.rgbd.listing import Layout, read_frames
from probe.scenes.formats.rgbd.numbered import SCANNET_LAYOUT, SEVEN_SCENES_LAYOUT
from probe.scenes.formats.rgbd.replica import REPLICA_LAYOUT
from probe.scenes.formats.rgbd.stray import STRAY_LAYOUT
from probe.scenes.formats.rgbd.timed import TUM_LAYOUT
from probe.scenes.reading import DEFAULT, Folder, Reading, inside, split_detail
from probe.scenes.recordings import Recording

__all__ = ["LAYOUTS", "Frames", "find_recordings", "load_frames", "to_recording"]

LAYOUTS = (SEVEN_SCENES_LAYOUT, STRAY_LAYOUT, REPLICA_LAYOUT, SCANNET_LAYOUT, TUM_LAYOUT)
"""In the order in which they are looked for."""
EXPECTED = "expected " + ", or ".join(layout.expected for layout in LAYOUTS)
DEEP = 2  # levels below the folder named on which recordings are looked for
TRIED = 3  # recordings of several of which the first that opens tells what is to be said of them
OPENED = 4  # recordings whose frames are kept in memory


def load_frames(path: Path, *, colour_focal: float | None = None, reading: Reading = DEFAULT) -> Frames:
    """Find a recording's frames and read their poses, intrinsics and sizes, but no pixels.

    Args:
        path: A folder in one of the layouts.
        colour_focal: Focal length of the colour camera, in pixels of the colour image; None: colour is registered to
            depth, or its camera is written in the folder.
        reading: How its files are read.

    Raises:
        FileNotFoundError: If the folder, its frames or the intrinsics are missing.
        ValueError: If no frame can be read; if the cameras are broken, the focal length is not positive, or colour sees
            less than half of what depth does. If a frame is missing or broken and reading is strict.
    """
    root = Folder(Path(path), reading)
    layout = _layout(root.path)
    if layout is None:
        kind = "holds no frames" if root.path.is_dir() else "is not a folder"
        raise FileNotFoundError(f"load_frames: {root} {kind}; {EXPECTED}")
    return read_frames(layout.read(root), colour_focal)


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the recordings of a folder; ``path`` may end in ``#FOCAL``, the colour camera's focal length in pixels.

    Raises:
        FileNotFoundError: If the folder holds no frames, neither itself nor in the folders below.
        ValueError: If FOCAL is no positive number; if the one recording cannot be opened.
    """
    folder, focal_text = split_detail(path)
    colour_focal = _read_focal(focal_text, folder) if focal_text else None
    places = {folder.resolve().name: folder} if _layout(folder) else dict(_below(folder, folder, DEEP))
    if not places:
        load_frames(folder, reading=reading)  # says what was expected
    names = tuple(sorted(places, key=natural))

    @lru_cache(maxsize=OPENED)
    def frames_of(name: str) -> Frames:
        inside(places[name], Folder(folder, reading))
        return load_frames(places[name], colour_focal=colour_focal, reading=reading)

    def open_one(name: str) -> Recording:
        return replace(to_recording(frames_of(name)), name=name)

    note = _note(frames_of(names[0])) if len(names) == 1 else _first_note(frames_of, names[:TRIED])
    return Recordings(root=folder, names=names, open=open_one, note=note)


def _layout(folder: Path) -> Layout | None:
    if not folder.is_dir():
        return None
    return next((layout for layout in LAYOUTS if layout.present(folder)), None)


def _below(folder: Path, root: Path, levels: int) -> Iterator[tuple[str, Path]]:
    """Find the recordings below a folder, by their paths from the root."""
    for inner in sorted(folder.iterdir()) if folder.is_dir() and levels else ():
        if inner.is_dir() and not inner.name.startswith("."):
            if _layout(inner):
                yield inner.relative_to(root).as_posix(), inner
            else:
                yield from _below(inner, root, levels - 1)


def _note(frames: Frames) -> str:
    warning = scale_note(str(frames.root), to_recording(frames), frames.depth_scale)
    return join_notes((warning, *frames.notes))


def _first_note(frames_of: Callable[[str], Frames], names: Sequence[str]) -> str:
    """Return what is to be said of the first recording that opens; the others are told when they are drawn from."""
    for name in names:
        try:
            return _note(frames_of(name))
        except (ValueError, OSError):
            continue
    return ""


def _read_focal(text: str, folder: Path) -> float:
    try:
        focal = float(text)
    except ValueError:
        focal = math.nan
    if not 0 < focal < math.inf:
        raise ValueError(f"rgbd: {folder}#{text} names no focal length of the colour camera, expected pixels: #525")
    return focal
