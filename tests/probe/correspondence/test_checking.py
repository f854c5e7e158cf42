"""The check of the truth: right cameras pass, wrong ones are told from wrong matches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.correspondence.checking import (
    LEAST,
    CheckedPair,
    TruthCheck,
    agreeing,
    check_truth,
    check_views,
    epipolar_distances,
    point_distances,
)
from probe.geometry import project, unproject
from probe.scenes.shapes import WORLDS, draw_shapes, make_views
from probe.views import Views

ALLOWED = 0.05 * 256


@pytest.fixture(scope="module")
def rooms() -> list[Views]:
    """Rooms of the first version, whose textures SIFT can match, seen from nearby."""
    generator = torch.Generator().manual_seed(1)
    shapes = [draw_shapes(1, world=WORLDS["shapes-v1"], difficulty="cluttered", generator=generator) for _ in range(3)]
    turns = torch.tensor([[12.0, 20.0]])
    views = [make_views(one, turns, size=256, n_ref=1, generator=generator) for one in shapes]
    return [replace(one, names=(f"room-{index}",)) for index, one in enumerate(views)]


def checked(rooms: list[Views]) -> TruthCheck:
    return check_truth(lambda index: (rooms[index], None), len(rooms), ALLOWED)


def turned(views: Views, degrees: float) -> Views:
    """Turn the first view's camera about its own axis y, away from what it saw."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    cameras = views.world_to_cam.clone()
    cameras[:, 0] = turn @ cameras[:, 0]
    return replace(views, world_to_cam=cameras)


def without_points(views: Views) -> Views:
    return replace(views, valid=torch.zeros_like(views.valid))


def moved_points(views: Views, factor: float) -> Views:
    """Scale depth along each pixel's ray, as a wrong depth scale does."""
    centres = torch.linalg.inv(views.world_to_cam)[..., :3, 3]
    points = centres[..., None, None] + factor * (views.point_map - centres[..., None, None])
    return replace(views, point_map=points)


def test_right_cameras_and_points_pass_within_two_pixels(rooms: list[Views]):
    check = checked(rooms)
    assert len(check.pairs) >= 2
    assert check.median_px < 2
    assert not check.is_doubtful
    assert check.warning("x") == ""
    assert f"SIFT matches lie {check.median_px:.1f} px of 256 from where cameras and points put them" in check.words
    assert list(check.table()["matches"]) == [pair.matches for pair in check.pairs]


def test_cameras_alone_are_held_against_epipolar_lines(rooms: list[Views]):
    check = checked([without_points(views) for views in rooms])
    assert {pair.kind for pair in check.pairs} == {"epipolar lines"}
    assert check.median_px < 2
    assert "epipolar lines" in check.words
    assert not check.is_doubtful


def test_a_turned_camera_is_doubted(rooms: list[Views]):
    check = checked([turned(views, 8.0) for views in rooms])
    assert check.is_doubtful
    assert check.warning("name FOLDER#525").endswith("half of what counts as right; name FOLDER#525")


def test_a_wrong_scale_of_depth_is_doubted_and_the_points_are_blamed(rooms: list[Views]):
    check = checked([moved_points(views, 3.0) for views in rooms])
    assert check.is_doubtful
    assert check.blames_points
    assert check.warning("").startswith("WARNING: the points do not fit the images")
    assert "--depth-scale" in check.warning("")


def test_images_that_show_something_else_leave_the_truth_unchecked(rooms: list[Views]):
    noise = torch.rand(rooms[0].image.shape, generator=torch.Generator().manual_seed(0))
    for image in (noise, torch.zeros_like(noise)):
        check = checked([replace(rooms[0], image=image)])
        assert check.pairs == ()
        assert check.words.startswith("no SIFT match anywhere: the truth is unchecked (none of 3 pairs of views")
        assert not check.is_doubtful
        assert np.isnan(check.median_px)


def test_it_draws_nothing_and_is_repeatable(rooms: list[Views]):
    before = torch.get_rng_state()
    assert check_views(rooms[0]) == check_views(rooms[0])
    assert torch.equal(torch.get_rng_state(), before)


def true_matches(views: Views, key: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    start = 20 + 200 * torch.rand(count, 2, generator=generator)
    cameras, intrinsics = views.world_to_cam[0], views.intrinsics[0]
    depth = 2 + 2 * torch.rand(count, generator=generator)
    end, _ = project(unproject(start, depth, intrinsics[0], cameras[0]), intrinsics[key], cameras[key])
    return start, end


def test_true_matches_lie_on_epipolar_lines_and_a_step_off_is_measured(rooms: list[Views]):
    start, end = true_matches(rooms[0], 1)
    assert float(epipolar_distances(rooms[0], 0, 1, start, end).max()) < 0.01
    off = epipolar_distances(rooms[0], 0, 1, start, end + torch.tensor([0.0, 3.0]))
    assert 0.3 < float(off.median()) <= 3.5
    same = replace(rooms[0], world_to_cam=rooms[0].world_to_cam[:, :1].expand(-1, 3, -1, -1))
    assert epipolar_distances(same, 0, 1, start, end).isnan().all()


def test_points_are_seen_where_they_are_and_pixels_without_one_are_unknown(rooms: list[Views]):
    start, _ = true_matches(rooms[0], 1)
    own = point_distances(rooms[0], 0, 0, start, start + torch.tensor([3.0, 4.0]))
    assert torch.allclose(own, torch.full_like(own, 5.0), atol=1e-2)
    assert point_distances(without_points(rooms[0]), 0, 1, start, start).isnan().all()


def test_matches_agree_without_the_cameras_and_random_ones_do_not(rooms: list[Views]):
    start, end = (points.numpy() for points in true_matches(rooms[0], 1))
    wrong = np.random.default_rng(0).uniform(0, 256, (20, 2)).astype(np.float32)
    kept = agreeing(np.concatenate([start, wrong]), np.concatenate([end, wrong[::-1]]), 1.5)
    assert kept[:60].mean() > 0.95
    assert kept[60:].mean() < 0.3
    assert not agreeing(start[: LEAST - 1], end[: LEAST - 1], 1.5).any()


def pair(moved: float, median: float) -> CheckedPair:
    return CheckedPair(scene="s", pair="0-1", matches=20, moved_px=float(moved), kind="points", median_px=median,
                       epipolar_px=0.5)  # fmt: skip


def test_pairs_that_hardly_move_do_not_hide_the_others():
    def check(*pairs: CheckedPair) -> TruthCheck:
        return TruthCheck(pairs=pairs, looked_at=9, scenes=3, side=256, allowed_px=ALLOWED)

    near, far, bad = pair(5, 0.5), pair(60, 2.0), pair(60, 9.0)
    assert check(near, near, near, bad).is_doubtful
    assert check(near, near, near, bad).median_px == 9.0
    assert not check(near, near).is_doubtful
    assert not check(far, far, far, bad).is_doubtful
    assert check(far, far, bad).is_doubtful


def test_a_scene_among_right_ones_is_named_and_the_scale_is_not_blamed():
    """A fault that all scenes share has a usual cause; one scene's has not."""

    def check(*medians: tuple[str, float]) -> TruthCheck:
        pairs = tuple(replace(pair(60, median), scene=scene) for scene, median in medians for _ in range(3))
        return TruthCheck(pairs=pairs, looked_at=9, scenes=3, side=256, allowed_px=ALLOWED)

    one = check(("a", 1.0), ("b", 34.0), ("c", 2.0)).warning("name FOLDER#525")
    assert "not fit the images of b (34.0 px), 1 of 3 scenes: in 3 of 9 pairs" in one
    assert one.endswith("the other scenes fit, so look at the cameras, the depth and the frames of it")
    assert "#525" not in one
    most = check(("a", 21.0), ("b", 34.0), ("c", 2.0)).warning("name FOLDER#525")
    assert "of b (34.0 px), a (21.0 px), 2 of 3 scenes" in most
    assert most.endswith("name FOLDER#525")
    every = check(("a", 21.0), ("b", 34.0), ("c", 20.0)).warning("")
    assert "not fit the images: in 9 of 9 pairs" in every
    many = check(*((f"s{k}", 20.0 + k) for k in range(5)), *((f"t{k}", 1.0) for k in range(6))).warning("")
    assert "of s4 (24.0 px), s3 (23.0 px), s2 (22.0 px) and 2 more, 5 of 11 scenes" in many
