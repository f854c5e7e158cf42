"""What ``--scenes`` accepts: names with their code, importable without PyTorch."""

from collections import ChainMap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from probe.registry import Choice

Difficulty = Literal["plain", "cluttered", "repetitive", "textureless", "fine"]
"""Of procedural scenes: ``shapes:DIFFICULTY``, ``shapes-v1:DIFFICULTY``."""

DATA_SETS: dict[str, Callable[..., Any]] = {
    "rgbd": Choice(
        "probe.scenes.formats.rgbd:find_recordings",
        "colour, 16-bit depth, poses: 7-Scenes, ScanNet, TUM, Replica, your own",
    ),
    "re10k": Choice("probe.scenes.formats.re10k:find_recordings", "RealEstate10K: posed video frames without depth"),
    "co3d": Choice("probe.scenes.formats.co3d:find_recordings", "CO3Dv2: objects filmed around, with depth"),
    "nerfstudio": Choice("probe.scenes.formats.nerfstudio:find_recordings", "transforms.json, with or without depth"),
    "dl3dv": Choice("probe.scenes.formats.nerfstudio:find_recordings", "DL3DV-10K: posed frames without depth"),
    "colmap": Choice("probe.scenes.formats.colmap:find_recordings", "COLMAP reconstructions, sparse or dense"),
    "photos": Choice("probe.scenes.formats.photos:find_recordings", "plain photographs, reconstructed first"),
    "navi": Choice("probe.scenes.formats.navi:find_recordings", "NAVI: photographed objects, with depth"),
    "dtu": Choice("probe.scenes.formats.dtu:find_recordings", "DTU and others as MVSNet or IDR lay them out"),
    "llff": Choice("probe.scenes.formats.llff:find_recordings", "LLFF: photos from the front, poses_bounds.npy"),
    "scannet": Choice("probe.scenes.formats.scannet:find_recordings", "ScanNet: rooms scanned with depth"),
}
"""Data sets of real scenes: from a folder to its recordings (:class:`probe.scenes.choosing.Recordings`)."""

GENERATED: dict[str, Callable[..., Any]] = {
    "shapes": Choice("probe.scenes.opening:open_shapes", "procedural rooms with exact truth; needs no folder"),
    "shapes-v1": Choice("probe.scenes.opening:open_shapes_v1", "their first version, with finer textures"),
}
"""Scenes made here: from what follows the name, and a request, to the scenes."""

VIDEOS: dict[str, Callable[..., Any]] = {
    "tracks": Choice("probe.scenes.opening:open_tracks", "videos with point tracks as .npz files; no cameras"),
}
"""Videos without cameras: from a file or folder, and a request, to the scenes."""

SCENES: Mapping[str, Callable[..., Any]] = ChainMap(VIDEOS, DATA_SETS, GENERATED)  # lists GENERATED first
"""All that ``--scenes`` accepts; what is added to :data:`DATA_SETS` is in it."""

MARKS: dict[str, tuple[str, ...]] = {
    "nerfstudio": ("transforms.json", "transforms_train.json", "keyframes", "metadata"),
    "colmap": ("sparse/0", "sparse/cameras.*", "colmap_sparse", "colmap_text", "sfm", "cameras.bin", "cameras.txt"),
    "llff": ("poses_bounds.npy",),
    "rgbd": ("*.color.*", "seq-*", "rgb.txt", "associations.txt", "traj.txt", "odometry.csv", "intrinsic"),
    "co3d": ("frame_annotations.jgz", "*/frame_annotations.jgz"),
    "navi": ("*/annotations.json", "annotations.json"),
    "dtu": ("Rectified", "cams", "*/cams", "cameras.npz", "*/cameras.npz", "cameras_sphere.npz"),
    "re10k": ("*.torch", "train/*.torch", "test/*.torch"),
}
"""Data sets, and files or folders that show that a folder is one, as patterns."""
PHOTOS = tuple(f"{place}*.{ending}" for place in ("", "images/") for ending in ("jpg", "jpeg", "png", "JPG"))
"""Show that a folder holds photos; what has other marks may hold them too."""


def kinds_of(folder: Path) -> dict[str, str]:
    """Return which data sets a folder looks like, each with the file or folder that shows it.

    Args:
        folder: May not exist.
    """
    try:
        seen = {name: _first(folder, patterns) for name, patterns in MARKS.items()}
        kinds = {name: mark for name, mark in seen.items() if mark}
        photo = "" if kinds else _first(folder, PHOTOS)
    except (OSError, ValueError):  # a name that is too long, a folder that may not be read
        return {}
    return {"photos": photo} if photo else kinds


def _first(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return the first entry of a folder that fits a pattern, below the folder; nothing if none does."""
    paths = (path for pattern in patterns for path in folder.glob(pattern))
    return next((path.relative_to(folder).as_posix() for path in paths), "")


def suggestion(spec: str) -> str:
    """Return what to write instead of scenes that cannot be opened, by what their folder holds; nothing if unknown.

    Args:
        spec: As on the command line: NAME:FOLDER, or a folder alone.
    """
    name, _, root = spec.partition(":")
    if root and name.casefold() in SCENES and name not in SCENES:
        return f"did you mean {name.casefold()}:{root}?"
    folder = Path(root or spec).expanduser()
    kinds = {kind: mark for kind, mark in kinds_of(folder).items() if kind != name}
    told = " or ".join(f"{kind}:{folder} (it holds {mark})" for kind, mark in kinds.items())
    return f"did you mean {told}?" if told else ""
