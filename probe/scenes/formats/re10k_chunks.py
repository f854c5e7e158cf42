"""pixelSplat's chunks of RealEstate10K; ACID and DL3DV come as such too.

Source:
    pixelsplat, src/dataset/dataset_re10k.py (docs/references.md, "RealEstate10K").
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.files import DAMAGE, decode_rgb, open_bytes, read_json, take
from probe.scenes.formats.re10k_cameras import CAMERA, Posed, posed_row, recording_of
from probe.scenes.kinds import is_hidden
from probe.scenes.reading import Dropped, Folder, inside, read_all
from probe.scenes.recordings import Recording


def chunks_of(root: Folder, splits: Sequence[str]) -> tuple[dict[str, Path], list[Dropped]]:
    """Map each recording to its chunk, by ``index.json`` or else by looking into the chunks.

    Args:
        root: The data set's folder.
        splits: Folders of it, as they may be.

    Returns:
        The chunk of each recording, and the chunks that are missing or broken.

    Raises:
        ValueError: If an index is broken; if a chunk is, and reading is strict.
    """
    files, lost = dict[str, Path](), list[Dropped]()
    for folder in (root / split for split in splits):
        indexed = (folder / "index.json").exists()
        for path, keys in (_indexed(folder, root) if indexed else _opened(folder, root)).items():
            try:
                files |= dict.fromkeys(keys(), path)
            except (ValueError, OSError) as error:
                if root.reading.strict:
                    raise
                lost.append(Dropped(path.name, str(error)))
    return files, lost


def _indexed(folder: Path, root: Folder) -> dict[Path, Callable[[], list[str]]]:
    """Return what lists the recordings of each chunk of an index; it fails where there is no such chunk."""
    path = folder / "index.json"
    keys: dict[str, list[str]] = {}
    for key, name in take({"index": read_json(path, root)}, "index", dict, str(path)).items():
        keys.setdefault(str(name), []).append(key)

    def listed(chunk: Path, names: list[str]) -> list[str]:
        inside(chunk, root)
        return names

    return {folder / name: partial(listed, folder / name, names) for name, names in keys.items()}


def _opened(folder: Path, root: Folder) -> dict[Path, Callable[[], list[str]]]:
    paths = sorted(path for path in folder.glob("*.torch") if not is_hidden(path))
    return {path: partial(lambda path: list(read_chunk(root, path)), path) for path in paths}


def read_chunk(root: Folder, path: Path) -> dict[str, dict[str, Any]]:
    """Read a chunk's recordings by their keys; images stay on the disk until they are decoded."""
    file = inside(path, root)
    try:
        scenes = torch.load(file, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(file))
    except DAMAGE as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"re10k: {path} is not a whole chunk of tensors: {why}") from None
    listed = take({"scenes": scenes}, "scenes", list, str(path))
    return {take(scene, "key", str, f"a scene of {path}"): scene for scene in listed}


def load_scene(
    scenes: Mapping[str, dict[str, Any]],
    key: str,
    read: Callable[[Path], Mapping[str, dict[str, Any]]],
    path: Path,
    root: Folder,
) -> Recording:
    """Turn a recording of a chunk into a recording.

    Args:
        scenes: The chunk.
        key: Of the recording.
        read: Reads the chunk again when pixels are needed, so that a recording does not hold on to it.
        path: Of the chunk.
        root: The data set's folder.

    Raises:
        ValueError: If the chunk lacks the recording, or no frame of it holds what it should; of the first frame, if
            reading is strict.
    """
    if key not in scenes:
        raise ValueError(f"re10k: {path} holds no {key}, though index.json says so")
    origin = f"{key} of {path}"
    cameras, images = take(scenes[key], "cameras", Tensor, origin), take(scenes[key], "images", list, origin)
    if cameras.ndim != 2 or cameras.shape[1] != CAMERA or not len(cameras) or not cameras.is_floating_point():
        raise ValueError(f"cameras of {origin} are {tuple(cameras.shape)}, expected (frames, {CAMERA})")
    if len(images) != len(cameras):
        raise ValueError(f"{origin} has {len(images)} images and {len(cameras)} cameras, expected as many")

    def frame(place: int) -> Posed:
        return posed_row(
            cameras[place].double(), _encoded_size(images[place], f"image {place} of {origin}"), place, origin
        )

    posed, dropped = read_all(((str(place), partial(frame, place)) for place in range(len(cameras))), root, key)

    def colour(one: Posed) -> Float[Tensor, "3 height width"]:
        return _decode(read(path)[key]["images"][one.place], f"image {one.place} of {origin}")

    return recording_of(key, posed, colour, dropped)


def _encoded(image: Any, origin: str) -> bytes:
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 1:
        raise ValueError(f"{origin} is {str(image)[:40]!r}, expected a row of bytes")
    return image.numpy().tobytes()


def _encoded_size(image: Any, origin: str) -> tuple[int, int]:
    with open_bytes(_encoded(image, origin), origin) as opened:
        return opened.height, opened.width


def _decode(image: Any, origin: str) -> Float[Tensor, "3 height width"]:
    with open_bytes(_encoded(image, origin), origin) as opened:
        return decode_rgb(opened)
