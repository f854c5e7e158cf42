"""Scenes of COLMAP: a sparse model beside its images.

``colmap:FOLDER`` is one scene, or a folder of scenes up to three folders deep (MVImgNet), or the model's own folder.
The model lies in ``sparse/0``, ``sparse``, ``colmap/sparse/0`` or the folder; else in ``colmap_sparse/0`` or
``colmap_text`` (instant-ngp), or in ``sfm`` (hloc). A folder with several models gives one recording for each. Images
lie in ``images``, else ``images_2``, ``images_4``, ``images_8``, ``input``, the folder itself, or where ``--images``
says. Images of another size scale the cameras. Distorted images are resampled to a pinhole camera. There is no unit,
but what ``--unit`` says.

Truth is dense depth where ``stereo/depth_maps/IMAGE.geometric.bin`` lies beside the images (name the folder that
image_undistorter and patch_match_stereo wrote); images without a map are dropped. Without dense depth truth is the
sparse tracks: a pixel has a point if a tracked point lies in it, that very point, and no other pixel is valid. The
overlap of two frames is then the share of tracks they have in common. A model without points has no truth.

Source:
    COLMAP's documentation (docs/references.md, "COLMAP"), scripts/python/read_dense.py for the depth maps' order.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.scenes.cameras.lenses import Lens, straighten
from probe.scenes.choosing import Recordings
from probe.scenes.files import image_size, natural, read_rgb
from probe.scenes.formats.colmap_model import Camera, Photo, has_model, read_model
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, endings, find_file, flag_of, inside, read_all
from probe.scenes.reading import IMAGES as SUFFIXES
from probe.scenes.recordings import Recording

PLACES = (
    ("", "sparse", "sparse/*", "colmap/sparse", "colmap/sparse/*"),
    ("colmap_sparse", "colmap_sparse/*"),
    ("colmap_text", "colmap_text/*"),
    ("sfm", "sfm/*", "sfm_*"),
)
"""Where a scene's models lie; later places count where the earlier ones have none."""
IMAGES = ("images", "images_2", "images_4", "images_8", "input", "")
DEEPEST = 3  # folders between the data set's and a scene's
ABOVE = 3  # folders between a model's and its scene's, as in colmap/sparse/0
ASPECT = 0.02  # relative difference of shapes up to which an image is the camera's, resized
EXPECTED = "expected images/ beside sparse/0/cameras.bin, images.bin and points3D.bin (or .txt)"
DEPTHS = "stereo/depth_maps"
NO_MAP = f"it has no map in {DEPTHS}"
HEADER = re.compile(rb"([1-9]\d{0,5})&([1-9]\d{0,5})&1&")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files and camera."""

    photo: Photo
    image: Path
    depth: Path
    camera: Camera

    @property
    def lens(self) -> Lens | None:
        """Return how it distorts, or None."""
        return self.camera.lens


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the sparse models of a folder, or of those inside it.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"colmap: {root} is not a folder; {EXPECTED}")
    if (scene := _scene_of(root)) is not None:
        root, model = root.at(scene), path.absolute()
        models = {scene.name: (model, scene)}
    else:
        models = dict(_scenes(root.path, root, DEEPEST))
    if not models:
        raise FileNotFoundError(f"colmap: {root} holds no sparse model, down to {DEEPEST} folders deep; {EXPECTED}")
    names = tuple(sorted(models, key=natural))
    return Recordings(root=root.path, names=names, open=lambda name: load_recording(*models[name], root, name))


def _scene_of(root: Folder) -> Path | None:
    """Return the scene of a model's own folder, whose images lie further up."""
    if not has_model(root.path) or _image_folders(root) or _has_images(root.path):
        return None
    above = list(root.path.absolute().parents)[:ABOVE]
    return next((folder for folder in above if _image_folders(root.at(folder))), None)


def _scenes(folder: Path, root: Folder, deepest: int) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Return each model's name, its own folder and that of its scene."""
    groups = ([path for place in places for path in _glob(folder, place) if has_model(path)] for places in PLACES)
    here = next((models for models in groups if models), [])
    name = root.path.resolve().name if folder == root.path else folder.relative_to(root.path).as_posix()
    for model in here:
        yield (name if len(here) == 1 else f"{name}/{model.relative_to(folder).as_posix()}"), (model, folder)
    if not here and deepest:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _scenes(inner, root, deepest - 1)


def _glob(folder: Path, place: str) -> list[Path]:
    return sorted(folder.glob(place)) if place else [folder]


def load_recording(sparse: Path, folder: Path, root: Folder, name: str) -> Recording:
    """Read a sparse model and find its images, without reading pixels.

    Args:
        sparse: Folder of the model.
        folder: Folder of the scene: ``images`` and ``stereo`` lie in it.
        root: Every file lies inside this.
        name: Of the recording.

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If the model is broken, or no image can be read.
    """
    model = read_model(sparse, root)
    photos = sorted(model.photos, key=lambda photo: natural(photo.name))
    images = _find_images(photos, folder, root)
    uses = Counter(images[photo.name] for photo in photos)
    named = [
        (photo.name, partial(_frame, photo, images[photo.name], uses[images[photo.name]], folder, root))
        for photo in photos
    ]
    found, dropped = read_all(named, root, str(sparse))
    dense = [frame for frame in found if frame.depth.exists()]
    frames = tuple(dense or found)
    without_map = tuple(Dropped(frame.photo.name, NO_MAP) for frame in found if dense and not frame.depth.exists())
    if dense and any(frame.lens for frame in frames):
        raise ValueError(f"colmap: {folder} has {DEPTHS} beside distorted images, expected an undistorted workspace")
    tracks = tuple(frame.photo.tracks for frame in frames)
    sparse_truth, unit = not dense and len(model.points) > 0, root.reading.unit or 1.0
    return Recording(
        name=name,
        names=tuple(frame.photo.name for frame in frames),
        sizes=tuple(frame.camera.size for frame in frames),
        world_to_cam=_scaled(torch.stack([frame.photo.world_to_cam for frame in frames]), unit),
        intrinsics=torch.stack([frame.camera.straight for frame in frames]),
        colour=partial(_read_colour, frames, root),
        depth=partial(_read_depth, frames, root, unit) if dense else None,
        points=partial(_read_tracks, model.points * unit, tracks) if sparse_truth else None,
        shared=shared_tracks(tracks, len(model.points)) if sparse_truth else None,
        unit="m" if root.reading.unit else None,
        dropped=(*model.dropped, *dropped, *without_map),
    )


def _scaled(world_to_cam: Float[Tensor, "n 4 4"], unit: float) -> Float[Tensor, "n 4 4"]:
    return world_to_cam * world_to_cam.new_tensor([[1, 1, 1, unit]] * 3 + [[1, 1, 1, 1]])


def shared_tracks(tracks: Sequence[Int[Tensor, "..."]], points: int) -> Float[Tensor, "n n"]:
    """Return the share of each frame's tracks that each other frame sees too, the smaller of both directions.

    Args:
        tracks: Per frame, the places of the points it sees, each once.
        points: Their number.

    Returns:
        From 0 to 1, 0 where a frame sees nothing.
    """
    frame = np.repeat(np.arange(len(tracks)), [len(one) for one in tracks])
    point = torch.cat(list(tracks)).numpy()
    seen = scipy.sparse.csr_matrix((np.ones(len(point), np.float32), (frame, point)), (len(tracks), points))
    common = torch.from_numpy((seen @ seen.T).toarray())
    share = common / common.diagonal().clamp(min=1)[:, None]
    return torch.minimum(share, share.mT)


# --- images ----------------------------------------------------------------------------------------------------------


def _image_folders(scene: Folder) -> list[Path]:
    """Return where a scene's images may lie: in one of these folders."""
    if scene.reading.images is not None:
        named = scene / scene.reading.images
        return [named] if named.is_dir() else []
    return [scene / name for name in IMAGES if name and (scene / name).is_dir()]


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _find_image(name: str, place: Path, root: Folder) -> Path | None:
    return find_file(name, place, suffixes=endings(name, root))


def _find_images(photos: Sequence[Photo], folder: Path, root: Folder) -> dict[str, Path | None]:
    """Find the images of a scene, in the first of the folders that has one of them.

    Raises:
        FileNotFoundError: If there is none at all.
    """
    folders = _image_folders(root.at(folder)) + ([] if root.reading.images else [folder])
    for place in folders:
        images = {photo.name: _find_image(photo.name, place, root) for photo in photos}
        if any(images.values()):
            return images
    expected = folder / (root.reading.images or IMAGES[0]) / photos[0].name
    raise FileNotFoundError(
        f"colmap: none of the {len(photos)} images of {folder} exists; expected {expected} and the others, or their "
        f"folder named by {flag_of('images')}"
    )


def _frame(photo: Photo, image: Path | None, uses: int, folder: Path, root: Folder) -> Frame:
    if image is None:
        raise FileNotFoundError(f"{photo.name}, which {folder} registers, does not exist")
    if uses > 1:
        raise ValueError(f"{photo.name}: {image} is the only file for {uses} registered images")
    inside(image, root)
    camera = photo.camera
    size = image_size(image, root, camera.size)
    if abs(size[1] / size[0] * camera.size[0] / camera.size[1] - 1) > ASPECT:
        expected = f"{camera.size[0]} x {camera.size[1]}"
        raise ValueError(f"{image} is {size[0]} x {size[1]}, expected the shape of its camera, {expected}")
    depth = folder / DEPTHS / f"{photo.name}.geometric.bin"
    return Frame(photo=photo, image=image, depth=depth, camera=camera.resized(size))


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(frames: tuple[Frame, ...], root: Folder, index: int) -> Float[Tensor, "3 height width"]:
    frame = frames[index]
    image = read_rgb(frame.image, root, frame.camera.size)
    if frame.lens is None or image.shape[1:] != frame.camera.size:  # another size is refused when it is cut
        return image
    return straighten(image, frame.lens, nearest=False)


def _read_tracks(
    points: Float[Tensor, "p 3"], tracks: tuple[Int[Tensor, "..."], ...], index: int
) -> Float[Tensor, "t 3"]:
    return points[tracks[index]]


def _read_depth(frames: tuple[Frame, ...], root: Folder, unit: float, index: int) -> Float[Tensor, "height width"]:
    path = frames[index].depth
    data = inside(path, root).read_bytes()
    header = HEADER.match(data)
    width, height = (int(side) for side in header.groups()) if header else (0, 0)
    if header is None or len(data) != header.end() + 4 * width * height:
        raise ValueError(f"colmap: {path} is not a whole depth map: WIDTH&HEIGHT&1& and as many 4-byte numbers")
    return torch.from_numpy(np.frombuffer(data, "<f4", offset=header.end()).reshape(height, width) * np.float32(unit))
