"""Procedural rooms of textured solids, ray cast in closed form: exact depth, point maps and visibility, from a seed.

Every ray hits something, so point maps have no holes. Lengths are scene units (a room is about six wide).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import camera_centre
from probe.scenes.names import Difficulty
from probe.scenes.shapes.casting import ROOM_FACES, Shapes, render
from probe.views import Views

ROTATION_BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
WAVES = 4  # cosines per octave
MARGIN = 0.05  # scene units: from the wall to a camera that was moved inside
TILE = 0.5  # scene units: side of the repeated cube of texture in "repetitive"
# spheres, boxes, cylinders, bars; ring on which they stand (scene units)
OBJECTS: dict[Difficulty, tuple[int, int, int, int]] = {
    "plain": (2, 2, 1, 1),
    "cluttered": (4, 5, 4, 5),
    "repetitive": (2, 2, 1, 1),
    "textureless": (2, 2, 1, 1),
    "fine": (2, 2, 1, 1),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Which textures a version of the rooms draws; all else is the same in every version.

    Attributes:
        prefix: Start of its scenes' names, so that no two versions share a name.
        octaves: Spatial frequency, in coarse ones, to the largest colour amplitude of each cosine.
        wall_colours: Range of the base colours of walls, in [0, 1].
        object_colours: Range of the base colours of objects, in [0, 1].
        one_wall_colour: Whether the six walls of a room share one base colour, so that unseen ones can be guessed.
    """

    prefix: str
    octaves: Mapping[float, float]
    wall_colours: tuple[float, float]
    object_colours: tuple[float, float]
    one_wall_colour: bool


FINE_OCTAVES = {1.0: 0.2, 3.0: 0.2, 8.0: 0.1}
"""Of "fine", and of "repetitive", whose tiles are too small for a coarse wave."""
WORLDS = {
    "shapes": World(
        prefix="v2-",
        octaves={1.0: 0.3},
        wall_colours=(0.25, 0.75),
        object_colours=(0.05, 0.95),
        one_wall_colour=True,
    ),
    "shapes-v1": World(
        prefix="",
        octaves=FINE_OCTAVES,
        wall_colours=(0.25, 0.75),
        object_colours=(0.25, 0.75),
        one_wall_colour=False,
    ),
}
"""Versions of the rooms by the name that ``--scenes`` takes; in shapes-v1 "fine" equals "plain"."""


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


def _base_colours(generator: torch.Generator, b: int, objects: int, world: World) -> Float[Tensor, "b surfaces 3"]:
    ranges = torch.tensor([world.wall_colours] * ROOM_FACES + [world.object_colours] * objects)
    low, high = ranges[:, :1], ranges[:, 1:]
    base = low + (high - low) * torch.rand(b, ROOM_FACES + objects, 3, generator=generator)
    if world.one_wall_colour:
        base[:, :ROOM_FACES] = base[:, :1].clone()
    return base


def _textures(
    generator: torch.Generator, b: int, objects: int, difficulty: Difficulty, world: World
) -> dict[str, Tensor]:
    """Draw a solid texture per surface: a base colour and cosines per octave, so that points can be told apart."""
    surfaces = ROOM_FACES + objects
    octaves = FINE_OCTAVES if difficulty in ("fine", "repetitive") else world.octaves
    coarse = torch.tensor([1.25] * ROOM_FACES + [2.5] * objects)  # rad per unit, standard deviation
    scale = torch.stack([factor * coarse for factor in octaves for _ in range(WAVES)], dim=-1)
    strength = torch.tensor([height for height in octaves.values() for _ in range(WAVES)])
    count = len(octaves) * WAVES
    wave = torch.randn(b, surfaces, count, 3, generator=generator) * scale[..., None]
    amplitude = strength[:, None] * _uniform(generator, -1, 1, b, surfaces, count, 3)
    texture = {
        "base": _base_colours(generator, b, objects, world),
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


def draw_shapes(
    b: int, *, world: World = WORLDS["shapes"], difficulty: Difficulty = "plain", generator: torch.Generator
) -> Shapes:
    """Draw rooms with objects on a ring around their middle.

    Args:
        b: Number of rooms.
        world: Version of the rooms, a value of :data:`WORLDS`.
        difficulty: plain; cluttered (many occlusions); repetitive (one tiled texture); textureless (shading only); fine
            (texture in three octaves).
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
        **_textures(generator, b, spheres + boxes + cylinders + bars, difficulty, world),
    )


@dataclass(frozen=True, kw_only=True)
class Orbit:
    """Cameras without roll on a sphere, looking at its middle (z of the world is up), and what they see.

    Attributes:
        azimuth: In radians.
        elevation: In radians.
        radius: In scene units.
        middle: What each looks at.
        field: Horizontal field of view in degrees.
    """

    azimuth: Float[Tensor, "b f"]
    elevation: Float[Tensor, "b f"]
    radius: Float[Tensor, "b f"]
    middle: Float[Tensor, "b f 3"]
    field: Float[Tensor, "b f"]

    @property
    def world_to_cam(self) -> Float[Tensor, "b f 4 4"]:
        """Return the cameras."""
        return _look_at(self.azimuth, self.elevation, self.radius, self.middle)


def draw_cameras(
    rotation: Float[Tensor, "b targets"], *, generator: torch.Generator
) -> tuple[Float[Tensor, "b f 4 4"], Float[Tensor, "b f"]]:
    """Draw cameras as :func:`draw_orbit`: world_to_cam, and the horizontal field of view in degrees."""
    orbit = draw_orbit(rotation, generator=generator)
    return orbit.world_to_cam, orbit.field


def draw_orbit(rotation: Float[Tensor, "b targets"], *, generator: torch.Generator) -> Orbit:
    """Draw cameras that look at the middle of the room; view 0, then one per requested rotation relative to it.

    Cameras without roll, at elevations e0 and e1, whose azimuths differ by a, are rotated against each other by r with
    ``1 + 2 cos r = cos a (1 + cos(e1 - e0)) + cos(e1 - e0)``: this is solved for a. Where the elevations differ by more
    than r, the second one is moved.

    Args:
        rotation: Requested relative rotation to view 0, in degrees from 0 to 180.
        generator: On the CPU.

    Returns:
        The cameras; the field of view is 50 to 60 degrees, one per scene, for all its views.
    """
    b, targets = rotation.shape
    angle = torch.deg2rad(rotation)
    first = torch.deg2rad(_uniform(generator, 15, 40, b, 1))
    other = torch.deg2rad(_uniform(generator, 15, 40, b, targets))
    difference = torch.clamp(other - first, min=-angle, max=angle)
    cosine = (1 + 2 * angle.cos() - difference.cos()) / (1 + difference.cos())
    side = torch.where(torch.rand(b, targets, generator=generator) < 0.5, -1.0, 1.0)
    start = _uniform(generator, 0, 2 * math.pi, b, 1)
    azimuth = torch.cat([start, start + side * cosine.clamp(-1, 1).acos()], dim=1)
    elevation = torch.cat([first, first + difference], dim=1)
    radius = _uniform(generator, 2.2, 2.7, b, targets + 1)
    middle = torch.tensor([0.0, 0.0, 0.3]) + _uniform(generator, -0.1, 0.1, b, targets + 1, 3)
    field = repeat(_uniform(generator, 50, 60, b), "b -> b f", f=targets + 1)
    return Orbit(azimuth=azimuth, elevation=elevation, radius=radius, middle=middle, field=field)


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


def keep_inside(world_to_cam: Float[Tensor, "b f 4 4"], room: Float[Tensor, "b 3"]) -> Float[Tensor, "b f 4 4"]:
    """Move cameras that stand outside of their room (some 3 in 100,000) back inside; the others stay bit for bit.

    Args:
        world_to_cam: The cameras; none is turned.
        room: Half sizes; the floor is z = 0.
    """
    middle, half = F.pad(room[:, None, 2:], (2, 0)), room[:, None]
    offset = camera_centre(world_to_cam) - middle
    outside = (offset.abs() >= half).any(-1, keepdim=True)
    centre = middle + offset.clamp(MARGIN - half, half - MARGIN)
    translation = -einsum(world_to_cam[..., :3, :3], centre, "b f i j, b f j -> b f i")
    placed = world_to_cam.clone()
    placed[..., :3, 3] = torch.where(outside, translation, world_to_cam[..., :3, 3])
    return placed


# --- views -----------------------------------------------------------------------------------------------------------


def draw_rotations(bins: list[int], targets: int, *, generator: torch.Generator) -> Float[Tensor, "b {targets}"]:
    """Draw relative rotations in degrees, one row per scene, uniform in the scene's bin of :data:`ROTATION_BINS`."""
    low = torch.tensor([ROTATION_BINS[k] for k in bins])[:, None]
    high = torch.tensor([ROTATION_BINS[k + 1] for k in bins])[:, None]
    return low + (high - low) * torch.rand(len(bins), targets, generator=generator)


def square_intrinsics(field: Float[Tensor, "b f"], size: int) -> Float[Tensor, "b f 3 3"]:
    """Return the intrinsics of square images from their field of view in degrees and their side in pixels."""
    focal = size / 2 / torch.tan(torch.deg2rad(field) / 2)
    intrinsics = torch.diag_embed(torch.stack([focal, focal, torch.ones_like(focal)], dim=-1))
    intrinsics[..., :2, 2] = size / 2
    return intrinsics


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
    world_to_cam, intrinsics = world_to_cam.to(device), square_intrinsics(field, size).to(device)
    image, points, _ = render(shapes.to(device), intrinsics, world_to_cam, (size, size), supersample=supersample)
    valid = torch.ones(image[:, :, 0].shape, dtype=torch.bool, device=image.device)
    return Views(image, intrinsics, world_to_cam, points, valid, n_ref)
