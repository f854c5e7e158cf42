"""LLFF: written from a known scene, read back to the same cameras and colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_llff import pose_rows, write_llff
from small_nerfstudio import save_rgb
from small_world import assert_lands, make_world

from probe.scenes import Request, open_scenes
from probe.scenes.formats.llff import find_recordings
from probe.scenes.reading import Reading
from probe.scenes.recordings import Recording

WORLD = make_world(4, focal=(40.0, 40.0), centre=(0.0, 0.0))


def opened(root: Path, **reading: Any) -> Recording:
    found = find_recordings(root, Reading(**reading))
    return found.open(found.names[0])


def test_cameras_come_back(tmp_path: Path):
    recording = opened(write_llff(tmp_path, WORLD))
    assert (recording.name, recording.unit, recording.has_truth) == ("fern", None, False)
    assert recording.names == ("IMG_4026", "IMG_4027", "IMG_4028", "IMG_4029")
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics, rtol=0, atol=1e-4)
    assert_lands(recording, WORLD, points=False)
    assert recording.supposed is not None
    assert WORLD.depth.min() < recording.supposed[1] < WORLD.depth.max()


def test_smaller_copies_take_a_smaller_focal_length(tmp_path: Path):
    recording = opened(write_llff(tmp_path, WORLD, images="images_4", factor=4))
    assert_lands(recording, WORLD, points=False)
    for view in range(4):
        save_rgb(tmp_path / f"fern/images/{view}.png", torch.zeros(3, 4 * WORLD.size[0], 4 * WORLD.size[1]))
    assert opened(tmp_path).sizes[0] == (144, 192)
    assert_lands(opened(tmp_path, images="images_4"), WORLD, points=False)


def test_the_unit_scales_cameras_and_distances(tmp_path: Path):
    own, metric = opened(write_llff(tmp_path, WORLD)), opened(tmp_path, unit=2.0)
    assert metric.unit == "m"
    torch.testing.assert_close(metric.world_to_cam[:, :3, 3], 2 * own.world_to_cam[:, :3, 3])
    assert metric.supposed == tuple(2 * far for far in own.supposed or ())


def test_scenes_and_a_scene_are_found(tmp_path: Path):
    write_llff(tmp_path, WORLD, "fern")
    write_llff(tmp_path, WORLD, "orchids")
    assert find_recordings(tmp_path).names == ("fern", "orchids")
    assert find_recordings(tmp_path / "fern").names == ("fern",)
    scenes = open_scenes(f"llff:{tmp_path}", Request(groups=2, views=2, n_ref=1, size=16, needs_truth=False))
    assert scenes.load(0)[0].image.shape == (1, 2, 3, 16, 16)


def test_rows_follow_the_names_as_bytes_sort(tmp_path: Path):
    """COLMAP sorts so, which made the poses: IMG_10 before IMG_9."""
    root = write_llff(tmp_path, WORLD)
    for view, name in enumerate(("IMG_10", "IMG_11", "IMG_8", "IMG_9")):
        (root / f"fern/images/IMG_{4026 + view}.png").rename(root / f"fern/images/{name}.png")
    recording = opened(root)
    assert recording.names == ("IMG_10", "IMG_11", "IMG_8", "IMG_9")
    assert_lands(recording, WORLD, points=False)


def rows(change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda root: np.save(root / "fern/poses_bounds.npy", change(pose_rows(WORLD)))


def cell(column: int, value: float) -> Callable[[Path], object]:
    def change(values: Any) -> Any:
        values[1, column] = value
        return values

    return rows(change)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "NaN": (cell(0, np.nan), "row 1 of .* holds a NaN"),
    "sheared": (cell(0, 3.0), "row 1 of .* is not a rigid pose"),
    "focal": (cell(14, -1.0), "row 1 of .* expected positive pixels"),
    "infinite height": (cell(4, np.inf), "row 1 of .* is for a inf x 48 image"),
    "another shape": (cell(4, 48.0), "row 1 of .* is for a 48 x 48 image, .* is 36 x 48"),
    "distances": (cell(15, 0.0), "row 1 of .* has the distances 0 and"),
    "no image": (lambda r: (r / "fern/images/IMG_4027.png").write_bytes(b""), "IMG_4027.png is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_left_out(case: str, tmp_path: Path):
    root = write_llff(tmp_path, WORLD)
    change, message = BROKEN[case]
    change(root)
    with pytest.raises(ValueError, match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)
    recording = opened(root)
    assert [one.name for one in recording.dropped] == ["IMG_4027"]
    assert_lands(recording, WORLD, frames=(0, 2, 3), points=False)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytes": (lambda r: (r / "fern/poses_bounds.npy").write_bytes(b"no"), "is not a whole .npy array"),
    "truncated": (
        lambda r: (p := r / "fern/poses_bounds.npy").write_bytes(p.read_bytes()[:-9]),
        "is not a whole .npy array",
    ),
    "objects": (rows(lambda values: values.astype(object)), "is not a whole .npy array"),
    "columns": (rows(lambda values: values[:, :15]), r"holds \(4, 15\) float64, expected a row of 17 numbers"),
    "words": (rows(lambda values: values.astype(str)), r"holds \(4, 17\) <U32, expected a row of 17 numbers"),
    "none": (rows(lambda values: values[:0]), r"holds \(0, 17\)"),
    "an image less": (
        lambda r: (r / "fern/images/IMG_4027.png").unlink(),
        "has 4 poses, beside it are: images 3 images; .* --images",
    ),
    "no images": (lambda r: (r / "fern/images").rename(r / "x"), "has 4 poses, beside it are: no images or images_4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_is_refused(case: str, tmp_path: Path):
    root = write_llff(tmp_path, WORLD)
    change, message = REFUSED[case]
    change(root)
    with pytest.raises(ValueError, match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected poses_bounds.npy beside images"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no poses_bounds.npy"):
        find_recordings(tmp_path)
