from dataclasses import FrozenInstanceError, replace

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.geometry import depth_to_point_map, pixel_centres, point_map_to_depth, project
from probe.views import Views, concatenate, resize

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=25, deadline=None)


def make_views(seed: int = 0, *, b: int = 2, f: int = 3, size: tuple[int, int] = (12, 16), **changes: object) -> Views:
    """Draw views whose depth takes few values, so that a mixed one shows."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    turn, _ = torch.linalg.qr(torch.randn(b, f, 3, 3, generator=g))
    world_to_cam = torch.eye(4).repeat(b, f, 1, 1)
    world_to_cam[..., :3, :3] = turn * torch.linalg.det(turn)[..., None, None]
    world_to_cam[..., :3, 3] = torch.randn(b, f, 3, generator=g)
    intrinsics = torch.tensor([[20.0, 0, 0.4 * width], [0, 25, 0.6 * height], [0, 0, 1]]).expand(b, f, 3, 3)
    depth = torch.randint(1, 4, (b, f, height, width), generator=g).float()
    views = Views(
        image=torch.rand(b, f, 3, height, width, generator=g),
        intrinsics=intrinsics,
        world_to_cam=world_to_cam,
        point_map=depth_to_point_map(depth, intrinsics, world_to_cam),
        valid=torch.rand(b, f, height, width, generator=g) > 0.2,
        n_ref=1,
        names=tuple(f"scene{index}" for index in range(b)),
    )
    return replace(views, **changes)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the shapes to the code's own checks, as outside of the tests; jaxtyping would speak first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def depth_of(views: Views) -> Tensor:
    return point_map_to_depth(views.point_map, views.world_to_cam)


def assert_points_on_their_pixels(views: Views) -> None:
    points = views.point_map.flatten(-2).mT
    xy, _ = project(points, views.intrinsics, views.world_to_cam)
    expected = pixel_centres(*views.size).flatten(0, 1).expand_as(xy)
    torch.testing.assert_close(xy, expected, rtol=0, atol=2e-3)


def assert_same(first: Views, second: Views) -> None:
    for name in ("image", "intrinsics", "world_to_cam", "point_map", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert (first.n_ref, first.unit, first.names) == (second.n_ref, second.unit, second.names)


def test_views_know_their_size_and_count():
    views = make_views()
    assert views.size == (12, 16)
    assert views.count == 3


def test_views_are_frozen():
    with pytest.raises(FrozenInstanceError):
        make_views().n_ref = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("intrinsics", (2, 2, 3, 3), r"intrinsics has shape \(2, 2, 3, 3\), expected \(2, 3, 3, 3\)"),
        ("world_to_cam", (2, 3, 3, 4), r"world_to_cam has shape \(2, 3, 3, 4\), expected \(2, 3, 4, 4\)"),
        ("point_map", (2, 3, 3, 16, 12), r"point_map has shape \(2, 3, 3, 16, 12\), expected \(2, 3, 3, 12, 16\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_views_name_the_mismatch(name: str, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        make_views(**{name: torch.zeros(shape)})


@pytest.mark.usefixtures("unchecked")
def test_views_refuse_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"valid has shape \(2, 3, 12, 15\), expected \(2, 3, 12, 16\)"):
        make_views(valid=torch.ones(2, 3, 12, 15, dtype=torch.bool))


@pytest.mark.parametrize("n_ref", [-1, 4])
def test_views_refuse_references_that_are_not_there(n_ref: int):
    with pytest.raises(ValueError, match=f"n_ref is {n_ref}, expected 0 to 3"):
        make_views(n_ref=n_ref)


def test_views_refuse_names_that_do_not_count_the_scenes():
    with pytest.raises(ValueError, match="1 names for 2 scenes"):
        make_views(names=("only",))


def test_scene_gives_one_of_the_batch():
    views = make_views()
    scene = views.scene(1)
    assert scene.image.shape[0] == 1
    assert torch.equal(scene.point_map[0], views.point_map[1])
    assert scene.names == ("scene1",)
    assert make_views(names=()).scene(0).names == ()


def test_scenes_concatenate_to_the_batch():
    views = make_views(b=3)
    assert_same(concatenate([views.scene(index) for index in range(3)]), views)


@pytest.mark.parametrize(
    "other", [{"size": (12, 12)}, {"f": 2}, {"n_ref": 2}, {"unit": "m"}], ids=["size", "count", "n_ref", "unit"]
)
def test_concatenate_refuses_parts_of_two_kinds(other: dict):
    with pytest.raises(ValueError, match="parts differ in"):
        concatenate([make_views(), make_views(**other)])


def test_reorder_moves_everything_of_a_view():
    views = make_views()
    turned = views.reorder([2, 0], n_ref=2)
    assert (turned.count, turned.n_ref) == (2, 2)
    for name in ("image", "intrinsics", "world_to_cam", "point_map", "valid"):
        assert torch.equal(getattr(turned, name), getattr(views, name)[:, [2, 0]]), name
    assert_same(views.reorder([2, 0, 1], n_ref=1).reorder([1, 2, 0], n_ref=1), views)


def test_to_keeps_everything():
    assert_same(make_views(unit="m").to("cpu"), make_views(unit="m"))


@laws
@given(seed=SEEDS, height=st.integers(1, 30), width=st.integers(1, 30))
def test_resize_never_mixes_depths_and_keeps_points_on_their_pixels(seed: int, height: int, width: int):
    views = make_views(seed)
    resized = resize(views, height, width)
    assert resized.size == (height, width)
    assert_points_on_their_pixels(resized)
    depth = depth_of(resized)
    torch.testing.assert_close(depth, depth.round(), rtol=0, atol=1e-4)
    torch.testing.assert_close(depth.round(), slow_nearest(depth_of(views).round(), height, width), rtol=0, atol=0)
    assert torch.equal(resized.valid, slow_nearest(views.valid, height, width))


def slow_nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """Take the pixel in which each new centre lies; integers, so that a centre on an edge goes right and down."""
    full_height, full_width = maps.shape[-2:]
    out = maps.new_zeros(*maps.shape[:-2], height, width)
    for y in range(height):
        for x in range(width):
            out[..., y, x] = maps[
                ..., (2 * y + 1) * full_height // (2 * height), (2 * x + 1) * full_width // (2 * width)
            ]
    return out


def test_resize_averages_colours():
    views = make_views()
    expected = torch.nn.functional.avg_pool2d(views.image.flatten(0, 1), 2).unflatten(0, (2, 3))
    constant = resize(replace(views, image=torch.full_like(views.image, 0.25)), 6, 8)
    torch.testing.assert_close(constant.image, torch.full((2, 3, 3, 6, 8), 0.25))
    smaller = resize(views, 6, 8).image
    assert 0 <= smaller.min() <= smaller.max() <= 1
    torch.testing.assert_close(smaller, expected)
    larger = resize(views, 24, 32).image
    assert 0 <= larger.min() <= larger.max() <= 1


def test_resize_to_the_same_size_is_the_identity():
    views = make_views()
    assert resize(views, 12, 16) is views


@laws
@given(seed=SEEDS)
def test_resize_down_by_a_whole_factor_keeps_the_world(seed: int):
    """A fronto-parallel wall stays one wall: the points of the small view lie on it."""
    views = make_views(seed)
    wall = depth_to_point_map(torch.full((2, 3, 12, 16), 2.0), views.intrinsics, views.world_to_cam)
    small = resize(replace(views, point_map=wall), 3, 4)
    torch.testing.assert_close(depth_of(small), torch.full((2, 3, 3, 4), 2.0))
    blocks = torch.nn.functional.avg_pool2d(wall.flatten(0, 1), 4).unflatten(0, (2, 3))
    torch.testing.assert_close(small.point_map, blocks, rtol=1e-4, atol=1e-4)
