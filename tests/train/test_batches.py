"""The scenes of a step: laws of their order, rotations, timesteps and parts."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from training import SETTINGS, rooms, small_batches, small_model, step_loss

from probe.geometry import rotation_degrees
from train import batches


def test_steps_draw_different_scenes_and_repeat_exactly():
    model = small_model()
    losses = [step_loss(model, step) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize(
    ("step", "length", "share"), [(0, 4, 0.25), (2, 4, 0.75), (3, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0)]
)
def test_the_ramp_grows_to_one_and_stays(step: int, length: int, share: float):
    assert batches.ramp(step, length) == share


def test_the_ramp_scales_the_rotations_of_a_batch():
    def widest_turn(widest: float) -> float:
        generator = torch.Generator().manual_seed(1)
        views = replace(rooms(), rotation_bins=(1,)).draw(generator, 8, 1, widest=widest)
        turn = views.world_to_cam[:, 1, :3, :3] @ views.world_to_cam[:, 0, :3, :3].mT
        return float(((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos().rad2deg().max())

    assert 30 <= widest_turn(1.0) <= 60.01
    assert widest_turn(0.1) <= 6.01


def test_shifted_timesteps_match_the_formula_and_stay_in_range():
    uniform = torch.tensor([0.0, 0.2, 0.5, 0.9999999])
    assert batches.shift_timesteps(uniform, 4.0).tolist() == [0, 500, 800, 999]
    assert batches.shift_timesteps(uniform[:3], 1.0).tolist() == [0, 200, 500]


def test_a_part_of_a_batch_is_that_part_of_the_whole():
    drawn = small_batches(replace(SETTINGS, batch_size=4, shuffle_views=1.0, views=3))
    whole, part = drawn.at(5), drawn.at(5, slice(1, 3))
    for name in ("t", "noise", "keep_cameras"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[1:3])
    assert torch.equal(part.views.point_map, whole.views.point_map[1:3])
    assert torch.equal(part.views.image, whole.views.image[1:3])
    assert part.views.n_ref == whole.views.n_ref


def test_single_views_are_targets():
    batch = small_batches(replace(SETTINGS, views=1)).at(0)
    assert (batch.views.count, batch.views.n_ref) == (1, 0)
    assert batch.noise.shape[:2] == (SETTINGS.batch_size, 1)


def test_a_share_of_the_steps_shuffles_its_views():
    orders = [batches.view_order(4, 0.5, 3, step) for step in range(200)]
    assert 70 <= sum(order is None for order in orders) <= 130
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders if order is not None)
    assert len({tuple(order) for order in orders if order}) > 15
    assert batches.view_order(4, 0.0, 3, 3) is None


@pytest.mark.parametrize(
    ("views", "n_ref", "order"),
    [
        (4, 1, [1, 0, 2, 3]),  # the release: views // 2 - 1
        (4, 2, [0, 3, 1, 2]),
        (4, 3, [0, 1, 3, 2]),
        (2, 1, [0, 1]),
        (3, 1, [0, 1, 2]),
        (3, 2, [0, 2, 1]),
        (9, 3, [0, 4, 8, 1, 2, 3, 5, 6, 7]),
    ],
)
def test_references_are_evenly_spaced_and_come_first(views: int, n_ref: int, order: list[int]):
    assert batches.spaced_order(views, n_ref) == order


def test_views_that_are_not_shuffled_lie_along_a_path_with_references_spaced_on_it():
    drawn = small_batches(replace(SETTINGS, views=4, batch_size=3))
    seen = set()
    for step in range(8):
        views = drawn.at(step).views
        spaced = batches.spaced_order(4, views.n_ref)
        path = views.reorder([spaced.index(place) for place in range(4)], 1)  # undo the spacing
        first = path.world_to_cam[:, :1].expand(3, 4, 4, 4)
        assert (rotation_degrees(path.world_to_cam, first).diff() > 0).all()
        points = rearrange(path.point_map, "b f c h w -> (b f) (h w) c") @ path.world_to_cam.flatten(0, 1)[:, :3, :3].mT
        depth = points[..., 2] + path.world_to_cam.flatten(0, 1)[:, None, 2, 3]
        assert (depth > 0).all()  # every view kept its own points
        seen.add(views.n_ref)
    assert seen == {1, 2, 3}
