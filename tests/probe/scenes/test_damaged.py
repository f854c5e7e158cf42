"""Damaged files are refused in one line, or their frames are left out: never another exception."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from damage import damage_bytes, damage_file, damage_value, damage_words
from small_colmap import Tracks, write_colmap
from small_nerfstudio import write_nerfstudio
from small_world import make_world

from probe.scenes.choosing import Recordings
from probe.scenes.formats import colmap, nerfstudio
from probe.scenes.recordings import check_frames

WORLD = make_world(3, size=(12, 16), focal=(13.0, 13.0), centre=(0.0, 0.0))
TRACKS = Tracks(points=torch.tensor([[0.0, 0, 3], [1, 0, 4]]), seen=((0, 1), (0,), (1,)))
TRIES = 9  # damaged inputs of each layout

BASES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Recordings]]] = {
    "nerfstudio": (lambda root: write_nerfstudio(root, WORLD, mask=torch.ones(12, 16)), nerfstudio.find_recordings),
    "nerfstudio, npy and a fisheye": (
        lambda root: write_nerfstudio(root, WORLD, depth="npy", unit=1.0, camera_model="OPENCV_FISHEYE", k1=0.01),
        nerfstudio.find_recordings,
    ),
    "COLMAP, binary": (lambda root: write_colmap(root, WORLD, tracks=TRACKS), colmap.find_recordings),
    "COLMAP, text": (
        lambda root: write_colmap(root, WORLD, tracks=TRACKS, binary=False, model="SIMPLE_RADIAL", lens=(0.1,)),
        colmap.find_recordings,
    ),
    "COLMAP, dense": (lambda root: write_colmap(root, WORLD, dense=1), colmap.find_recordings),
}


@pytest.mark.parametrize("base", BASES)
def test_damaged_files_are_refused_or_left_out(base: str, tmp_path: Path):
    write, find = BASES[base]
    write(tmp_path / "whole")
    refused = 0
    for seed in range(TRIES):
        root = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", root)
        random = Random(f"{base} {seed}")
        files = sorted(path for path in root.rglob("*") if path.is_file() and (seed % 3 or path.suffix != ".png"))
        how = damage_file(random.choice(files), random)
        try:
            found = find(root)
            recording = found.open(found.names[0])
            faults = [*check_frames(recording, recording.names).values(), *(one.reason for one in recording.dropped)]
        except (ValueError, OSError) as error:
            faults = [str(error)]
        refused += bool(faults)
        assert all("\n" not in fault for fault in faults), how
    assert refused >= TRIES // 3  # the damage is damage


def test_damage_is_seeded_and_changes_the_file():
    data = bytes(range(200))
    for seed in range(20):
        changed, how = damage_bytes(data, Random(seed))
        assert (changed, how) == damage_bytes(data, Random(seed))
        text, _ = damage_words("1 2 3\n4 5 6", Random(seed))
        assert isinstance(text, str)
        whole = {"frames": [{"a": 1}, {"a": 2}]}
        damage_value(whole, Random(seed))
        assert whole != {"frames": [{"a": 1}, {"a": 2}]}
