"""Images of scenes that another program made, beside the true views: found, checked, and measured without a model.

Two layouts, one scene each, references first: ``SCENE.npz`` with ``gt_rgb`` and ``pred_rgb``, and ``SCENE/truth/*.png``
with ``SCENE/prediction/*.png`` of the same names.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.image_quality import Lpips
from probe.scenes import SceneList
from probe.scenes.cameras import from_world_to_cam
from probe.scenes.files import DAMAGE, image_size, images_in, natural, numbers, read_json, read_rgb, take
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import Dropped, Folder, inside, left_out, printable, read_all
from probe.views import IMAGE_PLANE, Views
from train.quality.images import Quality, measure_images

TRUE_IMAGES, PREDICTED_IMAGES, CAMERAS, INTRINSICS = "gt_rgb", "pred_rgb", "world_to_cam", "intrinsics"
MEMBERS = (TRUE_IMAGES, PREDICTED_IMAGES, CAMERAS, INTRINSICS)
"""What is read of a SCENE.npz; other members, which may be pickles, are never opened."""
TRUTH, PREDICTION, CAMERA_FILE = "truth", "prediction", "cameras.json"
"""What is read of a folder SCENE."""
MOST_BYTES = 2**30
"""Of an array of images."""
SIDES = {CAMERAS: 4, INTRINSICS: 3}
"""Of the matrices of a view's camera."""
LAYOUT = f"SCENE.npz with {TRUE_IMAGES} and {PREDICTED_IMAGES}, or SCENE/{TRUTH}/*.png and SCENE/{PREDICTION}/*.png"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A scene's true views and the predictions of them.

    Attributes:
        views: The true views, as a batch of one, without depth; of cameras that are unknown ``world_to_cam`` is NaN.
        image: The predictions, references first, of the same size.
        has_intrinsics: Whether the views' intrinsics are known.
    """

    views: Views
    image: Float[Tensor, "1 f 3 h w"]
    has_intrinsics: bool


Read = Callable[[], Predicted]


# --- one scene -------------------------------------------------------------------------------------------------------


def read_npz(path: Path, root: Folder) -> Predicted:
    """Read the true and predicted images of a ``.npz`` file, and its cameras if it has them.

    Args:
        path: The file: ``gt_rgb`` and ``pred_rgb`` of shape (views, 3, height, width), as floats in [0, 1] or in 8
            bits; ``world_to_cam`` (views, 4, 4) and ``intrinsics`` (views, 3, 3) may be missing.
        root: The folder that it lies in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder, is damaged, or one of these arrays is missing or unfit.
    """
    members = _read_members(path, root)
    missing = [name for name in (TRUE_IMAGES, PREDICTED_IMAGES) if name not in members]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}; write arrays of these names with numpy.savez")
    truth, image = (colours(members[name], f"{name} of {path}") for name in (TRUE_IMAGES, PREDICTED_IMAGES))
    matrices = {name: _as_matrices(members[name], f"{name} of {path}") for name in MEMBERS[2:] if name in members}
    return pair(truth, image, matrices, str(path))


def _read_members(path: Path, root: Folder) -> dict[str, Any]:
    file = inside(path, root)
    try:
        with zipfile.ZipFile(file) as packed:
            sizes = {part.filename.removesuffix(".npy"): part.file_size for part in packed.infolist()}
    except DAMAGE as error:
        raise ValueError(f"{path} is not a whole .npz of arrays: {error}") from None
    present = [name for name in MEMBERS if name in sizes]
    for name in present:
        _check_bytes(sizes[name], f"{name} of {path}")
    return {name: _read_member(file, name, f"{name} of {path}") for name in present}


def _read_member(file: Path, name: str, origin: str) -> Any:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return archive[name]
    except DAMAGE as error:
        raise ValueError(f"{origin} is not a whole array of numbers: {error}; write it with numpy.savez") from None


def _check_bytes(count: int, origin: str) -> None:
    if count > MOST_BYTES:
        raise ValueError(f"{origin} has {count} bytes, expected at most {MOST_BYTES}; write fewer or smaller views")


def colours(values: Any, origin: str) -> Float[Tensor, "f 3 h w"]:
    """Check an array of images and return its colours in [0, 1].

    Args:
        values: As read from a file.
        origin: Where it came from, for the error.

    Raises:
        ValueError: If it is no array (views, 3, height, width) of floats in [0, 1] or of 8-bit numbers.
    """
    kind = str(values.dtype) if isinstance(values, np.ndarray) else type(values).__name__
    if not isinstance(values, np.ndarray) or not (values.dtype == np.uint8 or values.dtype.kind == "f"):
        raise ValueError(f"{origin} holds {kind}, expected colours as floats in [0, 1] or as uint8")
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise ValueError(f"{origin} has shape {values.shape}, expected (views, 3, height, width): transpose it")
    if values.dtype == np.uint8:
        return torch.from_numpy(values.astype(np.float32)) / 255
    if not np.isfinite(values).all():
        raise ValueError(f"{origin} holds a NaN or infinite number, expected colours in [0, 1]: write these views anew")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(f"{origin} reaches from {low} to {high}, expected colours in [0, 1]: clip or scale them")
    return torch.from_numpy(values.astype(np.float32))


def _as_matrices(values: Any, origin: str) -> Float[Tensor, "..."]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError(f"{origin} holds no numbers, expected a matrix for each view")
    return torch.from_numpy(values.astype(np.float64))


def read_folder(folder: Path, root: Folder) -> Predicted:
    """Read the true and predicted PNG images of a scene's folder, and its cameras if it has them.

    Args:
        folder: Holds ``truth/`` and ``prediction/``, with the same names in both, whose natural order is that of the
            views, and maybe ``cameras.json``: ``{"NAME.png": {"world_to_cam": 4 x 4, "intrinsics": 3 x 3}}``.
        root: The folder that it lies in.

    Raises:
        FileNotFoundError: If a file is a broken link.
        ValueError: If something lies outside the folder, is missing or damaged, or does not fit together.
    """
    truth, image = (_images_of(folder / part) for part in (TRUTH, PREDICTION))
    names = [path.name for path in truth]
    single = sorted({*names} ^ {path.name for path in image})
    if single:
        some = ", ".join(single[:3])
        raise ValueError(f"{folder} has {some} in one of {TRUTH}/ and {PREDICTION}/ alone; name both alike")
    matrices = _read_cameras(folder / CAMERA_FILE, root, names)
    return pair(_read_images(truth, root), _read_images(image, root), matrices, str(folder))


def _images_of(folder: Path) -> list[Path]:
    found = [path for path in images_in(folder) if path.suffix.lower() == ".png"] if folder.is_dir() else []
    if not found:
        raise ValueError(f"{folder} has no PNG images, expected SCENE/{TRUTH}/*.png and SCENE/{PREDICTION}/*.png")
    return found


def _read_images(paths: Sequence[Path], root: Folder) -> Float[Tensor, "f 3 h w"]:
    sizes = {image_size(path, root): path for path in paths}
    if len(sizes) > 1:
        words = " and ".join(f"{width} x {height} ({path.name})" for (height, width), path in list(sizes.items())[:2])
        raise ValueError(f"{paths[0].parent} has images of {words} pixels, expected one size; resize them")
    height, width = next(iter(sizes))
    _check_bytes(len(paths) * 3 * height * width * 4, str(paths[0].parent))
    return torch.stack([read_rgb(path, root) for path in paths])


def _read_cameras(path: Path, root: Folder, names: Sequence[str]) -> dict[str, Float[Tensor, "..."]]:
    """Read the matrices of all views, by kind; nothing where there is no such file."""
    if not (path.exists() or path.is_symlink()):
        return {}
    record = read_json(path, root)
    each = {name: take(record, name, dict, str(path)) for name in names}
    kinds = [kind for kind in SIDES if any(kind in camera for camera in each.values())]
    return {kind: torch.stack([_matrix(each[name], kind, f"{name} in {path}") for name in names]) for kind in kinds}


def _matrix(camera: Mapping[str, Any], kind: str, origin: str) -> Float[Tensor, "side side"]:
    return numbers(take(camera, kind, list, origin), (SIDES[kind],) * 2, f"{kind} of {origin}")


def pair(
    truth: Float[Tensor, "f 3 h w"],
    image: Float[Tensor, "..."],
    matrices: Mapping[str, Float[Tensor, "..."]],
    origin: str,
) -> Predicted:
    """Put true views, predictions and cameras together.

    Args:
        truth: True colours in [0, 1], references first.
        image: Predicted ones.
        matrices: ``world_to_cam`` and ``intrinsics`` of each view, in double precision; either may be missing.
        origin: Where they came from, for the error.

    Raises:
        ValueError: If shapes differ, or a matrix is no camera.
    """
    if image.shape != truth.shape:
        raise ValueError(
            f"{origin} has true images of shape {tuple(truth.shape)} and predictions of shape {tuple(image.shape)}, "
            "expected equal shapes: resize neither here, score what was made"
        )
    count, _, height, width = truth.shape
    world_to_cam = _world_to_cam(matrices.get(CAMERAS), count, origin)
    views = Views(
        image=truth[None],
        intrinsics=_intrinsics(matrices.get(INTRINSICS), count, origin)[None],
        world_to_cam=world_to_cam[None],
        point_map=torch.zeros(()).expand(1, count, 3, height, width),
        valid=torch.zeros((), dtype=torch.bool).expand(1, count, height, width),
        n_ref=0,
        unit=IMAGE_PLANE if world_to_cam.isnan().any() else None,
    )
    return Predicted(views=views, image=image[None], has_intrinsics=INTRINSICS in matrices)


def _world_to_cam(matrices: Float[Tensor, "..."] | None, count: int, origin: str) -> Float[Tensor, "f 4 4"]:
    if matrices is None:
        return torch.full((count, 4, 4), torch.nan)
    _check_shape(matrices, (count, 4, 4), f"{CAMERAS} of {origin}")
    rigid = [from_world_to_cam(one, f"{CAMERAS} of view {view} of {origin}") for view, one in enumerate(matrices)]
    return torch.stack(rigid).float()


def _intrinsics(matrices: Float[Tensor, "..."] | None, count: int, origin: str) -> Float[Tensor, "f 3 3"]:
    """Check intrinsics, which the geometry alone uses; the identity where they are unknown."""
    if matrices is None:
        return torch.eye(3).expand(count, 3, 3)
    _check_shape(matrices, (count, 3, 3), f"{INTRINSICS} of {origin}")
    if not matrices.isfinite().all():
        raise ValueError(f"{INTRINSICS} of {origin} hold a NaN or infinite number; write them anew, or leave them out")
    return matrices.float()


def _check_shape(matrices: Float[Tensor, "..."], shape: tuple[int, ...], origin: str) -> None:
    if tuple(matrices.shape) != shape:
        raise ValueError(f"{origin} has shape {tuple(matrices.shape)}, expected {shape}, a matrix for each view")


# --- all scenes ------------------------------------------------------------------------------------------------------


def find_scenes(root: Folder) -> dict[str, Read]:
    """Find the scenes of a folder, in the natural order of their names, without hidden files.

    Args:
        root: The folder.

    Returns:
        What reads each, by its path below the folder; a scene's folder ends in a slash, so that no name is a number.

    Raises:
        ValueError: If there is none.
    """
    packed = [path for path in root.path.rglob("*.npz") if not (path.is_dir() or _is_hidden(path, root))]
    folders = [path for path in root.path.iterdir() if _is_scene(path) and not _is_hidden(path, root)]
    found: dict[str, Read] = {_name(path, root): partial(read_npz, path, root) for path in packed}
    found |= {f"{_name(path, root)}/": partial(read_folder, path, root) for path in folders}
    if not found:
        raise ValueError(f"{root} has no scenes, expected {LAYOUT}")
    return {name: found[name] for name in sorted(found, key=natural)}


def _is_hidden(path: Path, root: Folder) -> bool:
    return any(is_hidden(Path(part)) for part in path.relative_to(root.path).parts)


def _is_scene(path: Path) -> bool:
    return any((path / part).is_dir() for part in (TRUTH, PREDICTION))


def _name(path: Path, root: Folder) -> str:
    return printable(path.relative_to(root.path).as_posix())


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Images that another program made of scenes.

    Attributes:
        noun: What the images are, as the terminal's tables name them.
        unmatched: Why their match error is NaN.
        name: Of them all, for the terminal.
        scenes: The true views.
        read: What reads each scene.
        digest: Of all pixels and cameras, as 12 hexadecimal digits.
        dropped: Scenes that were left out.
        unposed: Names of the scenes that lack cameras or intrinsics.
        intrinsics_digest: Of all intrinsics; None where they are not used.
        device: Of LPIPS.
    """

    noun: ClassVar[str] = "predictions"
    unmatched: ClassVar[str] = "match error is absent (NaN): predictions come without depth"
    name: str
    scenes: SceneList
    read: tuple[Read, ...]
    digest: str
    dropped: tuple[Dropped, ...]
    unposed: tuple[str, ...]
    intrinsics_digest: str | None
    device: torch.device

    def measure(self, index: int, references: Sequence[int], lpips: Lpips | None) -> dict[int, Quality]:
        """Measure a scene for each number of references."""
        scene = self.read[index]()
        views = replace(scene.views, names=(self.scenes.names[index],)).to(self.device)
        image = scene.image.to(self.device)
        return {n_ref: measure_images(replace(views, n_ref=n_ref), image, lpips=lpips) for n_ref in references}

    @property
    def facts(self) -> dict[str, object]:
        """Return what was read, as a run records it."""
        dropped = [printable(f"{one.name} ({one.reason})") for one in self.dropped]
        used = {} if self.intrinsics_digest is None else {"intrinsics_digest": self.intrinsics_digest}
        return {"scenes_read": len(self.read), "scenes_digest": self.digest, "left_out": dropped, **used}


def open_predictions(root: Folder, n_ref: int, device: torch.device, *, geometry: bool = False) -> Predictions:
    """Find the scenes of a folder and check every file, before anything is measured.

    Args:
        root: The folder, and whether reading is strict.
        n_ref: Number of views, the first ones, that the predictions were made from.
        device: To compute LPIPS on.
        geometry: Whether the intrinsics will be used.

    Raises:
        ValueError: If there is no scene, none can be read, or one cannot and reading is strict.
    """
    found = find_scenes(root)
    named = [(name, partial(_check, name, read, n_ref)) for name, read in found.items()]
    checked, dropped = read_all(named, root, str(root), "scenes")
    return Predictions(
        name=f"predictions of {printable(root.path.resolve().name)}",
        scenes=SceneList(
            names=tuple(one.name for one in checked),
            load=lambda index: (checked[index].read().views, ()),
            note="; ".join(filter(None, (left_out(dropped, len(found), "scenes"), _unposed(checked)))),
        ),
        read=tuple(one.read for one in checked),
        digest=_together(one.name + one.digest for one in checked),
        dropped=dropped,
        unposed=tuple(one.name for one in checked if not (one.has_cameras and one.has_intrinsics)),
        intrinsics_digest=_together(one.intrinsics for one in checked) if geometry else None,
        device=device,
    )


def _together(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A scene that can be read; ``digest`` is of its pixels and cameras, ``intrinsics`` of these."""

    name: str
    read: Read
    digest: str
    intrinsics: str
    has_cameras: bool
    has_intrinsics: bool


def _check(name: str, read: Read, n_ref: int) -> _Checked:
    scene = read()
    if scene.views.count <= n_ref:
        raise ValueError(
            f"{name} has {scene.views.count} views, of which {n_ref} are references: expected at least one target more"
        )
    views = scene.views
    return _Checked(
        name=name,
        read=read,
        digest=_digest(views.image, scene.image, views.world_to_cam),
        intrinsics=_digest(views.intrinsics),
        has_cameras=views.has_cameras,
        has_intrinsics=scene.has_intrinsics,
    )


def _digest(*parts: Float[Tensor, "..."]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(tuple(part.shape)).encode() + part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _unposed(checked: Sequence[_Checked]) -> str:
    """Return what is not known of scenes without cameras; nothing where all have them."""
    count = sum(not one.has_cameras for one in checked)
    if not count:
        return ""
    return (
        f"{count} of {len(checked)} scenes without cameras: their views count in no rotation bin, and the copy is of "
        "their first reference"
    )
