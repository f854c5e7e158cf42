"""Tracks as truth: matches by hand and against a loop, triangulation, points on pixels, SIFT's half pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.correspondence.tracks import (
    Tracks,
    match_tracks,
    mutual_matches,
    sift_tracks,
    track_geometry,
    track_points,
    triangulate,
    triangulated_tracks,
)
from probe.geometry import depth_to_point_map, project
from probe.scenes import Request, open_scenes
from probe.views import Views

SIZE, GRID = (8, 8), (2, 2)
SEEDS = st.integers(0, 2**31 - 1)


def tracks_of(*positions: tuple[tuple[float, float] | None, ...]) -> Tracks:
    """One scene; per track its place in each view, or None."""
    xy = torch.tensor([[place or (0.0, 0.0) for place in track] for track in positions])
    seen = torch.tensor([[place is not None for place in track] for track in positions])
    return Tracks(xy=xy.transpose(0, 1)[None], seen=seen.T[None])


def scene(seed: int = 0, views: int = 2, size: int = 64) -> Views:
    return open_scenes("shapes-v1", Request(groups=4, views=views, n_ref=1, size=size, seed=seed)).load(0)[0]


def test_the_track_nearest_to_the_tokens_centre_leads():
    tracks = tracks_of(((3.0, 3.0), (1.0, 1.0)), ((2.5, 2.0), (7.0, 1.0)), ((1.5, 2.0), (1.0, 7.0)))
    found = match_tracks(tracks, SIZE, GRID)
    assert found.index[0, 0, 0, 1] == 1  # the second and third are equally near to (2, 2): the first of them
    assert found.index[0, 1, :, 0].tolist() == [0, 0, 0, 0]
    assert found.counted[0, 1, :, 0].tolist() == [True, True, True, False]
    assert found.counted[0, 0, :, 1].tolist() == [True, False, False, False]


def test_a_track_that_the_key_view_does_not_see_does_not_lead():
    tracks = tracks_of(((2.0, 2.0), None, (6.0, 6.0)), ((3.0, 3.0), (6.0, 1.0), None), ((2.0, 2.0), (8.0, 2.0), None))
    found = match_tracks(tracks, SIZE, GRID)
    assert found.index[0, 0, 0, 1] == 1  # the last one lies off view 1's frame
    assert found.index[0, 0, 0, 2] == 3
    assert not found.counted[0, 1, 1, 2]


def test_a_token_matches_itself_in_its_own_view_which_does_not_count():
    found = match_tracks(tracks_of(((2.0, 2.0), (6.0, 6.0))), SIZE, GRID)
    assert found.index[0, 0, :, 0].tolist() == [0, 1, 2, 3]
    assert not found.counted.diagonal(dim1=1, dim2=3).any()
    assert found.distance is None


def test_no_tracks_match_nothing():
    empty = Tracks(xy=torch.zeros(1, 2, 0, 2), seen=torch.zeros(1, 2, 0, dtype=torch.bool))
    assert not match_tracks(empty, SIZE, GRID).counted.any()
    maps, valid = track_points(empty, torch.zeros(1, 0, 3), SIZE)
    assert (maps.shape, bool(valid.any())) == ((1, 2, 3, 8, 8), False)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, count=st.integers(0, 12))
def test_matches_are_the_slow_loops(seed: int, count: int):
    generator = torch.Generator().manual_seed(seed)
    xy = (torch.randint(-1, 19, (2, 3, count, 2), generator=generator) / 2).float()  # halves: ties and borders
    tracks = Tracks(xy=xy, seen=torch.rand(2, 3, count, generator=generator) < 0.7)
    found = match_tracks(tracks, SIZE, GRID)
    for b, q, k in ((b, q, k) for b in range(2) for q in range(3) for k in range(3) if q != k):
        for n in range(4):
            best = slow_leader(tracks, b, q, k, n)
            assert bool(found.counted[b, q, n, k]) == (best is not None)
            assert int(found.index[b, q, n, k]) == (0 if best is None else token(xy[b, k, best]))


def token(xy: Tensor) -> int:
    return int(xy[1] // 4) * 2 + int(xy[0] // 4) if bool(((xy >= 0) & (xy < 8)).all()) else -1


def slow_leader(tracks: Tracks, b: int, q: int, k: int, n: int) -> int | None:
    centre = torch.tensor([4.0 * (n % 2) + 2, 4.0 * (n // 2) + 2])
    best, least = None, float("inf")
    for p in range(tracks.xy.shape[2]):
        usable = bool(tracks.seen[b, q, p] and tracks.seen[b, k, p]) and token(tracks.xy[b, k, p]) >= 0
        distance = float((tracks.xy[b, q, p] - centre).square().sum())
        if usable and token(tracks.xy[b, q, p]) == n and distance < least:
            best, least = p, distance
    return best


# From positions to points


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999))
def test_points_are_found_again_from_their_projections(seed: int):
    views = scene(seed, views=3)
    points = views.point_map[0, 0, :, ::16, ::16].flatten(1).T[None]
    xy, depth = project(points[:, None].expand(-1, 3, -1, -1), views.intrinsics, views.world_to_cam)
    tracks = Tracks(xy=xy.nan_to_num(), seen=depth > 0)
    found, good = triangulate(tracks, views)
    assert bool(good.float().mean() > 0.8)
    torch.testing.assert_close(found[good], points[good], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_triangulated_is_not_good():
    views = scene(views=2)
    point = views.point_map[0, 0, :, 32, 32]
    xy, _ = project(point.expand(1, 2, 1, 3), views.intrinsics, views.world_to_cam)
    places = xy[0, :, 0].tolist()
    off = [places[1][0] + 3, places[1][1] + 9]  # off its epipolar line
    found, good = triangulate(tracks_of((places[0], places[1]), (places[0], off), (places[0], None)), views)
    assert good[0].tolist() == [True, False, False]
    assert bool(found[0, 1:].isnan().all())
    still = views.reorder([0, 0], 1)
    assert not triangulate(tracks_of((places[0], places[0])), still)[1].any()  # rays without parallax


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0.0, False), (0.5, False), (0.99, False), (1.01, True), (20.0, True)]
)
def test_rays_must_differ_by_a_degree(degrees: float | int, expected: bool):
    """Two cameras look along z at a point 10 away, as far apart as makes the angle."""
    world_to_cam = torch.eye(4).repeat(1, 2, 1, 1)
    world_to_cam[0, 1, 0, 3] = -10 * math.tan(math.radians(degrees))
    intrinsics = torch.tensor([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]).expand(1, 2, 3, 3)
    image, valid = torch.zeros(1, 2, 3, 100, 100), torch.ones(1, 2, 100, 100).bool()
    views = Views(image, intrinsics, world_to_cam, image, valid, 1)
    point = torch.tensor([0.0, 0, 10]).expand(1, 2, 1, 3)
    xy, _ = project(point, intrinsics, world_to_cam)
    found, good = triangulate(Tracks(xy=xy, seen=torch.ones(1, 2, 1).bool()), views)
    assert good.item() == expected
    if expected:
        torch.testing.assert_close(found, point[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pixels", "expected"), [(0.0, True), (1.0, True), (6.0, False)])
def test_a_track_must_fit_in_every_view_that_sees_it(pixels: float, expected: bool):
    """One of four positions is off, across its rays; the three others would still agree."""
    views = scene(views=4)
    point = views.point_map[0, 0, :, 32, 32]
    xy, _ = project(point.expand(1, 4, 1, 3), views.intrinsics, views.world_to_cam)
    moved = xy.clone()
    moved[0, 3, 0, 1] += pixels
    _, good = triangulate(Tracks(xy=moved, seen=torch.ones(1, 4, 1).bool()), views)
    assert good.item() == expected
    unseen = Tracks(xy=moved, seen=torch.tensor([True, True, True, False]).reshape(1, 4, 1))
    assert triangulate(unseen, views)[1].item()


def test_a_point_behind_the_cameras_is_not_good():
    """Two rays that spread apart meet behind: x at -1 looks left, x at 1 looks right."""
    world_to_cam = torch.eye(4).repeat(1, 2, 1, 1)
    world_to_cam[0, :, 0, 3] = torch.tensor([1.0, -1.0])
    intrinsics = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]).expand(1, 2, 3, 3)
    point_map = depth_to_point_map(torch.ones(1, 2, 8, 8), intrinsics, world_to_cam)
    views = Views(torch.zeros(1, 2, 3, 8, 8), intrinsics, world_to_cam, point_map, torch.ones(1, 2, 8, 8).bool(), 1)
    towards, apart = ((6.0, 4.0), (2.0, 4.0)), ((2.0, 4.0), (6.0, 4.0))
    points, good = triangulate(tracks_of(towards, apart), views)
    assert good[0].tolist() == [True, False]
    assert points[0, 0].tolist() == pytest.approx([0.0, 0.0, 4.0], abs=1e-5)


def test_points_are_put_on_the_pixels_that_see_them():
    tracks = tracks_of(((2.9, 1.2), (7.99, 7.0)), ((2.1, 1.9), None), ((8.0, 1.0), (0.0, 0.0)), ((5.0, 5.0), None))
    points = torch.tensor([[[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0], [torch.nan, 0, 0]]])
    maps, valid = track_points(tracks, points, SIZE)
    assert valid[0].nonzero().tolist() == [[0, 1, 2], [1, 0, 0], [1, 7, 7]]
    assert maps[0, 0, 0, 1, 2] == 2  # two at a pixel: the last
    assert (maps[0, 1, 0, 7, 7], maps[0, 1, 0, 0, 0]) == (1, 3)
    assert bool(maps[0, 0, :, 5, 5].isnan().all())


# Tracks of SIFT


def test_a_dots_track_lies_on_its_centre():
    """OpenCV counts from the first pixel's centre, the suite from its corner: half a pixel would show."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    dots = [(20, 16, 3.0), (44, 40, 4.0), (18, 44, 2.5)]
    image = sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s in dots)
    views = scene().reorder([0, 0], 1)
    views = Views(**{**vars(views), "image": (0.9 * image).clamp(0, 1).expand(1, 2, 3, 64, 64).contiguous()})
    tracks = sift_tracks(views)
    for a, b, _ in dots:
        nearest = (tracks.xy[0, 0] - torch.tensor([a + 0.5, b + 0.5])).norm(dim=-1).min()
        assert nearest < 0.2


@pytest.mark.parametrize(("second_nearest", "kept"), [(1.2, False), (1.24, False), (1.26, True), (9.0, True)])
def test_a_match_needs_lowes_ratio_and_the_way_back(second_nearest: float, kept: bool):
    """The first query's nearest lies 1 away; the last query's nearest is nearer to the one before it."""
    first = np.array([[0, 0], [50, 0], [50, 3]], dtype=np.float32)
    second = np.array([[0, 1], [0, second_nearest], [50, 1]], dtype=np.float32)
    found = {(match.queryIdx, match.trainIdx) for match in mutual_matches(first, second)}
    assert found == ({(0, 0), (1, 2)} if kept else {(1, 2)})
    assert mutual_matches(first[:1], second) == mutual_matches(first, second[:1]) == mutual_matches(None, second) == []


def test_triangulated_tracks_are_near_the_true_surface():
    views = scene(seed=3, views=3, size=128)
    tracks, points = triangulated_tracks(views)
    assert int(tracks.seen.any(1).sum()) > 20
    maps, valid = track_geometry(views)
    error = (maps - views.point_map).norm(dim=2)[valid]
    assert error.median() < 0.1  # a room is about 6 wide
    assert 2 * int(points.isfinite().all(-1).sum()) >= int(valid.sum()) > 40


def test_images_without_features_give_no_tracks():
    views = scene()
    blank = Views(**{**vars(views), "image": torch.zeros_like(views.image)})
    assert sift_tracks(blank).xy.shape == (1, 2, 0, 2)
    assert not track_geometry(blank)[1].any()
