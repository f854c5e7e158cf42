"""Worlds far from their origin, such as georeferenced ones: views are as exact as near it, whatever the format."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_co3d import write_co3d
from small_colmap import make_tracks, write_colmap
from small_dtu import write_training
from small_nerfstudio import write_nerfstudio
from small_re10k import write_text
from small_scannet import write_scannet
from small_world import World, assert_lands, carried, landings, make_world, recording_of
from torch import Tensor

from probe.geometry import camera_centre, project
from probe.scenes.cameras import from_cam_to_world, from_world_to_cam
from probe.scenes.choosing import Recordings
from probe.scenes.formats import co3d, colmap, dtu, nerfstudio, re10k, scannet
from probe.scenes.recordings import FAR, Recording, compare_frames, load_views

WORLD = make_world(5)
TRACKS = make_tracks(WORLD)
OFFSETS = (1e2, 1e3, 1e4, 1e5, 1e6)
WRITERS: dict[str, tuple[Callable[[Path, World], object], Callable[[Path], Recordings], bool]] = {
    "co3d": (write_co3d, co3d.find_recordings, True),
    "colmap": (partial(write_colmap, dense=1, binary=True), colmap.find_recordings, True),
    "colmap, text": (partial(write_colmap, dense=1, binary=False), colmap.find_recordings, True),
    "dtu": (partial(write_training, grid=1), dtu.find_recordings, True),
    "nerfstudio": (partial(write_nerfstudio, applied=None), nerfstudio.find_recordings, True),
    "re10k": (write_text, re10k.find_recordings, False),
    "scannet": (write_scannet, scannet.find_recordings, True),
}


def away(distance: float, seed: int = 0) -> Tensor:
    """An offset of this length, in any direction."""
    direction = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return distance * direction / direction.norm()


@pytest.mark.parametrize("distance", [1e3, 1e6])
@pytest.mark.parametrize("name", WRITERS)
def test_points_land_where_they_are_seen_in_every_format(
    name: str, distance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Within .05 pixels, as near the origin (:func:`small_world.assert_lands`)."""
    monkeypatch.setattr(scannet, "SIZE", WORLD.size)
    write, find, points = WRITERS[name]
    write(tmp_path, carried(WORLD, away(distance)))
    found = find(tmp_path)
    recording = found.open(found.names[0])
    assert recording.origin.norm() == pytest.approx(distance, rel=0.1)
    frames = sorted(range(5), key=(15, 105, 1080, 75, 300).__getitem__) if name == "scannet" else None
    assert_lands(recording, WORLD, points=points, frames=frames, colour=0.03)


@settings(deadline=None, max_examples=30)
@given(power=st.floats(-1, 6), seed=st.integers(0, 2**31 - 1))
def test_a_point_is_seen_where_double_precision_sees_it(power: float, seed: int):
    """Pixels of one view, carried by double precision into the others: the views agree within .05 pixels."""
    world = carried(WORLD, away(10**power, seed))
    recording = replace(recording_of(world), depth=WORLD.depth.__getitem__)
    views = load_views(recording, range(5), size=36, n_ref=1)
    exact = load_views(recording_of(WORLD), range(5), size=36, n_ref=1)
    cameras = carried(WORLD, torch.zeros(3)).world_to_cam
    double = replace(exact, world_to_cam=cameras[None], intrinsics=exact.intrinsics.double())
    off = (landings(views).double() - landings(replace(double, point_map=exact.point_map.double()))).abs()
    assert off[off.isfinite()].max() < 0.05
    assert off.isfinite().float().mean() > 0.5


@pytest.mark.parametrize("distance", OFFSETS)
def test_points_of_tracks_move_along(distance: float, tmp_path: Path):
    offset = away(distance)
    near = replace(TRACKS, points=TRACKS.points.double())
    write_colmap(tmp_path / "near", carried(WORLD, torch.zeros(3)), tracks=near)
    write_colmap(tmp_path / "far", carried(WORLD, offset), tracks=replace(near, points=near.points + offset))
    here, there = (colmap.find_recordings(tmp_path / name).open(name) for name in ("near", "far"))
    for index in range(5):
        seen = [
            project(recording.track_points(index), recording.intrinsics[index], recording.cameras[index])[0]
            for recording in (here, there)
        ]
        torch.testing.assert_close(*seen, rtol=0, atol=0.05)
    views = [load_views(recording, range(5), size=36, n_ref=1) for recording in (here, there)]
    assert views[0].valid.any()
    assert (views[0].valid != views[1].valid).float().mean() < 1e-3  # a point on the border of two pixels


@pytest.mark.parametrize("distance", OFFSETS)
def test_frames_compare_as_near_the_origin(distance: float):
    here, there = (compare_frames(recording_of(carried(WORLD, away(far)))) for far in (0.0, distance))
    torch.testing.assert_close(there.rotation_deg, here.rotation_deg, rtol=0, atol=1e-3)
    torch.testing.assert_close(there.overlap, here.overlap, rtol=0, atol=2e-3)


def test_cameras_near_their_origin_stay_as_they_are():
    """To the bit: only cameras farther than a multiple of their extent are moved, to their middle."""
    recording = recording_of(WORLD)
    assert torch.equal(recording.cameras, WORLD.world_to_cam)
    assert recording.origin.tolist() == [0, 0, 0]
    centres = camera_centre(WORLD.world_to_cam.double())
    extent = (centres - centres.mean(0)).norm(dim=-1).max()
    for factor, moves in ((0.9, False), (1.1, True)):
        target = away(factor * FAR * float(extent))
        far = recording_of(carried(WORLD, target - centres.mean(0)))
        assert bool(far.origin.norm() > 0) == moves
        if moves:
            torch.testing.assert_close(far.origin, target, rtol=1e-6, atol=0)
            assert camera_centre(far.cameras).mean(0).norm() < 1e-5


def test_cameras_at_one_place_are_moved_to_the_origin():
    one = WORLD.world_to_cam.clone()
    one[:, :3, 3] = -one[:, :3, :3] @ torch.tensor([3.0, 0.0, 0.0])
    moved = replace(recording_of(WORLD), world_to_cam=one)
    assert camera_centre(moved.cameras).abs().max() < 1e-5


def test_a_recording_without_tracks_has_no_points():
    recording: Recording = recording_of(WORLD)
    assert recording.track_points(0).shape == (0, 3)


@pytest.mark.parametrize("distance", [0.0, *OFFSETS])
def test_rounded_rotations_do_not_move_a_camera(distance: float):
    """Files print six digits of a rotation; making it exact turns the camera about its own centre."""
    for index in range(5):
        rigid = carried(WORLD, away(distance)).world_to_cam[index]
        centre = camera_centre(rigid)
        rounded = torch.cat([(rigid[:3, :3] * 1e6).round() / 1e6, torch.zeros(3, 1)], -1)
        for transform, read in (
            (torch.cat([rounded[:, :3], -rounded[:, :3] @ centre[:, None]], -1), from_world_to_cam),
            (torch.cat([rounded[:, :3].mT, centre[:, None]], -1), from_cam_to_world),
        ):
            made = read(transform, "a camera")
            torch.testing.assert_close(camera_centre(made), centre, rtol=0, atol=1e-12 * max(1.0, distance) * 1e3)
            torch.testing.assert_close(made[:3, :3] @ made[:3, :3].mT, torch.eye(3, dtype=torch.float64))
