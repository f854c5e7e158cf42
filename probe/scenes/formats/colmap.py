"""Scenes of COLMAP: ``images/`` beside a sparse model: in ``sparse/0``, ``sparse``, ``colmap/sparse/0``, or the folder.

``colmap:FOLDER`` is one scene, or a folder of scenes up to three folders deep (MVImgNet). A folder with several models
gives one recording for each. Distorted images are resampled to a pinhole camera. There is no unit.

Truth is dense depth where ``stereo/depth_maps/IMAGE.geometric.bin`` lies beside the images (name the folder that
image_undistorter and patch_match_stereo wrote); images without a map are dropped. Without dense depth truth is the
sparse tracks: a pixel has a point if a tracked point lies in it, that very point, and no other pixel is valid. The
overlap of two frames is then the share of tracks they have in common.

Source:
    COLMAP's documentation (docs/references.md, "COLMAP"), scripts/python/read_dense.py for the depth maps' order.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.scenes.choosing import Recordings
from probe.scenes.files import natural, read_rgb
from probe.scenes.formats.colmap_model import Model, has_model, read_model
from probe.scenes.lenses import Lens, straight, straighten
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, inside
from probe.scenes.recordings import Recording

PLACES = ("", "sparse", "sparse/*", "colmap/sparse", "colmap/sparse/*")
DEEPEST = 3  # folders between the data set's and a scene's
EXPECTED = "expected images/ beside sparse/0/cameras.bin, images.bin and points3D.bin (or .txt)"
DEPTHS = "stereo/depth_maps"
NO_MAP = f"it has no map in {DEPTHS}"
HEADER = re.compile(rb"([1-9]\d{0,5})&([1-9]\d{0,5})&1&")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame's files, and the lens if it distorts."""

    image: Path
    depth: Path
    size: tuple[int, int]
    lens: Lens | None


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the sparse models of a folder, or of those inside it.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"colmap: {root} is not a folder; {EXPECTED}")
    models = dict(_scenes(root.path, root, DEEPEST))
    if not models:
        raise FileNotFoundError(f"colmap: {root} holds no sparse model, down to {DEEPEST} folders deep; {EXPECTED}")
    names = tuple(sorted(models, key=natural))
    return Recordings(root=root.path, names=names, open=lambda name: load_recording(*models[name], root, name))


def _scenes(folder: Path, root: Folder, deepest: int) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Return each model's name, its own folder and that of its scene."""
    models = [path for place in PLACES for path in (sorted(folder.glob(place)) if place else [folder])]
    here = [path for path in models if has_model(path)]
    name = root.path.resolve().name if folder == root.path else folder.relative_to(root.path).as_posix()
    for model in here:
        yield (name if len(here) == 1 else f"{name}/{model.relative_to(folder).as_posix()}"), (model, folder)
    if not here and deepest:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _scenes(inner, root, deepest - 1)


def load_recording(sparse: Path, folder: Path, root: Folder, name: str) -> Recording:
    """Read a sparse model and find its images, without reading pixels.

    Args:
        sparse: Folder of the model.
        folder: Folder of the scene: ``images`` and ``stereo`` lie in it.
        root: Every file lies inside this.
        name: Of the recording.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If the model is broken.
    """
    model = read_model(sparse, root)
    photos = sorted(model.photos, key=lambda photo: natural(photo.name))
    files = [_frame(folder, model, photo.name, photo.camera, root) for photo in photos]
    dense = [place for place, file in enumerate(files) if file.depth.exists()]
    kept = dense or range(len(photos))
    chosen, frames = [photos[place] for place in kept], tuple(files[place] for place in kept)
    if dense and any(frame.lens for frame in frames):
        raise ValueError(f"colmap: {folder} has {DEPTHS} beside distorted images, expected an undistorted workspace")
    tracks = tuple(photo.tracks for photo in chosen)
    sparse_truth = not dense and len(model.points) > 0
    return Recording(
        name=name,
        names=tuple(photo.name for photo in chosen),
        sizes=tuple(frame.size for frame in frames),
        world_to_cam=torch.stack([photo.world_to_cam for photo in chosen]),
        intrinsics=torch.stack([_intrinsics(model, photo.camera) for photo in chosen]),
        colour=partial(_read_colour, frames, root),
        depth=partial(_read_depth, frames, root) if dense else None,
        points=partial(_read_tracks, model.points, tracks) if sparse_truth else None,
        shared=shared_tracks(tracks, len(model.points)) if sparse_truth else None,
        dropped=tuple(Dropped(photo.name, NO_MAP) for place, photo in enumerate(photos) if place not in set(kept)),
    )


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


def _frame(folder: Path, model: Model, name: str, camera: int, root: Folder) -> Frame:
    image = folder / "images" / name
    inside(image, root)
    seen = model.cameras[camera]
    return Frame(image=image, depth=folder / DEPTHS / f"{name}.geometric.bin", size=seen.size, lens=seen.lens)


def _intrinsics(model: Model, camera: int) -> Float[Tensor, "3 3"]:
    seen = model.cameras[camera]
    return seen.intrinsics if seen.lens is None else straight(seen.lens)


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(frames: tuple[Frame, ...], root: Folder, index: int) -> Float[Tensor, "3 height width"]:
    frame = frames[index]
    image = read_rgb(frame.image, root)
    return (
        image if frame.lens is None or image.shape[1:] != frame.size else straighten(image, frame.lens, nearest=False)
    )


def _read_tracks(
    points: Float[Tensor, "p 3"], tracks: tuple[Int[Tensor, "..."], ...], index: int
) -> Float[Tensor, "t 3"]:
    return points[tracks[index]]


def _read_depth(frames: tuple[Frame, ...], root: Folder, index: int) -> Float[Tensor, "height width"]:
    path = frames[index].depth
    data = inside(path, root).read_bytes()
    header = HEADER.match(data)
    width, height = (int(side) for side in header.groups()) if header else (0, 0)
    if header is None or len(data) != header.end() + 4 * width * height:
        raise ValueError(f"colmap: {path} is not a whole depth map: WIDTH&HEIGHT&1& and as many 4-byte numbers")
    return torch.from_numpy(np.frombuffer(data, "<f4", offset=header.end()).reshape(height, width).copy())
