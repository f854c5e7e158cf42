"""ScanNet's pairs: written from a known scene, read back to the same cameras, colours and points."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_scannet import NUMBERS, write_scannet
from small_world import assert_lands, make_world

from probe.scenes import Request, open_scenes
from probe.scenes.formats import scannet
from probe.scenes.formats.scannet import PAIRS, find_recordings
from probe.scenes.reading import DEFAULT, Reading
from probe.scenes.recordings import Recording, load_views

WORLD = make_world(4)
RELEASED = scannet.SIZE
ORDER = [sorted(NUMBERS[:4]).index(number) for number in NUMBERS[:4]]  # place of each of the world's frames
FRAMES = [ORDER.index(place) for place in range(4)]  # the world's frame at each place
SCENES = ("scene0707_00", "scene0708_01")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 640 x 480 pixels have 48 x 36 here."""
    monkeypatch.setattr(scannet, "SIZE", WORLD.size)


def opened(root: Path, reading: Reading = DEFAULT) -> Recording:
    found = find_recordings(root, reading)
    return found.open(found.names[0])


@pytest.mark.parametrize("larger", [1, 2])
def test_points_land_where_they_are_seen(larger: int, tmp_path: Path):
    recording = opened(write_scannet(tmp_path, WORLD, larger=larger))
    assert recording.names == ("15", "75", "105", "1080")
    assert (recording.name, recording.unit) == ("scene0707_00", "m")
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam[FRAMES], rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, frames=FRAMES, colour=0.03)


def test_the_released_size():
    assert RELEASED == (480, 640)


def test_pairs_are_those_of_the_file_in_order(tmp_path: Path):
    write_scannet(tmp_path, WORLD, SCENES)
    request = Request(groups=1500, views=2, n_ref=1, size=12, view_list=PAIRS)
    scenes = open_scenes(f"scannet:{tmp_path}", request)
    assert scenes.names == tuple(f"{scene}:{pair}" for scene in SCENES for pair in ("15-105", "105-15"))
    views, overlap = scenes.load(1)
    torch.testing.assert_close(views.world_to_cam[0], WORLD.world_to_cam[[1, 0]], rtol=0, atol=1e-5)
    assert math.isnan(overlap[0])
    assert "4 of 4 scenes, 0 not on the disk" in scenes.note
    (tmp_path / "test.npz").rename(tmp_path / "other.npz")
    named = replace(request, groups=1, view_list=f"{PAIRS}:{tmp_path / 'other.npz'}")
    assert open_scenes(f"scannet:{tmp_path}", named).names == scenes.names[:1]
    with pytest.raises(FileNotFoundError, match=r"test.npz does not exist"):
        open_scenes(f"scannet:{tmp_path}", request)


BROKEN_PAIRS: dict[str, tuple[Any, str]] = {
    "bytes": (b"PK", "test.npz is not a whole .npz of arrays"),
    "nothing": (b"", "test.npz is not a whole .npz of arrays"),
    "objects": ({"name": np.array([{}], dtype=object)}, "test.npz is not a whole .npz of arrays.*allow_pickle=False"),
    "another key": ({"names": np.zeros((1, 4), np.uint16)}, r"'name' of .* is float64 \(0,\), expected whole numbers"),
    "triples": ({"name": np.zeros((1, 3), np.uint16)}, r"is uint16 \(1, 3\), expected whole numbers \(pairs, 4\)"),
    "fractions": ({"name": np.zeros((1, 4))}, r"is float64 \(1, 4\), expected whole numbers"),
}


@pytest.mark.parametrize("case", BROKEN_PAIRS)
def test_broken_pairs_are_refused(case: str, tmp_path: Path):
    root = write_scannet(tmp_path, make_world(2))
    content, message = BROKEN_PAIRS[case]
    if isinstance(content, bytes):
        (root / "test.npz").write_bytes(content)
    else:
        np.savez(root / "test.npz", **content)
    with pytest.raises(ValueError, match=message) as caught:
        open_scenes(f"scannet:{tmp_path}", Request(groups=4, views=2, n_ref=1, view_list=PAIRS))
    assert "\n" not in str(caught.value)


def pose(matrix: Any) -> Callable[[Path], object]:
    return lambda root: np.savetxt(root / "scene0707_00/pose/15.txt", np.array(matrix, np.float64))


def matrices(**changes: Any) -> Callable[[Path], object]:
    return lambda root: np.savez(root / "intrinsics.npz", **changes)


def camera(fx: float, cx: float = 20.0) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, 40, 18], [0, 0, 1.0]])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no intrinsics": (lambda r: (r / "intrinsics.npz").unlink(), "intrinsics.npz does not exist"),
    "truncated": (
        lambda r: (p := r / "intrinsics.npz").write_bytes(p.read_bytes()[:-60]),
        "intrinsics.npz is not a whole",
    ),
    "another scene": (matrices(scene0000_00=np.eye(3)), "has no scene0707_00 among its 1 scenes"),
    "4 x 4": (matrices(scene0707_00=np.eye(4)), "scene0707_00 of .* has 4 x 4 numbers, expected 3 x 3"),
    "focal": (matrices(scene0707_00=camera(-1.0)), "expected positive pixels"),
    "NaN": (matrices(scene0707_00=camera(math.nan)), "holds a NaN or infinite focal length"),
    "principal point": (matrices(scene0707_00=camera(40.0, 900.0)), "outside the image of width 48, height 36"),
}
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "NaN pose": (pose(np.full((4, 4), math.nan)), "15.txt holds a NaN"),
    "short pose": (pose(np.eye(3)), "15.txt has 3 x 3 numbers, expected 4 x 4"),
    "scaled pose": (pose(3 * np.eye(4)), "15.txt is not a rigid pose"),
    "no image": (lambda r: (r / "scene0707_00/color/15.jpg").unlink(), "15.jpg does not exist"),
    "no depth": (lambda r: (r / "scene0707_00/depth/105.png").unlink(), "105.png does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_folders_are_refused(case: str, tmp_path: Path):
    root = write_scannet(tmp_path, make_world(2))
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_frame_is_left_out_or_refused_by_strict_reading(case: str, tmp_path: Path):
    root = write_scannet(tmp_path, WORLD)
    change, message = BROKEN[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, Reading(strict=True))
    assert "\n" not in str(caught.value)
    recording = opened(root)
    (dropped,) = recording.dropped
    kept = [FRAMES[place] for place, name in enumerate(("15", "75", "105", "1080")) if name != dropped.name]
    assert_lands(recording, WORLD, frames=kept, colour=0.03)


def test_images_of_another_ending_and_depth_of_another_scale_are_read(tmp_path: Path):
    root = write_scannet(tmp_path, WORLD)
    path = root / "scene0707_00/color/15.jpg"
    path.rename(path.with_suffix(".JPEG"))
    assert_lands(opened(root), WORLD, frames=FRAMES, colour=0.03)
    half = opened(root, Reading(depth_scale=2000.0)).depth
    assert half is not None
    torch.testing.assert_close(half(0), WORLD.depth[FRAMES[0]] / 2, rtol=0, atol=1e-3)


def test_frames_whose_tracking_was_lost_are_dropped_and_named(tmp_path: Path):
    root = write_scannet(tmp_path, WORLD)
    pose(np.full((4, 4), -math.inf))(root)
    recording = opened(root)
    assert (recording.names, tuple(one.name for one in recording.dropped)) == (("75", "105", "1080"), ("15",))
    assert_lands(recording, WORLD, frames=FRAMES[1:], colour=0.03)
    for number in NUMBERS[:4]:
        np.savetxt(root / f"scene0707_00/pose/{number}.txt", np.full((4, 4), math.inf))
    with pytest.raises(ValueError, match=r"tracking was lost in all 4 frames"):
        opened(root)


def test_depth_of_zero_is_missing_and_8_bit_depth_is_refused(tmp_path: Path):
    root = write_scannet(tmp_path, WORLD)
    path = root / "scene0707_00/depth/15.png"
    values = np.array(Image.open(path)).astype(np.uint16)
    values[:, 6:12] = 0
    Image.fromarray(values).save(path)
    views = load_views(opened(root), [0], size=36, n_ref=1)
    assert torch.equal(views.valid[0, 0], (torch.arange(36) >= 6).expand(36, 36))
    Image.fromarray(values.astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"15.png .* mode L, expected a 16-bit"):
        load_views(opened(root), [0], size=36, n_ref=1)


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    write_scannet(tmp_path, make_world(10, roll=12.0), SCENES)
    scenes = open_scenes(f"scannet:{tmp_path}", Request(groups=4, views=3, n_ref=1, size=36))
    views, overlap = scenes.load(0)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert min(overlap) >= 0.2


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected intrinsics.npz, test.npz and scene0707_00"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no scenes; expected"):
        find_recordings(tmp_path)
