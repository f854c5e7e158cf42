"""One frame of a ``transforms.json``: its files, camera and lens, and its pixels."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.scenes.cameras import from_opengl, pinhole, without_scale
from probe.scenes.cameras.lenses import Lens, make_lens, straight, straighten
from probe.scenes.cameras.models import MODELS, PANORAMA, model_named
from probe.scenes.depth_files import read_depth_map
from probe.scenes.files import image_size, numbers, read_mask, read_rgb, take
from probe.scenes.formats.captures import Record
from probe.scenes.reading import IMAGES, Folder, endings, find_below, find_file, flag_of, inside

SMALLER = ("", "_2", "_4", "_8")  # images, images_2, ...: the same images, smaller
DEPTHS = (".png", ".npy", ".tiff", ".tif", ".exr")
UNIT = 1e-3
PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
OTHER_LENSES = ("equirectangular", "latlong", "orthographic", "ftheta_p0")  # instant-ngp's
ASPECT = 0.02  # relative difference of image shape and w, h up to which the images are the same ones, resized


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One frame's files and camera.

    Attributes:
        root: Every file lies inside this.
        image: The image, as the lens saw it.
        size: Its (height, width).
        depth: Its depth map, or None.
        depth_unit: Metres per number of it.
        mask: 0 for pixels to ignore, or None.
        lens: How it distorts, or None.
        world_to_cam: OpenCV axes.
        intrinsics: Of the straightened image.
    """

    root: Folder
    image: Path
    size: tuple[int, int]
    depth: Path | None
    depth_unit: float
    mask: Path | None
    lens: Lens | None
    world_to_cam: Float[Tensor, "4 4"] = field(repr=False)
    intrinsics: Float[Tensor, "3 3"] = field(repr=False)


def read_frame(base: Path, root: Folder, record: Record, origin: str) -> Posed:
    """Find a frame's files and read its camera.

    Args:
        base: Folder that its paths start from.
        root: Every file lies inside this.
        record: Its values.
        origin: Where they stand, for the error.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file lies outside, or a value is missing or makes no sense.
    """
    image = find_image(base, root, str(take(record, "file_path", str, origin)), origin)
    height, width = (_number(record, side, 0, origin) for side in ("h", "w"))
    size = image_size(image, root, (round(height), round(width)))
    intrinsics = _intrinsics(record, size, origin)
    lens = _lens(record, intrinsics, size, origin)
    depth = _optional(base, root, record, ("depth_file_path", "depth_path"), image, origin)
    return Posed(
        root=root,
        image=image,
        size=size,
        depth=depth,
        depth_unit=_depth_unit(record, root, origin),
        mask=_optional(base, root, record, ("mask_path",), image, origin),
        lens=lens,
        world_to_cam=_world_to_cam(record, origin),
        intrinsics=intrinsics if lens is None else straight(lens),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def find_image(base: Path, root: Folder, named: str, origin: str) -> Path:
    """Find an image: as named, in the folder of the smaller ones, in images/, or in the folder that the user names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it lies outside the folder.
    """
    path = Path(named.replace("\\", "/"))
    if root.reading.images is not None:
        candidates = [(str(path), base / root.reading.images)]
    else:
        candidates = [
            (str(path.parent.with_name(path.parent.name + end) / path.name), base)
            for end in SMALLER
            if path.parent.name
        ]
        candidates += [(str(path), base), (path.name, base / "images")]
    for name, folder in candidates:
        found = _locate(name, folder, root, IMAGES)
        if found is not None:
            inside(found, root)
            return found
    expected = candidates[0][1] / candidates[0][0]
    raise FileNotFoundError(f"{origin} has no image; expected {expected}, or name its folder by {flag_of('images')}")


def _locate(named: str, folder: Path, root: Folder, suffixes: Sequence[str]) -> Path | None:
    """Find a file; an absolute path that leads elsewhere is taken for another copy of what lies below the folder."""
    suffixes = endings(named, root, suffixes)
    found = find_file(named, folder, suffixes=suffixes)
    if found is None or not Path(named).is_absolute() or found.resolve().is_relative_to(root.path.resolve()):
        return found
    return find_below(named, folder, suffixes=suffixes) or found


def _optional(base: Path, root: Folder, record: Record, keys: tuple[str, ...], image: Path, origin: str) -> Path | None:
    key = next((key for key in keys if record.get(key)), None)
    if key is None:
        return None
    named = str(take(record, key, str, origin)).replace("\\", "/")
    found = _locate(named, base, root, IMAGES if key == "mask_path" else DEPTHS)
    if found is None or found.resolve() == image.resolve():
        raise FileNotFoundError(f"{origin}: its {key} {base / named} does not exist")
    inside(found, root)
    return found


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number(record: Record, key: str, default: float | int, origin: str) -> float:
    """Return a value that is a number, or the text of one."""
    value = record.get(key, default)
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    try:
        number = float(take({key: value}, key, (int, float), origin))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{origin} has {key} = {number}, expected a finite number")
    return number


def _depth_unit(record: Record, root: Folder, origin: str) -> float:
    if root.reading.depth_scale is not None:
        return 1 / root.reading.depth_scale
    keys = (
        ("depth_unit_scale_factor",)
        if record.get("depth_file_path")
        else ("integer_depth_scale", "depth_unit_scale_factor")
    )
    unit = next((_number(record, key, UNIT, origin) for key in keys if key in record), UNIT)
    if unit <= 0:
        raise ValueError(f"{origin} has a depth unit of {unit}, expected a positive number of metres")
    return unit


def _intrinsics(record: Record, size: tuple[int, int], origin: str) -> Float[Tensor, "3 3"]:
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


def _focal(record: Record, axis: str, side: float | int, origin: str) -> float | None:
    if f"fl_{axis}" in record:
        return _number(record, f"fl_{axis}", 0, origin)
    if f"camera_angle_{axis}" in record:
        angle = _number(record, f"camera_angle_{axis}", 0, origin)
        if not 0 < angle < math.pi:
            raise ValueError(f"{origin} has camera_angle_{axis} = {angle}, expected radians between 0 and pi")
        return side / 2 / math.tan(angle / 2)
    return None


def _lens(record: Record, intrinsics: Float[Tensor, "3 3"], size: tuple[int, int], origin: str) -> Lens | None:
    """Return the lens, unless its coefficients are all zero; refuse coefficients that the model does not have."""
    name = str(record.get("camera_model") or "OPENCV").upper()
    other = next((key for key in OTHER_LENSES if record.get(key)), None)
    if other is not None:
        raise ValueError(
            f"{origin} has {other}, a lens of instant-ngp that is not read here; expected a pinhole or fisheye"
        )
    model, keys = _model(name, bool(record.get("is_fisheye", False)), origin)
    surplus = {key: record[key] for key in COEFFICIENTS if key not in keys and record.get(key)}
    if any(_number(surplus, key, 0.0, origin) for key in surplus):
        raise ValueError(_surplus(name, surplus, origin))
    coefficients = tuple(
        _number(record, key, 0.0, origin) if key in keys else 0.0 for key in MODELS[model].coefficients
    )
    return make_lens(model, intrinsics, coefficients, size, origin)


def _model(name: str, is_fisheye: bool, origin: str) -> tuple[str, tuple[str, ...]]:
    """Return COLMAP's model of a name, and which of its coefficients the file may hold."""
    if name in FISHEYE or (is_fisheye and name in PERSPECTIVE):
        return "OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")
    if name in PERSPECTIVE:
        return "FULL_OPENCV", ("k1", "k2", "p1", "p2", "k3")
    return name, model_named(PANORAMA if name == "SPHERICAL" else name, origin).coefficients


def _surplus(name: str, surplus: Record, origin: str) -> str:
    values = ", ".join(f"{key} = {value}" for key, value in surplus.items())
    advice = "remove it, or name another camera_model"
    if name in PERSPECTIVE and "k4" in surplus:
        advice = "to nerfstudio it is of r^8, to OpenCV of a denominator: name the model FULL_OPENCV for the latter"
    return f"{origin} has {values}, which camera_model {name} does not have; {advice}"


# --- camera ----------------------------------------------------------------------------------------------------------


def _world_to_cam(record: Record, origin: str) -> Float[Tensor, "4 4"]:
    """Return the camera in the world before ``applied_transform`` and ``applied_scale``."""
    origin = f"transform_matrix of {origin}"
    matrix = take(record, "transform_matrix", list, origin)
    camera = numbers(matrix, (3 if [len(row) for row in matrix if isinstance(row, list)] == [4] * 3 else 4, 4), origin)
    scale = _number(record, "applied_scale", 1.0, origin)
    if scale <= 0:
        raise ValueError(f"{origin}: the file has applied_scale = {scale}, expected a positive number")
    if record.get("applied_transform") is not None:
        rotation, translation = _applied(record["applied_transform"], origin)
        moved = rotation.mT @ torch.cat([camera[:3, :3], camera[:3, 3:] / scale - translation], -1)
        if moved[:, :3].det() < 0 < camera[:3, :3].det():
            raise ValueError(
                f"{origin}: the file's applied_transform mirrors the world, but its cameras are not mirrored"
            )
    else:
        moved = torch.cat([camera[:3, :3], camera[:3, 3:] / scale], -1)
    return from_opengl(without_scale(torch.cat([moved, camera[3:]])), origin)


def _applied(value: object, origin: str) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 1"]]:
    rows = 4 if isinstance(value, list) and len(value) == 4 else 3
    applied = numbers(value, (rows, 4), f"{origin}: the file's applied_transform")
    rotation = applied[:3, :3]
    last = applied[3:] - applied.new_tensor([[0, 0, 0, 1]])
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if not (off <= 1e-4 and last.abs().sum() < 1e-6 and applied.isfinite().all()):
        raise ValueError(f"{origin}: the file's applied_transform is not a rotation and a translation")
    return rotation, applied[:3, 3:]


# --- pixels ----------------------------------------------------------------------------------------------------------


def read_colour(frame: Posed) -> Float[Tensor, "3 height width"]:
    """Read a frame's colours, straightened.

    Raises:
        ValueError: If the image is broken.
    """
    image = read_rgb(frame.image, frame.root, frame.size)
    return (
        image if frame.lens is None or image.shape[1:] != frame.size else straighten(image, frame.lens, nearest=False)
    )


def read_depth(frame: Posed) -> Float[Tensor, "height width"]:
    """Read a frame's depth in metres, straightened; 0 where it is masked.

    Raises:
        ValueError: If the map or the mask is broken.
    """
    assert frame.depth is not None  # a recording with depth has it for every frame
    depth = read_depth_map(frame.depth, frame.root) * frame.depth_unit
    if frame.mask is not None:
        depth = depth * _like(read_mask(frame.mask, frame.root).float(), (depth.shape[0], depth.shape[1]))
    if frame.lens is None:
        return depth
    return straighten(_like(depth, frame.lens.size)[None], frame.lens, nearest=True)[0]


def _like(values: Float[Tensor, "height width"], size: tuple[int, int]) -> Float[Tensor, "rows columns"]:
    """Bring a map to another size of the same shape; each pixel takes the nearest one."""
    if tuple(values.shape) == size:
        return values
    height, width = values.shape
    if abs(height * size[1] / (width * size[0]) - 1) > ASPECT + 1 / min(height, width):
        raise ValueError(f"a map of {height} x {width} does not have the shape of {size[0]} x {size[1]}")
    return F.interpolate(values[None, None], size, mode="nearest-exact")[0, 0]
