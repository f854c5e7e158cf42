"""Plain photos of one static scene: pycolmap reconstructs cameras and tracks from them, then they are a COLMAP scene.

``photos:FOLDER`` takes the PNG and JPEG files of the folder, upright by their EXIF orientation. SIFT features, matches
(of all pairs up to 100 photos, of neighbours in the order of names beyond) and the incremental mapping are computed
once, on the processor, and kept in ``$XDG_CACHE_HOME/attention-probing/photos`` (``~/.cache``) under the digest of the
photos. Photos of one size are taken to come from one camera without zoom, others from one each. Photos that did not
fit into the largest reconstruction are dropped and counted; the reconstruction has no unit.

Truth is the sparse tracks, as :mod:`probe.scenes.formats.colmap` says.
"""

import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import ImageOps
from tqdm import tqdm

from probe.scenes.choosing import Recordings
from probe.scenes.files import natural, open_image
from probe.scenes.formats import colmap
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, inside

SUFFIXES = (".png", ".jpg", ".jpeg")
FEWEST = 3  # photos; two have no track that a third one confirms
EXHAUSTIVE = 100  # photos up to which all pairs are matched
RECIPE = "1"  # changes when a reconstruction would come out otherwise
ORIENTATION = 0x0112  # EXIF
SEED = 0
UNFIT = "it does not fit into the reconstruction"


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Reconstruct the photos of a folder, unless that was done before.

    Raises:
        FileNotFoundError: If it is no folder.
        ValueError: If there are too few photos, one is broken, pycolmap is not installed or cannot reconstruct them.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"photos: {root} is not a folder; expected one with PNG or JPEG photos of one scene")
    photos = sorted(
        (path for path in root.path.iterdir() if path.suffix.lower() in SUFFIXES), key=lambda p: natural(p.name)
    )
    if len(photos) < FEWEST:
        raise ValueError(
            f"photos: {root} holds {len(photos)} PNG or JPEG files, expected {FEWEST} or more of one scene"
        )
    workspace = cache_folder() / _digest(photos, root)
    if not workspace.is_dir():
        _fill(workspace, photos, root)
    name = root.path.resolve().name
    recording = colmap.load_recording(workspace / "sparse", workspace, Folder(workspace), name)
    left_out = tuple(Dropped(photo.name, UNFIT) for photo in photos if photo.name not in recording.names)
    note = f"{len(recording.names)} of {len(photos)} photos reconstructed, in {workspace}"
    return Recordings(root=workspace, names=(name,), open=lambda _: replace(recording, dropped=left_out), note=note)


def cache_folder() -> Path:
    """Return the folder that reconstructions are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-probing" / "photos"


def _digest(photos: Sequence[Path], root: Folder) -> str:
    digest = hashlib.sha256(RECIPE.encode())
    for photo in photos:
        digest.update(photo.name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(hashlib.sha256(inside(photo, root).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _fill(workspace: Path, photos: Sequence[Path], root: Folder) -> None:
    """Make the workspace beside its place and put it there when it is whole."""
    pycolmap = _pycolmap()
    workspace.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.parent, prefix=f"{workspace.name}.part-") as part:
        made = Path(part) / "workspace"
        (made / "images").mkdir(parents=True)
        sizes = {_copy_upright(photo, root, made / "images" / photo.name) for photo in photos}
        with _quiet(pycolmap):
            _reconstruct(pycolmap, made, len(photos), one_camera=len(sizes) == 1)
        made.rename(workspace)


def _pycolmap() -> Any:
    try:
        return importlib.import_module("pycolmap")
    except ImportError as error:
        advice = "install it with: python -m pip install 'attention-probing[colmap]'"
        raise ValueError(f"photos needs pycolmap, which cannot be imported ({error}); {advice}") from None


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    before, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, 2  # errors only
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _copy_upright(photo: Path, root: Folder, target: Path) -> tuple[int, int]:
    """Copy a photo, turned as its EXIF orientation says; its EXIF focal length stays, which COLMAP starts from."""
    with open_image(photo, root) as image:
        image.load()
        if image.getexif().get(ORIENTATION, 1) == 1:
            shutil.copyfile(photo, target)
            return image.height, image.width
        upright = ImageOps.exif_transpose(image)
        upright.save(target, format=image.format, exif=upright.getexif(), quality=95)
        return upright.height, upright.width


def _reconstruct(pycolmap: Any, workspace: Path, photos: int, *, one_camera: bool) -> None:
    """Write ``sparse``, the largest reconstruction of the workspace's images."""
    database, images, models = workspace / "database.db", workspace / "images", workspace / "models"
    models.mkdir()
    pycolmap.set_random_seed(SEED)
    mode = pycolmap.CameraMode.SINGLE if one_camera else pycolmap.CameraMode.PER_IMAGE
    match = pycolmap.match_exhaustive if photos <= EXHAUSTIVE else pycolmap.match_sequential
    options = pycolmap.IncrementalPipelineOptions(min_model_size=FEWEST, random_seed=SEED)
    with tqdm(total=3, desc=f"reconstructing {photos} photos", unit="step") as steps:
        pycolmap.extract_features(database, images, camera_mode=mode, device=pycolmap.Device.cpu)
        steps.update()
        match(database, device=pycolmap.Device.cpu)
        steps.update()
        reconstructions = pycolmap.incremental_mapping(database, images, models, options=options)
        steps.update()
    if not reconstructions:
        raise ValueError(
            f"photos: pycolmap cannot reconstruct these {photos} photos; take more, from places nearer to each other, "
            "of a scene with texture that does not move"
        )
    (workspace / "sparse").mkdir()
    max(reconstructions.values(), key=lambda model: model.num_reg_images()).write_binary(workspace / "sparse")
    shutil.rmtree(models)
    database.unlink()
