"""Layouts with three files per frame, found by its number: 7-Scenes, 3DMatch, BundleFusion and ScanNet.

7-Scenes: ``frame-000000.color.png``, ``.depth.png`` and ``.pose.txt`` with one ``camera-intrinsics.txt``, the depth
camera's (3DMatch writes it in the folder above). The raw release has none; its published depth camera is taken then.
BundleFusion names frames alike and writes ``info.txt`` (or ``_info.txt``) with the cameras and ``m_depthShift``.
ScanNet: ``color/0.jpg``, ``depth/0.png``, ``pose/0.txt`` and ``intrinsic/intrinsic_depth.txt``; numbers may be padded
differently, folders called ``rgb``, ``poses``, ``intrinsics``.

Source:
    docs/references.md, "RGB-D recordings".
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from probe.scenes.cameras import from_cam_to_world
from probe.scenes.files import read_matrix, read_text
from probe.scenes.formats.rgbd.frames import by
from probe.scenes.formats.rgbd.listing import FrameReader, Layout, Listing, Posed, both_kept
from probe.scenes.formats.rgbd.written import Written, find_text, from_matrix, read_camera
from probe.scenes.reading import IMAGES, Dropped, Folder

LOST = "tracking was lost: its pose is infinite"
FRAME = re.compile(r"frame-(\d+)\.(color|depth|pose)(\.[a-z]+)", re.ASCII)
NUMBER = re.compile(r"(\d+)(\.[a-z]+)", re.ASCII)
SUFFIXES = {"colour": IMAGES, "depth": IMAGES, "pose": (".txt",)}
FOLDERS = {"colour": ("color", "colour", "rgb"), "depth": ("depth",), "pose": ("pose", "poses")}
INTRINSICS = ("camera-intrinsics.txt", "camera_intrinsics.txt", "intrinsics.txt")
INFO = ("info.txt", "_info.txt")
SEVEN_SCENES = Written(
    focal=(585.0, 585.0), centre=(320.0, 240.0), size=(480, 640), origin="load_frames: 7-Scenes' published depth camera"
)
"""Of the data set's page, which gives focal length and principal point of the depth camera."""
EXPECTED_SEVEN = "frame-000000.color.jpg, frame-000000.depth.png, frame-000000.pose.txt, ... and camera-intrinsics.txt"
EXPECTED_SCANNET = "color/0.jpg, depth/0.png, pose/0.txt, ... and intrinsic/intrinsic_depth.txt"

Files = Mapping[str, Mapping[int, Sequence[tuple[str, Path]]]]
"""By kind (colour, depth, pose) and number: a frame's files, each with the number as written."""


# --- 7-Scenes, 3DMatch, BundleFusion -------------------------------------------------------------------------


def _seven_scenes(folder: Path) -> bool:
    return any(FRAME.fullmatch(path.name.casefold()) for path in folder.iterdir())


def _read_seven_scenes(root: Folder) -> Listing:
    files = _files(_named_frames(root.path))
    info = find_text(INFO, root)
    if info is not None:
        return _read_info(root, files, info[0])
    written = find_text(INTRINSICS, root, beside=True)
    camera = SEVEN_SCENES if written is None else read_camera(*written)
    published = (
        f"{root} has no {INTRINSICS[0]}: the depth camera that 7-Scenes publishes is taken "
        "(585 pixels, principal point 320, 240 of 640 x 480)"
    )
    both, frames = _readers(root, files, _of_seven_scenes, loses_tracking=False)
    return Listing(root=root, frames=frames, camera=camera, notes=(*(() if written else (published,)), *both))


def _of_seven_scenes(kind: str, name: str) -> str:
    return {
        "colour": f"frame-{name}.color.jpg",
        "depth": f"frame-{name}.depth.png",
        "pose": f"frame-{name}.pose.txt",
    }[kind]


def _named_frames(folder: Path) -> Iterator[tuple[str, str, Path]]:
    for path in folder.iterdir():
        match = FRAME.fullmatch(path.name.casefold())
        kind = match.group(2).replace("color", "colour") if match else ""
        if match and match.group(3) in SUFFIXES[kind]:
            yield kind, match.group(1), path


def _read_info(root: Folder, files: Files, path: Path) -> Listing:
    """Read BundleFusion's cameras: lines NAME = NUMBERS."""
    lines = (line.partition("=") for line in read_text(path, root).splitlines())
    values = {name.strip(): rest.split() for name, _, rest in lines}
    origin = f"load_frames: {path}"
    depth, colour = (_info_camera(values, kind, origin) for kind in ("Depth", "Color"))
    both, frames = _readers(root, files, _of_seven_scenes, loses_tracking=True)
    scale = _info_number(values, "m_depthShift", origin) if "m_depthShift" in values else 1000.0
    return Listing(
        root=root, frames=frames, camera=depth, colour=lambda: colour, depth_scale=scale, notes=both
    )  # fmt: skip


def _info_camera(values: Mapping[str, Sequence[str]], kind: str, origin: str) -> Written:
    name = f"m_calibration{kind}Intrinsic"
    try:
        matrix = torch.tensor([[float(word) for word in values.get(name, ())]], dtype=torch.float64)
    except ValueError:
        raise ValueError(f"{origin} has {name} = {' '.join(values[name])[:60]!r}, expected 16 numbers") from None
    size = tuple(int(_info_number(values, f"m_{kind.lower()}{side}", origin)) for side in ("Height", "Width"))
    camera = from_matrix(matrix, f"{name} of {origin}")
    return Written(focal=camera.focal, centre=camera.centre, size=(size[0], size[1]), origin=f"{name} of {origin}")


def _info_number(values: Mapping[str, Sequence[str]], name: str, origin: str) -> float:
    try:
        (word,) = values.get(name, ())
        number = float(word)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise ValueError(f"{origin} has {name} = {' '.join(values.get(name, ()))[:60]!r}, expected a positive number")
    return number


# --- ScanNet ---------------------------------------------------------------------------------------------------------


def _scannet(folder: Path) -> bool:
    return all(_folder(folder, kind) is not None for kind in ("colour", "depth", "pose"))


def _folder(folder: Path, kind: str) -> Path | None:
    """Return the folder of a kind, if it holds such files by number."""
    candidates = (folder / name for name in FOLDERS[kind])
    return next((one for one in candidates if one.is_dir() and any(_numbered(one, kind))), None)


def _numbered(folder: Path, kind: str) -> Iterator[tuple[str, str, Path]]:
    for path in folder.iterdir():
        match = NUMBER.fullmatch(path.name.casefold())
        if match and match.group(2) in SUFFIXES[kind]:
            yield kind, match.group(1), path


def _read_scannet(root: Folder) -> Listing:
    folders = {kind: folder for kind in FOLDERS if (folder := _folder(root.path, kind)) is not None}
    files = _files(one for kind, folder in folders.items() for one in _numbered(folder, kind))
    both, frames = _readers(root, files, partial(_of_scannet, folders), loses_tracking=True)
    return Listing(
        root=root,
        frames=frames,
        camera=_scannet_camera(root, "depth"),
        colour=partial(_scannet_camera, root, "color"),
        notes=both,
    )


def _of_scannet(folders: Mapping[str, Path], kind: str, name: str) -> str:
    return f"{folders[kind].name}/{name}{ {'colour': '.jpg', 'depth': '.png', 'pose': '.txt'}[kind] }"


def _scannet_camera(root: Folder, kind: str) -> Written:
    names = [f"{folder}intrinsic_{kind}.txt" for folder in ("intrinsic/", "intrinsics/", "")]
    written = find_text([*names, f"intrinsics_{kind}.txt"], root)
    if written is None:
        raise FileNotFoundError(f"load_frames: intrinsics {root / names[0]} are missing; expected {EXPECTED_SCANNET}")
    return read_camera(*written)


# --- frames ----------------------------------------------------------------------------------------------------------


def _files(found: Iterator[tuple[str, str, Path]]) -> Files:
    files: dict[str, dict[int, list[tuple[str, Path]]]] = {kind: {} for kind in SUFFIXES}
    for kind, name, path in sorted(found, key=lambda one: one[2].name):
        files[kind].setdefault(int(name), []).append((name, path))
    return files


def _readers(
    root: Folder, files: Files, expected: Callable[[str, str], str], *, loses_tracking: bool
) -> tuple[tuple[str, ...], tuple[tuple[str, FrameReader], ...]]:
    """Return what is to be said of double files, and the frames in order of their numbers."""
    numbers = sorted({number for kind in files.values() for number in kind})
    names = {number: next(kind[number][0][0] for kind in files.values() if number in kind) for number in numbers}
    frames = tuple(
        (names[number], partial(_read_frame, root, files, number, names[number], expected, loses_tracking))
        for number in numbers
    )
    double = sum(len(paths) > 1 for paths in files["colour"].values())
    note = f"{double} frames of {root} have colour images of several kinds: the .png is taken, else the first by name"
    return ((note,) if double else ()), frames


def _read_frame(
    root: Folder, files: Files, number: int, name: str, expected: Callable[[str, str], str], loses_tracking: bool
) -> Posed | Dropped:
    one = {kind: _one_file(root, files, kind, number, name, expected) for kind in SUFFIXES}
    cam_to_world = read_matrix(one["pose"], root)
    lost = bool(cam_to_world.isinf().any() and not cam_to_world.isnan().any())
    if loses_tracking and lost and len(cam_to_world) == 4:
        return Dropped(name, LOST)
    if tuple(cam_to_world.shape) == (1, 16):
        cam_to_world = cam_to_world.reshape(4, 4)
    if tuple(cam_to_world.shape) != (4, 4):
        raise ValueError(f"load_frames: {one['pose']} is a {by(cam_to_world.shape)} matrix, expected a 4 x 4 pose")
    world_to_cam = from_cam_to_world(cam_to_world, f"load_frames: {one['pose']}")
    return Posed(name=name, colour=one["colour"], depth=one["depth"], world_to_cam=world_to_cam)


def _one_file(
    root: Folder, files: Files, kind: str, number: int, name: str, expected: Callable[[str, str], str]
) -> Path:
    paths = [path for _, path in files[kind].get(number, ())]
    if not paths:
        raise FileNotFoundError(
            f"load_frames: frame {name} of {root} has no {kind} file; expected {expected(kind, name)}"
        )
    if len(paths) > 1 and (kind != "colour" or root.reading.strict):
        raise ValueError(both_kept(paths, name))
    return next((path for path in paths if path.suffix.casefold() == ".png"), paths[0])


SEVEN_SCENES_LAYOUT = Layout(expected=EXPECTED_SEVEN, present=_seven_scenes, read=_read_seven_scenes)
SCANNET_LAYOUT = Layout(expected=EXPECTED_SCANNET, present=_scannet, read=_read_scannet)
