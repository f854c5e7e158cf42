"""A corner of two textured walls, seen by known cameras: true views with enough detail for SIFT, in milliseconds."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import pixel_centres, ray_directions
from probe.views import Views

WALLS = torch.tensor([[0.6, 0.0, 0.8], [-0.6, 0.0, 0.8]], dtype=torch.float64)
"""Normals of the walls, which meet at depth 4 in front of the origin."""
DEPTH = 4.0


def corner_cameras(degrees: tuple[float, ...] = (0.0, 8.0, -7.0)) -> Tensor:
    """Cameras on a circle about the corner, all looking at it."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(degrees), 1, 1)
    for pose, angle in zip(poses, map(math.radians, degrees), strict=True):
        cosine, sine = math.cos(angle), math.sin(angle)
        pose[:3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        pose[:3, 3] = torch.tensor([-sine * DEPTH, 0.1 * angle, DEPTH - cosine * DEPTH])
    return poses.float()


def corner_views(seed: int, size: int = 128, n_ref: int = 1, degrees: tuple[float, ...] = (0.0, 8.0, -7.0)) -> Views:
    """True views of a corner whose walls have a texture of their own."""
    world_to_cam = corner_cameras(degrees)[None]
    f = world_to_cam.shape[1]
    intrinsics = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]]).expand(1, f, 3, 3)
    xy = pixel_centres(size, size).reshape(1, 1, -1, 2).expand(1, f, -1, 2)
    ray = ray_directions(xy.double(), intrinsics.double(), world_to_cam.double())
    centre = -(world_to_cam[..., :3, :3].mT @ world_to_cam[..., :3, 3:]).squeeze(-1).double()
    reach = (0.8 * DEPTH - centre @ WALLS.T)[:, :, None] / (ray @ WALLS.T)
    depth, wall = reach.masked_fill(reach <= 0, torch.inf).min(-1)
    points = centre[:, :, None] + depth[..., None] * ray
    along = torch.stack([points[..., 0] / 0.8 + wall, points[..., 1]], dim=-1) / 4  # where on its wall a point lies
    place = ((along + 1) % 2 - 1).float()
    colour = F.grid_sample(texture(seed)[None], place, padding_mode="reflection", align_corners=False)
    image = colour[0].transpose(0, 1).reshape(1, f, 3, size, size)
    views = Views(
        image=image,
        intrinsics=intrinsics,
        world_to_cam=world_to_cam,
        point_map=points.transpose(2, 3).reshape(1, f, 3, size, size).float(),
        valid=torch.ones(1, f, size, size, dtype=torch.bool),
        n_ref=n_ref,
    )
    return replace(views, names=(f"corner-{seed}",))


def texture(seed: int) -> Tensor:
    """Smooth random colours at several scales."""
    generator = torch.Generator().manual_seed(seed)
    octaves = [torch.rand(1, 3, side, side, generator=generator) for side in (24, 64, 160)]
    scaled = [F.interpolate(one, (512, 512), mode="bicubic", align_corners=False) for one in octaves]
    return torch.stack(scaled).mean(0)[0].sub(0.5).mul(1.8).add(0.5).clamp(0, 1)
