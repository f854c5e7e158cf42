"""Ray casting of textured solids in closed form: first hits, colours, exact points and visibility. Pure."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import camera_centre, invert_rigid, pixel_centres, project, ray_directions, resize_intrinsics
from probe.views import Views

ROOM_FACES = 6


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The solids and textures of ``b`` rooms.

    Surfaces are numbered: six room faces, then spheres, boxes (bars are thin boxes) and cylinders.
    """

    room: Float[Tensor, "b 3"]  # half sizes; the floor is z = 0
    sphere_centre: Float[Tensor, "b spheres 3"]
    sphere_radius: Float[Tensor, "b spheres"]
    box_centre: Float[Tensor, "b boxes 3"]
    box_from_world: Float[Tensor, "b boxes 3 3"]
    box_half: Float[Tensor, "b boxes 3"]
    cylinder_centre: Float[Tensor, "b cylinders 3"]
    cylinder_radius: Float[Tensor, "b cylinders"]
    cylinder_half: Float[Tensor, "b cylinders"]
    base: Float[Tensor, "b surfaces 3"]
    wave: Float[Tensor, "b surfaces waves 3"]  # radians per scene unit
    phase: Float[Tensor, "b surfaces waves"]
    amplitude: Float[Tensor, "b surfaces waves 3"]
    light: Float[Tensor, "b 3"]  # unit vector towards the lamp
    tile: float | None = None
    pose: Float[Tensor, "b parts 4 4"] | None = None  # of the room, then of each solid: carried there from rest

    def to(self, device: torch.device | str) -> "Shapes":
        """Move all tensors to a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def rooms(self, chosen: slice) -> "Shapes":
        """Pick some of the rooms."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        picked: dict[str, Any] = {name: v[chosen] for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **picked)


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The first hit of each ray: the ray parameter, the surface's number, the outward normal."""

    distance: Float[Tensor, "b p"]
    surface: Int[Tensor, "b p"]
    normal: Float[Tensor, "b p 3"]


Rays = Float[Tensor, "b p 3"]


def _enter_sphere(shapes: Shapes, origin: Rays, direction: Rays) -> Float[Tensor, "b p spheres"]:
    offset = origin[:, :, None] - shapes.sphere_centre[:, None]
    a = direction.square().sum(-1)[..., None]
    half_b = einsum(offset, direction, "b p s c, b p c -> b p s")
    root = half_b.square() - a * (offset.square().sum(-1) - shapes.sphere_radius[:, None].square())
    distance = (-half_b - root.clamp(min=0).sqrt()) / a
    return torch.where((root > 0) & (distance > 0), distance, torch.inf)


def _enter_slabs(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ray parameters where rays enter and leave axis-aligned boxes around the origin."""
    inverse = 1 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    middle, width = -origin * inverse, half * inverse.abs()
    return (middle - width).amax(-1), (middle + width).amin(-1)


def _enter_box(shapes: Shapes, origin: Rays, direction: Rays) -> Float[Tensor, "b p boxes"]:
    local_direction = einsum(shapes.box_from_world, direction, "b k i j, b p j -> b p k i")
    offset = origin[:, :, None] - shapes.box_centre[:, None]
    local_origin = einsum(shapes.box_from_world, offset, "b k i j, b p k j -> b p k i")
    enter, leave = _enter_slabs(local_origin, local_direction, shapes.box_half[:, None])
    return torch.where((enter < leave) & (enter > 0), enter, torch.inf)


def _enter_cylinder(shapes: Shapes, origin: Rays, direction: Rays) -> Float[Tensor, "b p cylinders"]:
    offset = origin[:, :, None] - shapes.cylinder_centre[:, None]
    flat, up = offset[..., :2], offset[..., 2]
    a = direction[..., :2].square().sum(-1).clamp(min=1e-12)[..., None]
    half_b = einsum(flat, direction[..., :2], "b p k c, b p c -> b p k")
    root = half_b.square() - a * (flat.square().sum(-1) - shapes.cylinder_radius[:, None].square())
    span = root.clamp(min=0).sqrt()
    vertical = direction[..., None, 2]
    inverse = 1 / torch.where(vertical.abs() < 1e-9, 1e-9, vertical)
    middle, width = -up * inverse, shapes.cylinder_half[:, None] * inverse.abs()
    enter = torch.maximum((-half_b - span) / a, middle - width)
    leave = torch.minimum((-half_b + span) / a, middle + width)
    return torch.where((root > 0) & (enter < leave) & (enter > 0), enter, torch.inf)


def _leave_room(shapes: Shapes, origin: Rays, direction: Rays) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """Return the ray parameter and the face (0-5: -x +x -y +y -z +z) where rays that start inside leave the room."""
    middle = F.pad(shapes.room[:, None, 2:], (2, 0))
    inverse = 1 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    leave = (middle - origin) * inverse + shapes.room[:, None] * inverse.abs()
    distance, axis = leave.min(-1)
    positive = direction.gather(-1, axis[..., None])[..., 0] > 0
    return distance, 2 * axis + positive


def first_distance(shapes: Shapes, origin: Rays, direction: Rays) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """Cast rays from inside the rooms; give the ray parameter of the first hit and the surface's number."""
    wall, face = _leave_room(shapes, origin, direction)
    enter = (_enter_sphere, _enter_box, _enter_cylinder)
    distance = torch.cat([wall[..., None], *(solid(shapes, origin, direction) for solid in enter)], dim=-1)
    nearest, which = distance.min(-1)
    return nearest, torch.where(which == 0, face, which + ROOM_FACES - 1)


def cast(shapes: Shapes, origin: Rays, direction: Rays) -> Hits:
    """Cast rays from inside the rooms to their first hit."""
    distance, surface = first_distance(shapes, origin, direction)
    points = origin + distance[..., None] * direction
    return Hits(distance=distance, surface=surface, normal=_normals(shapes, points, surface))


def _pick(values: Float[Tensor, "b k ..."], index: Int[Tensor, "b p"]) -> Float[Tensor, "b p ..."]:
    return values[torch.arange(values.shape[0], device=values.device)[:, None], index.clamp(0, values.shape[1] - 1)]


def _sharp_axis(ratio: Float[Tensor, "b p 3"]) -> Float[Tensor, "b p 3"]:
    """Keep only the coordinate that lies furthest out, as a signed unit vector."""
    return F.one_hot(ratio.abs().argmax(-1), 3) * ratio.sign()


def _normals(shapes: Shapes, points: Rays, surface: Int[Tensor, "b p"]) -> Rays:
    spheres, boxes = shapes.sphere_radius.shape[1], shapes.box_half.shape[1]
    number = surface - ROOM_FACES
    inward = F.one_hot((surface // 2).clamp(0, 2), 3) * (1 - 2 * (surface % 2))[..., None]
    ball = F.normalize(points - _pick(shapes.sphere_centre, number), dim=-1)
    turn = _pick(shapes.box_from_world, number - spheres)
    local = einsum(turn, points - _pick(shapes.box_centre, number - spheres), "b p i j, b p j -> b p i")
    side = einsum(turn, _sharp_axis(local / _pick(shapes.box_half, number - spheres)), "b p i j, b p i -> b p j")
    can = points - _pick(shapes.cylinder_centre, number - spheres - boxes)
    rim = can[..., :2].square().sum(-1).sqrt() / _pick(shapes.cylinder_radius, number - spheres - boxes)
    cap = can[..., 2].abs() / _pick(shapes.cylinder_half, number - spheres - boxes) > rim
    can_up, can_flat = F.pad(can[..., 2:].sign(), (2, 0)), F.normalize(F.pad(can[..., :2], (0, 1)), dim=-1)
    normal = torch.where(cap[..., None], can_up, can_flat)
    for limit, other in ((spheres + boxes, side), (spheres, ball), (0, inward.to(points))):
        normal = torch.where((number < limit)[..., None], other, normal)
    return normal


def parts_of(surface: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Return the rigid part that each surface belongs to: 0 is the room, then one per solid."""
    return (surface - ROOM_FACES + 1).clamp(min=0)


def carry(shapes: Shapes, pose: Float[Tensor, "b parts 4 4"]) -> Shapes:
    """Carry the solids of rooms at rest elsewhere, with their textures; the lamp stays.

    Args:
        shapes: Rooms at rest.
        pose: From rest: of the room (the identity), then of spheres, boxes, cylinders; turned about the vertical only.
    """
    spheres, boxes, cylinders = (x.shape[1] for x in (shapes.sphere_radius, shapes.box_half, shapes.cylinder_radius))
    of_sphere, of_box, of_cylinder = pose[:, 1:].split([spheres, boxes, cylinders], dim=1)
    return replace(
        shapes,
        sphere_centre=transform(of_sphere, shapes.sphere_centre),
        box_centre=transform(of_box, shapes.box_centre),
        box_from_world=shapes.box_from_world @ of_box[..., :3, :3].mT,
        cylinder_centre=transform(of_cylinder, shapes.cylinder_centre),
        pose=pose,
    )


def transform(pose: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Carry one point by each pose."""
    return einsum(pose[..., :3, :3], points, "... i j, ... j -> ... i") + pose[..., :3, 3]


def _at_rest(shapes: Shapes, points: Rays, surface: Int[Tensor, "b p"]) -> Rays:
    """Return where points of surfaces lie while the solids are at rest."""
    if shapes.pose is None:
        return points
    return transform(_pick(invert_rigid(shapes.pose), parts_of(surface)), points)


def _colours(shapes: Shapes, points: Rays, hits: Hits) -> Rays:
    """Return base colour plus cosines of the position at rest, times .75 + .25 (normal . light)."""
    place = _at_rest(shapes, points, hits.surface)
    place = place if shapes.tile is None else place.remainder(shapes.tile)
    angle = einsum(_pick(shapes.wave, hits.surface), place, "b p w c, b p c -> b p w") + _pick(
        shapes.phase, hits.surface
    )
    waves = einsum(angle.cos(), _pick(shapes.amplitude, hits.surface), "b p w, b p w c -> b p c")
    shade = 0.75 + 0.25 * einsum(hits.normal, shapes.light, "b p c, b c -> b p")
    return ((_pick(shapes.base, hits.surface) + waves) * shade[..., None]).clamp(0, 1)


def _rays(
    intrinsics: Float[Tensor, "b f 3 3"], world_to_cam: Float[Tensor, "b f 4 4"], height: int, width: int
) -> tuple[Rays, Rays]:
    xy = rearrange(pixel_centres(height, width, device=intrinsics.device), "h w c -> (h w) c")
    direction = ray_directions(xy.expand(*intrinsics.shape[:2], -1, -1), intrinsics, world_to_cam)
    origin = camera_centre(world_to_cam)[:, :, None].expand_as(direction)
    return rearrange(origin, "b f p c -> b (f p) c"), rearrange(direction, "b f p c -> b (f p) c")


def render(
    shapes: Shapes,
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    size: tuple[int, int],
    *,
    supersample: int = 1,
) -> tuple[Float[Tensor, "b f 3 height width"], Float[Tensor, "b f 3 height width"], Int[Tensor, "b f height width"]]:
    """Render colours and exact point maps.

    Args:
        shapes: The rooms.
        intrinsics: In pixels of ``size``.
        world_to_cam: Cameras inside the rooms.
        size: (height, width) in pixels.
        supersample: Rays per pixel side that are averaged for the colour; points are those of the pixel centres.

    Returns:
        Colours in [0, 1], world points, and the number of the surface that they lie on.
    """
    height, width = size
    fine = (height * supersample, width * supersample)
    origin, direction = _rays(resize_intrinsics(intrinsics, size, fine), world_to_cam, *fine)
    hits = cast(shapes, origin, direction)
    points = origin + hits.distance[..., None] * direction
    grid = {"f": intrinsics.shape[1], "h": height, "w": width, "i": supersample, "j": supersample}
    image = reduce(_colours(shapes, points, hits), "b (f h i w j) c -> b f c h w", "mean", **grid)
    surface = hits.surface
    if supersample > 1:
        origin, direction = _rays(intrinsics, world_to_cam, height, width)
        distance, surface = first_distance(shapes, origin, direction)
        points = origin + distance[..., None] * direction
    pixels = {"f": grid["f"], "h": height}
    point_map = rearrange(points, "b (f h w) c -> b f c h w", **pixels)
    return image, point_map, rearrange(surface, "b (f h w) -> b f h w", **pixels)


def visible_points(
    shapes: Shapes,
    points: Rays,
    world_to_cam: Float[Tensor, "b 4 4"],
    intrinsics: Float[Tensor, "b 3 3"],
    size: tuple[int, int],
) -> Bool[Tensor, "b p"]:
    """Return whether a camera sees surface points: in the frame, and first hit by the ray to them. Exact."""
    xy, _ = project(points, intrinsics, world_to_cam)
    bounds = torch.tensor([size[1], size[0]], device=points.device)
    inside = ((xy >= 0) & (xy < bounds)).all(-1)
    centre = camera_centre(world_to_cam)[:, None].expand_as(points)
    return inside & (first_distance(shapes, centre, points - centre)[0] > 1 - 1e-3)


def overlaps(shapes: Shapes, views: Views, *, grid: int = 24) -> Float[Tensor, "b f f"]:
    """Measure which share of view i's pixels (on a coarse grid) is exactly visible in view j, at [b, i, j].

    Args:
        shapes: The rooms, at rest.
        views: That show them, each at its time.
        grid: Pixels a side.
    """
    height, width = views.size
    rows = ((torch.arange(grid) + 0.5) * height / grid).long()
    columns = ((torch.arange(grid) + 0.5) * width / grid).long()
    points = rearrange(views.point_map[..., rows[:, None], columns], "b f c h w -> b f (h w) c")
    part = None if views.part is None else rearrange(views.part[..., rows[:, None], columns], "b f h w -> b f (h w)")
    at_key = rearrange(views.follow(points, part)[0], "b f p j c -> j b (f p) c")
    seen = [
        visible_points(
            shapes if views.part_pose is None else carry(shapes, views.part_pose[:, j]),
            at_key[j],
            views.world_to_cam[:, j],
            views.intrinsics[:, j],
            views.size,
        )
        for j in range(views.count)
    ]
    return reduce(torch.stack(seen, dim=-1).float(), "b (f p) j -> b f j", "mean", f=views.count)
