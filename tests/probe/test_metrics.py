"""Laws of the numbers that matches are judged by."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import truth_of
from torch import Tensor

from probe.correspondence import token_centres
from probe.metrics import (
    GridTruth,
    Threshold,
    best_share,
    correct,
    counted_mean,
    drawn_chance,
    errors,
    grid_truth,
    nearest_projection,
    nearest_token,
    own_xy,
    precisions,
    same_position,
    scene_size,
    thresholds,
    uniform_chance,
)
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views, concatenate, resize

NAN = math.nan
CLOSE = {"rtol": 1e-5, "atol": 1e-6, "equal_nan": True}
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}
SEEDS = st.integers(0, 2**31 - 1)


def made_truth(
    xy: Tensor,
    *,
    grid: tuple[int, int] = (2, 2),
    size: tuple[int, int] = (40, 80),
    points: Tensor | None = None,
    valid: Tensor | None = None,
    scene_size: float = 4.0,
) -> GridTruth:
    """Truth of one query and one key view, [n 2] positions in the key view, [n 3] points of both views' tokens."""
    n = math.prod(grid)
    xy = rearrange(torch.as_tensor(xy, dtype=torch.float32), "n c -> 1 1 n 1 c")
    known = ~xy[..., 0].isnan()
    return GridTruth(
        grid=grid,
        centres=token_centres(grid, size),
        points=torch.zeros(1, 1, n, 3) if points is None else points[None, None],
        points_at_key=torch.zeros(1, 1, n, 1, 3) if points is None else points[None, None, :, None],
        valid=torch.ones(1, 1, n, dtype=torch.bool) if valid is None else valid[None, None],
        xy=xy,
        visible=known,
        token=torch.where(known, 0, -1),
        side=math.sqrt(size[0] * size[1]),
        token_size=torch.tensor([size[1] / grid[1], size[0] / grid[0]]),
        scene_size=torch.tensor([scene_size]),
        n_ref=1,
    )


def tokens(*index: int) -> Tensor:
    return rearrange(torch.tensor(index), "n -> 1 1 1 n 1")


def some_truth(seed: int, grid: tuple[int, int] = (3, 4), size: tuple[int, int] = (30, 60)) -> GridTruth:
    """Random truth of two views, with unknown positions and missing points."""
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(grid)
    xy = torch.rand(1, 2, n, 2, 2, generator=generator) * torch.tensor([1.4 * size[1], 1.4 * size[0]]) - 6
    xy[torch.rand(1, 2, n, 2, generator=generator) < 0.2] = torch.nan
    points = torch.randn(1, 2, n, 3, generator=generator)
    return GridTruth(
        grid=grid,
        centres=token_centres(grid, size),
        points=points,
        points_at_key=points[:, :, :, None].expand(1, 2, n, 2, 3),
        valid=torch.rand(1, 2, n, generator=generator) < 0.8,
        xy=xy,
        visible=~xy[..., 0].isnan() & (torch.rand(1, 2, n, 2, generator=generator) < 0.5),
        token=torch.zeros(1, 2, n, 2, dtype=torch.long),
        side=math.sqrt(size[0] * size[1]),
        token_size=torch.tensor([size[1] / grid[1], size[0] / grid[0]]),
        scene_size=torch.tensor([2.5]),
        n_ref=1,
    )


def room(size: int = 24, n_ref: int = 1) -> Views:
    generator = torch.Generator().manual_seed(3)
    rooms = draw_shapes(1, generator=generator)
    return make_views(rooms, torch.tensor([[20.0, 50.0]]), size=size, n_ref=n_ref, generator=generator)


# Errors by hand: images of 40 x 80 pixels, tokens of 20 x 40, centres (20, 10) (60, 10) (20, 30) (60, 30)


def test_image_error_is_the_distance_over_the_side():
    truth = made_truth([[20.0, 10], [20, 10], [23, 34], [NAN, NAN]])
    found = errors(tokens(0, 1, 2, 3), truth, "image")[0, 0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0, 40, 5, NAN]) / math.sqrt(3200), **CLOSE)


def test_token_error_is_the_distance_in_tokens_of_either_side():
    truth = made_truth([[20.0, 10], [20, 10], [20, 10], [0, 0]])
    found = errors(tokens(0, 1, 2, 3), truth, "token")[0, 0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0, 1, 1, math.hypot(1.5, 1.5)]), **CLOSE)


def test_errors_in_3d_are_between_the_matched_tokens_point_and_the_querys():
    points = torch.tensor([[0.0, 0, 0], [3, 4, 0], [0, 0, 2], [9, 9, 9]])
    valid = torch.tensor([True, True, True, False])
    truth = made_truth([[1.0, 1]] * 4, points=points, valid=valid)
    token = tokens(0, 0, 1, 0)
    metric = errors(token, truth, "metric")[0, 0, 0, :3, 0]
    torch.testing.assert_close(metric, torch.tensor([0, 5, math.sqrt(9 + 16 + 4)]), **CLOSE)
    torch.testing.assert_close(errors(token, truth, "scene")[0, 0, 0, :3, 0], metric / 4, **CLOSE)
    assert errors(tokens(3, 3, 3, 3), truth, "metric").isnan().all()  # the matched token has no point
    assert not errors(tokens(3, 3, 3, 3), truth, "image").isnan().any()  # but a place


def test_points_are_looked_up_in_the_scene_and_the_view_that_was_matched():
    """Scene, query view, key view and token each add a digit of their own to where the matched point lies."""
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(0, 3, (2, 4, 3, 3, 3), generator=generator)
    code = torch.arange(2 * 3 * 3).float()
    points = torch.stack([code, torch.zeros(18), torch.zeros(18)], -1).unflatten(0, (2, 3, 3))
    truth = replace(
        made_truth([[1.0, 1]] * 3, grid=(1, 3)),
        points=points,
        points_at_key=points[:, :, :, None].expand(2, 3, 3, 3, 3),
        valid=torch.ones(2, 3, 3, dtype=torch.bool),
        scene_size=torch.tensor([1.0, 2.0]),
        xy=torch.zeros(2, 3, 3, 3, 2),
        visible=torch.ones(2, 3, 3, 3, dtype=torch.bool),
        token=torch.zeros(2, 3, 3, 3, dtype=torch.long),
    )
    found = errors(token, truth, "metric")
    for b, r, q, n, k in torch.cartesian_prod(*(torch.arange(side) for side in token.shape)).tolist():
        matched = 9 * b + 3 * k + int(token[b, r, q, n, k])
        assert found[b, r, q, n, k] == abs(matched - (9 * b + 3 * q + n))
    torch.testing.assert_close(errors(token, truth, "scene"), found / torch.tensor([1.0, 2]).view(2, 1, 1, 1, 1))


# Right and wrong


def test_an_error_equal_to_the_threshold_is_wrong():
    truth = made_truth([[20.0, 10], [20, 10], [20, 10], [NAN, NAN]])
    token = tokens(0, 1, 3, 0)
    limits = {
        value: correct(token, truth, Threshold(name="t", kind="token", value=value)) for value in (0.0, 1.0, 1.01, 9.0)
    }
    assert limits[0.0].flatten().tolist() == [False, False, False, False]
    assert limits[1.0].flatten().tolist() == [True, False, False, False]
    assert limits[1.01].flatten().tolist() == [True, True, False, False]
    assert limits[9.0].flatten().tolist() == [True, True, True, False]  # an unknown truth is never right


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS, low=st.floats(0, 2), more=st.floats(0, 2), kind=st.sampled_from(["image", "token", "scene", "metric"])
)
def test_precision_grows_with_the_threshold(seed: int, low: float, more: float, kind: str):
    truth = some_truth(seed)
    token = torch.randint(0, 12, (1, 2, 2, 12, 2), generator=torch.Generator().manual_seed(seed))
    right = [correct(token, truth, Threshold(name="t", kind=kind, value=value)) for value in (low, low + more)]
    assert (right[0] <= right[1]).all()
    assert not right[1][errors(token, truth, kind).isnan()].any()
    precision = [counted_mean(found, truth.visible[:, None])[0].nan_to_num(nan=0) for found in right]
    assert (precision[0] <= precision[1]).all()


# Averages


def test_counted_mean_by_hand():
    values = torch.tensor([1.0, 2, 4, NAN])[None, None, None, :, None].expand(1, 2, 1, 4, 3)
    counted = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    counted = rearrange(counted, "fk n -> 1 1 1 n fk")
    mean, count = counted_mean(values, counted)
    torch.testing.assert_close(mean[0, :, 0], torch.tensor([[1.5, NAN, NAN]] * 2), **EXACT)
    assert count[0, :, 0].tolist() == [[2, 0, 2]] * 2  # nothing counted is NaN and 0; a counted NaN is NaN and counted


def test_counted_mean_of_truths_is_a_share():
    values = torch.tensor([True, True, False, True])[None, None, None, :, None]
    mean, count = counted_mean(values, torch.tensor([True, True, True, False])[None, None, None, :, None])
    assert mean.item() == pytest.approx(2 / 3)
    assert count.item() == 3


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_what_is_not_counted_cannot_matter(seed: int):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, 2, 6, 2, generator=generator)
    counted = torch.rand(2, 1, 2, 6, 2, generator=generator) < 0.5
    mean, count = counted_mean(values, counted)
    for other in (0.0, torch.nan, torch.inf):
        torch.testing.assert_close(counted_mean(values.where(counted, other), counted)[0], mean, **EXACT)
    assert (mean.isnan() == (count == 0)).all()
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(counted_mean(values[:, :, :, order], counted[:, :, :, order])[0], mean, **CLOSE)


# The best share


def share_of(ratio: list[float], valid: list[int] | None = None, coverage: float = 1.0, most: int | None = None):
    given = torch.tensor(ratio)[None, None, :, None]
    known = (
        torch.ones_like(given, dtype=torch.bool) if valid is None else torch.tensor(valid).bool()[None, None, :, None]
    )
    return best_share(given, known, coverage, most)[0, 0, :, 0].int().tolist()


def test_best_share_by_hand():
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=0.5) == [0, 1, 0, 1]
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=0.51) == [0, 1, 1, 1]  # rounded up
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=0.01) == [0, 1, 0, 0]
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=1.0) == [1, 1, 1, 1]
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=1.0, most=2) == [0, 1, 0, 1]
    assert share_of([0.9, 0.1, 0.5, 0.3], coverage=0.25, most=2) == [0, 1, 0, 0]
    assert share_of([0.5, 0.5, 0.5, 0.5], coverage=0.5) == [1, 1, 0, 0]  # of equal ones the first
    assert share_of([0.1, 0.2, 0.3, 0.4], valid=[0, 1, 1, 0], coverage=0.5) == [0, 1, 0, 0]
    assert share_of([0.1, 0.2, 0.3, 0.4], valid=[0, 0, 0, 0]) == [0, 0, 0, 0]
    assert share_of([1.0, 1.0], valid=[0, 1], coverage=1.0) == [0, 1]  # a tie with what is not valid


@pytest.mark.parametrize(("n", "coverage", "kept"), [(100, 0.07, 7), (100, 0.14, 14), (300, 0.09, 27), (100, 0.071, 8)])
def test_rounding_of_a_share_does_not_add_a_query(n: int, coverage: float, kept: int):
    """100 * 0.07 is 7.000000000000001 in double precision, and 300 * 0.09 more than 27 in single precision."""
    ratio = torch.rand(1, 1, n, 1, generator=torch.Generator().manual_seed(0))
    assert best_share(ratio, torch.ones_like(ratio, dtype=torch.bool), coverage).sum() == kept


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 400), hundredths=st.integers(1, 100), most=st.none() | st.integers(1, 50))
def test_best_share_chooses_as_many_as_asked_and_none_better_is_left(
    seed: int, n: int, hundredths: int, most: int | None
):
    generator = torch.Generator().manual_seed(seed)
    ratio = torch.randint(0, 10, (1, 2, n, 2), generator=generator) / 10
    valid = torch.rand(1, 2, n, 2, generator=generator) < 0.8
    chosen = best_share(ratio, valid, hundredths / 100, most)
    assert not (chosen & ~valid).any()
    wanted = torch.tensor([[math.ceil(Fraction(hundredths * int(c), 100)) for c in row] for row in valid.sum(2)[0]])
    assert chosen.sum(2)[0].tolist() == wanted.clamp(max=n if most is None else most).tolist()
    worst = ratio.where(chosen, -1).amax(2, keepdim=True)
    assert (ratio >= worst)[valid & ~chosen].all()


def test_a_hundredth_that_float32_rounds_up_takes_no_query_more():
    assert sum(share_of([0.5] * 300, coverage=0.09)) == 27


# Chance


@pytest.mark.parametrize("at_once", [1, 100, 10**6])
@pytest.mark.parametrize("kind", ["image", "token", "scene", "metric"])
def test_uniform_chance_is_the_share_of_tokens_that_would_be_right(kind: str, at_once: int):
    truth = some_truth(5)
    limit = Threshold(name="t", kind=kind, value={"image": 0.4, "token": 1.2, "scene": 0.6, "metric": 1.5}[kind])
    chance = uniform_chance(truth, (limit,), at_once=at_once)["t"]
    each = [correct(torch.full((1, 1, 2, 12, 2), token), truth, limit) for token in range(12)]
    torch.testing.assert_close(chance, torch.stack(each).float().mean(0), **CLOSE)
    assert 0 < chance.mean() < 1


@pytest.mark.parametrize("at_once", [1, 4_000_000])
def test_a_draw_goes_by_weight_and_draws_nothing_where_no_token_has_any(at_once: int):
    """By a slow loop; the first query has weights of zero, in the first view as the query's."""
    truth, limit = some_truth(5), Threshold(name="t", kind="image", value=0.4)
    weights = torch.rand(1, 12, 2, 12, 2, generator=torch.Generator().manual_seed(1))
    weights[0, :, 0, 0] = 0
    chance = drawn_chance(truth, (limit,), lambda chosen: weights[:, chosen], at_once=at_once)["t"]
    right = torch.stack([correct(torch.full((1, 1, 2, 12, 2), m), truth, limit)[0, 0] for m in range(12)])
    expected = (right * weights[0]).sum(0) / weights[0].sum(0)
    assert expected[0, 0].isnan().all()
    torch.testing.assert_close(chance[0, 0], expected.nan_to_num(nan=0.0), **CLOSE)


def test_uniform_chance_by_hand():
    """Five by five tokens of ten pixels; a point on the centre of the middle token or of a corner.

    Within .15 of the side (7.5 pixels) lies that token alone; within .25 those beside it too; within .29 (14.5 pixels)
    all around it.
    """
    centres = token_centres((5, 5), (50, 50))
    truth = made_truth(centres, grid=(5, 5), size=(50, 50))
    limits = [Threshold(name=str(v), kind="image", value=v) for v in (0.15, 0.25, 0.29)]
    chance = uniform_chance(truth, tuple(limits))
    inner, corner = 12, 0
    for name, at_inner, at_corner in (("0.15", 1, 1), ("0.25", 5, 3), ("0.29", 9, 4)):
        found = chance[name][0, 0, 0, :, 0]
        assert found[inner].item() == pytest.approx(at_inner / 25)
        assert found[corner].item() == pytest.approx(at_corner / 25)
    assert uniform_chance(truth, ()) == {}


def test_random_matches_reach_uniform_chance():
    truth = some_truth(6)
    limits = (Threshold(name="i", kind="image", value=0.3), Threshold(name="s", kind="scene", value=0.5))
    token = torch.randint(0, 12, (1, 4000, 2, 12, 2), generator=torch.Generator().manual_seed(0))
    for limit in limits:
        found = correct(token, truth, limit).double().mean(1, keepdim=True)
        expected = uniform_chance(truth, limits)[limit.name].double()
        assert ((found - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt() + 1e-6).all()


def test_same_position_is_the_token_itself():
    token = same_position(some_truth(0))
    assert token.shape == (1, 1, 2, 12, 2)
    assert (token == torch.arange(12)[:, None]).all()


# The ceiling


def test_nearest_token_contains_the_position_and_is_clamped_at_the_border():
    positions = [[5.0, 5], [45, 5], [-7, 30], [200, 39.9], [80, 40], [39.99, 20], [NAN, NAN], [40, 20]]
    truth = made_truth(positions, grid=(2, 4), size=(40, 80))
    assert nearest_token(truth, (40, 80))[0, 0, 0, :, 0].tolist() == [0, 2, 4, 7, 7, 5, 0, 6]


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_no_token_is_nearer_in_the_image_than_the_nearest(seed: int):
    truth = some_truth(seed)
    best = errors(nearest_token(truth, (30, 60)), truth, "image")
    for token in range(12):
        other = errors(torch.full((1, 1, 2, 12, 2), token), truth, "image")
        assert (best <= other + 1e-6)[~best.isnan()].all()


# The size of a scene


def test_scene_size_by_hand():
    """Of a hundred and one points in steps of .02 around their middle, 95 % or ninety-six lie within .96 of it."""
    x = torch.linspace(-1, 1, 101)
    point_map = torch.zeros(1, 1, 3, 1, 101)
    point_map[0, 0, 1, 0] = x + 7
    views = plain_views(point_map)
    assert scene_size(views).item() == pytest.approx(2 * 0.96)


def plain_views(point_map: Tensor, valid: Tensor | None = None) -> Views:
    b, f, _, height, width = point_map.shape
    eye = [torch.eye(side).expand(b, f, side, side) for side in (3, 4)]
    valid = torch.ones(b, f, height, width, dtype=torch.bool) if valid is None else valid
    return Views(torch.zeros(b, f, 3, height, width), eye[0], eye[1], point_map, valid, 1)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_scene_size_ignores_rigid_motion_and_scales(seed: int, factor: float):
    generator = torch.Generator().manual_seed(seed)
    point_map = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, 2, 4, 5, generator=generator) < 0.7
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    moved = torch.einsum("ij, bfjhw -> bfihw", turn, point_map) + torch.tensor([3.0, -1, 8]).view(3, 1, 1)
    still = scene_size(plain_views(point_map, valid))
    torch.testing.assert_close(scene_size(plain_views(moved, valid)), still, rtol=1e-9, atol=0)
    torch.testing.assert_close(scene_size(plain_views(factor * point_map, valid)), factor * still, rtol=1e-9, atol=0)


def test_missing_points_do_not_size_a_scene():
    point_map = torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 2, 4, 5, dtype=torch.bool)
    valid[0, 1, 0] = False
    wild = point_map.clone()
    wild[0, 1, :, 0] = 1e6
    torch.testing.assert_close(scene_size(plain_views(wild, valid)), scene_size(plain_views(point_map, valid)), **EXACT)
    wild[0, 1, :, 0] = torch.nan  # a point that is not finite is missing, whatever is said of it
    torch.testing.assert_close(scene_size(plain_views(wild)), scene_size(plain_views(point_map, valid)), **EXACT)
    assert scene_size(plain_views(wild, torch.zeros_like(valid))).isnan().all()


# The truth of a grid


@pytest.mark.parametrize("grid", [(6, 6), (3, 5)])
def test_grid_truth_of_a_room(grid: tuple[int, int]):
    views = room()
    truth = grid_truth(views, grid)
    own = torch.eye(3, dtype=torch.bool)[:, None]
    assert not truth.visible[0][own.expand(3, math.prod(grid), 3)].any()
    assert truth.visible.any()
    assert truth.valid.all()
    assert ((truth.token >= 0) == truth.visible).all()
    assert (nearest_token(truth, views.size)[:, 0] == truth.token)[truth.visible].all()
    assert truth.side == 24
    torch.testing.assert_close(truth.token_size, torch.tensor([24 / grid[1], 24 / grid[0]]))
    limit = Threshold(name="t", kind="token", value=math.sqrt(0.5) + 1e-4)
    assert correct(nearest_token(truth, views.size), truth, limit)[:, 0][truth.visible].all()


@pytest.mark.parametrize(("height", "width", "side"), [(24, 24, 24.0), (16, 24, math.sqrt(384)), (24, 6, 12.0)])
def test_the_side_is_the_geometric_mean_of_height_and_width(height: int, width: int, side: float):
    """Neither the longer nor the shorter one: errors of an upright image are those of the same image laid down."""
    views = resize(room(), height, width)
    truth = grid_truth(views, (3, 3))
    assert isinstance(truth.side, float)
    assert truth.side == pytest.approx(side)
    off = errors(same_position(truth), truth, "image")
    pixels = (truth.centres[:, None] - truth.xy[0]).norm(dim=-1)
    torch.testing.assert_close(off[0, 0] * side, pixels, **CLOSE)


def test_grid_truth_of_two_scenes_is_that_of_each():
    views = [room(), room(n_ref=1).reorder([1, 0, 2], 1)]
    joined = grid_truth(concatenate(views), (4, 4))
    for index, view in enumerate(views):
        alone = grid_truth(view, (4, 4))
        for name in ("points", "xy", "visible", "token", "scene_size"):
            torch.testing.assert_close(getattr(joined, name)[index], getattr(alone, name)[0], **CLOSE)


@pytest.mark.parametrize("at_once", [1, 4_000_000])
def test_the_nearest_projection_is_found_by_a_slow_loop(at_once: int):
    """Among the tokens that have a point; where a query has none, or no token has one, the first stands in."""
    truth = some_truth(8)
    found, own = nearest_projection(truth, at_once=at_once), own_xy(truth)
    assert own.isnan().any()
    for query in range(2):
        for key in range(2):
            for n in range(12):
                distance = (own[0, key] - truth.xy[0, query, n, key]).norm(dim=-1)
                if distance.isfinite().any():
                    best = min((m for m in range(12) if distance[m].isfinite()), key=lambda m: distance[m].item())
                    assert found[0, 0, query, n, key] == best
    error = errors(found, truth, "projection")
    assert torch.equal(error.isnan(), truth.xy[:, None, ..., 0].isnan())


def test_the_error_between_projections_is_zero_where_the_point_itself_is_matched():
    truth = truth_of(0, (8, 8))
    itself = same_position(truth)
    own = torch.arange(3)
    assert (errors(itself, truth, "projection")[0, 0, own, :, own] == 0).all()
    between = (own_xy(truth)[0, 0] - truth.xy[0, 1, :, 0]).norm(dim=-1) / truth.side
    torch.testing.assert_close(errors(itself, truth, "projection")[0, 0, 1, :, 0], between, **CLOSE)
    assert not torch.allclose(between, errors(itself, truth, "image")[0, 0, 1, :, 0])  # centres are other places


# Thresholds


@pytest.mark.parametrize("kind", ["image", "token", "metric"])
def test_precision_leaves_out_an_error_equal_to_the_threshold(kind: str):
    """Of all queries matched to the first token, one has just the error that is the threshold."""
    truth = truth_of(0, (8, 8))
    counted = truth.visible[:, None]
    token = torch.zeros_like(counted, dtype=torch.long)
    error = errors(token, truth, kind)
    tie = error[counted.expand_as(error)].sort().values[5]
    limit = Threshold(name="tie", kind=kind, value=tie.item())
    value, count = precisions(token, counted, truth, (limit,))["tie"]
    others = ((error < tie) & counted).sum((-1, -2, -3, -4))
    assert others.item() == 5
    assert (value * count).nansum().item() == pytest.approx(5)
    assert (correct(token, truth, limit) & counted).sum().item() == 5


def test_thresholds_by_hand():
    assert {(x.name, x.kind, x.value) for x in thresholds(None)} == {
        ("precision@2%", "image", 0.02), ("precision@5%", "image", 0.05), ("precision@10%", "image", 0.1),
        ("precision@1token", "token", 1.0), ("precision@1%scene", "scene", 0.01), ("precision@2%scene", "scene", 0.02),
        ("precision@5%scene", "scene", 0.05), ("precision@10%scene", "scene", 0.1),
    }  # fmt: skip
    assert {(x.name, x.value) for x in thresholds("m") if x.kind == "metric"} == {
        (f"precision@{metres}m", metres) for metres in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    }
    assert not any(limit.inclusive for unit in (None, "m") for limit in thresholds(unit))


def test_metric_scenes_are_judged_in_metres():
    names = [limit.name for limit in thresholds("m")]
    assert names[-6:] == [f"precision@{value}m" for value in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    assert {limit.kind for limit in thresholds("m")} == {"image", "token", "metric"}
    assert {limit.kind for limit in thresholds(None)} == {"image", "token", "scene"}
    assert all(
        float(name.removeprefix("precision@").rstrip("m")) == limit.value
        for name, limit in zip(names[-6:], thresholds("m")[-6:], strict=True)
    )
