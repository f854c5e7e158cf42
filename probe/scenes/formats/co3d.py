"""CO3D version 2: object videos with cameras and depth maps by COLMAP, in PyTorch3D's conventions.

The folder holds categories; ``CATEGORY/frame_annotations.jgz`` and ``sequence_annotations.jgz`` say what lies in
``CATEGORY/SEQUENCE/{images,depths,depth_masks}``. A category's or a sequence's folder may be named instead.
``co3d:ROOT#SUBSET/SPLIT`` (such as ``#fewview_dev/train``) keeps the frames of
``CATEGORY/set_lists/set_lists_SUBSET.json``; ``--view-list co3d-eval-v2:FILE`` takes the batches of an
``eval_batches_SUBSET.json``, whose first frame is the target.

Sequences that are not on the disk are left out and counted, as are frames without a camera or depth (the challenge's
hidden ones), with a file missing, or redacted: black, with depth 0. A sequence none of whose frames has depth is one
without truth.

A camera moves row vectors, X R + T, with x left and y up. Intrinsics are in units of half the image: of its shorter
side ("ndc_isotropic") or of each side ("ndc_norm_image_bounds"), the principal point counted from the middle, left and
up. Depth PNGs hold the bits of half-precision numbers, times ``scale_adjustment``; where the depth mask is black or the
number is not finite there is none. Lengths have no unit. Masks of the object are not read: the background is static.

The set as DUSt3R prepares it is read too (:mod:`probe.scenes.formats.co3d_prepared`).

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

from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import (
    natural,
    numbers,
    read_json,
    read_mask,
    read_rgb,
    read_sixteen,
    take,
)
from probe.scenes.formats import co3d_prepared
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import (
    DEFAULT,
    Dropped,
    Folder,
    Reading,
    find_below,
    find_file,
    inside,
    left_out,
    read_all,
    split_detail,
)
from probe.scenes.recordings import Recording

ANNOTATIONS = ("frame_annotations.jgz", "sequence_annotations.jgz")
FORMATS = ("ndc_isotropic", "ndc_norm_image_bounds")
TO_OPENCV = (-1.0, -1.0, 1.0)
"""Signs of x, y, z from PyTorch3D's camera axes (left, up, forward) to OpenCV's."""
HIDDEN = "the annotations hide its camera or depth"
EVALUATION = "co3d-eval-v2"
BLACK = 8 / 255  # the brightest pixel of a redacted frame, as JPEG leaves it
CATEGORIES_KEPT = 4  # annotations of a category take some 100 MB in memory


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, (height, width) and camera; ``depth`` is None in a sequence without any."""

    image: Path
    depth: Path | None
    scale: float
    depth_mask: Path | None
    size: tuple[int, int]
    world_to_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the sequences of all categories; ``root`` may end in ``#SUBSET/SPLIT``.

    Raises:
        FileNotFoundError: If it is no CO3D folder.
        ValueError: If annotations are broken, or the subset or split is unknown.
    """
    name, subset = split_detail(path)
    if not name.is_dir():
        raise FileNotFoundError(f"co3d: {name} is not a folder; expected categories with {' and '.join(ANNOTATIONS)}")
    if co3d_prepared.lists_of(name):
        return co3d_prepared.find_recordings(Folder(name, reading), subset)
    top, within = _top(name)
    folder = Folder(top, reading)
    categories = sorted(path.parent.name for path in top.glob(f"*/{ANNOTATIONS[0]}") if not is_hidden(path.parent))
    if not categories:
        raise FileNotFoundError(f"co3d: {folder} holds no CATEGORY/{ANNOTATIONS[0]}; name the folder of the categories")
    chosen = [category for category in categories if within is None or category == within.partition("/")[0]]
    kept = _subset(folder, chosen, subset) if subset else None
    listed, broken = read_all(((one, partial(_sequences, folder, one)) for one in chosen), folder, str(folder))
    annotated = [sequence for sequences in listed for sequence in sequences if _lies_in(sequence, within)]
    wanted = [one for one in annotated if kept is None or any(key[0] == one for key in kept)]
    present = [sequence for sequence in wanted if (folder / sequence).is_dir()]
    if not present:
        raise FileNotFoundError(f"co3d: none of {len(wanted)} annotated sequences of {name} is on the disk")
    frames = lru_cache(maxsize=CATEGORIES_KEPT)(partial(_frames_of, folder))

    def open_sequence(sequence: str) -> Recording:
        records = frames(sequence.partition("/")[0]).get(sequence, [])
        chosen = [one for one in records if kept is None or (sequence, _number(one)) in kept]
        return load_recording(folder, sequence, chosen)

    absent = len(wanted) - len(present)
    missing = f"{absent} of {len(wanted)} annotated sequences are not on the disk" if absent else ""
    notes = (missing, left_out(broken, len(chosen), "categories"))
    return Recordings(
        root=folder.path,
        names=tuple(sorted(present, key=natural)),
        open=open_sequence,
        lists={EVALUATION: partial(_evaluation_list, folder)},
        note="; ".join(note for note in notes if note),
    )


def _top(folder: Path) -> tuple[Path, str | None]:
    """Return the folder of the categories, and what of it was named: all (None), CATEGORY or CATEGORY/SEQUENCE."""
    whole = folder.resolve()
    if (whole / ANNOTATIONS[0]).is_file():
        return whole.parent, whole.name
    if (whole.parent / ANNOTATIONS[0]).is_file():
        return whole.parent.parent, f"{whole.parent.name}/{whole.name}"
    return folder, None


def _lies_in(sequence: str, within: str | None) -> bool:
    return within is None or within in (sequence, sequence.partition("/")[0])


def load_recording(root: Folder, sequence: str, records: Sequence[dict[str, Any]]) -> Recording:
    """Turn a sequence's frame annotations into a recording, without reading pixels.

    Frames without a camera are left out, as are those without depth where others have it.

    Args:
        root: The data set's folder, which all paths are relative to.
        sequence: CATEGORY/NAME.
        records: Its frame annotations.

    Raises:
        FileNotFoundError, ValueError: If no frame can be read; of the first frame, if reading is strict.
    """
    ordered = sorted(records, key=_number)
    posed = [one for one in ordered if one.get("viewpoint")]
    known = [one for one in posed if one.get("depth")] or posed
    if not known:
        raise ValueError(f"co3d: none of {len(records)} frames of {sequence} has a camera")
    named = ((str(_number(one)), partial(_frame, root, sequence, one)) for one in known)
    files, broken = read_all(named, root, sequence)
    hidden = [Dropped(str(_number(one)), HIDDEN) for one in ordered if one not in known]
    return Recording(
        name=sequence,
        names=tuple(file.image.stem for file in files),
        sizes=tuple(file.size for file in files),
        world_to_cam=torch.stack([file.world_to_cam for file in files]),
        intrinsics=torch.stack([file.intrinsics for file in files]),
        colour=partial(_read_colour, root, files),
        depth=None if files[0].depth is None else partial(_read_depth, root, files),
        dropped=(*hidden, *broken),
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
        grouped.setdefault(f"{category}/{name}", []).append(one)
    return grouped


def _number(record: dict[str, Any]) -> int:
    """Return a frame's number; -1 where it has none, which is told where the frame is read."""
    number = record.get("frame_number")
    return number if isinstance(number, int) else -1


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


def _frame(root: Folder, sequence: str, record: dict[str, Any]) -> Frame:
    """Read a frame's annotation; its files must be there."""
    take(record, "frame_number", int, f"a frame of {sequence}")
    origin = f"frame {_number(record)} of {sequence}"
    category = root / sequence.partition("/")[0]
    image, view = take(record, "image", dict, origin), take(record, "viewpoint", dict, origin)
    depth = take(record, "depth", dict, origin) if record.get("depth") else None
    size = _size(record, origin)
    return Frame(
        image=_file(take(image, "path", str, f"image of {origin}"), category, root),
        depth=None if depth is None else _file(take(depth, "path", str, f"depth of {origin}"), category, root),
        scale=1.0 if depth is None else _scale(depth, f"depth of {origin}"),
        depth_mask=_file(str(depth["mask_path"]), category, root) if depth and depth.get("mask_path") else None,
        size=size,
        world_to_cam=_camera(view, origin),
        intrinsics=_intrinsics(view, size, origin),
    )


def _file(named: str, category: Path, root: Folder) -> Path:
    """Find a file by the path that the annotation gives it, from the data set's folder."""
    path = find_file(named, root.path) or find_below(named, category) or root / named
    inside(path, root)
    return path


def _scale(depth: dict[str, Any], origin: str) -> float:
    scale = float(numbers(take(depth, "scale_adjustment", (int, float), origin), (), f"scale_adjustment of {origin}"))
    if not 0 < scale < float("inf"):
        raise ValueError(f"{origin} has scale_adjustment = {scale}, expected a positive number")
    return scale


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


def _read_colour(root: Folder, files: Sequence[Frame], index: int) -> Float[Tensor, "3 height width"]:
    image = read_rgb(files[index].image, root, files[index].size)
    if image.max() <= BLACK:
        raise ValueError(f"co3d: {files[index].image} is black: a redacted frame")
    return image


def _read_depth(root: Folder, files: Sequence[Frame], index: int) -> Float[Tensor, "height width"]:
    frame = files[index]
    assert frame.depth is not None  # a recording with depth has it for every frame
    half = read_sixteen(frame.depth, root).view(np.float16)
    depth = torch.from_numpy(half.astype(np.float32)) * frame.scale
    if not depth.any():
        _read_colour(root, files, index)  # refuses a frame that is redacted
    if frame.depth_mask is None:
        return depth
    mask = read_mask(frame.depth_mask, root)
    if mask.shape != depth.shape:
        raise ValueError(
            f"co3d: {frame.depth_mask} is {tuple(mask.shape)}, expected {tuple(depth.shape)}, as the depth"
        )
    return torch.where(mask, depth, 0)
