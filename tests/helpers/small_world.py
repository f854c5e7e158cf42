"""A known scene to write in the layout of each data set: rendered exactly, with cameras that give mistakes away.

The cameras roll against each other (an offset of half a pixel that two upright cameras share cannot be seen), images
are wider than high, their principal point lies off the centre and their focal lengths differ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from probe.geometry import camera_centre, pixel_centres, project
from probe.scenes.recordings import Recording, load_views
from probe.scenes.shapes import WORLDS, casting, draw_cameras, draw_shapes
from probe.scenes.shapes.casting import Shapes
from probe.views import Views

SIZE = (36, 48)
CENTRE = (-1.7, 1.2)  # of the principal point, off the image's centre, in pixels
FOCAL = (38.0, 41.0)


@dataclass(frozen=True, kw_only=True)
class World:
    """Hold a room, its cameras and what they see."""

    shapes: Shapes
    world_to_cam: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 3 3"]
    size: tuple[int, int]
    image: Float[Tensor, "f 3 height width"]
    depth: Float[Tensor, "f height width"]


def make_world(
    count: int = 6,
    *,
    size: tuple[int, int] = SIZE,
    focal: tuple[float, float] = FOCAL,
    centre: tuple[float, float] = CENTRE,
    seed: int = 3,
    roll: float = 40.0,
    turn: float = 6.0,
) -> World:
    """Draw a room and photograph it from ``count`` places, each turned and rolled against the one before."""
    generator = torch.Generator().manual_seed(seed)
    shapes = draw_shapes(1, world=WORLDS["shapes-v1"], generator=generator)  # texture enough for SIFT
    rotation = turn * torch.arange(1, count, dtype=torch.float32)[None]
    world_to_cam = rolled(draw_cameras(rotation, generator=generator)[0][0], roll)
    intrinsics = torch.tensor(
        [[focal[0], 0, size[1] / 2 + centre[0]], [0, focal[1], size[0] / 2 + centre[1]], [0, 0, 1]]
    )
    intrinsics = intrinsics.repeat(count, 1, 1)
    image, points = photograph(shapes, world_to_cam, rays(intrinsics, size))
    depth = (world_to_cam[:, 2, :3, None, None] * points).sum(1) + world_to_cam[:, 2, 3, None, None]
    return World(shapes=shapes, world_to_cam=world_to_cam, intrinsics=intrinsics, size=size, image=image, depth=depth)


def rolled(world_to_cam: Float[Tensor, "f 4 4"], roll: float) -> Float[Tensor, "f 4 4"]:
    """Roll each camera by 0, 1, 2, 0, 1, 2, ... times ``roll`` degrees about its axis."""
    turned = world_to_cam.clone()
    for index in range(len(turned)):
        angle = math.radians(roll * (index % 3))
        about = torch.eye(4)
        about[0, 0], about[0, 1] = math.cos(angle), -math.sin(angle)
        about[1, 0], about[1, 1] = math.sin(angle), math.cos(angle)
        turned[index] = about @ turned[index]
    return turned


def rays(intrinsics: Float[Tensor, "f 3 3"], size: tuple[int, int]) -> Float[Tensor, "f height width 3"]:
    """Give camera rays of depth 1 through every pixel's centre, written out: (x - cx) / fx, (y - cy) / fy, 1."""
    xy = pixel_centres(*size)
    fx, fy, cx, cy = (intrinsics[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (xy[..., 0] - cx) / fx, (xy[..., 1] - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def photograph(
    shapes: Shapes, world_to_cam: Float[Tensor, "f 4 4"], local: Float[Tensor, "f height width 3"]
) -> tuple[Float[Tensor, "f 3 height width"], Float[Tensor, "f 3 height width"]]:
    """Cast camera rays; give colours and world points."""
    count, height, width, _ = local.shape
    direction = (local @ world_to_cam[:, None, :3, :3]).reshape(1, -1, 3)
    origin = camera_centre(world_to_cam)[:, None, None].expand(count, height, width, 3).reshape(1, -1, 3)
    hits = casting.cast(shapes, origin, direction)
    points = origin + hits.distance[..., None] * direction
    colours = casting._colours(shapes, points, hits)
    return tuple(values.reshape(count, height, width, 3).movedim(-1, 1) for values in (colours, points))


def square_intrinsics(world: World, size: int) -> Float[Tensor, "f 3 3"]:
    """Give the intrinsics of the centred square at another size, written out by hand."""
    height, width = world.size
    side = min(height, width)
    moved = world.intrinsics.clone()
    moved[:, 0, 2] -= (width - side) // 2
    moved[:, 1, 2] -= (height - side) // 2
    moved[:, :2] *= size / side
    return moved


def square_image(world: World, size: int) -> Float[Tensor, "f 3 {size} {size}"]:
    """Give the images' centred squares, averaged over whole blocks of pixels."""
    height, width = world.size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    step = side // size
    blocks = world.image[..., top : top + side, left : left + side].unfold(-2, step, step).unfold(-2, step, step)
    return blocks.mean((-2, -1))


def landings(views: Views) -> Float[Tensor, "f f p 2"]:
    """Give where each view's points land in each view, in pixels."""
    points = views.point_map[0].flatten(-2).mT
    count = views.count
    cameras = [
        (views.intrinsics[0, j].expand(count, 3, 3), views.world_to_cam[0, j].expand(count, 4, 4)) for j in range(count)
    ]
    return torch.stack([project(points, *camera)[0] for camera in cameras], dim=1)


def true_views(world: World, size: int, frames: Sequence[int]) -> Views:
    """Cast the true square cameras: points of the very pixels that a loader gives."""
    chosen = list(frames)
    intrinsics, world_to_cam = square_intrinsics(world, size)[chosen], world.world_to_cam[chosen]
    _, points = photograph(world.shapes, world_to_cam, rays(intrinsics, (size, size)))
    return Views(
        image=square_image(world, size)[chosen][None],
        intrinsics=intrinsics[None],
        world_to_cam=world_to_cam[None],
        point_map=points[None],
        valid=torch.ones(1, len(chosen), size, size, dtype=torch.bool),
        n_ref=1,
    )


def assert_lands(
    recording: Recording,
    world: World,
    *,
    frames: Sequence[int] | None = None,
    thirds: Sequence[int] = (1, 3),
    pixels: float = 0.05,
    colour: float = 0.004,
    missing: float = 0.05,
    points: bool = True,
) -> None:
    """Assert that every pixel's point lands where the true one does, in every other view, and shows its colour.

    Args:
        recording: What the loader made; frame ``k`` of it is the world's frame ``frames[k]``.
        world: What was written.
        frames: See ``recording``.
        thirds: Factors that the square's side is divided by; odd, so that the nearest pixel is the block's middle.
        pixels: Largest distance of a landing from the true one, in pixels of the view.
        colour: Largest difference of a colour.
        missing: Largest share of pixels without depth.
        points: Whether there is depth; without it only cameras and colours are compared.
    """
    frames = list(frames if frames is not None else range(len(world.image)))
    side = min(world.size)
    for factor in thirds:
        expected = true_views(world, side // factor, frames)
        views = load_views(recording, range(len(frames)), size=side // factor, n_ref=1)
        assert (views.image - expected.image).abs().max() < colour
        torch.testing.assert_close(views.intrinsics, expected.intrinsics, rtol=0, atol=1e-3)
        if not points:
            assert not views.valid.any()
            views = Views(**{**vars(views), "point_map": expected.point_map, "valid": expected.valid})
            # the true points, moved to the loader's world by its own first camera
            relative = torch.linalg.inv(views.world_to_cam[0, 0]) @ expected.world_to_cam[0, 0]
            moved = torch.einsum("ij,fjhw->fihw", relative[:3, :3], expected.point_map[0]) + relative[:3, 3, None, None]
            views = Views(**{**vars(views), "point_map": moved[None]})
        assert (~views.valid).float().mean() <= missing
        off = (landings(views) - landings(expected)).abs().amax(-1)
        counted = views.valid[0].flatten(1)[:, None].expand_as(off) & off.isfinite()
        assert counted.float().mean() > 0.5
        assert off[counted].max() < pixels


WORLD_SIDE = min(SIZE)


def carried(world: World, offset: Float[Tensor, " 3"]) -> World:
    """Carry a world and its cameras away, in double precision; what they see stays the same."""
    moved = world.world_to_cam.double().clone()
    left, _, right = torch.linalg.svd(moved[:, :3, :3])
    moved[:, :3, :3] = left @ right
    moved[:, :3, 3] -= moved[:, :3, :3] @ offset.double()
    return replace(world, world_to_cam=moved)


def recording_of(world: World, name: str = "room") -> Recording:
    """Give the world as a recording in memory."""
    count = len(world.image)
    return Recording(
        name=name,
        names=tuple(str(index) for index in range(count)),
        sizes=(world.size,) * count,
        world_to_cam=world.world_to_cam,
        intrinsics=world.intrinsics,
        colour=world.image.__getitem__,
        depth=world.depth.__getitem__,
    )
