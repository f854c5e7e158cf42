"""RealEstate10K: camera files with downloaded frames, and pixelSplat's chunks (ACID and DL3DV come as such chunks too).

Camera files are ``<16 hexadecimal digits>.txt`` in the folder or in ``train`` and ``test`` of it: a URL, then one line
per frame: timestamp in microseconds, fx, fy, cx, cy in units of the image's width and height, two zeros, and the upper
3 x 4 of world_to_cam. Frames are ``ID/TIMESTAMP.png|jpg``, beside the camera file or in the folder; a line takes that
nearest in time, up to 8 ms away, and is dropped without one. Frames that are numbered in a row instead, ``00000.png``,
belong to the lines in order if there are as many, which the note says; else they are refused. Camera files without
frames, whose videos are gone, are left out and counted. Chunks are ``NNNNNN.torch`` with ``index.json``; those that are
missing or broken are left out too.

There is no depth and no unit: truth comes from a geometry source. Frames are named by their place, which is how
pixelSplat's evaluation index names them: ``--view-list re10k-pixelsplat-v1:evaluation_index_re10k.json``.

Source:
    google/stereo-magnification, issue 5, for the tolerance; pixelsplat, src/dataset/dataset_re10k.py and its
    evaluation index, for chunks and lists (docs/references.md, "RealEstate10K").
"""

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

from probe.scenes.choosing import Recordings, Scene, ViewList
from probe.scenes.files import numbers, read_json, take
from probe.scenes.formats.re10k_chunks import chunks_of, load_scene, read_chunk
from probe.scenes.formats.re10k_text import in_a_row, list_frames, load_text
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, left_out
from probe.scenes.recordings import Recording

EVALUATION = "re10k-pixelsplat-v1"
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
    chunks, lost = chunks_of(root, SPLITS)
    texts = _texts(root)
    if not chunks and not texts and not lost:
        raise FileNotFoundError(f"re10k: {root} holds no recordings; {EXPECTED}")
    filmed, gone = _with_frames(texts, root)
    if not chunks and not filmed:
        raise ValueError((*lost, *gone)[0].reason)
    read = lru_cache(maxsize=CHUNKS_OPEN)(partial(read_chunk, root))

    def open_recording(name: str) -> Recording:
        return (
            load_text(texts[name], root)
            if name not in chunks
            else load_scene(read(chunks[name]), name, read, chunks[name], root)
        )

    counted = [name for name, frames in filmed.items() if in_a_row(frames) is not None]
    notes = (
        left_out(lost, len(lost) + len(set(chunks.values())), "chunks"),
        left_out(gone, len(texts), "camera files"),
        f"frames of {len(counted)} recordings bear numbers, not timestamps: taken in order" if counted else "",
    )
    return Recordings(
        root=root.path,
        names=tuple(sorted({*chunks, *filmed})),
        open=open_recording,
        lists={EVALUATION: read_evaluation_index},
        note="; ".join(note for note in notes if note),
    )


def _texts(root: Folder) -> dict[str, Path]:
    """Find the camera files by the names of their recordings."""
    found = (path for split in SPLITS for path in (root / split).glob("*.[tT][xX][tT]"))
    return {path.stem: path for path in found if IDENTIFIER.fullmatch(path.stem)}


def _with_frames(texts: Mapping[str, Path], root: Folder) -> tuple[dict[str, list[Path]], list[Dropped]]:
    """Return the frames of each camera file that has some, and the others, whose videos are gone."""
    filmed, gone = dict[str, list[Path]](), list[Dropped]()
    for name, path in texts.items():
        try:
            filmed[name] = list_frames(path, root)
        except FileNotFoundError as error:
            if root.reading.strict:
                raise
            gone.append(Dropped(name, str(error)))
    return filmed, gone


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
