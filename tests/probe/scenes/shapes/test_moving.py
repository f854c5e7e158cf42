"""Laws of clips: solids move, truth follows their surfaces, and what stands still is as it was."""

import math
from dataclasses import replace

import pytest
import torch
from einops import einsum, rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.correspondence import match_views, own_view, project_tokens
from probe.correspondence.checking import point_distances
from probe.correspondence.grid import token_pixels, values_at
from probe.geometry import invert_rigid
from probe.metrics import errors, grid_truth, precisions, same_position, thresholds
from probe.scenes import Request, open_scenes
from probe.scenes.recordings import with_geometry
from probe.scenes.shapes import CLIPS, draw_rotations, draw_shapes, make_clip, make_views, moving
from probe.scenes.shapes.casting import Shapes, carry, overlaps, parts_of, visible_points
from probe.scenes.shapes.moving import DISTANCE, OUTERMOST, TURN, draw_motion
from probe.views import Views, concatenate, resize, without_images

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=8, deadline=None)
GRID = (16, 16)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def film(
    seed: int = 0, *, views: int = 3, size: int = 32, still: bool = False, b: int = 2, lamp: bool = True
) -> tuple[Shapes, Views]:
    g = generator(seed)
    shapes = draw_shapes(b, generator=g)
    shapes = shapes if lamp else replace(shapes, light=torch.zeros(b, 3))
    rotation = draw_rotations([k % 2 for k in range(b)], 1, generator=g)
    return shapes, make_clip(shapes, rotation, views=views, size=size, n_ref=1, still=still, generator=g)


def motionless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "DISTANCE", (0.0, 0.0))
    monkeypatch.setattr(moving, "TURN", 0.0)
    monkeypatch.setattr(moving, "OUTERMOST", 9.0)


def truth_as_static(views: Views) -> Views:
    return replace(views, part=None, part_pose=None)


def pixel_parts(views: Views, grid: tuple[int, int]) -> Tensor:
    assert views.part is not None
    return values_at(views.part, token_pixels(views.valid, grid)[0])


# --- the same world as before ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4))
def test_two_frames_are_the_static_scene_bit_for_bit_but_for_what_moved(index: int):
    static, clip = (
        open_scenes(spec, Request(groups=4, views=2, n_ref=1, size=48)).load(index)[0]
        for spec in ("shapes:plain", "shapes:moving")
    )
    for name in ("intrinsics", "world_to_cam"):
        assert torch.equal(getattr(clip, name), getattr(static, name))
    for name in ("image", "point_map"):
        assert torch.equal(getattr(clip, name)[:, 0], getattr(static, name)[:, 0])
    assert clip.part is not None
    same_point = (clip.point_map[0, 1] == static.point_map[0, 1]).all(0)
    background = (clip.part[0, 1] == 0) & same_point
    assert background.float().mean() > 0.4
    assert torch.equal(clip.image[0, 1][:, background], static.image[0, 1][:, background])
    assert not torch.equal(clip.image[0, 1], static.image[0, 1])


def test_first_frame_and_motion_do_not_depend_on_the_number_of_frames():
    (_, few), (_, many) = film(views=3), film(views=5)
    for a, b in ((0, 0), (1, 2), (2, 4)):
        torch.testing.assert_close(few.image[:, a], many.image[:, b], rtol=0, atol=1e-5)
        assert torch.equal(few.world_to_cam[:, a], many.world_to_cam[:, b])


def test_a_still_camera_stands_where_the_moving_one_begins():
    (_, still), (_, filmed) = film(still=True), film()
    assert torch.equal(still.world_to_cam, filmed.world_to_cam[:, :1].expand_as(still.world_to_cam))
    assert torch.equal(still.image[:, 0], filmed.image[:, 0])
    assert not torch.equal(still.image[:, 1], still.image[:, 0])


# --- truth -----------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, still=st.booleans())
@laws
def test_a_surface_point_keeps_its_colour(seed: int, still: bool):
    """Without a lamp colours are those of the surface, so a point has the same one wherever it is carried."""
    _, views = film(seed, size=64, still=still, lamp=False)
    truth, reach = project_tokens(views, GRID), own_view(views.count)
    pixel, _ = token_pixels(views.valid, GRID)
    colour = rearrange(views.image, "b f c h w -> b f (h w) c")
    asked = torch.take_along_dim(colour, pixel[..., None], 2)
    seen = (truth.visible & truth.moves & ~reach).nonzero()
    assert len(seen) > 20
    found = []
    for b, q, n, k in seen.tolist():
        x, y = truth.xy[b, q, n, k].long().tolist()
        found.append((views.image[b, k, :, y, x] - asked[b, q, n]).abs().max())
    assert torch.stack(found).median() < 0.02  # the point lies up to half a pixel from its pixel's centre
    assert torch.stack(found).quantile(0.9) < 0.1


@given(seed=SEEDS)
@laws
def test_points_at_the_key_views_time_lie_on_the_carried_solid(seed: int):
    """Independent of ``follow``: a cast ray from the key camera to the point's place meets the same part there."""
    shapes, views = film(seed, b=1, size=96)
    truth = project_tokens(views, GRID)
    assert views.part_pose is not None
    for k in range(views.count):
        carried = carry(shapes, views.part_pose[:, k])
        points = rearrange(truth.points_at_key[:, :, :, k], "b f n c -> b (f n) c")
        exact = visible_points(carried, points, views.world_to_cam[:, k], views.intrinsics[:, k], views.size)
        tested = rearrange(truth.visible[:, :, :, k], "b f n -> b (f n)")
        assert (exact == tested).float().mean() > 0.92  # the depth test errs at edges


@given(seed=SEEDS)
@laws
def test_following_back_ends_where_it_began_and_keeps_distances(seed: int):
    _, views = film(seed, b=1)
    truth = project_tokens(views, GRID)
    part = pixel_parts(views, GRID)
    assert views.part_pose is not None
    for q, k in ((0, 2), (2, 1)):
        there = views.reorder([k, q], 0).follow(
            truth.points_at_key[:, q, :, k][:, None].expand(1, 2, -1, 3), part[:, [q, q]]
        )[0][:, 0, :, 1]
        torch.testing.assert_close(there, truth.points[:, q], rtol=1e-5, atol=1e-5)
        for number in range(1, views.part_pose.shape[2]):
            mine = part[0, q] == number
            here, then = truth.points[0, q, mine], truth.points_at_key[0, q, mine, k]
            torch.testing.assert_close(torch.cdist(here, here), torch.cdist(then, then), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("still", [False, True])
def test_at_speed_zero_truth_is_static_truth_bit_for_bit(monkeypatch: pytest.MonkeyPatch, still: bool):
    motionless(monkeypatch)
    _, views = film(still=still)
    clip, static = grid_truth(views, GRID), grid_truth(truth_as_static(views), GRID)
    for name in ("points", "points_at_key", "valid", "xy", "token"):
        torch.testing.assert_close(getattr(clip, name), getattr(static, name), rtol=0, atol=0, equal_nan=True)
    assert clip.moves is not None
    assert not clip.moves.any()
    assert static.moves is None
    matches, plain = match_views(views, GRID), match_views(truth_as_static(views), GRID)
    assert torch.equal(matches.index, plain.index)


def test_at_speed_zero_the_clip_is_the_static_scene(monkeypatch: pytest.MonkeyPatch):
    motionless(monkeypatch)
    g = generator(3)
    shapes = draw_shapes(1, generator=g)
    state, turn = g.get_state(), torch.tensor([[25.0]])
    clip = make_clip(shapes, turn, views=2, size=32, n_ref=1, still=False, generator=g)
    g.set_state(state)
    static = make_views(shapes, turn, size=32, n_ref=1, generator=g)
    for name in ("image", "point_map", "world_to_cam"):
        assert torch.equal(getattr(clip, name), getattr(static, name))


def test_a_still_camera_sees_still_objects_at_their_own_place(monkeypatch: pytest.MonkeyPatch):
    motionless(monkeypatch)
    _, views = film(still=True)
    truth = grid_truth(views, GRID)
    own = rearrange(truth.xy.diagonal(dim1=1, dim2=3), "b n c f -> b f n 1 c")
    torch.testing.assert_close(truth.xy, own.expand_as(truth.xy), rtol=0, atol=1e-3)
    assert (truth.visible | own_view(views.count)).all()


def test_a_still_camera_sees_the_room_at_its_own_place_and_moved_points_elsewhere():
    _, views = film(still=True)
    truth = grid_truth(views, GRID)
    assert truth.moves is not None
    own = rearrange(truth.xy.diagonal(dim1=1, dim2=3), "b n c f -> b f n 1 c").expand_as(truth.xy)
    shift = (truth.xy - own).norm(dim=-1)
    assert shift[~truth.moves].max() < 1e-3
    assert shift[truth.moves & truth.visible].median() > 1


def test_a_moving_points_true_match_is_not_its_static_reprojection():
    _, views = film()
    truth, static = grid_truth(views, GRID), grid_truth(truth_as_static(views), GRID)
    assert truth.moves is not None
    shift = (truth.xy - static.xy).norm(dim=-1)
    assert shift[truth.moves & truth.visible].median() > 1
    assert torch.equal(truth.xy[~truth.moves], static.xy[~truth.moves])
    assert torch.equal(truth.moves.any(-1), pixel_parts(views, GRID) > 0)


def test_nearest_tokens_follow_the_surface():
    """Most visible moving points have their nearest token, in 3D at the key's time, within a token of the truth."""
    _, views = film(size=64)
    truth, matches = grid_truth(views, GRID), match_views(views, GRID)
    assert truth.moves is not None
    asked = truth.moves & truth.visible
    row, column = (matches.index // 16 - truth.token // 16).abs(), (matches.index % 16 - truth.token % 16).abs()
    near = (row <= 1) & (column <= 1)
    assert near[asked].float().mean() > 0.9
    static = match_views(truth_as_static(views), GRID).index
    row, column = (static // 16 - truth.token // 16).abs(), (static % 16 - truth.token % 16).abs()
    assert ((row <= 1) & (column <= 1))[asked].float().mean() < 0.75


def test_overlap_of_a_clip_is_exact():
    shapes, views = film(still=True, b=1, size=48)
    shares = overlaps(shapes, views)
    assert torch.equal(shares[0].diagonal(), torch.ones(views.count))
    truth = grid_truth(views, (24, 24))
    close = truth.visible[0, 0].float().mean(0)
    torch.testing.assert_close(shares[0, 0, 1:], close[1:], rtol=0, atol=0.06)


# --- motion ----------------------------------------------------------------------------------------------------------


@given(seed=SEEDS)
@laws
def test_solids_slide_and_turn_within_their_limits(seed: int):
    shapes = draw_shapes(3, generator=generator(seed))
    motion = draw_motion(shapes, generator=generator(seed + 1))
    far = motion.slide.norm(dim=-1)
    assert (far <= DISTANCE[1] + 1e-6).all()
    assert far.mean() > DISTANCE[0]
    assert (motion.slide[..., 2] == 0).all()
    assert ((motion.centre + motion.slide)[..., :2].norm(dim=-1) <= OUTERMOST + 1e-5).all()
    assert (motion.turn.abs() <= math.radians(TURN)).all()


@given(seed=SEEDS)
@laws
def test_poses_are_rigid_about_the_solids_own_middle(seed: int):
    shapes = draw_shapes(2, generator=generator(seed))
    motion = draw_motion(shapes, generator=generator(seed))
    pose = motion.poses(torch.tensor([0.0, 0.5, 1.0]))
    eye = torch.eye(4)
    assert torch.equal(pose[:, 0], eye.expand_as(pose[:, 0]))
    assert torch.equal(pose[:, :, 0], eye.expand_as(pose[:, :, 0]))
    torch.testing.assert_close(pose @ invert_rigid(pose), eye.expand_as(pose), rtol=0, atol=1e-5)
    middle = einsum(pose[:, :, 1:, :3, :3], motion.centre, "b f k i j, b k j -> b f k i") + pose[:, :, 1:, :3, 3]
    torch.testing.assert_close(middle[:, 1], motion.centre + motion.slide / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(middle[:, 2], motion.centre + motion.slide, rtol=0, atol=1e-5)


def test_parts_are_the_room_and_then_the_solids():
    assert parts_of(torch.tensor([0, 3, 5, 6, 7, 11])).tolist() == [0, 0, 0, 1, 2, 6]


def test_clips_are_scenes_with_names_of_their_own():
    assert set(CLIPS) == {"moving", "moving-still"}
    scenes = open_scenes("shapes:moving", Request(groups=2, views=4, n_ref=1, size=16, seed=3))
    assert scenes.names == ("v2-moving-3-0000", "v2-moving-3-0001")
    views, overlap = scenes.load(1)
    assert views.count == 4
    assert len(overlap) == 3


# --- what uses the truth ---------------------------------------------------------------------------------------------


def test_precision_of_moving_and_still_points_is_told_apart():
    views, _ = open_scenes("shapes:moving", Request(groups=4, views=3, n_ref=1, size=64)).load(1)
    truth = grid_truth(views, GRID)
    guess = same_position(truth)
    counted = truth.visible[:, None]
    measured = precisions(guess, counted, truth, thresholds(None))
    for name in ("precision@5%", "precision@2%scene"):
        (whole, count), (moving, n_moving), (still, n_still) = (
            measured[name], measured[f"{name}|moving"], measured[f"{name}|still"],
        )  # fmt: skip
        assert torch.equal(count, n_moving + n_still)
        hits = (moving * n_moving).nan_to_num() + (still * n_still).nan_to_num()
        torch.testing.assert_close(hits, (whole * count).nan_to_num(), rtol=0, atol=1e-3)
    static = grid_truth(truth_as_static(views), GRID)
    assert not any("|" in name for name in precisions(guess, counted, static, thresholds(None)))


def test_distance_in_3d_is_that_at_the_key_views_time():
    _, views = film(size=64)
    truth = grid_truth(views, GRID)
    assert truth.moves is not None
    asked = truth.moves & truth.visible
    index = match_views(views, GRID).index[:, None]
    at_key, static = (
        errors(index, one, "scene")[:, 0][asked] for one in (truth, grid_truth(truth_as_static(views), GRID))
    )
    assert at_key.median() < 0.02
    assert static.median() > at_key.median() * 2


def test_sift_is_held_against_points_that_moved_with_it():
    """A pixel's point, followed, is found where the truth has it."""
    _, views = film(b=1, size=64)
    truth = grid_truth(views, (64, 64))  # a token is a pixel
    assert truth.moves is not None
    tokens = (truth.visible & truth.moves)[0, 0, :, 2].nonzero()[:, 0]
    start, end = truth.xy[0, 0, tokens, 0], truth.xy[0, 0, tokens, 2]
    assert point_distances(views, 0, 2, start, end).max() < 1e-2
    assert point_distances(truth_as_static(views), 0, 2, start, end).median() > 1


def test_other_sources_of_points_are_refused():
    _, views = film(b=1, size=16)
    with pytest.raises(ValueError, match="something moves, which a source of points cannot tell; take the scenes' own"):
        with_geometry(views, lambda asked: (asked.point_map, asked.valid))


def test_a_part_without_its_pose_is_refused():
    _, views = film(b=1, size=16)
    with pytest.raises(ValueError, match="one of part and part_pose is None, expected both"):
        replace(views, part=None)


def test_scenes_whose_parts_differ_are_not_joined():
    _, views = film(b=1, size=16)
    assert torch.equal(concatenate([views, views]).part[1:], views.part)  # type: ignore[index]
    with pytest.raises(ValueError, match="parts differ in moving parts"):
        concatenate([views, truth_as_static(views)])


def test_parts_follow_their_pixels_through_resizing_and_reordering():
    _, views = film(b=1, size=32)
    small, turned = resize(views, 16, 16), views.reorder([2, 0, 1], 1)
    assert torch.equal(small.part, views.part[..., 1::2, 1::2])  # type: ignore[index]
    truth, other = grid_truth(views, GRID), grid_truth(turned, GRID)
    order = [2, 0, 1]
    assert torch.equal(other.visible, truth.visible[:, order][..., order])
    assert without_images(views).part.shape == (1, 3, 1, 1)  # type: ignore[union-attr]


def test_the_first_version_has_no_clips():
    with pytest.raises(ValueError, match=r"shapes-v1:moving is unknown; choose shapes-v1:plain\|cluttered"):
        open_scenes("shapes-v1:moving", Request(groups=1, views=2, n_ref=1))


def test_training_on_clips_is_refused():
    from train.batches import open_training_scenes

    with pytest.raises(ValueError, match="'shapes:moving' is unknown; choose shapes"):
        open_training_scenes("shapes:moving", views=2, size=16, max_rotation=30)
