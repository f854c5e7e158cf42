"""RealEstate10K: camera files with downloaded frames, and pixelSplat's chunks (ACID and DL3DV come as such chunks too).

Camera files are ``<16 hexadecimal digits>.txt`` in the folder or in ``train`` and ``test`` of it: a URL, then one line
per frame: timestamp in microseconds, fx, fy, cx, cy in units of the image's width and height, two zeros, and the upper
3 x 4 of world_to_cam. Frames are ``ID/TIMESTAMP.png|jpg``, beside the camera file or in the folder; a line takes that
nearest in time, up to 8 ms away, and is dropped without one. Chunks are ``NNNNNN.torch`` with ``index.json``.

There is no depth and no unit: truth comes from a geometry source. Frames are named by their place, which is how
pixelSplat's evaluation index names them: ``--view-list re10k-pixelsplat-v1:evaluation_index_re10k.json``.

Source:
    google/stereo-magnification, issue 5, for the tolerance; pixelsplat, src/dataset/dataset_re10k.py and its
    evaluation index, for chunks and lists (docs/references.md, "RealEstate10K").
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.cameras import from_world_to_cam, pinhole
from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import decode_rgb, image_size, numbers, open_bytes, read_json, read_rgb, take
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, inside
from probe.scenes.recordings import Recording

EVALUATION = "re10k-pixelsplat-v1"
NO_FRAME = "no frame lies near its timestamp"
TOLERANCE = 8000  # microseconds between a camera's timestamp and its frame's; a quarter of a frame
CAMERA = 18  # numbers of a camera: fx fy cx cy 0 0 and 3 x 4
SPLITS = ("", "train", "test")
IDENTIFIER = re.compile(r"[0-9a-f]{16}")
CHUNKS_OPEN = 4
EXPECTED = "expected <16 hexadecimal digits>.txt with frames, or 000000.torch, here or in train and test"


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find camera files or chunks.

    Raises:
        FileNotFoundError: If there are neither.
        ValueError: If an index is broken.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"re10k: {root} is not a folder; {EXPECTED}")
    chunks = _chunks(root)
    texts = {
        path.stem: path for split in SPLITS for path in (root / split).glob("*.txt") if IDENTIFIER.fullmatch(path.stem)
    }
    if not chunks and not texts:
        raise FileNotFoundError(f"re10k: {root} holds no recordings; {EXPECTED}")
    read = lru_cache(maxsize=CHUNKS_OPEN)(partial(_read_chunk, root))

    def open_recording(name: str) -> Recording:
        return (
            load_text(texts[name], root)
            if name not in chunks
            else load_scene(read(chunks[name]), name, read, chunks[name])
        )

    names = tuple(sorted({*chunks, *texts}))
    return Recordings(root=root.path, names=names, open=open_recording, lists={EVALUATION: read_evaluation_index})


def read_evaluation_index(file: Path | None) -> ViewList:
    """Read pixelSplat's evaluation index: context views become references.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no file is named, or it is no such index.
    """
    if file is None:
        raise ValueError(f"view list {EVALUATION} needs pixelSplat's file: {EVALUATION}:evaluation_index_re10k.json")
    index = take({"index": read_json(file, Folder(file.parent))}, "index", dict, str(file))
    scenes = []
    for key, entry in index.items():
        if entry is None:  # pixelSplat found no views of it that overlap enough
            continue
        parts = [take(entry, part, list, f"{key} of {file}") for part in ("context", "target")]
        places = numbers([*parts[0], *parts[1]], (len(parts[0]) + len(parts[1]),), f"{key} of {file}").long().tolist()
        overlap = (float("nan"),) * (len(places) - 1)
        scenes.append(Scene(recording=key, frames=tuple(map(str, places)), overlap=overlap, n_ref=len(parts[0])))
    return ViewList(protocol=EVALUATION, scenes=tuple(scenes))


def _cameras(
    rows: Float[Tensor, "n 18"], sizes: list[tuple[int, int]], origin: str
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 3 3"]]:
    """Turn rows of a camera file, without their timestamps, into cameras and intrinsics in pixels."""
    cameras, lenses = [], []
    for place, (row, (height, width)) in enumerate(zip(rows.double(), sizes, strict=True)):
        fx, fy, cx, cy, first, second = row[:6].tolist()
        where = f"frame {place} of {origin}"
        if (first, second) != (0, 0):
            raise ValueError(f"{where} has {first}, {second} after its principal point, expected 0 0 (no distortion)")
        lenses.append(pinhole((fx * width, fy * height), (cx * width, cy * height), (height, width), where))
        cameras.append(from_world_to_cam(row[6:].reshape(3, 4), where))
    return torch.stack(cameras), torch.stack(lenses)


# --- camera files and frames -----------------------------------------------------------------------------------------


def load_text(path: Path, root: Folder) -> Recording:
    """Read a camera file and find its frames.

    Args:
        path: The camera file.
        root: The data set's folder, which holds the frames too.

    Raises:
        FileNotFoundError: If there is no folder of frames.
        ValueError: If the file is broken, or no frame lies near a timestamp.
    """
    rows = _rows(path, root)
    images = _frames(path, root)
    near = [_nearest(int(row[0]), images) for row in rows]
    kept = [place for place, image in enumerate(near) if image is not None and near.index(image) == place]
    if not kept:
        raise ValueError(f"re10k: no frame of {path.stem} lies within {TOLERANCE} microseconds of a line of {path}")
    files = tuple(image for place, image in enumerate(near) if image is not None and place in set(kept))
    sizes = [image_size(image, root) for image in files]
    world_to_cam, intrinsics = _cameras(rows[kept, 1:], sizes, str(path))
    return Recording(
        name=path.stem,
        names=tuple(str(place) for place in kept),
        sizes=tuple(sizes),
        world_to_cam=world_to_cam,
        intrinsics=intrinsics,
        colour=partial(_read_frame, files, root),
        dropped=tuple(Dropped(str(place), NO_FRAME) for place in range(len(rows)) if place not in set(kept)),
    )


def _rows(path: Path, root: Folder) -> Float[Tensor, "n 19"]:
    try:
        lines = [line.split() for line in inside(path, root).read_text().splitlines()[1:] if line.strip()]
        values = [[float(word) for word in line] for line in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"re10k: {path} is not a URL and lines of numbers: {error}") from None
    if not values:
        raise ValueError(f"re10k: {path} has no line after its URL")
    wrong = next((place for place, row in enumerate(values) if len(row) != CAMERA + 1), None)
    if wrong is not None:
        raise ValueError(f"re10k: line {wrong + 2} of {path} has {len(values[wrong])} numbers, expected {CAMERA + 1}")
    return numbers(values, (len(values), CAMERA + 1), str(path))


def _frames(path: Path, root: Folder) -> dict[int, Path]:
    """Find the frames of a camera file by their timestamps."""
    candidates = [
        folder / path.stem for folder in (path.parent, root, root / "frames", root / "frames" / path.parent.name)
    ]
    folder = next((one for one in candidates if one.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"re10k: {path} has no folder of frames; expected {candidates[0]}/TIMESTAMP.png")
    return {
        int(file.stem): file
        for file in sorted(folder.iterdir())
        if file.suffix in (".png", ".jpg", ".jpeg") and file.stem.isascii() and file.stem.isdecimal()
    }


def _nearest(timestamp: int, images: Mapping[int, Path]) -> Path | None:
    nearest = min(images, key=lambda other: abs(other - timestamp), default=None)
    return images[nearest] if nearest is not None and abs(nearest - timestamp) <= TOLERANCE else None


def _read_frame(images: tuple[Path, ...], root: Folder, index: int) -> Float[Tensor, "3 height width"]:
    return read_rgb(images[index], root)


# --- chunks ----------------------------------------------------------------------------------------------------------


def _chunks(root: Folder) -> dict[str, Path]:
    """Map each recording to its chunk: by ``index.json``, or else by looking into the chunks."""
    files: dict[str, Path] = {}
    for folder in (root / split for split in SPLITS):
        if (folder / "index.json").exists():
            index = take({"index": read_json(folder / "index.json", root)}, "index", dict, str(folder / "index.json"))
            files |= {key: folder / str(name) for key, name in index.items()}
        else:
            files |= {key: path for path in sorted(folder.glob("*.torch")) for key in _read_chunk(root, path)}
    return files


def _read_chunk(root: Folder, path: Path) -> dict[str, dict[str, Any]]:
    """Read a chunk's recordings by their keys; images stay on the disk until they are decoded."""
    file = inside(path, root)
    try:
        scenes = torch.load(file, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"re10k: {path} is not a whole chunk of tensors: {why}") from None
    listed = take({"scenes": scenes}, "scenes", list, str(path))
    return {take(scene, "key", str, f"a scene of {path}"): scene for scene in listed}


def load_scene(
    scenes: Mapping[str, dict[str, Any]],
    key: str,
    read: Callable[[Path], Mapping[str, dict[str, Any]]],
    path: Path,
) -> Recording:
    """Turn a recording of a chunk into a recording.

    Args:
        scenes: The chunk.
        key: Of the recording.
        read: Reads the chunk again when pixels are needed, so that a recording does not hold on to it.
        path: Of the chunk.

    Raises:
        ValueError: If the chunk lacks the recording, or it does not hold what it should.
    """
    if key not in scenes:
        raise ValueError(f"re10k: {path} holds no {key}, though index.json says so")
    origin = f"{key} of {path}"
    cameras, images = take(scenes[key], "cameras", Tensor, origin), take(scenes[key], "images", list, origin)
    if cameras.ndim != 2 or cameras.shape[1] != CAMERA or not len(cameras):
        raise ValueError(f"cameras of {origin} are {tuple(cameras.shape)}, expected (frames, {CAMERA})")
    if len(images) != len(cameras):
        raise ValueError(f"{origin} has {len(images)} images and {len(cameras)} cameras, expected as many")
    sizes = [_encoded_size(image, f"image {place} of {origin}") for place, image in enumerate(images)]
    world_to_cam, intrinsics = _cameras(cameras, sizes, origin)
    return Recording(
        name=key,
        names=tuple(str(place) for place in range(len(cameras))),
        sizes=tuple(sizes),
        world_to_cam=world_to_cam,
        intrinsics=intrinsics,
        colour=lambda index: _decode(read(path)[key]["images"][index], f"image {index} of {origin}"),
    )


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
