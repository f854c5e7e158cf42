"""Folders of nerfstudio and instant-ngp (``transforms.json``), and DL3DV-10K, which is many of them without depth.

Cameras are camera-to-world with OpenGL axes, for a first pixel whose centre is (0.5, 0.5). What nerfstudio did to the
cameras is undone: ``applied_transform`` by its inverse, ``applied_scale`` by dividing the translations. Values of a
frame override those of the file. Images of another size than ``w`` and ``h`` say (images_4 beside cameras of the full
size) scale the intrinsics. Distorted images are resampled to a pinhole camera. Depth is a 16-bit PNG or an .npy, times
``depth_unit_scale_factor`` (0.001 unless the file says otherwise), in metres; masks say 0 for pixels to ignore.

Source:
    docs.nerf.studio, data conventions; nerfstudio's depth reader scales .npy depth like PNG depth, and divides what
    applied_scale did by multiplying depth with it (docs/references.md, "nerfstudio").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.scenes.cameras import from_opengl, pinhole
from probe.scenes.choosing import Recordings
from probe.scenes.files import image_size, natural, numbers, read_json, read_mask, read_rgb, read_sixteen, take
from probe.scenes.lenses import Lens, straight, straighten
from probe.scenes.reading import DEFAULT, Folder, Reading, inside
from probe.scenes.recordings import Recording

FILES = ("transforms.json", "transforms_train.json")
SUFFIXES = ("", ".png", ".jpg", ".jpeg")  # Blender's files leave the suffix out
SMALLER = ("", "_2", "_4", "_8")  # images, images_2, ...: the same images, smaller
DEEPEST = 3  # folders between the data set's and a recording's; DL3DV has two
UNIT = 1e-3
FISHEYE = "OPENCV_FISHEYE"
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
ASPECT = 0.02  # relative difference of image shape and w, h up to which the images are the same ones, resized


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, and the lens if it distorts."""

    root: Folder
    image: Path
    depth: Path | None
    depth_unit: float
    mask: Path | None
    lens: Lens | None


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the folders with a ``transforms.json``: this one, or those inside it.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"nerfstudio: {root} is not a folder; expected one with a transforms.json")
    files = {_name(root, path.parent): path for path in _transforms(root.path, DEEPEST)}
    if not files:
        raise FileNotFoundError(f"nerfstudio: {root} holds no transforms.json, down to {DEEPEST} folders deep")
    names = tuple(sorted(files, key=natural))
    return Recordings(root=root.path, names=names, open=lambda name: load_recording(files[name], name, root))


def _transforms(folder: Path, deepest: int) -> Iterator[Path]:
    here = [folder / name for name in FILES if (folder / name).exists()]
    if here:
        yield here[0]
    elif deepest:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _transforms(inner, deepest - 1)


def _name(root: Folder, folder: Path) -> str:
    return root.path.resolve().name if folder == root.path else folder.relative_to(root.path).as_posix()


def load_recording(path: Path, name: str, root: Folder) -> Recording:
    """Read a ``transforms.json``: cameras and files, no pixels.

    Args:
        path: The file; what it names starts from its folder.
        name: Of the recording.
        root: Every file lies inside this.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file, or one that it names, does not hold what it should.
    """
    whole = read_json(path, root)
    listed = take(whole, "frames", list, str(path))
    if not listed:
        raise ValueError(f"{path} lists no frames")
    records = [{**whole, **take({"frame": one}, "frame", dict, f"frame {i} of {path}")} for i, one in enumerate(listed)]
    named = [(str(take(record, "file_path", str, f"frame {i} of {path}")), record) for i, record in enumerate(records)]
    named.sort(key=lambda pair: natural(pair[0]))
    made = [_frame(path.parent, root, record, f"frame {file} of {path}") for file, record in named]
    depths = {frame.depth is not None for frame, _, _, _ in made}
    if len(depths) > 1:
        raise ValueError(f"{path} names a depth_file_path for some frames only; expected one for all or none")
    frames = tuple(frame for frame, _, _, _ in made)
    return Recording(
        name=name,
        names=_unique_names([file for file, _ in named], path),
        sizes=tuple(size for _, size, _, _ in made),
        world_to_cam=_undo(torch.stack([camera for _, _, camera, _ in made]), whole, path),
        intrinsics=torch.stack([intrinsics for _, _, _, intrinsics in made]),
        colour=partial(_read_colour, frames),
        depth=partial(_read_depth, frames) if depths == {True} else None,
        unit="m" if depths == {True} else None,
    )


def _unique_names(files: list[str], path: Path) -> tuple[str, ...]:
    stems = [Path(file).stem for file in files]
    names = tuple(stems if len(set(stems)) == len(stems) else files)
    if len(set(names)) != len(names):
        raise ValueError(f"{path} names a file twice; expected each image once")
    return names


def _frame(
    base: Path, root: Folder, record: dict[str, Any], origin: str
) -> tuple[Frame, tuple[int, int], Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    image = _image(base, root, record["file_path"], origin)
    size = image_size(image, root)
    matrix = take(record, "transform_matrix", list, origin)
    camera = from_opengl(numbers(matrix, (4, 4), f"transform_matrix of {origin}"), f"transform_matrix of {origin}")
    intrinsics = _intrinsics(record, size, origin)
    lens = _lens(record, intrinsics, size, origin)
    optional = {key: _optional(base, root, record, key, origin) for key in ("depth_file_path", "mask_path")}
    frame = Frame(
        root=root,
        image=image,
        depth=optional["depth_file_path"],
        depth_unit=_number(record, "depth_unit_scale_factor", UNIT, origin),
        mask=optional["mask_path"],
        lens=lens,
    )
    return frame, size, camera, straight(lens) if lens else intrinsics


def _image(base: Path, root: Folder, file: str, origin: str) -> Path:
    """Find an image: as named, with a suffix, or in the folder of the smaller ones."""
    named = Path(file)
    folders = [
        named.parent.with_name(named.parent.name + end) if named.parent.name else named.parent for end in SMALLER
    ]
    candidates = [base / folder / (named.name + suffix) for folder in folders for suffix in SUFFIXES]
    existing = next((path for path in candidates if path.is_file() or path.is_symlink()), None)
    if existing is None:
        raise FileNotFoundError(f"{origin} has no image; expected {candidates[0]}")
    inside(existing, root)
    return existing


def _optional(base: Path, root: Folder, record: dict[str, Any], key: str, origin: str) -> Path | None:
    if record.get(key) is None:
        return None
    path = base / str(take(record, key, str, origin))
    inside(path, root)
    return path


def _number(record: dict[str, Any], key: str, default: float | int, origin: str) -> float:
    value = float(take(record, key, (int, float), origin)) if key in record else float(default)
    if not math.isfinite(value):
        raise ValueError(f"{origin} has {key} = {value}, expected a finite number")
    return value


def _intrinsics(record: dict[str, Any], size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
    """Return the intrinsics in pixels of the image as it is."""
    height, width = _number(record, "h", size[0], origin), _number(record, "w", size[1], origin)
    if min(height, width) <= 0 or abs(width / height * size[0] / size[1] - 1) > ASPECT:
        raise ValueError(f"{origin} is {size[0]} x {size[1]}, expected the shape of h {height:g} x w {width:g}")
    scale = size[1] / width, size[0] / height
    focal = _focal(record, "x", width, origin), _focal(record, "y", height, origin)
    centre = _number(record, "cx", width / 2, origin), _number(record, "cy", height / 2, origin)
    if focal[0] is None:
        raise ValueError(f"{origin} has neither fl_x nor camera_angle_x; one is needed")
    focal = focal[0], focal[1] if focal[1] is not None else focal[0]
    return pinhole(
        (focal[0] * scale[0], focal[1] * scale[1]), (centre[0] * scale[0], centre[1] * scale[1]), size, origin
    )


def _focal(record: dict[str, Any], axis: str, side: float | int, origin: str) -> float | None:
    if f"fl_{axis}" in record:
        return _number(record, f"fl_{axis}", 0, origin)
    if f"camera_angle_{axis}" in record:
        return side / 2 / math.tan(_number(record, f"camera_angle_{axis}", 0, origin) / 2)
    return None


def _lens(record: dict[str, Any], intrinsics: Float[Tensor, "3 3"], size: tuple[int, int], origin: str) -> Lens | None:
    """Return the lens, unless its coefficients are all zero."""
    model = str(record.get("camera_model", "OPENCV")).upper()
    if model not in (*PINHOLES, FISHEYE):
        raise ValueError(f"{origin} has camera_model {model}, expected one of {', '.join((*PINHOLES, FISHEYE))}")
    fisheye = model == FISHEYE or bool(record.get("is_fisheye", False))
    keys = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    coefficients = tuple(_number(record, key, 0.0, origin) for key in keys)
    if not fisheye and not any(coefficients):
        return None
    return Lens(intrinsics=intrinsics, coefficients=coefficients, fisheye=fisheye, size=size)


def _undo(world_to_cam: Float[Tensor, "frames 4 4"], whole: dict[str, Any], path: Path) -> Float[Tensor, "frames 4 4"]:
    """Go back to the world before ``applied_transform`` and ``applied_scale``."""
    scale = _number(whole, "applied_scale", 1.0, str(path))
    if scale <= 0:
        raise ValueError(f"{path} has applied_scale = {scale}, expected a positive number")
    rotation, translation = torch.eye(3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    if "applied_transform" in whole:
        applied = numbers(whole["applied_transform"], (3, 4), f"applied_transform of {path}")
        rotation, translation = applied[:, :3], applied[:, 3:]
    if (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max() > 1e-4 or rotation.det() < 0:
        raise ValueError(f"applied_transform of {path} is not a rotation and a translation")
    turned = world_to_cam[:, :3, :3] @ rotation
    shifted = world_to_cam[:, :3, :3] @ translation + world_to_cam[:, :3, 3:] / scale
    return torch.cat([torch.cat([turned, shifted], -1), world_to_cam[:, 3:]], dim=1)


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(frames: tuple[Frame, ...], index: int) -> Float[Tensor, "3 height width"]:
    frame = frames[index]
    image = read_rgb(frame.image, frame.root)
    return image if frame.lens is None else straighten(image, frame.lens, nearest=False)


def _read_depth(frames: tuple[Frame, ...], index: int) -> Float[Tensor, "height width"]:
    frame = frames[index]
    assert frame.depth is not None  # a recording with depth has it for every frame
    depth = torch.from_numpy(_depth_file(frame.depth, frame.root).astype(np.float32) * np.float32(frame.depth_unit))
    if frame.mask is not None:
        depth = depth * _like(read_mask(frame.mask, frame.root).float(), (depth.shape[0], depth.shape[1]))
    if frame.lens is None:
        return depth
    return straighten(_like(depth, frame.lens.size)[None], frame.lens, nearest=True)[0]


def _depth_file(path: Path, root: Folder) -> np.ndarray:
    if path.suffix != ".npy":
        return read_sixteen(path, root)
    try:
        depth = np.load(inside(path, root), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"nerfstudio: {path} is not a whole .npy of numbers: {error}") from None
    depth = depth.squeeze(-1) if depth.ndim == 3 and depth.shape[-1] == 1 else depth
    if depth.ndim != 2 or depth.dtype.kind not in "fui":
        raise ValueError(f"nerfstudio: {path} holds {depth.dtype} {depth.shape}, expected numbers (height, width)")
    return depth


def _like(values: Float[Tensor, "height width"], size: tuple[int, int]) -> Float[Tensor, "rows columns"]:
    """Bring a map to another size; each pixel takes the nearest one."""
    if tuple(values.shape) == size:
        return values
    return F.interpolate(values[None, None], size, mode="nearest-exact")[0, 0]
