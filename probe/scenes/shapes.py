"""Procedural rooms of textured solids, ray cast in closed form: exact depth, point maps and visibility, from a seed.

Every ray hits something, so point maps have no holes. Lengths are scene units (a room is about six wide).
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import camera_centre, pixel_centres, project, ray_directions, resize_intrinsics
from probe.views import Views

Difficulty = Literal["plain", "cluttered", "repetitive", "textureless"]
ROTATION_BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
ROOM_FACES = 6
WAVES = 4  # cosines per octave
OCTAVES = {1.0: 0.2, 3.0: 0.2, 8.0: 0.1}  # spatial frequency, in coarse ones, to the colour amplitude of each cosine
TILE = 0.5  # scene units: side of the repeated cube of texture in "repetitive"
# spheres, boxes, cylinders, bars; ring on which they stand (scene units)
OBJECTS: dict[Difficulty, tuple[int, int, int, int]] = {
    "plain": (2, 2, 1, 1),
    "cluttered": (4, 5, 4, 5),
    "repetitive": (2, 2, 1, 1),
    "textureless": (2, 2, 1, 1),
}


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Hold the solids and textures of ``b`` rooms.

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
    """Hold the first hit of each ray: the ray parameter, the surface's number, the outward normal."""

    distance: Float[Tensor, "b p"]
    surface: Int[Tensor, "b p"]
    normal: Float[Tensor, "b p 3"]


# --- drawing ---------------------------------------------------------------------------------------------------------


def _uniform(generator: torch.Generator, low: float | int, high: float | int, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _ring(generator: torch.Generator, b: int, count: int, low: float, high: float) -> Float[Tensor, "b count 2"]:
    """Spread objects around a ring: one per sector, so that they seldom meet."""
    sector = torch.stack([torch.randperm(count, generator=generator) for _ in range(b)]) if count else torch.zeros(b, 0)
    angle = 2 * math.pi * (sector + _uniform(generator, 0, 0.8, b, count)) / max(count, 1)
    radius = _uniform(generator, low, high, b, count)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _turns(generator: torch.Generator, b: int, count: int, tilt: float) -> Float[Tensor, "b count 3 3"]:
    """Draw rotations about the vertical, then tilted by up to ``tilt`` radians."""
    yaw, lean = _uniform(generator, 0, 2 * math.pi, b, count), _uniform(generator, -tilt, tilt, b, count)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    about_z = torch.stack([yaw.cos(), yaw.sin(), zero, -yaw.sin(), yaw.cos(), zero, zero, zero, one], -1)
    about_x = torch.stack([one, zero, zero, zero, lean.cos(), lean.sin(), zero, -lean.sin(), lean.cos()], -1)
    matrix = "b k (row column) -> b k row column"
    return rearrange(about_x, matrix, row=3) @ rearrange(about_z, matrix, row=3)


def _textures(generator: torch.Generator, b: int, objects: int, difficulty: Difficulty) -> dict[str, Tensor]:
    """Draw a solid texture per surface: a base colour and cosines at three scales, so that points can be told apart."""
    surfaces = ROOM_FACES + objects
    coarse = torch.tensor([1.25] * ROOM_FACES + [2.5] * objects)  # rad per unit, standard deviation
    scale = torch.stack([factor * coarse for factor in OCTAVES for _ in range(WAVES)], dim=-1)
    strength = torch.tensor([height for height in OCTAVES.values() for _ in range(WAVES)])
    count = len(OCTAVES) * WAVES
    wave = torch.randn(b, surfaces, count, 3, generator=generator) * scale[..., None]
    amplitude = strength[:, None] * _uniform(generator, -1, 1, b, surfaces, count, 3)
    texture = {
        "base": _uniform(generator, 0.25, 0.75, b, surfaces, 3),
        "wave": wave,
        "phase": _uniform(generator, 0, 2 * math.pi, b, surfaces, count),
        "amplitude": amplitude,
    }
    if difficulty == "textureless":
        texture["amplitude"] = torch.zeros_like(amplitude)
    if difficulty == "repetitive":  # one texture everywhere, tiled, with whole periods in a tile
        periods = (wave[:, :1] * TILE / (2 * math.pi) * 4).round()
        texture = {
            name: repeat(value[:, :1], "b 1 ... -> b s ...", s=surfaces).clone() for name, value in texture.items()
        }
        texture["wave"] = repeat(periods * 2 * math.pi / TILE, "b 1 w c -> b s w c", s=surfaces).clone()
    return texture


def draw_shapes(b: int, *, difficulty: Difficulty = "plain", generator: torch.Generator) -> Shapes:
    """Draw rooms with objects on a ring around their middle.

    Args:
        b: Number of rooms.
        difficulty: plain; cluttered (many occlusions); repetitive (one tiled texture); textureless (shading only).
        generator: On the CPU, so that a seed gives the same rooms on every device.

    Raises:
        ValueError: If the difficulty is unknown.
    """
    if difficulty not in OBJECTS:
        raise ValueError(
            f"draw_shapes: unknown difficulty {difficulty!r}; choose one of {', '.join(get_args(Difficulty))}"
        )
    spheres, boxes, cylinders, bars = OBJECTS[difficulty]
    small = 0.7 if difficulty == "cluttered" else 1.0
    place = _ring(generator, b, spheres + boxes + cylinders + bars, 0.45, 0.95)
    radius = small * _uniform(generator, 0.2, 0.42, b, spheres)
    half = small * torch.cat(
        [_uniform(generator, 0.15, 0.35, b, boxes, 2), _uniform(generator, 0.15, 0.6, b, boxes, 1)], -1
    )
    thin = torch.cat([_uniform(generator, 0.03, 0.05, b, bars, 2), _uniform(generator, 0.4, 0.65, b, bars, 1)], -1)
    can_radius, can_half = (
        small * _uniform(generator, 0.12, 0.25, b, cylinders),
        small * _uniform(generator, 0.2, 0.5, b, cylinders),
    )
    half = torch.cat([half, thin], dim=1)
    turns = torch.cat([_turns(generator, b, boxes, 0.0), _turns(generator, b, bars, 0.6)], dim=1)
    at_sphere, at_box, at_can = place.split([spheres, boxes + bars, cylinders], dim=1)
    light = F.normalize(torch.cat([_uniform(generator, -1, 1, b, 2), _uniform(generator, 0.5, 1, b, 1)], -1), dim=-1)
    return Shapes(
        room=torch.cat([_uniform(generator, 2.6, 3.4, b, 2), _uniform(generator, 1.1, 1.5, b, 1)], -1),
        sphere_centre=torch.cat([at_sphere, radius[..., None]], -1),
        sphere_radius=radius,
        box_centre=torch.cat([at_box, half[..., 2:]], -1),
        box_from_world=turns,
        box_half=half,
        cylinder_centre=torch.cat([at_can, can_half[..., None]], -1),
        cylinder_radius=can_radius,
        cylinder_half=can_half,
        light=light,
        tile=TILE if difficulty == "repetitive" else None,
        **_textures(generator, b, spheres + boxes + cylinders + bars, difficulty),
    )


def draw_cameras(
    rotation: Float[Tensor, "b targets"], *, generator: torch.Generator
) -> tuple[Float[Tensor, "b f 4 4"], Float[Tensor, "b f"]]:
    """Draw cameras that look at the middle of the room; view 0, then one per requested rotation relative to it.

    Cameras without roll, at elevations e0 and e1, whose azimuths differ by a, are rotated against each other by r with
    ``1 + 2 cos r = cos a (1 + cos(e1 - e0)) + cos(e1 - e0)``: this is solved for a. Where the elevations differ by more
    than r, the second one is moved.

    Args:
        rotation: Requested relative rotation to view 0, in degrees from 0 to 180.
        generator: On the CPU.

    Returns:
        world_to_cam, and the horizontal field of view in degrees (50 to 60, one per scene, for all its views).
    """
    b, targets = rotation.shape
    asked = torch.deg2rad(rotation)
    first = torch.deg2rad(_uniform(generator, 15, 40, b, 1))
    other = torch.deg2rad(_uniform(generator, 15, 40, b, targets))
    difference = torch.clamp(other - first, min=-asked, max=asked)
    cosine = (1 + 2 * asked.cos() - difference.cos()) / (1 + difference.cos())
    side = torch.where(torch.rand(b, targets, generator=generator) < 0.5, -1.0, 1.0)
    start = _uniform(generator, 0, 2 * math.pi, b, 1)
    azimuth = torch.cat([start, start + side * cosine.clamp(-1, 1).acos()], dim=1)
    elevation = torch.cat([first, first + difference], dim=1)
    radius = _uniform(generator, 2.2, 2.7, b, targets + 1)
    middle = torch.tensor([0.0, 0.0, 0.3]) + _uniform(generator, -0.1, 0.1, b, targets + 1, 3)
    field = repeat(_uniform(generator, 50, 60, b), "b -> b f", f=targets + 1)
    return _look_at(azimuth, elevation, radius, middle), field


def _look_at(
    azimuth: Float[Tensor, "b f"],
    elevation: Float[Tensor, "b f"],
    radius: Float[Tensor, "b f"],
    middle: Float[Tensor, "b f 3"],
) -> Float[Tensor, "b f 4 4"]:
    """Place cameras at ``radius`` from ``middle`` on a sphere, looking at it, without roll (z of the world is up)."""
    zero = torch.zeros_like(azimuth)
    outward = torch.stack([azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], -1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), zero], -1)
    down = torch.linalg.cross(-outward, right)
    rotation = torch.stack([right, down, -outward], dim=-2)
    translation = -einsum(rotation, middle + radius[..., None] * outward, "b f i j, b f j -> b f i")
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*azimuth.shape, 1, 4)
    return torch.cat([torch.cat([rotation, translation[..., None]], -1), bottom], dim=-2)


def keep_inside(
    world_to_cam: Float[Tensor, "b f 4 4"], room: Float[Tensor, "b 3"], *, margin: float = 0.05
) -> Float[Tensor, "b f 4 4"]:
    """Move cameras that stand outside of their room (some 3 in 100,000) back inside; the others stay bit for bit.

    Args:
        world_to_cam: The cameras; none is turned.
        room: Half sizes; the floor is z = 0.
        margin: From the wall to a moved camera, in scene units.
    """
    middle, half = F.pad(room[:, None, 2:], (2, 0)), room[:, None]
    offset = camera_centre(world_to_cam) - middle
    outside = (offset.abs() >= half).any(-1, keepdim=True)
    centre = middle + offset.clamp(margin - half, half - margin)
    translation = -einsum(world_to_cam[..., :3, :3], centre, "b f i j, b f j -> b f i")
    placed = world_to_cam.clone()
    placed[..., :3, 3] = torch.where(outside, translation, world_to_cam[..., :3, 3])
    return placed


# --- casting ---------------------------------------------------------------------------------------------------------

Rays = Float[Tensor, "b p 3"]


def _enter_sphere(shapes: Shapes, origin: Rays, direction: Rays) -> Float[Tensor, "b p spheres"]:
    offset = origin[:, :, None] - shapes.sphere_centre[:, None]
    a = direction.square().sum(-1)[..., None]
    half_b = einsum(offset, direction, "b p s c, b p c -> b p s")
    root = half_b.square() - a * (offset.square().sum(-1) - shapes.sphere_radius[:, None].square())
    distance = (-half_b - root.clamp(min=0).sqrt()) / a
    return torch.where((root > 0) & (distance > 0), distance, torch.inf)


def _enter_slabs(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Give the ray parameters where rays enter and leave axis-aligned boxes around the origin."""
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
    """Give the ray parameter and the face (0-5: -x +x -y +y -z +z) where rays that start inside leave the room."""
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


def _colours(shapes: Shapes, points: Rays, hits: Hits) -> Rays:
    """Give base colour plus cosines of the position, times .75 + .25 (normal . light)."""
    place = points if shapes.tile is None else points.remainder(shapes.tile)
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
) -> tuple[Float[Tensor, "b f 3 height width"], Float[Tensor, "b f 3 height width"]]:
    """Render colours and exact point maps.

    Args:
        shapes: The rooms.
        intrinsics: In pixels of ``size``.
        world_to_cam: Cameras inside the rooms.
        size: (height, width) in pixels.
        supersample: Rays per pixel side that are averaged for the colour; points are those of the pixel centres.

    Returns:
        Colours in [0, 1] and world points.
    """
    height, width = size
    fine = (height * supersample, width * supersample)
    origin, direction = _rays(resize_intrinsics(intrinsics, size, fine), world_to_cam, *fine)
    hits = cast(shapes, origin, direction)
    points = origin + hits.distance[..., None] * direction
    grid = {"f": intrinsics.shape[1], "h": height, "w": width, "i": supersample, "j": supersample}
    image = reduce(_colours(shapes, points, hits), "b (f h i w j) c -> b f c h w", "mean", **grid)
    if supersample > 1:
        origin, direction = _rays(intrinsics, world_to_cam, height, width)
        points = origin + first_distance(shapes, origin, direction)[0][..., None] * direction
    return image, rearrange(points, "b (f h w) c -> b f c h w", f=grid["f"], h=height)


def visible_points(
    shapes: Shapes,
    points: Rays,
    world_to_cam: Float[Tensor, "b 4 4"],
    intrinsics: Float[Tensor, "b 3 3"],
    size: tuple[int, int],
) -> Bool[Tensor, "b p"]:
    """Tell exactly whether surface points are seen by a camera: in the frame, and the first hit of the ray to them."""
    xy, _ = project(points, intrinsics, world_to_cam)
    bounds = torch.tensor([size[1], size[0]], device=points.device)
    inside = ((xy >= 0) & (xy < bounds)).all(-1)
    centre = camera_centre(world_to_cam)[:, None].expand_as(points)
    return inside & (first_distance(shapes, centre, points - centre)[0] > 1 - 1e-3)


def overlaps(shapes: Shapes, views: Views, *, grid: int = 24) -> Float[Tensor, "b f f"]:
    """Measure which share of view i's pixels (on a coarse grid) is exactly visible in view j, at [b, i, j]."""
    height, width = views.size
    rows = ((torch.arange(grid) + 0.5) * height / grid).long()
    columns = ((torch.arange(grid) + 0.5) * width / grid).long()
    points = rearrange(views.point_map[..., rows[:, None], columns], "b f c h w -> b (f h w) c")
    seen = [
        visible_points(shapes, points, views.world_to_cam[:, j], views.intrinsics[:, j], views.size)
        for j in range(views.count)
    ]
    return reduce(torch.stack(seen, dim=-1).float(), "b (f p) j -> b f j", "mean", f=views.count)


# --- views -----------------------------------------------------------------------------------------------------------


def draw_rotations(bins: list[int], targets: int, *, generator: torch.Generator) -> Float[Tensor, "b {targets}"]:
    """Draw relative rotations in degrees, one row per scene, uniform in the scene's bin of :data:`ROTATION_BINS`."""
    low = torch.tensor([ROTATION_BINS[k] for k in bins])[:, None]
    high = torch.tensor([ROTATION_BINS[k + 1] for k in bins])[:, None]
    return low + (high - low) * torch.rand(len(bins), targets, generator=generator)


def make_views(
    shapes: Shapes,
    rotation: Float[Tensor, "b targets"],
    *,
    size: int,
    n_ref: int,
    generator: torch.Generator,
    supersample: int = 1,
    device: torch.device | str = "cpu",
    only: slice = slice(None),
) -> Views:
    """Photograph rooms: view 0, then one view per requested rotation to it, all square.

    Args:
        shapes: The rooms, on the CPU.
        rotation: Relative rotation to view 0, in degrees.
        size: Side of the images, in pixels.
        n_ref: Number of reference views.
        generator: On the CPU.
        supersample: Rays per pixel side for the colour.
        device: Where to cast the rays and leave the result.
        only: Rooms to photograph; cameras are drawn for all, so that a part is the same as in the whole.
    """
    world_to_cam, field = draw_cameras(rotation, generator=generator)
    world_to_cam, field = keep_inside(world_to_cam, shapes.room)[only], field[only]
    shapes = shapes.rooms(only)
    focal = size / 2 / torch.tan(torch.deg2rad(field) / 2)
    intrinsics = torch.diag_embed(torch.stack([focal, focal, torch.ones_like(focal)], dim=-1))
    intrinsics[..., :2, 2] = size / 2
    world_to_cam, intrinsics = world_to_cam.to(device), intrinsics.to(device)
    image, points = render(shapes.to(device), intrinsics, world_to_cam, (size, size), supersample=supersample)
    valid = torch.ones(image[:, :, 0].shape, dtype=torch.bool, device=image.device)
    return Views(image, intrinsics, world_to_cam, points, valid, n_ref)
