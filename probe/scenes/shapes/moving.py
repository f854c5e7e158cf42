"""Clips of procedural rooms: solids slide and turn while the camera moves or stands still. Exact truth from a seed.

A clip lasts one unit of time; its views are frames, evenly spaced in it. The camera goes from the first to the second
camera that a scene of two views would have (:func:`probe.scenes.shapes.rooms.draw_orbit`), on their sphere. Solids may
touch or pass through one another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from probe.scenes.shapes.casting import Shapes, carry, parts_of, render
from probe.scenes.shapes.rooms import Orbit, draw_orbit, keep_inside, square_intrinsics
from probe.views import Views

DISTANCE = (0.2, 0.6)
"""Scene units that a solid slides in a clip."""
TURN = 90.0
"""Degrees that a solid turns in a clip, at most, about the vertical through its own middle."""
OUTERMOST = 1.2
"""Distance from the middle of the room that no solid's middle leaves, in scene units: cameras stand farther out."""

CLIPS: Mapping[str, bool] = {"moving": False, "moving-still": True}
"""Whether the camera stands still, by the name that follows ``shapes:``; rooms and textures are those of plain."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What solids do in a clip: each slides along a line and turns about the vertical, both at a constant speed.

    Attributes:
        centre: Of each solid at rest: its place at the beginning.
        slide: From the beginning to the end, in scene units.
        turn: From the beginning to the end, in radians.
    """

    centre: Float[Tensor, "b solids 3"]
    slide: Float[Tensor, "b solids 3"]
    turn: Float[Tensor, "b solids"]

    def poses(self, time: Float[Tensor, " f"]) -> Float[Tensor, "b f parts 4 4"]:
        """Return where the room, which stands still, and the solids have been carried at some times (0 to 1)."""
        angle, shift = einsum(self.turn, time, "b k, f -> b f k"), einsum(self.slide, time, "b k c, f -> b f k c")
        pose = torch.eye(4).repeat(*angle.shape, 1, 1)
        pose[..., 0, 0], pose[..., 0, 1] = angle.cos(), -angle.sin()
        pose[..., 1, 0], pose[..., 1, 1] = angle.sin(), angle.cos()
        turned = einsum(pose[..., :3, :3], self.centre, "b f k i j, b k j -> b f k i")
        pose[..., :3, 3] = self.centre[:, None] - turned + shift
        room = torch.eye(4).expand(*angle.shape[:2], 1, 4, 4)
        return torch.cat([room, pose], dim=2)


def draw_motion(shapes: Shapes, *, generator: torch.Generator) -> Motion:
    """Draw what the solids of rooms do: a distance, a direction and a turn for each.

    Args:
        shapes: The rooms at rest.
        generator: On the CPU.
    """
    centre = torch.cat([shapes.sphere_centre, shapes.box_centre, shapes.cylinder_centre], dim=1)
    low, high = DISTANCE
    distance, direction, turn = (torch.rand(centre.shape[:2], generator=generator) for _ in range(3))
    distance, direction = low + (high - low) * distance, 2 * math.pi * direction
    end = centre[..., :2] + distance[..., None] * torch.stack([direction.cos(), direction.sin()], -1)
    end = end * (OUTERMOST / end.norm(dim=-1, keepdim=True)).clamp(max=1)
    slide = torch.cat([end - centre[..., :2], torch.zeros_like(centre[..., 2:])], -1)
    return Motion(centre=centre, slide=slide, turn=math.radians(TURN) * (2 * turn - 1))


def camera_path(orbit: Orbit, time: Float[Tensor, " f"]) -> Orbit:
    """Return the cameras on the way from the first camera of an orbit to the second one, at some times (0 to 1)."""
    path = {}
    for field in fields(orbit):
        ends: Tensor = getattr(orbit, field.name)
        first, second = (repeat(ends[:, k], "b ... -> b f ...", f=len(time)) for k in (0, 1))
        path[field.name] = first.lerp(second, rearrange(time, f"f -> 1 f{' 1' * (ends.ndim - 2)}"))
    return Orbit(**path)


def make_clip(
    shapes: Shapes, rotation: Float[Tensor, "b 1"], *, views: int, size: int, n_ref: int, still: bool,
    generator: torch.Generator,
) -> Views:  # fmt: skip
    """Film rooms while their solids move.

    Args:
        shapes: The rooms at rest, which the first frame shows.
        rotation: Of the camera from the first to the last frame, in degrees.
        views: Number of frames, at least 1.
        size: Side of the images, in pixels.
        n_ref: Number of reference views.
        still: Whether the camera stays where it begins.
        generator: On the CPU; rooms, cameras and motion do not depend on the number of frames.
    """
    time = torch.linspace(0, 1, views)
    orbit = draw_orbit(rotation, generator=generator)
    pose = draw_motion(shapes, generator=generator).poses(time)
    path = camera_path(orbit, torch.zeros_like(time) if still else time)
    world_to_cam, intrinsics = keep_inside(path.world_to_cam, shapes.room), square_intrinsics(path.field, size)
    frames = [
        render(carry(shapes, pose[:, k]), intrinsics[:, k : k + 1], world_to_cam[:, k : k + 1], (size, size))
        for k in range(views)
    ]
    image, points, surface = (torch.cat(part, dim=1) for part in zip(*frames, strict=True))
    valid = torch.ones(surface.shape, dtype=torch.bool)
    part = parts_of(surface)
    return Views(image, intrinsics, world_to_cam, points, valid, n_ref, part=part, part_pose=pose)
