"""CO3D as DUSt3R prepares it: smaller images with a camera file each.

``CATEGORY/SEQUENCE/images/frame000001.{jpg,npz}``, ``depths/frame000001.jpg.geometric.png`` and, in the folder of the
categories, ``selected_seqs_SPLIT.json``. Depth is a 16-bit part of the file's ``maximum_depth``; poses are camera to
world with OpenCV axes. Frames that cannot be read are left out.

Source:
    naver/dust3r, datasets_preprocess/preprocess_co3d.py (docs/references.md, "CO3D").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_cam_to_world, pinhole
from probe.scenes.choosing import Recordings
from probe.scenes.files import image_size, natural, numbers, read_arrays, read_json, read_rgb, read_sixteen, take
from probe.scenes.reading import Folder, inside, read_all
from probe.scenes.recordings import Recording

LISTS = "selected_seqs_*.json"
DEPTH_BITS = 65535


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One frame's files, (height, width) and camera."""

    image: Path
    depth: Path
    scale: float
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]


def lists_of(folder: Path) -> list[Path]:
    """Return the lists of a folder's sequences, one for each split."""
    return sorted(folder.glob(LISTS))


def find_recordings(root: Folder, split: str) -> Recordings:
    """Find the sequences of a split, or of all (empty).

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a list is broken.
    """
    lists = lists_of(root.path) if not split else [root / f"selected_seqs_{split}.json"]
    numbers_of: dict[str, list[int]] = {}
    for path in lists:
        for category, sequences in _entries(read_json(path, root), path):
            for sequence, frames in _entries(sequences, path):
                listed = take({sequence: frames}, sequence, list, str(path))
                numbers_of[f"{category}/{sequence}"] = (
                    numbers(listed, (len(listed),), f"{sequence} of {path}").long().tolist()
                )
    if not numbers_of:
        raise FileNotFoundError(f"co3d: {', '.join(path.name for path in lists)} of {root} name no sequences")
    return Recordings(
        root=root.path,
        names=tuple(sorted(numbers_of, key=natural)),
        open=lambda name: _load(root, name, numbers_of[name]),
    )


def _entries(record: Any, path: Path) -> list[tuple[str, Any]]:
    if not isinstance(record, dict):
        raise ValueError(f"co3d: {path} holds {str(record)[:40]!r}, expected {{category: {{sequence: [frames]}}}}")
    return list(record.items())


def _load(root: Folder, sequence: str, frames: list[int]) -> Recording:
    stems = [f"frame{number:06d}" for number in sorted(frames)]
    files, dropped = read_all(((stem, partial(_posed, root, sequence, stem)) for stem in stems), root, sequence)
    if not files:
        raise ValueError(f"co3d: {sequence} of {root} names no frames")
    return Recording(
        name=sequence,
        names=tuple(file.image.stem for file in files),
        sizes=tuple(file.size for file in files),
        world_to_cam=torch.stack([file.world_to_cam for file in files]),
        intrinsics=torch.stack([file.intrinsics for file in files]),
        colour=lambda index: read_rgb(files[index].image, root),
        depth=partial(_read_depth, root, files),
        dropped=dropped,
    )


def _posed(root: Folder, sequence: str, stem: str) -> Posed:
    image = root / sequence / "images" / f"{stem}.jpg"
    depth = root / sequence / "depths" / f"{stem}.jpg.geometric.png"
    inside(depth, root)
    size, metadata = image_size(image, root), _metadata(image.with_suffix(".npz"), root)
    matrix, origin = metadata["camera_intrinsics"], f"camera_intrinsics of {sequence}/{stem}"
    fx, fy, cx, cy = (float(matrix[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Posed(
        image=image,
        depth=depth,
        scale=float(metadata["maximum_depth"]) / DEPTH_BITS,
        size=size,
        world_to_cam=from_cam_to_world(metadata["camera_pose"], f"camera_pose of {sequence}/{stem}"),
        intrinsics=pinhole((fx, fy), (cx, cy), size, origin),
    )


def _read_depth(root: Folder, files: Sequence[Posed], index: int) -> Float[Tensor, "height width"]:
    return torch.from_numpy(read_sixteen(files[index].depth, root).astype(np.float32)) * files[index].scale


def _metadata(path: Path, root: Folder) -> dict[str, Tensor]:
    shapes = {"camera_pose": (4, 4), "camera_intrinsics": (3, 3), "maximum_depth": ()}
    arrays = read_arrays(path, root)
    if not set(shapes) <= set(arrays):
        raise ValueError(f"co3d: {path} is not a whole .npz of {', '.join(shapes)}: it holds {', '.join(arrays)}")
    return {key: numbers(arrays[key].tolist(), shape, f"{key} of {path}") for key, shape in shapes.items()}
