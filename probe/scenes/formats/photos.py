"""Plain photos of one static scene: pycolmap reconstructs cameras and tracks from them, then they are a COLMAP scene.

``photos:FOLDER`` takes the photos of the folder (PNG, JPEG, WebP, TIFF, BMP; HEIC with pillow-heif), or else of the one
folder below it that holds some, such as ``images``; ``--images`` names another one. They are turned upright by their
EXIF orientation. Photos that cannot be read, and further copies of the same file, are left out before anything is
reconstructed. SIFT features, matches (of all pairs up to 100 photos, of neighbours in the order of names beyond) and
the incremental mapping are computed once, on the processor, and kept in ``$XDG_CACHE_HOME/attention-probing/photos``
(``~/.cache``) under the digest of the photos. Photos of one size are taken to come from one camera without zoom, others
from one each. Photos that did not fit into the largest reconstruction are dropped and counted; the reconstruction has
no unit.

A reconstruction of fewer than three photos or few points, or with a lens that no camera has, is refused: on frames of
7-Scenes such ones were wrong (of 5 photos, 2 were placed with a focal length of 6 image widths, 3 with one of 1.4 and a
distortion of -.5; the true ones are .8 and about 0). COLMAP's thresholds stay as they are: lower ones place five photos
taken within 24 mm, with errors as large as their extent.

Truth is the sparse tracks, as :mod:`probe.scenes.formats.colmap` says.
"""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from einops import rearrange
from PIL import Image
from tqdm import tqdm

from probe.scenes.choosing import Recordings
from probe.scenes.files import ORIENTATION, decode_rgb, images_in, open_image, orientation, read_json, upright
from probe.scenes.formats import colmap
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, flag_of, inside, left_out, read_all

FEWEST = 3  # photos; two have no track that a third one confirms
FEWEST_POINTS = 100  # wrong reconstructions had 33 to 65, right ones of 5 photos 222 and more
FEWEST_MATCHES = 15  # of a pair, as COLMAP takes it
EXHAUSTIVE = 100  # photos up to which all pairs are matched
RECIPE = "3"  # changes when a reconstruction would come out otherwise
SEED = 0
DEEPEST = 2  # folders between the one named and that of the photos
UNFIT = "it does not fit into the reconstruction"
NOTES = "photos.json"
COPIED = ("PNG", "JPEG", "MPO")
LOSSY = ("JPEG", "MPO", "WEBP", "HEIF")
PLAIN = ("L", "RGB")
HEIC = (".heic", ".heif")
RATIOS = 0.1, 10.0  # of the focal length to the image's longer side, as COLMAP bounds it while mapping
MOST_DISTORTION = 0.4  # of SIMPLE_RADIAL; action cameras reach .3, a wrong model of 3 photos had .5


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo of the workspace.

    Attributes:
        name: As the user calls it.
        copy: Its name in the workspace.
        size: (height, width), upright.
        turned: Whether EXIF turned it.
    """

    name: str
    copy: str
    size: tuple[int, int]
    turned: bool


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Reconstruct the photos of a folder, unless that was done before.

    Raises:
        FileNotFoundError: If it is no folder.
        ValueError: If there are too few photos that can be read, or pycolmap is not installed or cannot reconstruct
            them.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"photos: {root} is not a folder; expected one with photos of one scene")
    listed = _photos(root)
    digests, unread = read_all(((photo.name, partial(_digest, photo, root)) for photo in listed), root, str(root))
    workspace = cache_folder() / _key(digests)
    if not workspace.is_dir():
        _fill(workspace, [photo for photo, _ in _different(digests)], root, unread)
    notes = read_json(workspace / NOTES, Folder(workspace))
    name = root.path.resolve().name
    recording = colmap.load_recording(workspace / "sparse", workspace, Folder(workspace), name)
    names = tuple(notes["names"][copy] for copy in recording.names)
    dropped = {one.name: one.reason for one in unread} | _copies(digests) | notes["broken"]
    absent = tuple(Dropped(photo.name, dropped.get(photo.name, UNFIT)) for photo in listed if photo.name not in names)
    opened = replace(recording, names=names, dropped=absent)
    turned = f"; {notes['turned']} of them turned upright by EXIF" if notes["turned"] else ""
    note = f"{len(names)} of {len(listed)} photos reconstructed, in {workspace}{turned}"
    return Recordings(root=workspace, names=(name,), open=lambda _: opened, note=note)


def cache_folder() -> Path:
    """Return the folder that reconstructions are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-probing" / "photos"


# --- finding ---------------------------------------------------------------------------------------------------------


def _photos(root: Folder) -> list[Path]:
    """List the photos: of the folder, or else of the one below it that holds some."""
    if root.reading.images is not None:
        return _enough(root / root.reading.images)
    here = images_in(root.path)
    if len(here) >= FEWEST:
        return here
    below = [folder for folder in _folders(root.path, DEEPEST) if len(images_in(folder)) >= FEWEST]
    usual = [folder for folder in below if folder == root / "images"]
    if len(below) > 1 and not usual:
        names = ", ".join(folder.relative_to(root.path).as_posix() for folder in below[:4])
        raise ValueError(
            f"photos: {root} holds photos in {len(below)} folders ({names}); name one, or use {flag_of('images')}"
        )
    return _enough(*(usual or below or [root.path]))


def _enough(folder: Path) -> list[Path]:
    photos = images_in(folder) if folder.is_dir() else []
    if len(photos) < FEWEST:
        others = sorted({path.suffix for path in folder.glob("*.*") if not is_hidden(path)} if folder.is_dir() else ())
        holds = f"; it holds {', '.join(others[:4])}" if others and not photos else ""
        raise ValueError(
            f"photos: {folder} holds {len(photos)} photos, expected {FEWEST} or more of one scene (PNG, JPEG, WebP, "
            f"TIFF, BMP, HEIC){holds}"
        )
    return photos


def _folders(folder: Path, deepest: int) -> Iterator[Path]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path)):
        yield inner
        if deepest > 1:
            yield from _folders(inner, deepest - 1)


def _digest(photo: Path, root: Folder) -> tuple[Path, str]:
    return photo, hashlib.sha256(inside(photo, root).read_bytes()).hexdigest()


def _key(digests: Sequence[tuple[Path, str]]) -> str:
    """Name what is reconstructed: the photos, and whether HEIC among them can be read."""
    heic = any(photo.suffix.lower() in HEIC for photo, _ in digests) and find_spec("pillow_heif") is not None
    digest = hashlib.sha256(f"{RECIPE}{' with HEIC' if heic else ''}".encode())
    for photo, content in digests:
        digest.update(photo.name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(content))
    return digest.hexdigest()[:16]


def _different(digests: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Keep the first of each content."""
    first = {content: photo for photo, content in reversed(digests)}
    return [(photo, content) for photo, content in digests if first[content] == photo]


def _copies(digests: Sequence[tuple[Path, str]]) -> dict[str, str]:
    """Return why photos are left out that are the same file as an earlier one."""
    first = {content: photo.name for photo, content in _different(digests)}
    return {
        photo.name: f"it is the same file as {first[content]}"
        for photo, content in digests
        if first[content] != photo.name
    }


# --- the workspace ---------------------------------------------------------------------------------------------------


def _fill(workspace: Path, photos: Sequence[Path], root: Folder, unread: Sequence[Dropped]) -> None:
    """Make the workspace beside its place and put it there when it is whole; errors name what was left out."""
    pycolmap = _pycolmap()
    workspace.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.parent, prefix=f"{workspace.name}.part-") as part:
        made = Path(part) / "workspace"
        (made / "images").mkdir(parents=True)
        copy = partial(_copy_upright, root=root, folder=made / "images")
        whole, broken = read_all(((photo.name, partial(copy, photo)) for photo in photos), root, str(root))
        missing = left_out((*unread, *broken), len(photos) + len(unread), "photos")
        why = f"; {missing}" if missing else ""
        if len(whole) < FEWEST:
            raise ValueError(
                f"photos: {root} holds {len(whole)} different photos that can be read, expected {FEWEST} or more{why}"
            )
        try:
            with _quiet(pycolmap):
                _reconstruct(pycolmap, made, len(whole), one_camera=len({photo.size for photo in whole}) == 1)
        except ValueError as error:
            raise ValueError(f"{error}{why}") from None
        _write_notes(made, whole, {one.name: one.reason for one in broken})
        made.rename(workspace)


def _write_notes(workspace: Path, photos: Sequence[Photo], broken: Mapping[str, str]) -> None:
    notes = {
        "names": {photo.copy: photo.name for photo in photos},
        "turned": sum(photo.turned for photo in photos),
        "broken": broken,
    }
    (workspace / NOTES).write_text(json.dumps(notes))


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


def _copy_upright(photo: Path, *, root: Folder, folder: Path) -> Photo:
    """Copy a photo for pycolmap, upright and in 8 bits; its EXIF focal length stays, which COLMAP starts from."""
    with open_image(photo, root) as image:
        image.load()
        turned = orientation(image) != 1
        if image.format in COPIED and image.mode in PLAIN and not turned:
            shutil.copyfile(photo, folder / photo.name)
            return Photo(name=photo.name, copy=photo.name, size=(image.height, image.width), turned=False)
        plain, exif = upright(_in_eight_bits(image)), image.getexif()
        exif[ORIENTATION] = 1
        copy = f"{photo.name}.jpg" if image.format in LOSSY else f"{photo.name}.png"
        plain.save(folder / copy, exif=exif, quality=95)
        return Photo(name=photo.name, copy=copy, size=(plain.height, plain.width), turned=turned)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in PLAIN:
        return image
    colours = rearrange((decode_rgb(image) * 255).round().byte(), "c height width -> height width c")
    plain = Image.fromarray(colours.numpy())
    plain.getexif()[ORIENTATION] = orientation(image)
    return plain


def _reconstruct(pycolmap: Any, workspace: Path, photos: int, *, one_camera: bool) -> None:
    """Write ``sparse``, the largest sound reconstruction of the workspace's images."""
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
    sound = [model for model in reconstructions.values() if _is_sound(model)]
    if not sound:
        raise ValueError(_why_none(pycolmap, database, photos))
    (workspace / "sparse").mkdir()
    max(sound, key=lambda model: model.num_reg_images()).write_binary(workspace / "sparse")
    shutil.rmtree(models)
    database.unlink()


def _is_sound(model: Any) -> bool:
    """Return whether a reconstruction has photos and points enough, and cameras as they are made."""
    strange = any(camera.has_bogus_params(*RATIOS, MOST_DISTORTION) for camera in model.cameras.values())
    return model.num_reg_images() >= FEWEST and model.num_points3D() >= FEWEST_POINTS and not strange


def _why_none(pycolmap: Any, database: Path, photos: int) -> str:
    """Return why nothing came out: the photos show different things, or were taken from one place."""
    opened = pycolmap.Database.open(database)
    _, inliers = opened.read_two_view_geometry_num_inliers()
    opened.close()
    matched, pairs = sum(number >= FEWEST_MATCHES for number in inliers), photos * (photos - 1) // 2
    advice = (
        "they match but may be taken from nearly one place, which shows no depth, or share too little: walk sideways "
        "and take more photos"
        if matched >= pairs / 2
        else "take more, from places nearer to each other, of a scene with texture that does not move"
    )
    return f"photos: pycolmap cannot reconstruct these {photos} photos ({matched} of {pairs} pairs match); {advice}"
