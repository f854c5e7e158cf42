"""Cameras, rays, projection and point maps: pure functions.

Conventions (docs/references.md, "Conventions"): ``world_to_cam`` is 4x4 with OpenCV axes; intrinsics are in pixels of a
stated size; the first pixel's centre is (0.5, 0.5); the last axis of length 2 is xy, of length 3 is xyz.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

SAME_CENTRE = 1e-5  # of the cameras' distance from the origin: closer centres are one in single precision


def full_precision(like: Float[Tensor, "..."]) -> AbstractContextManager[Any]:
    """Leave autocast, under which products of cameras would be rounded to three digits.

    Args:
        like: Tells the device.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def pixel_centres(
    height: int, width: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "{height} {width} 2"]:
    """Return xy of every pixel's centre, in pixels: the first is (0.5, 0.5)."""
    rows = torch.arange(height, device=device, dtype=dtype) + 0.5
    columns = torch.arange(width, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def invert_rigid(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Invert a rotation followed by a translation: world_to_cam becomes cam_to_world and back."""
    inverse = torch.zeros_like(transform)
    rotation = transform[..., :3, :3].mT
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ transform[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


def camera_centre(world_to_cam: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Return the camera's position in the world."""
    return invert_rigid(world_to_cam)[..., :3, 3]


def relative_camera(
    world_to_cam: Float[Tensor, "*batch 4 4"], reference: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """Express a camera in a reference camera's frame: a point there, to a point in this camera.

    Args:
        world_to_cam: The camera.
        reference: ``world_to_cam`` of the reference camera.
    """
    return world_to_cam @ invert_rigid(reference)


def rotation_degrees(
    world_to_cam: Float[Tensor, "*batch 4 4"], other: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, " *batch"]:
    """Measure the relative rotation of two cameras, in degrees from 0 to 180.

    Uses atan2 of the sine (from the skew part) and the cosine (from the trace), so that small angles keep their digits.
    """
    relative = world_to_cam[..., :3, :3] @ other[..., :3, :3].mT
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    sine = torch.linalg.vector_norm(relative - relative.mT, dim=(-2, -1)) / 8**0.5
    return torch.rad2deg(torch.atan2(sine, cosine))


def stand_apart(
    world_to_cam: Float[Tensor, "*batch 4 4"], other: Float[Tensor, "*batch 4 4"]
) -> Bool[Tensor, " *batch"]:
    """Return whether two cameras have different centres, beyond rounding."""
    shift = relative_camera(other.double(), world_to_cam.double())[..., :3, 3]
    distance = torch.maximum(camera_centre(world_to_cam).norm(dim=-1), camera_centre(other).norm(dim=-1))
    return shift.norm(dim=-1) > SAME_CENTRE * distance


def numbers_like(numbers: Sequence[int | float], like: Tensor) -> Float[Tensor, " n"]:
    """Return numbers of a tensor's kind, made on its device: nothing is copied there, so a CUDA graph can record it."""
    return torch.stack([like.new_full((), number) for number in numbers])


def inverse(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Invert matrices.

    Raises:
        RuntimeError: If one is singular; not while a CUDA graph is recorded, which cannot wait for the answer.
    """
    recorded = matrix.is_cuda and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    return torch.linalg.inv_ex(matrix, check_errors=not recorded).inverse


def fundamental_matrix(
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_to_cam: Float[Tensor, "*batch 4 4"],
    key_intrinsics: Float[Tensor, "*batch 3 3"],
    key_world_to_cam: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch 3 3"]:
    """Return the matrix that turns a pixel (x, y, 1) of a query view into its epipolar line (a, b, c) in a key view.

    Every point on the pixel's ray lies in the key view where a x + b y + c = 0.

    Returns:
        Of norm 1; zero where both cameras have the same centre, up to rounding, and no line exists.

    Source:
        Hartley and Zisserman, Multiple View Geometry, section 9.2.4: F = K'^-T [t]x R K^-1.
    """
    relative = key_world_to_cam.double() @ invert_rigid(world_to_cam.double())
    rotation, t = relative[..., :3, :3], relative[..., :3, 3]
    cross = torch.linalg.cross(t[..., None, :].expand_as(rotation), rotation.mT, dim=-1).mT
    matrix = torch.linalg.inv(key_intrinsics.double()).mT @ cross @ torch.linalg.inv(intrinsics.double())
    apart = stand_apart(world_to_cam, key_world_to_cam)
    unit = matrix / torch.linalg.matrix_norm(matrix)[..., None, None].clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(apart[..., None, None], unit, 0.0).to(world_to_cam.dtype)


def world_to_camera(
    points: Float[Tensor, "*batch p 3"], world_to_cam: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch p 3"]:
    """Move world points into a camera's frame."""
    return points @ world_to_cam[..., :3, :3].mT + world_to_cam[..., None, :3, 3]


def project(
    points: Float[Tensor, "*batch p 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_to_cam: Float[Tensor, "*batch 4 4"],
) -> tuple[Float[Tensor, "*batch p 2"], Float[Tensor, "*batch p"]]:
    """Project world points into an image.

    Returns:
        xy in pixels, and z-depth in world units. Where the depth is not positive the point lies behind the camera and
        xy is NaN.
    """
    local = world_to_camera(points, world_to_cam)
    depth = local[..., 2]
    homogeneous = local @ intrinsics.mT
    xy = homogeneous[..., :2] / torch.where(depth > 0, depth, torch.nan)[..., None]
    return xy, depth


def unproject(
    xy: Float[Tensor, "*batch p 2"],
    depth: Float[Tensor, "*batch p"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_to_cam: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch p 3"]:
    """Lift pixels of known z-depth to world points; the inverse of :func:`project`."""
    return camera_centre(world_to_cam)[..., None, :] + depth[..., None] * ray_directions(xy, intrinsics, world_to_cam)


def ray_directions(
    xy: Float[Tensor, "*batch p 2"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_to_cam: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch p 3"]:
    """Return world directions of the rays through pixels, scaled so that camera z is 1 (ray parameter = z-depth)."""
    homogeneous = torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)
    local = homogeneous @ inverse(intrinsics).mT
    return local @ world_to_cam[..., :3, :3]


def depth_to_point_map(
    depth: Float[Tensor, "*batch height width"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    world_to_cam: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch 3 height width"]:
    """Lift a z-depth map, in world units, to the world point of each pixel."""
    height, width = depth.shape[-2:]
    xy = rearrange(pixel_centres(height, width, device=depth.device, dtype=depth.dtype), "h w c -> (h w) c")
    xy = xy.expand(*depth.shape[:-2], -1, -1)
    points = unproject(xy, depth.flatten(-2), intrinsics, world_to_cam)
    return rearrange(points, "... (h w) c -> ... c h w", h=height)


def point_map_to_depth(
    point_map: Float[Tensor, "*batch 3 height width"], world_to_cam: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch height width"]:
    """Return the z-depth of each pixel's world point, in world units."""
    depth = einsum(world_to_cam[..., 2, :3], point_map, "... c, ... c h w -> ... h w")
    return depth + world_to_cam[..., 2, 3, None, None]


def plucker_rays(
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    size: tuple[int, int],
    *,
    scale: float = 1.0,
) -> Float[Tensor, "b f 6 height width"]:
    """Return the Plücker coordinates (d, o x d) of every pixel's ray, in the first view's camera frame.

    Args:
        intrinsics: In pixels of ``size``.
        world_to_cam: Cameras.
        size: (height, width) in pixels.
        scale: World units that make one unit of the moment; a constant, because a division by each scene's own baseline
            would throw away its scale.

    Returns:
        Unit direction d, then moment o x d with o the camera's centre over ``scale``.

    Source:
        CAMEO (arXiv 2512.03045) conditions on Plücker rays; the proper relative form (camera_i . inverse(camera_0)) and
        pixel centres at 0.5, unlike its release (docs/references.md, "CAT3D of the release: camera embedding").
    """
    local = relative_camera(world_to_cam, world_to_cam[:, :1].expand_as(world_to_cam))
    xy = rearrange(pixel_centres(*size, device=intrinsics.device, dtype=intrinsics.dtype), "h w c -> (h w) c")
    xy = xy.expand(*intrinsics.shape[:2], -1, -1)
    direction = torch.nn.functional.normalize(ray_directions(xy, intrinsics, local), dim=-1)
    centre = (camera_centre(local) / scale)[..., None, :].expand_as(direction)
    rays = torch.cat([direction, torch.linalg.cross(centre, direction)], dim=-1)
    return rearrange(rays, "b f (h w) c -> b f c h w", h=size[0])


def crop_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], top: float | int, left: float | int
) -> Float[Tensor, "*batch 3 3"]:
    """Move the principal point as a crop of ``top`` rows and ``left`` columns does."""
    moved = intrinsics.clone()
    moved[..., 0, 2] -= left
    moved[..., 1, 2] -= top
    return moved


def resize_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """Scale intrinsics from one image size to another, each (height, width) in pixels."""
    factors = intrinsics.new_tensor([new_size[1] / size[1], new_size[0] / size[0], 1.0])
    return intrinsics * factors[:, None]
