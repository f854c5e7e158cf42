"""Noise on the truth: its amounts, that each view stays true to its own camera, and that scenes do not share it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.correspondence import match_tokens
from probe.correspondence.noise import TruthNoise, lowest, perturb, perturb_each, read_noise, turn
from probe.geometry import camera_centre, pixel_centres, point_map_to_depth, project, rotation_degrees
from probe.metrics import scene_size
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import TENSORS, Views

ALL = TruthNoise(depth=0.1, holes=0.25, rotation=5.0, translation=0.02)


@pytest.fixture(scope="module")
def views() -> Views:
    generator = torch.Generator().manual_seed(0)
    shapes = draw_shapes(3, difficulty="plain", generator=generator)
    return make_views(shapes, torch.full((3, 2), 30.0), size=32, n_ref=1, generator=generator)


def disturbed(views: Views, seed: int = 1, **amounts: float) -> Views:
    return perturb(views, TruthNoise(**amounts), torch.Generator().manual_seed(seed))


def test_noise_is_read_as_on_the_command_line():
    assert read_noise("depth:.05,holes:0.3") == TruthNoise(depth=0.05, holes=0.3)
    assert read_noise("rotation:2") == TruthNoise(rotation=2.0)


@pytest.mark.parametrize(
    "text", ["", "depth", "depth:", "fog:.1", "depth:.1,depth:.2", "holes:1.1", "depth:-1", "depth:nan"]
)
def test_noise_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ValueError, match=r"expected"):
        read_noise(text)


def test_no_noise_changes_nothing(views: Views):
    same = disturbed(views)
    assert torch.equal(same.valid, views.valid)
    torch.testing.assert_close(same.world_to_cam, views.world_to_cam, rtol=0, atol=1e-6)
    torch.testing.assert_close(same.point_map, views.point_map, rtol=0, atol=1e-4)


def test_depth_noise_has_its_relative_deviation_along_the_ray(views: Views):
    given_ = disturbed(views, depth=0.05)
    true, found = (point_map_to_depth(x.point_map, views.world_to_cam) for x in (views, given_))
    logarithm = (found / true).log()
    assert logarithm.std().item() == pytest.approx(0.05, rel=0.03)
    assert logarithm.mean().item() == pytest.approx(0, abs=0.002)
    assert torch.equal(given_.world_to_cam, views.world_to_cam)
    half = disturbed(views, depth=0.025)
    again = point_map_to_depth(half.point_map, views.world_to_cam)
    torch.testing.assert_close(2 * (again / true).log(), logarithm, rtol=0, atol=1e-4)  # the same pattern, scaled


@settings(max_examples=10, deadline=None)
@given(share=st.sampled_from([0.0, 0.1, 0.3, 0.75, 1.0]), seed=st.integers(0, 2**31 - 1))
def test_holes_have_their_share_of_every_view_in_blobs(share: float, seed: int, views: Views):
    given_ = disturbed(views, seed, holes=share)
    assert bool((given_.valid.flatten(2).sum(-1) == 1024 - round(1024 * share)).all())
    fewer = disturbed(views, seed, holes=share / 2)
    assert bool((fewer.valid >= given_.valid).all())  # the same blobs, grown
    if share in (0.1, 0.3):
        inside = ~given_.valid[..., :-1] & ~given_.valid[..., 1:]
        assert inside.sum() > 0.7 * (~given_.valid).sum()  # most pixels of a hole have a neighbour in it


def test_holes_stay_holes(views: Views):
    missing = replace(views, valid=torch.zeros_like(views.valid))
    assert not disturbed(missing, holes=0.5).valid.any()


def test_the_lowest_share_is_chosen():
    field = torch.tensor([[[[3.0, 1.0], [2.0, 1.0]]]])
    assert lowest(field, 0.25)[0, 0].tolist() == [[False, True], [False, False]]
    assert lowest(field, 0.75)[0, 0].tolist() == [[False, True], [True, True]]


def test_a_turn_is_right_handed():
    quarter = turn(torch.tensor([0.0, 0.0, 1.0]), 90.0)
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 0, 1]), torch.tensor([0.0, 1, 0, 1]), rtol=0, atol=1e-6)


def test_cameras_turn_in_place_and_move_by_their_amounts(views: Views):
    turned = disturbed(views, rotation=5.0).world_to_cam
    torch.testing.assert_close(rotation_degrees(turned, views.world_to_cam), torch.full((3, 3), 5.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(camera_centre(turned), camera_centre(views.world_to_cam), rtol=0, atol=1e-5)
    moved = disturbed(views, translation=0.02).world_to_cam
    distance = (camera_centre(moved) - camera_centre(views.world_to_cam)).norm(dim=-1)
    torch.testing.assert_close(distance, (0.02 * scene_size(views))[:, None].expand(3, 3), rtol=1e-3, atol=0)
    assert torch.equal(moved[..., :3, :3], views.world_to_cam[..., :3, :3])


def test_every_view_fits_its_own_camera_still(views: Views):
    given_ = perturb(views, ALL, torch.Generator().manual_seed(3))
    points = given_.point_map.flatten(3).transpose(2, 3)
    xy, _ = project(points, given_.intrinsics, given_.world_to_cam)
    torch.testing.assert_close(xy, pixel_centres(32, 32).flatten(0, 1).expand_as(xy), rtol=0, atol=0.01)
    assert torch.equal(given_.image, views.image)
    assert torch.equal(given_.intrinsics, views.intrinsics)


def test_views_disagree_with_one_another(views: Views):
    true = match_tokens(views.point_map, views.valid, (8, 8))
    given_ = disturbed(views, rotation=10.0)
    found = match_tokens(given_.point_map, given_.valid, (8, 8))
    assert (found.index == true.index).float().mean() < 0.7


def test_a_scenes_noise_does_not_depend_on_its_batch(views: Views):
    whole = perturb_each(views, ALL, [5, 6, 7])
    alone = perturb_each(views.scene(1), ALL, [6])
    for name in TENSORS:
        assert torch.equal(getattr(whole, name)[1:2], getattr(alone, name))
    assert not torch.equal(whole.valid[0], whole.valid[1])
    with pytest.raises(ValueError, match="zip"):
        perturb_each(views, ALL, [1])
