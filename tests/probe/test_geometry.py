import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from probe.geometry import (
    camera_centre,
    crop_intrinsics,
    depth_to_point_map,
    invert_rigid,
    pixel_centres,
    plucker_rays,
    point_map_to_depth,
    project,
    ray_directions,
    relative_camera,
    resize_intrinsics,
    rotation_degrees,
    unproject,
    world_to_camera,
)

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=25, deadline=None)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # everything below is drawn in double precision


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(axis: tuple[float, float, float], degrees: float) -> Float[Tensor, "3 3"]:
    x, y, z = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew


def rigid(turn: Float[Tensor, "3 3"], shift: tuple[float, float, float] = (0, 0, 0)) -> Float[Tensor, "4 4"]:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3], transform[:3, 3] = turn, torch.tensor(shift, dtype=torch.float64)
    return transform


def cameras(seed: int, *batch: int) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 4 4"]]:
    """Draw intrinsics with unequal focal lengths and an off-centre principal point, and cameras anywhere."""
    g = generator(seed)
    quaternion = torch.nn.functional.normalize(torch.randn(*batch, 4, generator=g, dtype=torch.float64), dim=-1)
    world_to_cam = torch.zeros(*batch, 4, 4, dtype=torch.float64)
    world_to_cam[..., :3, :3] = from_quaternion(quaternion)
    world_to_cam[..., :3, 3] = torch.randn(*batch, 3, generator=g, dtype=torch.float64) * 3
    world_to_cam[..., 3, 3] = 1
    intrinsics = torch.zeros(*batch, 3, 3, dtype=torch.float64)
    drawn = torch.rand(*batch, 4, generator=g, dtype=torch.float64)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 50 + 100 * drawn[..., 0], 200 + 100 * drawn[..., 1]
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 10 + 5 * drawn[..., 2], 30 + 5 * drawn[..., 3]
    intrinsics[..., 2, 2] = 1
    return intrinsics, world_to_cam


def from_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def pixels_and_depths(seed: int, *batch: int) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    g = generator(seed + 1)
    xy = torch.rand(*batch, 2, generator=g, dtype=torch.float64) * 80 - 10
    return xy, 0.1 + 5 * torch.rand(*batch, generator=g, dtype=torch.float64)


def test_pixel_centres_known():
    centres = pixel_centres(2, 3)
    assert centres.shape == (2, 3, 2)
    torch.testing.assert_close(centres[0, 0], torch.tensor([0.5, 0.5]), rtol=0, atol=0)
    torch.testing.assert_close(centres[1, 2], torch.tensor([2.5, 1.5]), rtol=0, atol=0)
    assert pixel_centres(1, 1, dtype=torch.float64).dtype == torch.float64


def test_project_known():
    # the camera stands at (1, 2, 3) and looks along world z; fx 10, fy 20, principal point (4, 6)
    world_to_cam = rigid(torch.eye(3, dtype=torch.float64), (-1, -2, -3))
    intrinsics = torch.tensor([[10.0, 0, 4], [0, 20, 6], [0, 0, 1]], dtype=torch.float64)
    points = torch.tensor([[1.0, 2, 8], [2, 3, 8], [2, 3, 3], [2, 3, 2]], dtype=torch.float64)
    xy, depth = project(points, intrinsics, world_to_cam)
    torch.testing.assert_close(depth, torch.tensor([5.0, 5, 0, -1], dtype=torch.float64))
    torch.testing.assert_close(xy[:2], torch.tensor([[4.0, 6], [6, 10]], dtype=torch.float64))
    assert xy[2:].isnan().all()  # on the camera's plane, and behind it


def test_turned_camera_known():
    # turned right by 90 degrees about y (down): the camera's z axis is world x
    turn = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    world_to_cam = torch.eye(4)
    world_to_cam[:3, :3] = turn
    torch.testing.assert_close(world_to_camera(torch.tensor([[2.0, 0, 0]]), world_to_cam), torch.tensor([[0.0, 0, 2]]))
    intrinsics = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    ray = ray_directions(torch.tensor([[0.5, 0.5]]), intrinsics, world_to_cam)
    torch.testing.assert_close(ray, torch.tensor([[1.0, 0, 0]]))


@laws
@given(seed=SEEDS)
def test_project_inverts_unproject(seed: int):
    intrinsics, world_to_cam = cameras(seed, 2, 3)
    xy, depth = pixels_and_depths(seed, 2, 3, 7)
    points = unproject(xy, depth, intrinsics, world_to_cam)
    again_xy, again_depth = project(points, intrinsics, world_to_cam)
    torch.testing.assert_close(again_xy, xy, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again_depth, depth, **CLOSE)


@laws
@given(seed=SEEDS)
def test_project_is_the_textbook_formula(seed: int):
    intrinsics, world_to_cam = cameras(seed, 2)
    points = torch.randn(2, 9, 3, generator=generator(seed), dtype=torch.float64) * 4
    xy, depth = project(points, intrinsics, world_to_cam)
    for b in range(2):
        for p in range(9):
            x, y, z = (world_to_cam[b] @ torch.cat([points[b, p], torch.ones(1)]))[:3].tolist()
            assert depth[b, p].item() == pytest.approx(z, abs=1e-9)
            if z > 0:
                expected = [
                    intrinsics[b, 0, 0] * x / z + intrinsics[b, 0, 2],
                    intrinsics[b, 1, 1] * y / z + intrinsics[b, 1, 2],
                ]
                torch.testing.assert_close(xy[b, p], torch.stack(expected), **CLOSE)
            else:
                assert xy[b, p].isnan().all()


@laws
@given(seed=SEEDS)
def test_rays_pass_through_their_points(seed: int):
    intrinsics, world_to_cam = cameras(seed, 3)
    xy, depth = pixels_and_depths(seed, 3, 5)
    rays = ray_directions(xy, intrinsics, world_to_cam)
    points = camera_centre(world_to_cam)[:, None] + depth[..., None] * rays
    torch.testing.assert_close(project(points, intrinsics, world_to_cam)[0], xy, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(project(points, intrinsics, world_to_cam)[1], depth, **CLOSE)


@laws
@given(seed=SEEDS)
def test_invert_rigid_is_the_inverse(seed: int):
    _, transform = cameras(seed, 2, 3)
    torch.testing.assert_close(invert_rigid(transform), torch.linalg.inv(transform), **CLOSE)
    torch.testing.assert_close(invert_rigid(invert_rigid(transform)), transform, **CLOSE)


@laws
@given(seed=SEEDS)
def test_camera_centre_is_the_origin_of_its_frame(seed: int):
    _, world_to_cam = cameras(seed, 4)
    local = world_to_camera(camera_centre(world_to_cam)[:, None], world_to_cam)
    torch.testing.assert_close(local, torch.zeros_like(local), **CLOSE)


def test_camera_centre_known():
    world_to_cam = rigid(rotation((0, 0, 1), 90), (1, 2, 3))
    torch.testing.assert_close(camera_centre(world_to_cam), torch.tensor([-2.0, 1, -3], dtype=torch.float64), **CLOSE)


@laws
@given(seed=SEEDS)
def test_relative_camera_takes_reference_points_to_the_camera(seed: int):
    _, (camera, reference) = cameras(seed, 2)
    points = torch.randn(6, 3, generator=generator(seed), dtype=torch.float64)
    through = world_to_camera(world_to_camera(points, reference), relative_camera(camera, reference))
    torch.testing.assert_close(through, world_to_camera(points, camera), **CLOSE)
    torch.testing.assert_close(relative_camera(camera, camera), torch.eye(4, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.5, 30.0, 89.999, 90.0, 120.0, 179.999, 180.0])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3)])
def test_rotation_degrees_known(degrees: float, axis: tuple[float, float, float]):
    camera = rigid(rotation(axis, degrees), (1, 2, 3))
    assert rotation_degrees(camera, rigid(rotation(axis, 0), (-5, 0, 1))).item() == pytest.approx(degrees, abs=1e-5)


def test_rotation_degrees_keeps_small_angles_in_single_precision():
    camera = rigid(rotation((1, -2, 3), 0.01)).float()
    assert rotation_degrees(camera, torch.eye(4)).item() == pytest.approx(0.01, rel=0.01)
    assert rotation_degrees(torch.eye(4), torch.eye(4)).item() == 0


@laws
@given(seed=SEEDS)
def test_rotation_degrees_laws(seed: int):
    _, (first, second, world) = cameras(seed, 3)
    angle = rotation_degrees(first, second)
    assert 0 <= angle <= 180
    torch.testing.assert_close(rotation_degrees(second, first), angle, **CLOSE)
    # moving the world changes nothing; the triangle inequality holds
    torch.testing.assert_close(rotation_degrees(first @ world, second @ world), angle, **CLOSE)
    assert angle <= rotation_degrees(first, world) + rotation_degrees(world, second) + 1e-9


@laws
@given(seed=SEEDS)
def test_depth_and_point_map_are_inverse_and_looped(seed: int):
    intrinsics, world_to_cam = cameras(seed, 2, 2)
    depth = 0.1 + torch.rand(2, 2, 4, 5, generator=generator(seed), dtype=torch.float64)
    point_map = depth_to_point_map(depth, intrinsics, world_to_cam)
    torch.testing.assert_close(point_map_to_depth(point_map, world_to_cam), depth, **CLOSE)
    for b, f, y, x in [(0, 0, 0, 0), (0, 1, 3, 4), (1, 0, 2, 1), (1, 1, 0, 3)]:
        ray = torch.linalg.inv(intrinsics[b, f]) @ torch.tensor([x + 0.5, y + 0.5, 1], dtype=torch.float64)
        local = torch.cat([ray * depth[b, f, y, x], torch.ones(1, dtype=torch.float64)])
        torch.testing.assert_close(
            point_map[b, f, :, y, x], (torch.linalg.inv(world_to_cam[b, f]) @ local)[:3], **CLOSE
        )


@laws
@given(seed=SEEDS, scale=st.sampled_from([1.0, 2.5]))
def test_plucker_rays_hold_their_points_in_the_first_frame(seed: int, scale: float):
    intrinsics, world_to_cam = cameras(seed, 2, 3)
    rays = plucker_rays(intrinsics, world_to_cam, (4, 5), scale=scale)
    direction, moment = rays[:, :, :3], rays[:, :, 3:]
    torch.testing.assert_close(direction.norm(dim=2), torch.ones(2, 3, 4, 5, dtype=torch.float64), **CLOSE)
    depth = 0.1 + torch.rand(2, 3, 4, 5, generator=generator(seed), dtype=torch.float64)
    world = depth_to_point_map(depth, intrinsics, world_to_cam).flatten(-2).mT
    local = world_to_camera(world, world_to_cam[:, :1].expand(2, 3, 4, 4)).mT.unflatten(-1, (4, 5)) / scale
    torch.testing.assert_close(torch.linalg.cross(local, direction, dim=2), moment, rtol=1e-8, atol=1e-8)
    # the point lies ahead of the camera along the direction, not behind it
    centre = camera_centre(relative_camera(world_to_cam, world_to_cam[:, :1].expand(2, 3, 4, 4))) / scale
    assert (((local - centre[..., None, None]) * direction).sum(2) > 0).all()


@laws
@given(seed=SEEDS)
def test_plucker_rays_do_not_see_the_world_frame(seed: int):
    intrinsics, world_to_cam = cameras(seed, 1, 3)
    _, world = cameras(seed + 1)
    rays = plucker_rays(intrinsics, world_to_cam, (3, 4))
    torch.testing.assert_close(plucker_rays(intrinsics, world_to_cam @ world, (3, 4)), rays, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(rays[:, 0, 3:], torch.zeros(1, 3, 3, 4, dtype=torch.float64), **CLOSE)


@laws
@given(seed=SEEDS, top=st.integers(-9, 30), left=st.integers(-9, 30))
def test_crop_intrinsics_commutes_with_projection(seed: int, top: int, left: int):
    intrinsics, world_to_cam = cameras(seed, 2)
    xy, depth = pixels_and_depths(seed, 2, 6)
    points = unproject(xy, depth, intrinsics, world_to_cam)
    cropped, _ = project(points, crop_intrinsics(intrinsics, top, left), world_to_cam)
    torch.testing.assert_close(cropped, xy - torch.tensor([left, top]), rtol=1e-8, atol=1e-8)


@laws
@given(seed=SEEDS, height=st.integers(1, 90), width=st.integers(1, 90))
def test_resize_intrinsics_commutes_with_projection(seed: int, height: int, width: int):
    intrinsics, world_to_cam = cameras(seed, 2)
    xy, depth = pixels_and_depths(seed, 2, 6)
    points = unproject(xy, depth, intrinsics, world_to_cam)
    resized, _ = project(points, resize_intrinsics(intrinsics, (60, 40), (height, width)), world_to_cam)
    expected = xy * torch.tensor([width / 40, height / 60], dtype=torch.float64)
    torch.testing.assert_close(resized, expected, rtol=1e-8, atol=1e-8)


def test_crop_intrinsics_leaves_its_argument():
    intrinsics = torch.eye(3)
    crop_intrinsics(intrinsics, 1, 2)
    assert torch.equal(intrinsics, torch.eye(3))


def test_shapes_are_checked_while_tests_run():
    """By the hook of tests/conftest.py."""
    with pytest.raises(TypeCheckError, match=r"parameters of probe\.geometry\.camera_centre"):
        camera_centre(torch.eye(3))
