"""Recordings: what every data set becomes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_world import WORLD_SIDE, assert_lands, make_world, recording_of, true_views
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.scenes.recordings import (
    Recording,
    Window,
    compare_frames,
    frame_index,
    load_views,
    read_depth,
    supposed_distances,
    with_geometry,
)

WORLD = make_world(5)
RECORDING = recording_of(WORLD)


def test_a_recording_in_memory_lands():
    assert_lands(RECORDING, WORLD)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {"intrinsics": shifted(r.intrinsics, 0.5, 0)},
        lambda r: {"intrinsics": shifted(r.intrinsics, 0, -0.5)},
        lambda r: {"world_to_cam": r.world_to_cam * torch.tensor([1.0, -1, -1, 1])[:, None]},
        lambda r: {"world_to_cam": torch.linalg.inv(r.world_to_cam)},
        lambda r: {"depth": lambda index: 1.01 * WORLD.depth[index]},
        lambda r: {"windows": (Window(top=0, left=7, side=36),) * 5},
        lambda r: {"intrinsics": r.intrinsics[:, [1, 0, 2]][:, :, [1, 0, 2]]},
        lambda r: {"colour": lambda index: WORLD.image[index].roll(1, -1)},
    ],
    ids=["half a pixel right", "half a pixel up", "OpenGL axes", "inverse", "depth scale", "crop", "x and y", "colour"],
)
def test_the_comparison_sees_each_mistake(change: Callable[[Recording], dict]):
    with pytest.raises(AssertionError):
        assert_lands(replace(RECORDING, **change(RECORDING)), WORLD)


def shifted(intrinsics: Tensor, x: float, y: float) -> Tensor:
    moved = intrinsics.clone()
    moved[:, 0, 2] += x
    moved[:, 1, 2] += y
    return moved


def test_windows_other_than_the_centred_square():
    """A window at the corner is the true camera's image, cut there: its principal point moves along."""
    windows = (Window(top=5, left=20, side=25),) * 5
    views = load_views(replace(RECORDING, windows=windows), range(5), size=5, n_ref=2)
    assert torch.equal(views.intrinsics[0, :, 0, 2], (WORLD.intrinsics[:, 0, 2] - 20) / 5)
    assert torch.equal(views.intrinsics[0, :, 1, 2], (WORLD.intrinsics[:, 1, 2] - 5) / 5)
    blocks = WORLD.image[:, :, 5:30, 20:45].unfold(2, 5, 5).unfold(3, 5, 5).mean((-2, -1))
    torch.testing.assert_close(views.image[0], blocks, rtol=0, atol=1e-6)
    middles = WORLD.depth[:, 7:30:5, 22:45:5]
    torch.testing.assert_close(
        torch.stack([read_depth(replace(RECORDING, windows=windows), k, 5) for k in range(5)]), middles, rtol=0, atol=0
    )


def test_depth_of_a_third_of_the_images_size_is_the_middle_of_its_pixels():
    small = WORLD.depth[:, 1::3, 1::3]
    recording = replace(RECORDING, depth=lambda index: small[index])
    assert_lands(recording, WORLD, thirds=(3,))


def test_depth_that_is_not_finite_or_not_positive_is_missing():
    depth = torch.ones(36, 48)
    depth[0, 6:11] = torch.tensor([0.0, -1.0, torch.nan, torch.inf, -torch.inf])
    views = load_views(replace(RECORDING, depth=lambda _: depth), [0], size=36, n_ref=1)
    assert torch.equal(views.valid[0, 0, 0], torch.arange(36) >= 5)
    assert views.valid[0, 0, 1:].all()
    assert views.point_map.isfinite().all()


def test_sparse_points_lie_in_their_pixels_and_the_nearest_wins():
    """Of two points on one ray the nearer one is seen; where no track is, nothing is known."""
    side = WORLD_SIDE
    true = true_views(WORLD, side, range(5)).point_map[0]
    near = true[:, :, 4, 9]
    eyes = torch.linalg.inv(WORLD.world_to_cam)[:, :3, 3]
    far = eyes + 1.5 * (near - eyes)
    points = torch.stack([far, near, true[:, :, 20, 30], eyes - (near - eyes), 3 * far], dim=1)
    recording = replace(RECORDING, depth=None, points=lambda index: points[index])
    assert recording.has_truth
    views = load_views(recording, range(5), size=side, n_ref=1)
    known = torch.zeros(side, side, dtype=torch.bool)
    known[4, 9] = known[20, 30] = True
    assert torch.equal(views.valid[0], known.expand(5, side, side))
    torch.testing.assert_close(views.point_map[0, :, :, 4, 9], near, rtol=0, atol=1e-4)


def test_overlap_comes_from_depth_then_tracks_then_cameras():
    by_depth = compare_frames(RECORDING)
    shared = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    by_tracks = compare_frames(replace(RECORDING, depth=None, shared=shared))
    by_cameras = compare_frames(replace(RECORDING, depth=None))
    assert torch.equal(by_tracks.overlap, shared)
    for pairs in (by_tracks, by_cameras):
        torch.testing.assert_close(pairs.rotation_deg, by_depth.rotation_deg, rtol=0, atol=0)
    expected = rotation_degrees(WORLD.world_to_cam[0], WORLD.world_to_cam[4])
    torch.testing.assert_close(by_depth.rotation_deg[0, 4], expected, rtol=0, atol=1e-3)
    assert ((by_cameras.overlap - by_depth.overlap).abs() < 0.35).all()
    assert by_cameras.overlap.diagonal().min() > 0.99


def test_supposed_distances_lie_around_where_the_cameras_look():
    """The cameras of a room stand 2.2 to 2.7 from its middle, which they look at."""
    near, middle, far = supposed_distances(make_world(8, roll=0, turn=15).world_to_cam)
    assert 2.0 < middle < 2.9
    assert (near, far) == (pytest.approx(middle / 2), pytest.approx(middle * 2))


def test_supposed_distances_of_parallel_cameras_stay_within_ten_times_their_extent():
    world_to_cam = torch.eye(4).repeat(3, 1, 1)
    world_to_cam[:, 0, 3] = torch.tensor([-1.0, 0.0, 1.0])
    assert 0.5 <= supposed_distances(world_to_cam)[1] <= 10
    assert all(value > 0 for value in supposed_distances(torch.eye(4)[None]))


def test_frames_of_mixed_sizes_make_views_of_one():
    other = make_world(5, size=(60, 45), seed=3)
    images = [WORLD.image[0], other.image[1], WORLD.image[2], WORLD.image[3], WORLD.image[4]]
    depths = [WORLD.depth[0], other.depth[1], *WORLD.depth[2:]]
    intrinsics = WORLD.intrinsics.clone()
    intrinsics[1] = other.intrinsics[1]
    recording = replace(
        RECORDING,
        sizes=((36, 48), (60, 45), *((36, 48),) * 3),
        intrinsics=intrinsics,
        colour=images.__getitem__,
        depth=depths.__getitem__,
    )
    views = load_views(recording, [0, 1], size=9, n_ref=1)
    assert views.image.shape == (1, 2, 3, 9, 9)
    torch.testing.assert_close(views.intrinsics[0, 1, 0, 0], other.intrinsics[1, 0, 0] / 5)
    assert compare_frames(recording).overlap[0, 1] > 0.3


def test_with_geometry_replaces_the_truth():
    views = load_views(replace(RECORDING, depth=None), [0, 1], size=12, n_ref=1)
    assert not views.valid.any()
    points, valid = torch.ones_like(views.point_map), torch.ones_like(views.valid)
    known = with_geometry(views, lambda given: (points, valid))
    assert known.point_map is points
    assert known.valid is valid
    assert known.image is views.image


def test_refusals():
    with pytest.raises(ValueError, match=r"room has 5 frames but {'sizes': 1}, expected one of each per frame"):
        replace(RECORDING, sizes=((36, 48),))
    with pytest.raises(ValueError, match=r"a camera of room holds a NaN or infinite number"):
        replace(RECORDING, world_to_cam=RECORDING.world_to_cam * torch.nan)
    with pytest.raises(ValueError, match=r"frame 2 of room is 36 x 48, expected 35 x 48"):
        load_views(replace(RECORDING, sizes=((35, 48),) * 5), [2], size=4, n_ref=1)
    with pytest.raises(ValueError, match=r"room has no frame '7' among its 5"):
        frame_index(RECORDING, "7")
