"""ScanNet's 1500 test pairs, of SuperGlue and LoFTR: ``test.npz``, ``intrinsics.npz`` and few frames of each scene.

The folder (``scannet_test_1500``) holds ``scene0707_00/{color/15.jpg,depth/15.png,pose/15.txt}``. Depth is in
millimetres, 0 where it is missing; poses are camera-to-world with OpenCV axes, in metres. ``intrinsics.npz`` has a
matrix per scene for 640 x 480 pixels, which colour, of another size, is resampled to: the two are taken as registered,
as the evaluation takes them. A frame whose tracking was lost (infinite pose) is dropped; one whose pose or images are
missing or broken is left out and counted, or refused by ``--strict``. The view list ``scannet-1500-v1`` takes the pairs
of ``test.npz`` (or of another file) in order.

Source:
    LoFTR and probe3d, evals/datasets/scannet_pairs.py (docs/references.md, "ScanNet").
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_cam_to_world, pinhole
from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import natural, numbers, read_arrays, read_matrix, read_rgb, read_sixteen
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, find_file, inside, read_all
from probe.scenes.recordings import Recording
from probe.views import resample

PAIRS = "scannet-1500-v1"
SIZE = (480, 640)
LOST = "tracking was lost: its pose is infinite"
IMAGE_KINDS = (("color", ".jpg"), ("depth", ".png"))
EXPECTED = "expected intrinsics.npz, test.npz and scene0707_00/{color/15.jpg,depth/15.png,pose/15.txt}"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame's files and camera."""

    name: str
    colour: Path
    depth: Path
    world_to_cam: Float[Tensor, "4 4"]


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the scenes that lie in a folder.

    Raises:
        FileNotFoundError: If it is no such folder.
        ValueError: If ``intrinsics.npz`` is broken.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"scannet: {root} is not a folder; {EXPECTED}")
    names = sorted((path.name for path in root.path.glob("scene*_*") if (path / "pose").is_dir()), key=natural)
    if not names:
        raise FileNotFoundError(f"scannet: {root} holds no scenes; {EXPECTED}")
    matrices = read_arrays(root / "intrinsics.npz", root)
    return Recordings(
        root=root.path,
        names=tuple(names),
        open=lambda name: load_recording(root, name, matrices),
        lists={PAIRS: partial(_read_pairs, root)},
    )


def load_recording(root: Folder, name: str, matrices: dict[str, np.ndarray]) -> Recording:
    """Read a scene's cameras and find its files, without reading pixels.

    Args:
        root: The data set's folder.
        name: Of the scene.
        matrices: Intrinsics by scene, for 640 x 480 pixels.

    Raises:
        FileNotFoundError: If no frame is whole; if a file is missing and reading is strict.
        ValueError: If no frame is whole or its intrinsics are broken; if a file is and reading is strict.
    """
    folder = root / name
    frames = sorted((path.stem for path in (folder / "pose").glob("[!.]*.txt")), key=natural)
    read, broken = read_all([(frame, partial(_read_frame, root, folder, frame)) for frame in frames], root, str(folder))
    kept = [frame for frame in read if not isinstance(frame, Dropped)]
    if not kept:
        raise ValueError(f"scannet: tracking was lost in all {len(read)} frames of {folder}; none is left")
    intrinsics = _intrinsics(matrices, name, root / "intrinsics.npz")
    return Recording(
        name=name,
        names=tuple(frame.name for frame in kept),
        sizes=(SIZE,) * len(kept),
        world_to_cam=torch.stack([frame.world_to_cam for frame in kept]),
        intrinsics=intrinsics.expand(len(kept), 3, 3),
        colour=lambda index: resample(read_rgb(kept[index].colour, root)[None], *SIZE)[0],
        depth=lambda index: _read_depth(kept[index].depth, root),
        unit="m",
        dropped=(*(frame for frame in read if isinstance(frame, Dropped)), *broken),
    )


def _read_frame(root: Folder, folder: Path, name: str) -> Frame | Dropped:
    """Find a frame's files and read its pose, unless tracking was lost."""
    path = folder / "pose" / f"{name}.txt"
    cam_to_world = numbers(read_matrix(path, root).tolist(), (4, 4), f"scannet: {path}")
    if cam_to_world.isinf().any():
        return Dropped(name, LOST)
    colour, depth = (_image(root, folder / kind, f"{name}{suffix}") for kind, suffix in IMAGE_KINDS)
    return Frame(
        name=name, colour=colour, depth=depth, world_to_cam=from_cam_to_world(cam_to_world, f"scannet: {path}")
    )


def _image(root: Folder, folder: Path, named: str) -> Path:
    path = find_file(named, folder)
    inside(folder / named if path is None else path, root)
    return folder / named if path is None else path


def _intrinsics(matrices: dict[str, np.ndarray], name: str, path: Path) -> Float[Tensor, "3 3"]:
    if name not in matrices:
        raise ValueError(f"scannet: {path} has no {name} among its {len(matrices)} scenes")
    matrix = numbers(matrices[name].tolist(), (3, 3), f"{name} of {path}")
    fx, fy, cx, cy = (float(matrix[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return pinhole((fx, fy), (cx, cy), SIZE, f"{name} of {path}")


def _read_pairs(root: Folder, file: Path | None) -> ViewList:
    path = file or root / "test.npz"
    arrays = read_arrays(path, Folder(path.parent))
    rows = arrays.get("name", np.zeros(0))
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iu":
        raise ValueError(f"scannet: 'name' of {path} is {rows.dtype} {rows.shape}, expected whole numbers (pairs, 4)")
    scenes = tuple(
        Scene(recording=f"scene{room:04d}_{part:02d}", frames=(str(first), str(second)), overlap=(float("nan"),))
        for room, part, first, second in rows.tolist()
    )
    return ViewList(protocol=PAIRS, scenes=scenes)


def _read_depth(path: Path, root: Folder) -> Float[Tensor, "height width"]:
    scale = root.reading.depth_scale or 1000
    return torch.from_numpy(read_sixteen(path, root).astype(np.float32)) / scale
