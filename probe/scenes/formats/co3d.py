"""CO3D version 2: object videos with cameras and depth maps by COLMAP, in PyTorch3D's conventions.

The folder holds categories; ``CATEGORY/frame_annotations.jgz`` and ``sequence_annotations.jgz`` say what lies in
``CATEGORY/SEQUENCE/{images,depths,depth_masks}``. ``co3d:ROOT#SUBSET/SPLIT`` (such as ``#fewview_dev/train``) keeps the
frames of ``CATEGORY/set_lists/set_lists_SUBSET.json``; ``--view-list co3d-eval-v2:FILE`` takes the batches of an
``eval_batches_SUBSET.json``, whose first frame is the target. Sequences that are not on the disk are left out and
counted; a frame without a camera or depth (the challenge's hidden ones) is dropped.

A camera moves row vectors, X R + T, with x left and y up. Intrinsics are in units of half the image: of its shorter
side ("ndc_isotropic") or of each side ("ndc_norm_image_bounds"), the principal point counted from the middle, left and
up. Depth PNGs hold the bits of half-precision numbers, times ``scale_adjustment``; where the depth mask is black or the
number is not finite there is none. Lengths have no unit. Masks of the object are not read: the background is static.

The set as DUSt3R prepares it is read too: ``CATEGORY/SEQUENCE/images/frame000001.{jpg,npz}`` and
``selected_seqs_SPLIT.json``.

Source:
    pytorch3d, renderer/camera_conversions.py, and its implicitron, which reads CO3D (docs/references.md, "CO3D").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_cam_to_world, from_world_to_cam, pinhole
from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import image_size, natural, numbers, read_json, read_mask, read_rgb, read_sixteen, take
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, inside, split_detail
from probe.scenes.recordings import Recording

ANNOTATIONS = ("frame_annotations.jgz", "sequence_annotations.jgz")
FORMATS = ("ndc_isotropic", "ndc_norm_image_bounds")
TO_OPENCV = (-1.0, -1.0, 1.0)
"""Signs of x, y, z from PyTorch3D's camera axes (left, up, forward) to OpenCV's."""
HIDDEN = "the annotations hide its camera or depth"
EVALUATION = "co3d-eval-v2"
PREPARED = "selected_seqs_*.json"
DEPTH_BITS = 65535
CATEGORIES_KEPT = 4  # annotations of a category take some 100 MB in memory


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files."""

    image: Path
    depth: Path
    scale: float
    depth_mask: Path | None


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the sequences of all categories; ``root`` may end in ``#SUBSET/SPLIT``.

    Raises:
        FileNotFoundError: If it is no CO3D folder.
        ValueError: If annotations are broken, or the subset or split is unknown.
    """
    name, subset = split_detail(path)
    folder = Folder(name, reading)
    if not folder.path.is_dir():
        raise FileNotFoundError(f"co3d: {folder} is not a folder; expected categories with {' and '.join(ANNOTATIONS)}")
    if list(folder.path.glob(PREPARED)):
        return _find_prepared(folder, subset)
    categories = sorted(path.parent.name for path in folder.path.glob(f"*/{ANNOTATIONS[0]}"))
    if not categories:
        raise FileNotFoundError(f"co3d: {folder} holds no CATEGORY/{ANNOTATIONS[0]}; name the folder of the categories")
    kept = _subset(folder, categories, subset) if subset else None
    annotated = [sequence for category in categories for sequence in _sequences(folder, category)]
    wanted = [one for one in annotated if kept is None or any(key[0] == one for key in kept)]
    present = [sequence for sequence in wanted if (folder / sequence).is_dir()]
    if not present:
        raise FileNotFoundError(f"co3d: none of {len(wanted)} annotated sequences of {folder} is on the disk")
    frames = lru_cache(maxsize=CATEGORIES_KEPT)(partial(_frames_of, folder))

    def open_sequence(sequence: str) -> Recording:
        records = frames(sequence.partition("/")[0]).get(sequence, [])
        chosen = [one for one in records if kept is None or (sequence, _number(one)) in kept]
        return load_recording(folder, sequence, chosen)

    absent = len(wanted) - len(present)
    return Recordings(
        root=folder.path,
        names=tuple(sorted(present, key=natural)),
        open=open_sequence,
        lists={EVALUATION: partial(_evaluation_list, folder)},
        note=f"{absent} of {len(wanted)} annotated sequences are not on the disk" if absent else "",
    )


def load_recording(root: Folder, sequence: str, records: Sequence[dict[str, Any]]) -> Recording:
    """Turn a sequence's frame annotations into a recording, without reading pixels.

    Args:
        root: The data set's folder, which all paths are relative to.
        sequence: CATEGORY/NAME.
        records: Its frame annotations.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If no frame has a camera and depth, or an annotation does not hold what it should.
    """
    known = sorted((one for one in records if one.get("viewpoint") and one.get("depth")), key=_number)
    if not known:
        raise ValueError(f"co3d: none of {len(records)} frames of {sequence} has a camera and depth")
    origins = [f"frame {_number(one)} of {sequence}" for one in known]
    files = tuple(_files(root, one, origin) for one, origin in zip(known, origins, strict=True))
    sizes = [_size(one, origin) for one, origin in zip(known, origins, strict=True)]
    views = [take(one, "viewpoint", dict, origin) for one, origin in zip(known, origins, strict=True)]
    hidden = [one for one in records if not (one.get("viewpoint") and one.get("depth"))]
    return Recording(
        name=sequence,
        names=tuple(file.image.stem for file in files),
        sizes=tuple(sizes),
        world_to_cam=torch.stack([_camera(view, origin) for view, origin in zip(views, origins, strict=True)]),
        intrinsics=torch.stack([_intrinsics(*each) for each in zip(views, sizes, origins, strict=True)]),
        colour=partial(_read_colour, root, files),
        depth=partial(_read_depth, root, files),
        dropped=tuple(Dropped(str(_number(one)), HIDDEN) for one in hidden),
    )


# --- annotations -----------------------------------------------------------------------------------------------------


def _sequences(root: Folder, category: str) -> list[str]:
    path = root / category / ANNOTATIONS[1]
    records = take({"sequences": read_json(path, root)}, "sequences", list, str(path))
    return [f"{category}/{take(one, 'sequence_name', str, f'a sequence of {path}')}" for one in records]


def _frames_of(root: Folder, category: str) -> dict[str, list[dict[str, Any]]]:
    path = root / category / ANNOTATIONS[0]
    records = take({"frames": read_json(path, root)}, "frames", list, str(path))
    grouped: dict[str, list[dict[str, Any]]] = {}
    for one in records:
        name = take(one, "sequence_name", str, f"a frame of {path}")
        take(one, "frame_number", int, f"a frame of {name} in {path}")
        grouped.setdefault(f"{category}/{name}", []).append(one)
    return grouped


def _number(record: dict[str, Any]) -> int:
    return int(record["frame_number"])


def _subset(root: Folder, categories: Sequence[str], subset: str) -> set[tuple[str, int]]:
    """List (CATEGORY/SEQUENCE, frame number) of one split of the categories' set lists."""
    name, _, split = subset.partition("/")
    candidates = [(one, root / one / "set_lists" / f"set_lists_{name}.json") for one in categories]
    present = [(category, path) for category, path in candidates if path.exists()]
    if not present:
        known = sorted(
            {path.stem.removeprefix("set_lists_") for path in root.path.glob("*/set_lists/set_lists_*.json")}
        )
        raise ValueError(
            f"co3d: no category of {root} has the subset {name!r}; choose from {', '.join(known) or 'none'}"
        )
    kept: set[tuple[str, int]] = set()
    for category, path in present:
        lists = read_json(path, root)
        triples = take(lists, split, list, f"{path}, which has the splits {', '.join(map(str, lists))} but")
        named = [_triple(entry, path) for entry in triples]
        kept |= {(f"{category}/{sequence}", number) for sequence, number, _ in named}
    return kept


def _triple(entry: Any, path: Path) -> tuple[str, int, str]:
    match entry:
        case [str(sequence), int(number), str(image)]:
            return sequence, number, image
    raise ValueError(f"co3d: {path} holds {str(entry)[:60]!r}, expected [sequence, frame number, image path]")


def _evaluation_list(root: Folder, file: Path | None) -> ViewList:
    """Read a category's evaluation batches: the known frames become references, the first one the last view."""
    if file is None:
        raise ValueError(f"view list {EVALUATION} needs a file: {EVALUATION}:CATEGORY/eval_batches/eval_batches_X.json")
    batches = take({"batches": read_json(file, Folder(file.parent))}, "batches", list, str(file))
    scenes = []
    for batch in batches:
        target, *known = [_triple(entry, file) for entry in batch]
        frames = tuple(Path(image).stem for _, _, image in (*known, target))
        category = Path(target[2]).parts[0]
        overlap = (float("nan"),) * len(known)
        sequences = {sequence for sequence, _, _ in (target, *known)}
        if len(sequences) != 1:
            raise ValueError(f"co3d: a batch of {file} mixes sequences {sorted(sequences)}, expected one")
        scenes.append(Scene(recording=f"{category}/{target[0]}", frames=frames, overlap=overlap, n_ref=len(known)))
    return ViewList(protocol=EVALUATION, scenes=tuple(scenes))


# --- cameras and files -----------------------------------------------------------------------------------------------


def _files(root: Folder, record: dict[str, Any], origin: str) -> Frame:
    image, depth = (take(record, kind, dict, origin) for kind in ("image", "depth"))
    mask = depth.get("mask_path")
    frame = Frame(
        image=root / take(image, "path", str, f"image of {origin}"),
        depth=root / take(depth, "path", str, f"depth of {origin}"),
        scale=float(take(depth, "scale_adjustment", (int, float), f"depth of {origin}")),
        depth_mask=root / str(mask) if mask else None,
    )
    for path in (frame.image, frame.depth, frame.depth_mask):
        if path is not None:
            inside(path, root)
    if not 0 < frame.scale < float("inf"):
        raise ValueError(f"depth of {origin} has scale_adjustment = {frame.scale}, expected a positive number")
    return frame


def _size(record: dict[str, Any], origin: str) -> tuple[int, int]:
    size = numbers(take(record["image"], "size", list, f"image of {origin}"), (2,), f"size of {origin}").long().tolist()
    return size[0], size[1]


def _camera(view: dict[str, Any], origin: str) -> Float[Tensor, "4 4"]:
    rows = numbers(take(view, "R", list, f"viewpoint of {origin}"), (3, 3), f"R of {origin}")
    shift = numbers(take(view, "T", list, f"viewpoint of {origin}"), (3,), f"T of {origin}")
    signs = rows.new_tensor(TO_OPENCV)
    rotation = (rows * signs).mT  # a row vector times R is R transposed times a column
    return from_world_to_cam(torch.cat([rotation, (shift * signs)[:, None]], -1), f"viewpoint of {origin}")


def _intrinsics(view: dict[str, Any], size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
    kind = str(view.get("intrinsics_format", FORMATS[1])).lower()
    if kind not in FORMATS:
        raise ValueError(f"viewpoint of {origin} has intrinsics_format {kind!r}, expected {' or '.join(FORMATS)}")
    half = size[1] / 2, size[0] / 2
    unit = (min(half), min(half)) if kind == FORMATS[0] else half
    focal = numbers(
        take(view, "focal_length", list, f"viewpoint of {origin}"), (2,), f"focal_length of {origin}"
    ).tolist()
    point = take(view, "principal_point", list, f"viewpoint of {origin}")
    centre = numbers(point, (2,), f"principal_point of {origin}").tolist()
    return pinhole(
        (focal[0] * unit[0], focal[1] * unit[1]),
        (half[0] - centre[0] * unit[0], half[1] - centre[1] * unit[1]),
        size,
        f"viewpoint of {origin}",
    )


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(root: Folder, files: tuple[Frame, ...], index: int) -> Float[Tensor, "3 height width"]:
    return read_rgb(files[index].image, root)


def _read_depth(root: Folder, files: tuple[Frame, ...], index: int) -> Float[Tensor, "height width"]:
    frame = files[index]
    half = read_sixteen(frame.depth, root).view(np.float16)
    depth = torch.from_numpy(half.astype(np.float32)) * frame.scale
    if frame.depth_mask is None:
        return depth
    mask = read_mask(frame.depth_mask, root)
    if mask.shape != depth.shape:
        raise ValueError(
            f"co3d: {frame.depth_mask} is {tuple(mask.shape)}, expected {tuple(depth.shape)}, as the depth"
        )
    return torch.where(mask, depth, 0)


# --- as DUSt3R prepares it -------------------------------------------------------------------------------------------


def _find_prepared(root: Folder, split: str) -> Recordings:
    lists = sorted(root.path.glob(PREPARED)) if not split else [root / f"selected_seqs_{split}.json"]
    numbers_of: dict[str, list[int]] = {}
    for path in lists:
        for category, sequences in _entries(read_json(path, root), path):
            for sequence, frames in _entries(sequences, path):
                numbers_of[f"{category}/{sequence}"] = (
                    numbers(frames, (len(frames),), f"{sequence} of {path}").long().tolist()
                )
    if not numbers_of:
        raise FileNotFoundError(f"co3d: {', '.join(path.name for path in lists)} of {root} name no sequences")
    return Recordings(
        root=root.path,
        names=tuple(sorted(numbers_of, key=natural)),
        open=lambda name: _load_prepared(root, name, numbers_of[name]),
    )


def _entries(record: Any, path: Path) -> list[tuple[str, Any]]:
    if not isinstance(record, dict):
        raise ValueError(f"co3d: {path} holds {str(record)[:40]!r}, expected {{category: {{sequence: [frames]}}}}")
    return list(record.items())


def _load_prepared(root: Folder, sequence: str, frames: list[int]) -> Recording:
    stems = [f"frame{number:06d}" for number in sorted(frames)]
    images = tuple(root / sequence / "images" / f"{stem}.jpg" for stem in stems)
    depths = tuple(root / sequence / "depths" / f"{stem}.jpg.geometric.png" for stem in stems)
    for path in (*images, *depths):
        inside(path, root)
    sizes = tuple(image_size(path, root) for path in images)
    metadata = [_metadata(path.with_suffix(".npz"), root) for path in images]
    cameras = [
        from_cam_to_world(one["camera_pose"], f"camera_pose of {sequence}/{stem}")
        for one, stem in zip(metadata, stems, strict=True)
    ]
    lenses = [
        _prepared_intrinsics(one["camera_intrinsics"], size, f"camera_intrinsics of {sequence}/{stem}")
        for one, size, stem in zip(metadata, sizes, stems, strict=True)
    ]
    files = tuple(
        Frame(image=image, depth=depth, scale=float(one["maximum_depth"]) / DEPTH_BITS, depth_mask=None)
        for image, depth, one in zip(images, depths, metadata, strict=True)
    )
    return Recording(
        name=sequence,
        names=tuple(stems),
        sizes=sizes,
        world_to_cam=torch.stack(cameras),
        intrinsics=torch.stack(lenses),
        colour=partial(_read_colour, root, files),
        depth=partial(_read_prepared_depth, root, files),
    )


def _prepared_intrinsics(matrix: Float[Tensor, "3 3"], size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
    fx, fy, cx, cy = (float(matrix[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return pinhole((fx, fy), (cx, cy), size, origin)


def _read_prepared_depth(root: Folder, files: tuple[Frame, ...], index: int) -> Float[Tensor, "height width"]:
    return torch.from_numpy(read_sixteen(files[index].depth, root).astype(np.float32)) * files[index].scale


def _metadata(path: Path, root: Folder) -> dict[str, Tensor]:
    shapes = {"camera_pose": (4, 4), "camera_intrinsics": (3, 3), "maximum_depth": ()}
    try:
        with np.load(inside(path, root), allow_pickle=False) as arrays:
            return {key: numbers(arrays[key].tolist(), shape, f"{key} of {path}") for key, shape in shapes.items()}
    except (OSError, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"co3d: {path} is not a whole .npz of {', '.join(shapes)}: {error}") from None
