"""Geometry of a view by its matches: known distances, cameras and tracks, laws, and what cannot be told."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from textured_corner import corner_cameras, corner_views
from torch import Tensor

from probe.geometry import fundamental_matrix, project
from probe.records.names import (
    CAMERA_DEGREES,
    CAMERA_ROTATION,
    CAMERA_TRANSLATION,
    CAMERA_WITHIN,
    PAIR_METRICS,
    REGISTERED,
    SED,
    SIFT_MATCHES,
    TSED_METRICS,
)
from train.quality.geometry import (
    LEAST_INLIERS,
    LEAST_MATCHES,
    Camera,
    camera_errors,
    epipolar_distance,
    find_camera,
    pair_scores,
    reprojection_error,
)
from train.quality.keypoints import SIDE, Matches, find_keypoints, match_keypoints

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=12, deadline=None)
PERFECT = {SED: 0.0, **dict.fromkeys(TSED_METRICS, 1.0), REGISTERED: 1.0, CAMERA_WITHIN: 1.0,
           CAMERA_ROTATION: 0.0, CAMERA_TRANSLATION: 0.0}  # fmt: skip


def cameras(size: int = SIDE, degrees: tuple[float, ...] = (8.0, 0.0)) -> list[Camera]:
    """A view and a reference."""
    intrinsics = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1.0]])
    return [Camera(intrinsics=intrinsics, world_to_cam=one, size=(size, size)) for one in corner_cameras(degrees)]


def stereo(shift: float = 1.0, size: int = SIDE) -> list[Camera]:
    """A view beside its reference: epipolar lines are rows."""
    moved = torch.eye(4)
    moved[0, 3] = -shift
    intrinsics = torch.tensor([[float(size), 0, size / 2], [0, float(size), size / 2], [0, 0, 1.0]])
    return [Camera(intrinsics=intrinsics, world_to_cam=pose, size=(size, size)) for pose in (moved, torch.eye(4))]


def points(count: int, seed: int = 0) -> Tensor:
    """World points in front of all cameras of this file, at depths 3 to 6."""
    place = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return place * torch.tensor([2.0, 2.0, 3.0]) + torch.tensor([-1.0, -1.0, 3.0])


def seen(world: Tensor, *views: Camera) -> list[Tensor]:
    return [project(world, one.intrinsics.double(), one.world_to_cam.double())[0] for one in views]


def matched(world: Tensor, view: Camera, reference: Camera, offset: tuple[float, float] = (0.0, 0.0)) -> Matches:
    """Exact matches; the reference's positions moved by an offset."""
    xy, other = seen(world, view, reference)
    return Matches(xy=xy, other=other + torch.tensor(offset, dtype=torch.float64), index=torch.arange(len(world)))


def fundamental(view: Camera, reference: Camera) -> Tensor:
    pair = (view.intrinsics, view.world_to_cam, reference.intrinsics, reference.world_to_cam)
    return fundamental_matrix(*(part.double() for part in pair))


# --- known -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [cameras(), cameras(32), stereo()], ids=["orbit", "small", "stereo"])
def test_exact_matches_score_as_perfect(pair: list[Camera]):
    scores = pair_scores(matched(points(60), *pair), *pair)
    assert list(scores) == list(PAIR_METRICS)
    assert scores[SIFT_MATCHES] == 60
    assert {name: scores[name] for name in PERFECT} == pytest.approx(PERFECT, abs=1e-2)
    error, count = reprojection_error([matched(points(60), *pair)], pair[0], pair[1:])
    assert error == pytest.approx(0, abs=1e-3)
    assert count == 60


@pytest.mark.parametrize(("size", "rows", "expected"), [(SIDE, 3.0, 3.0), (64, 1.1, 4.4), (512, 3.0, 1.5)])
def test_a_shift_across_epipolar_lines_is_the_distance_in_pixels_of_256(size: int, rows: float, expected: float):
    """Both lines are rows, so both distances are the shift; along the row it does not count."""
    view, reference = stereo(size=size)
    scores = pair_scores(matched(points(30), view, reference, (size / 20, rows)), view, reference)
    assert scores[SED] == pytest.approx(expected, rel=1e-4)
    assert [scores[name] for name in TSED_METRICS] == [float(expected < limit) for limit in (1, 2, 4)]


def test_a_shift_across_lines_is_halved_between_the_two_views_of_a_track():
    view, reference = stereo()
    error, _ = reprojection_error([matched(points(30), view, reference, (0, 3))], view, [reference])
    assert error == pytest.approx(1.5, rel=0.05)


def test_the_error_of_a_camera_is_what_it_is_turned_and_moved_by():
    """The view shows the scene from 8 degrees; it should have been seen from elsewhere."""
    shown, reference = cameras()
    matches = matched(points(80), shown, reference)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    for wrong, expected in ((turn, (90.0, 90.0)), (torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), (180.0, None))):
        asked = Camera(intrinsics=shown.intrinsics, world_to_cam=wrong @ shown.world_to_cam, size=shown.size)
        rotation, direction = camera_errors(find_camera(matches, asked, reference), asked, reference)
        assert rotation == pytest.approx(expected[0], abs=0.5)
        assert expected[1] is None or direction > 45
        assert pair_scores(matches, asked, reference)[CAMERA_WITHIN] == 0


def test_a_camera_that_is_turned_right_and_stands_wrong_is_not_within_the_limit():
    """Beside its reference where it should stand below it."""
    shown, reference = stereo()
    below = torch.eye(4)
    below[1, 3] = -1.0
    asked = Camera(intrinsics=shown.intrinsics, world_to_cam=below, size=shown.size)
    scores = pair_scores(matched(points(80), shown, reference), asked, reference)
    assert (scores[REGISTERED], scores[CAMERA_WITHIN]) == (1, 0)
    assert scores[CAMERA_ROTATION] == pytest.approx(0, abs=1)
    assert scores[CAMERA_TRANSLATION] == pytest.approx(90, abs=2)


def test_a_point_behind_a_camera_counts_as_the_whole_side():
    """Parallax of the wrong sign: the rays meet behind both cameras."""
    view, reference = stereo()
    xy, other = seen(points(30), view, reference)
    swapped = Matches(xy=other, other=xy, index=torch.arange(30))
    assert reprojection_error([swapped], view, [reference]) == (SIDE, 30)


def test_matches_of_one_keypoint_with_two_references_are_one_track():
    view, first, second = cameras(degrees=(8.0, 0.0, -8.0))
    world = points(30)
    whole, part = matched(world, view, first), matched(world[10:], view, second)
    shifted = Matches(xy=part.xy, other=part.other + 5, index=part.index + 10)
    assert reprojection_error([whole, shifted], view, [first, second])[1] == 30
    alone = reprojection_error([whole], view, [first])[0]
    assert alone < 1e-2 < reprojection_error([whole, shifted], view, [first, second])[0]


def test_a_blob_is_found_where_it_is_whether_the_image_is_enlarged_or_not():
    for size in (64, SIDE):
        place = torch.arange(size) + 0.5
        x, y = 0.4 * size, 0.55 * size
        blob = torch.exp(-((place[None] - x) ** 2 + (place[:, None] - y) ** 2) / (2 * (size / 20) ** 2))
        keypoints = find_keypoints(blob.expand(3, size, size))
        nearest = (keypoints.xy - torch.tensor([x, y])).norm(dim=1).min()
        assert nearest * SIDE / size < 0.3


def test_an_image_matches_itself_at_the_same_places():
    keypoints = find_keypoints(corner_views(0, 64).image[0, 0])
    matches = match_keypoints(keypoints, keypoints)
    assert len(matches.xy) > 20
    assert torch.equal(matches.xy, matches.other)
    assert torch.equal(matches.xy, keypoints.xy[matches.index])


# --- laws ------------------------------------------------------------------------------------------------------------


@laws
@given(seed=SEEDS)
def test_the_distance_is_the_same_from_either_side(seed: int):
    view, reference = cameras()
    matches = matched(points(20, seed), view, reference, (2.0, -3.0))
    there = epipolar_distance(matches.xy, matches.other, fundamental(view, reference))
    back = epipolar_distance(matches.other, matches.xy, fundamental(reference, view))
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-5)
    assert (there >= 0).all()


@laws
@given(seed=SEEDS, factor=st.sampled_from([0.25, 0.5, 2.0]))
def test_scores_do_not_depend_on_the_size_of_the_image(seed: int, factor: float):
    world = points(40, seed)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for size in (SIDE, int(factor * SIDE)):
        view, reference = cameras(size)
        exact = matched(world, view, reference)
        matches = Matches(xy=exact.xy, other=exact.other + noise * size / SIDE, index=exact.index)
        error, count = reprojection_error([matches], view, [reference])
        found.append((pair_scores(matches, view, reference)[SED], error, count))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_camera_is_found_among_wrong_matches_and_always_the_same(seed: int):
    view, reference = cameras()
    matches = matched(points(100, seed), view, reference)
    wrong = 25
    noise = SIDE * torch.rand(wrong, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spoiled = Matches(xy=matches.xy, other=torch.cat([noise, matches.other[wrong:]]), index=matches.index)
    camera = find_camera(spoiled, view, reference)
    assert max(camera_errors(camera, view, reference)) < CAMERA_DEGREES
    again = find_camera(spoiled, view, reference)
    assert camera is not None
    assert again is not None
    assert torch.equal(camera, again)


# --- what cannot be told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, LEAST_MATCHES - 1])
def test_too_few_matches_have_no_distance_and_are_not_consistent(count: int):
    view, reference = cameras()
    scores = pair_scores(matched(points(count), view, reference), view, reference)
    assert all(math.isnan(scores[name]) for name in (SED, CAMERA_ROTATION, CAMERA_TRANSLATION))
    assert [scores[name] for name in (*TSED_METRICS, REGISTERED, CAMERA_WITHIN)] == [0.0] * 5
    assert scores[SIFT_MATCHES] == count
    error, tracks = reprojection_error([matched(points(count), view, reference)], view, [reference])
    assert math.isnan(error)
    assert tracks == count


def test_limits_are_reached_by_as_many_matches():
    view, reference = cameras()
    enough = pair_scores(matched(points(LEAST_MATCHES), view, reference), view, reference)
    assert enough[SED] == pytest.approx(0, abs=1e-3)
    assert enough[REGISTERED] == 0
    assert pair_scores(matched(points(LEAST_INLIERS - 1), view, reference), view, reference)[REGISTERED] == 0
    assert pair_scores(matched(points(LEAST_INLIERS), view, reference), view, reference)[REGISTERED] == 1


def test_a_view_from_the_references_own_place_has_no_score():
    view, _ = cameras()
    scores = pair_scores(matched(points(40), view, view), view, view)
    assert all(math.isnan(scores[name]) for name in PAIR_METRICS[1:])
    error, tracks = reprojection_error([matched(points(40), view, view)], view, [view])
    assert (math.isnan(error), tracks) == (True, 0)


def test_an_empty_image_has_no_keypoint():
    keypoints = find_keypoints(torch.full((3, 32, 48), 0.5))
    assert keypoints.xy.shape == (0, 2)
    assert len(match_keypoints(keypoints, keypoints).xy) == 0
