"""The epipolar oracle: lines by hand, against slow sampling, and what a draw on them is worth."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.baselines import open_matchers
from probe.baselines.epipolar import match_on_lines, query_rays, weigh_tokens
from probe.geometry import depth_to_point_map
from probe.metrics import Threshold, correct, drawn_chance, grid_truth, thresholds, uniform_chance
from probe.protocols import PROTOCOLS
from probe.scenes import Request, open_scenes
from probe.views import IMAGE_PLANE, Views

GRID = (4, 4)
ONE_TOKEN = (Threshold(name="one", kind="token", value=1.0),)


def wall(move: tuple[float, float, float], depth: float = 4.0, turn: Tensor | None = None) -> Views:
    """A wall at a depth of view 0; view 1 has moved, then turned. 8 x 8 pixels, focal length 8 pixels."""
    world_to_cam = torch.eye(4).repeat(1, 2, 1, 1)
    world_to_cam[0, 1, :3, :3] = torch.eye(3) if turn is None else turn
    world_to_cam[0, 1, :3, 3] = -world_to_cam[0, 1, :3, :3] @ torch.tensor(move)
    intrinsics = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]).expand(1, 2, 3, 3)
    depths = torch.full((1, 2, 8, 8), depth)
    depths[:, 1] -= move[2]
    points = depth_to_point_map(depths, intrinsics, world_to_cam)
    return Views(
        image=torch.zeros(1, 2, 3, 8, 8), intrinsics=intrinsics, world_to_cam=world_to_cam, point_map=points,
        valid=torch.ones(1, 2, 8, 8, dtype=torch.bool), n_ref=1, names=("wall",),
    )  # fmt: skip


def weights(views: Views) -> Tensor:
    """All tokens' weights for queries of view 0 in view 1, [queries, rows, columns]."""
    weigh = weigh_tokens(views, grid_truth(views, GRID))
    return weigh(torch.arange(16))[0, :, 0, :, 1].T.unflatten(1, GRID)


def test_a_camera_that_moves_sideways_sees_the_row_up_to_infinity():
    """Token (1, 2) has its point at (4.5, 2.5): far away it stays there, nearer it moves to the left."""
    found = weights(wall((1.0, 0.0, 0.0)))[1 * 4 + 2]
    expected = torch.zeros(4, 4)
    expected[1, :3] = torch.tensor([2.0, 2.0, 0.5])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_what_a_draw_on_a_line_is_worth():
    """The wall's point is seen at (2.5, 2.5): less than a token from the centres (1, 3) and (3, 3), not from (5, 3)."""
    views = wall((1.0, 0.0, 0.0))
    truth = grid_truth(views, GRID)
    assert truth.xy[0, 0, 6, 1].tolist() == pytest.approx([2.5, 2.5])
    value = drawn_chance(truth, ONE_TOKEN, weigh_tokens(views, truth))["one"][0, 0, 0, 6, 1]
    assert value.item() == pytest.approx(4 / 4.5, rel=1e-5)


def test_a_camera_that_moves_forward_sees_the_line_start_at_the_epipole():
    """The epipole is (4, 4); infinitely far, token (1, 2)'s point stays at (4.5, 2.5), and nearer it moves outwards."""
    found = weights(wall((0.0, 0.0, 1.0)))[1 * 4 + 2]
    slope = 1.5 / 0.5  # pixels up per pixel to the right, until the frame ends at y = 0
    expected = torch.zeros(4, 4)
    expected[1, 2] = (2.5 - 2.0) * (1 + 1 / slope**2) ** 0.5
    expected[0, 2] = 2.0 * (1 + 1 / slope**2) ** 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_camera_that_only_turns_knows_the_match():
    angle = torch.tensor(0.2)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    views = wall((0.0, 0.0, 0.0), turn=turn)
    truth = grid_truth(views, GRID)
    seen = truth.xy[0, 0, :, 1]
    inside = ((seen > 0) & (seen < 8)).all(-1)
    token = (seen[:, 1] // 2 * 4 + seen[:, 0] // 2).long()
    found = weights(views).flatten(1)
    assert 0 < int(inside.sum()) < 16
    assert torch.equal(found[inside].argmax(1), token[inside])
    torch.testing.assert_close(found.sum(1), inside * 1e-6, rtol=0.01, atol=1e-9)


def test_a_still_camera_knows_the_match_of_what_stands_still_and_no_other():
    """Its centre is far from the world's, so that rounding leaves something of the epipole."""
    views, _ = open_scenes("shapes:moving-still", Request(groups=2, views=2, n_ref=1, size=48)).load(1)
    truth = grid_truth(views, (12, 12))
    right = drawn_chance(truth, thresholds(None), weigh_tokens(views, truth))["precision@5%"][0, 0]
    assert truth.moves is not None
    assert (right[(truth.visible & ~truth.moves)[0]] > 0.999).all()
    assert right[(truth.visible & truth.moves)[0]].mean() < 0.4


def test_scenes_without_cameras_are_refused():
    views = replace(wall((0.4, 0.0, 0.0)), unit=IMAGE_PLANE)
    with pytest.raises(ValueError, match="has no cameras, so no epipolar line; leave epipolar out"):
        match_on_lines(views)


def test_a_line_behind_the_camera_or_off_the_frame_and_a_missing_point_weigh_nothing():
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert weights(wall((0.0, 0.0, -1.0), turn=back)).sum() == 0  # view 1 looks the other way, away from all rays
    views = wall((1.0, 0.0, 0.0))
    views.valid[0, 0, 2:4, 4:6] = False
    assert weights(views)[6].sum() == 0
    truth = grid_truth(views, GRID)
    value = drawn_chance(truth, ONE_TOKEN, weigh_tokens(views, truth))["one"]
    assert value[0, 0, 0, 6, 1] == 0  # nothing is drawn


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999), index=st.integers(0, 3))
def test_weights_are_the_lengths_of_a_slow_walk_along_the_ray(seed: int, index: int):
    views = open_scenes("shapes", Request(groups=4, views=2, n_ref=1, size=32, seed=seed)).load(index)[0]
    truth = grid_truth(views, (4, 5))
    rays = query_rays(views, truth)
    s = torch.linspace(1e-6, 1, 40_001, dtype=torch.float64)
    start, end = rays.start[0, 0, 7, 1], rays.end[0, 0, 7, 1]
    walked = (1 - s)[:, None] * start + s[:, None] * end
    xy = walked[:, :2] / walked[:, 2:]
    middle, step = (xy[1:] + xy[:-1]) / 2, (xy[1:] - xy[:-1]).norm(dim=-1)
    inside = (walked[1:, 2] > 0) & (walked[:-1, 2] > 0) & ((middle >= 0) & (middle < 32)).all(-1)
    token = (middle[:, 1] // 8 * 5 + middle[:, 0] // 6.4).long()
    slow = torch.zeros(20, dtype=torch.float64).index_add(0, token[inside], step[inside])
    found = weigh_tokens(views, truth)(torch.arange(20))[0, :, 0, 7, 1].double()
    torch.testing.assert_close(found, slow, rtol=0.01, atol=0.05)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_true_match_lies_on_the_line(seed: int):
    views = open_scenes("shapes", Request(groups=4, views=3, n_ref=1, size=32, seed=seed)).load(seed % 4)[0]
    truth = grid_truth(views, (8, 8))
    weight = weigh_tokens(views, truth)(torch.arange(64))
    at_truth = weight.gather(1, truth.token.clamp(min=0)[:, None])[:, 0]
    assert bool((at_truth[truth.visible] > 0).float().mean() > 0.99)  # but where rounding moves it over a border


def test_a_draw_by_weight_is_the_slow_sum():
    views = open_scenes("shapes", Request(groups=1, views=2, n_ref=1, size=32)).load(0)[0]
    truth, limits = grid_truth(views, (4, 4)), thresholds(None)
    table = torch.rand(1, 16, 2, 16, 2, generator=torch.Generator().manual_seed(0))
    found = drawn_chance(truth, limits, lambda tokens: table[:, tokens], at_once=200)
    for limit in limits:
        slow = torch.zeros(1, 2, 16, 2)
        for token in range(16):
            right = correct(torch.full((1, 1, 2, 16, 2), token), truth, limit)[:, 0]
            slow += table[:, token] * right
        torch.testing.assert_close(found[limit.name][:, 0], slow / table.sum(1))


def test_a_draw_by_equal_weights_is_uniform_chance():
    views = open_scenes("shapes", Request(groups=1, views=2, n_ref=1, size=32)).load(0)[0]
    truth, limits = grid_truth(views, (4, 4)), thresholds(None)
    equal = drawn_chance(truth, limits, lambda tokens: torch.full((1, len(tokens), 1, 1, 1), 7.0))
    for name, value in uniform_chance(truth, limits).items():
        torch.testing.assert_close(equal[name], value)


@pytest.mark.parametrize("name", ["attention-v1", "ratio-v1"])
def test_the_oracle_beats_a_uniform_draw_and_ignores_images(name: str):
    views = open_scenes("shapes", Request(groups=1, views=2, n_ref=1, size=64)).load(0)[0]
    truth, limits = grid_truth(views, (16, 16)), thresholds(None)
    matcher = open_matchers(("epipolar",), torch.device("cpu"))["epipolar"]
    value, count = matcher(views)(truth, limits, PROTOCOLS[name])["precision@5%"]
    counted = truth.visible if name == "attention-v1" else truth.valid[..., None].expand_as(truth.visible)
    assert torch.equal(count[:, 0, 0, 1], counted.sum(2)[:, 0, 1])
    uniform = uniform_chance(truth, limits)["precision@5%"][0, 0, 0, :, 1][counted[0, 0, :, 1]].mean()
    assert value[0, 0, 0, 1] > 5 * uniform
    grey = replace(views, image=torch.zeros_like(views.image))
    again, _ = matcher(grey)(truth, limits, PROTOCOLS[name])["precision@5%"]
    torch.testing.assert_close(again, value, rtol=0, atol=0, equal_nan=True)  # a view is not matched with itself
