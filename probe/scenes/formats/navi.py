"""NAVI: photos of scanned objects, with cameras and depth of the aligned scan. Versions 1.0 and 1.5.

``navi:ROOT`` takes the multiview scenes, ``OBJECT/multiview-00-CAMERA`` (``multiview_00_CAMERA`` in version 1.0), in
which the object stands still; ``navi:ROOT#video`` the video scenes; ``navi:ROOT#wild_set`` photos of one object in
different places, whose background is never the same. Each holds ``annotations.json``, ``images/000.jpg`` and
``depth/000.png``. The world is the object's frame; a camera has a quaternion (w, x, y, z) and a translation in
millimetres, which become metres. The principal point is (width // 2, height // 2) of the upright image: EXIF says how
a stored one is turned. Depth files hold 655350 / (depth in millimetres), 0 off the object. What hides the object
(``occluded``) is not in the depth; such frames are kept, as in the published protocols. Frames that cannot be read are
left out.

A view is the smallest square around the object, inside the largest centred square (probe3d cuts the same, after
resizing). The view list ``navi-multiview-v1`` takes NAVI's own pairs, of the folder's
``custom_splits/pairwise_pixel_correspondences/pairs-multiview.txt`` or another file of its kind. ``navi-probe3d-v1``
(with ``#wild_set``) follows the test pairs of probe3d: for each image one partner of the same set, 0 to 120 degrees
away, by seed 8; then every fourth. Images are taken in the order of their names; probe3d's order is that of the disk,
so its own figures rest on other pairs.

Source:
    google/navi, README.md and data_util.py; mbanani/probe3d, evals/datasets/navi.py (docs/references.md, "NAVI").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import decode_rgb, natural, numbers, open_image, read_json, read_sixteen, take, upright
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import DEFAULT, Folder, Reading, inside, read_all, split_detail
from probe.scenes.recordings import Recording, Window

SETS = ("multiview", "video", "wild_set")
ANNOTATIONS = "annotations.json"
EXPECTED = "expected OBJECT/multiview-00-CAMERA/annotations.json with images/ and depth/"
DISPARITY = 655.35  # depth in metres times the file's value
OWN_PAIRS = "navi-multiview-v1"
OWN_FILE = "custom_splits/pairwise_pixel_correspondences/pairs-multiview.txt"
PROBE3D = "navi-probe3d-v1"
SEED, MOST_DEGREES, EVERY = 8, 120.0, 4


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, upright (height, width), camera and the square around the object."""

    image: Path
    depth: Path
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    window: Window


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the scenes of one kind; ``root`` may end in ``#SET``, one of :data:`SETS`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the kind is unknown.
    """
    name, chosen = split_detail(path)
    folder, kind = Folder(name, reading), chosen or SETS[0]
    if kind not in SETS:
        raise ValueError(f"navi: {kind!r} is no kind of scene; choose {' or '.join(f'ROOT#{one}' for one in SETS)}")
    if not folder.path.is_dir():
        raise FileNotFoundError(f"navi: {folder} is not a folder; {EXPECTED}")
    scenes = _scenes(folder, kind)
    if not scenes:
        raise FileNotFoundError(f"navi: {folder} holds no {kind} scenes; {EXPECTED}")
    lists = {
        "multiview": {OWN_PAIRS: partial(_own_pairs, folder)},
        "video": {},
        "wild_set": {PROBE3D: partial(_probe3d_pairs, folder)},
    }
    return Recordings(
        root=folder.path, names=tuple(scenes), open=lambda scene: load_recording(folder, scene), lists=lists[kind]
    )


def _scenes(root: Folder, kind: str) -> list[str]:
    found = (path.parent for path in root.path.glob(f"*/{kind}*/{ANNOTATIONS}"))
    scenes = [folder.relative_to(root.path).as_posix() for folder in found if not is_hidden(folder.parent)]
    return sorted(scenes, key=natural)


def load_recording(root: Folder, scene: str) -> Recording:
    """Read a scene's cameras, and where each depth map shows the object.

    Args:
        root: The data set's folder.
        scene: OBJECT/SCENE.

    Raises:
        FileNotFoundError, ValueError: If the annotations are broken or no frame can be read; of the first frame, if
            reading is strict.
    """
    records = _annotations(root, scene)
    frames, dropped = read_all(
        (
            (Path(record["filename"]).stem, partial(_frame, root / scene, record, root, origin))
            for origin, record in records.items()
        ),
        root,
        scene,
    )
    return Recording(
        name=scene,
        names=tuple(frame.image.stem for frame in frames),
        sizes=tuple(frame.size for frame in frames),
        world_to_cam=torch.stack([frame.world_to_cam for frame in frames]),
        intrinsics=torch.stack([frame.intrinsics for frame in frames]),
        colour=partial(_read_colour, frames, root),
        depth=partial(_read_depth, frames, root),
        windows=tuple(frame.window for frame in frames),
        unit="m",
        dropped=dropped,
    )


# --- annotations -----------------------------------------------------------------------------------------------------


def _annotations(root: Folder, scene: str) -> dict[str, dict[str, Any]]:
    """Return a scene's annotations, in the order of their files, by what an error calls them."""
    path = root / scene / ANNOTATIONS
    listed = take({"images": read_json(path, root)}, "images", list, str(path))
    files = {str(take(one, "filename", str, f"image {place} of {path}")): one for place, one in enumerate(listed)}
    if len(files) != len(listed) or not files:
        raise ValueError(f"{path} names {len(listed)} images, {len(files)} of them different; expected each image once")
    return {f"{name} of {path}": files[name] for name in sorted(files, key=natural)}


def _size(record: dict[str, Any], origin: str) -> tuple[int, int]:
    height, width = numbers(take(record, "image_size", list, origin), (2,), f"image_size of {origin}").long().tolist()
    return height, width


def _frame(folder: Path, record: dict[str, Any], root: Folder, origin: str) -> Frame:
    name, size = Path(record["filename"]), _size(record, origin)
    image, depth = folder / "images" / name, folder / "depth" / name.with_suffix(".png")
    camera, intrinsics = _camera(record, origin), _intrinsics(record, origin)
    inside(image, root)
    window = _object_window(_read_values(depth, size, root) > 0)
    return Frame(image=image, depth=depth, size=size, world_to_cam=camera, intrinsics=intrinsics, window=window)


def _camera(record: dict[str, Any], origin: str) -> Float[Tensor, "4 4"]:
    camera = take(record, "camera", dict, origin)
    w, x, y, z = numbers(take(camera, "q", list, origin), (4,), f"q of {origin}").tolist()
    shift = numbers(take(camera, "t", list, origin), (3,), f"t of {origin}") / 1000
    if not 0 < w * w + x * x + y * y + z * z < float("inf"):
        raise ValueError(f"q of {origin} is {(w, x, y, z)}, expected a quaternion")
    rotation = torch.from_numpy(Rotation.from_quat((x, y, z, w)).as_matrix())
    return from_world_to_cam(torch.cat([rotation, shift[:, None]], -1), f"camera of {origin}")


def _intrinsics(record: dict[str, Any], origin: str) -> Float[Tensor, "3 3"]:
    height, width = _size(record, origin)
    length = take(take(record, "camera", dict, origin), "focal_length", (int, float), origin)
    focal = float(numbers(length, (), f"focal_length of {origin}"))
    return pinhole((focal, focal), (float(width // 2), float(height // 2)), (height, width), origin)


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(frames: Sequence[Frame], root: Folder, index: int) -> Float[Tensor, "3 height width"]:
    with open_image(frames[index].image, root) as image:
        return decode_rgb(upright(image))


def _read_values(depth: Path, size: tuple[int, int], root: Folder) -> np.ndarray:
    values = read_sixteen(depth, root)
    if values.shape != size:
        raise ValueError(f"navi: {depth} is {values.shape}, expected {size}, as the upright image")
    return values


def _read_depth(frames: Sequence[Frame], root: Folder, index: int) -> Float[Tensor, "height width"]:
    frame = frames[index]
    values = torch.from_numpy(_read_values(frame.depth, frame.size, root).astype(np.float32))
    return torch.where(values > 0, DISPARITY / values.clamp(min=1), 0)


def _object_window(seen: np.ndarray) -> Window:
    """Return the smallest square around the object, inside the largest centred square; that one where none is seen."""
    height, width = seen.shape
    whole = min(height, width)
    top, left = (height - whole) // 2, (width - whole) // 2
    square = seen[top : top + whole, left : left + whole]
    rows, columns = (np.flatnonzero(square.any(axis)) for axis in (1, 0))
    if not len(rows):
        return Window(top=top, left=left, side=whole)
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    start = [min(max(int(line[0] + line[-1] + 1 - side) // 2, 0), whole - side) for line in (rows, columns)]
    return Window(top=top + start[0], left=left + start[1], side=side)


# --- published pairs -------------------------------------------------------------------------------------------------


def _own_pairs(root: Folder, file: Path | None) -> ViewList:
    path = file or root / OWN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"view list {OWN_PAIRS}: {path} does not exist; name it: {OWN_PAIRS}:FILE")
    lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return ViewList(protocol=OWN_PAIRS, scenes=tuple(_pair(words, path) for words in lines))


def _pair(words: list[str], path: Path) -> Scene:
    parts = [Path(word).parts[-4:] for word in words[:2]]
    if len(words) != 3 or any(len(part) != 4 or part[2] != "images" for part in parts):
        origin = " ".join(words)[:80]
        raise ValueError(f"navi: {path} has the line {origin!r}, expected two of OBJECT/SCENE/images/FILE and degrees")
    scenes = [f"{part[0]}/{part[1]}" for part in parts]
    if scenes[0] != scenes[1]:
        raise ValueError(f"navi: {path} pairs {scenes[0]} with {scenes[1]}, expected images of one scene")
    frames = tuple(Path(part[3]).stem for part in parts)
    return Scene(recording=scenes[0], frames=frames, overlap=(float("nan"),))


def _probe3d_pairs(root: Folder, file: Path | None) -> ViewList:
    if file is not None:
        raise ValueError(f"view list {PROBE3D} draws its pairs from the annotations and takes no file, not {file}")
    generator = torch.Generator().manual_seed(SEED)
    drawn = [pair for scene in _scenes(root, "wild_set") for pair in _partners(root, scene, generator)]
    return ViewList(protocol=PROBE3D, scenes=tuple(pair for pair in drawn[::EVERY] if pair is not None))


def _partners(root: Folder, scene: str, generator: torch.Generator) -> list[Scene | None]:
    """Draw a partner for each image of a set; none where no image is near enough, or the object has no other scene."""
    if len(list((root / scene).parent.glob(f"*/{ANNOTATIONS}"))) < 2:
        return []
    records = _annotations(root, scene)
    cameras = torch.stack([_camera(record, origin) for origin, record in records.items()])
    names = [Path(str(record["filename"])).stem for record in records.values()]
    drawn: list[Scene | None] = []
    for place, camera in enumerate(cameras):
        angle = rotation_degrees(cameras, camera.expand_as(cameras))
        near = (angle > 0) & (angle <= MOST_DEGREES)
        near[place] = False
        partner = int(torch.multinomial(near.float(), 1, generator=generator)) if near.any() else None
        pair = None if partner is None else (names[place], names[partner])
        drawn.append(pair and Scene(recording=scene, frames=pair, overlap=(float("nan"),)))
    return drawn
