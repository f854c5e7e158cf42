"""What ``--scenes`` accepts: names with their code, importable without PyTorch."""

from collections import ChainMap
from collections.abc import Callable, Mapping
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

SCENES: Mapping[str, Callable[..., Any]] = ChainMap(DATA_SETS, VIDEOS, GENERATED)  # lists GENERATED first
"""All that ``--scenes`` accepts; what is added to :data:`DATA_SETS` is in it."""
