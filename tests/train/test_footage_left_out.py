"""Training on files some of which are broken: only whole frames are drawn, and it is said once."""

import warnings
from pathlib import Path

import pytest
import torch
from small_nerfstudio import write_nerfstudio
from small_world import make_world

from probe.scenes.reading import Reading
from train.footage import Library, open_library

WORLD = make_world(12, roll=6.0)


def write(root: Path, *torn: str) -> None:
    write_nerfstudio(root, WORLD, unit=2e-4)
    images = sorted(root.glob("images/*.png"))
    for index in torn:
        whole = images[int(index)].read_bytes()
        images[int(index)].write_bytes(whole[: len(whole) // 2])


def opened(root: Path, **reading: bool) -> tuple[Library, Library]:
    return open_library("nerfstudio", str(root), size=8, views=2, max_rotation=90.0, reading=Reading(**reading))


def test_training_draws_whole_frames_only_and_warns_once(tmp_path: Path):
    write(tmp_path, "1", "4")
    with pytest.warns(UserWarning, match=r"2 of 12 frames of .* left out") as said:
        train, _ = opened(tmp_path)
    assert len(said) == 1
    drawn = train.draw(torch.Generator().manual_seed(0), 40, 1)
    whole = torch.stack([WORLD.world_to_cam[index] for index in (1, 4)])
    distance = torch.cdist(drawn.world_to_cam[..., :3, 3].flatten(0, 1), whole[:, :3, 3])
    assert float(distance.min()) > 1e-3
    with pytest.raises(ValueError, match="not a whole"):
        opened(tmp_path, strict=True)


def test_whole_files_are_drawn_without_a_word(tmp_path: Path):
    write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, _ = opened(tmp_path)
        drawn = train.draw(torch.Generator().manual_seed(0), 4, 1)
    assert len(drawn.image) == 4
