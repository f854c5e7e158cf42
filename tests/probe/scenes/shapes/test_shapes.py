import math
from dataclasses import fields, replace

import pytest
import torch
from einops import einsum, rearrange, reduce
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from probe.geometry import camera_centre, pixel_centres, point_map_to_depth, project, ray_directions, rotation_degrees
from probe.scenes import Request, open_scenes
from probe.scenes.shapes import (
    FINE_OCTAVES,
    OBJECTS,
    ROTATION_BINS,
    TILE,
    WAVES,
    WORLDS,
    Difficulty,
    draw_cameras,
    draw_rotations,
    draw_shapes,
    keep_inside,
    make_views,
)
from probe.scenes.shapes.casting import ROOM_FACES, Shapes, cast, first_distance, overlaps, render, visible_points
from probe.views import Views

SEEDS = st.integers(0, 2**31 - 1)
DIFFICULTIES: tuple[Difficulty, ...] = ("plain", "cluttered", "repetitive", "textureless", "fine")
laws = settings(max_examples=12, deadline=None)
CLOSE = {"rtol": 1e-5, "atol": 2e-5}  # single precision, lengths of a few units
SPHERE, BOX, BAR, CYLINDER = ROOM_FACES, ROOM_FACES + 1, ROOM_FACES + 2, ROOM_FACES + 3  # surfaces of hand_made()
TURN, LEAN = math.radians(45), math.radians(30)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hand_made() -> Shapes:
    """A 6 x 6 x 3 room: a sphere on +x, a box turned by 45 degrees on +y, a bar that leans by 30 on -x, a can on -y."""
    about_z = [[math.cos(TURN), math.sin(TURN), 0], [-math.sin(TURN), math.cos(TURN), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, math.cos(LEAN), math.sin(LEAN)], [0, -math.sin(LEAN), math.cos(LEAN)]]
    return Shapes(
        room=torch.tensor([[3.0, 3.0, 1.5]]),
        sphere_centre=torch.tensor([[[1.0, 0.0, 0.5]]]),
        sphere_radius=torch.tensor([[0.5]]),
        box_centre=torch.tensor([[[0.0, 1.0, 0.4], [-1.0, 0.0, 0.6]]]),
        box_from_world=torch.tensor([[about_z, about_x]]),
        box_half=torch.tensor([[[0.2, 0.2, 0.4], [0.05, 0.04, 0.6]]]),
        cylinder_centre=torch.tensor([[[0.0, -1.0, 0.5]]]),
        cylinder_radius=torch.tensor([[0.3]]),
        cylinder_half=torch.tensor([[0.5]]),
        base=torch.linspace(0.2, 0.8, 30).reshape(1, 10, 3),
        wave=torch.zeros(1, 10, 1, 3),
        phase=torch.zeros(1, 10, 1),
        amplitude=torch.zeros(1, 10, 1, 3),
        light=torch.tensor([[0.0, 0.0, 1.0]]),
    )


def ray(*values: float) -> Float[Tensor, "1 1 3"]:
    return torch.tensor([[values]], dtype=torch.float32)


def alone(shapes: Shapes, index: int) -> Shapes:
    values = {field.name: getattr(shapes, field.name) for field in fields(shapes)}
    return replace(shapes, **{k: v[index : index + 1] for k, v in values.items() if isinstance(v, Tensor)})


def photograph(seed: int, difficulty: Difficulty = "plain", *, b: int = 2, size: int = 24) -> tuple[Shapes, Views]:
    g = generator(seed)
    shapes = draw_shapes(b, difficulty=difficulty, generator=g)
    rotation = draw_rotations([k % 4 for k in range(b)], 2, generator=g)
    return shapes, make_views(shapes, rotation, size=size, n_ref=1, generator=g)


def rays_of(views: Views) -> tuple[Float[Tensor, "b p 3"], Float[Tensor, "b p 3"]]:
    xy = pixel_centres(*views.size).flatten(0, 1).expand(*views.intrinsics.shape[:2], -1, -1)
    direction = ray_directions(xy, views.intrinsics, views.world_to_cam)
    origin = camera_centre(views.world_to_cam)[:, :, None].expand_as(direction)
    return origin.flatten(1, 2), direction.flatten(1, 2)


def points_of(views: Views) -> Float[Tensor, "b f p 3"]:
    return rearrange(views.point_map, "b f c h w -> b f (h w) c")


# --- an independent reference: signed distances, negative within a solid (and outside of the room) -------------------


def beyond_box(local: Tensor, half: Tensor) -> Tensor:
    out = local.abs() - half
    return out.clamp(min=0).norm(dim=-1) + out.amax(-1).clamp(max=0)


def signed_distances(shapes: Shapes, points: Float[Tensor, "b p 3"]) -> Float[Tensor, "b p surfaces"]:
    """Distance to each surface, in double precision: six room faces, spheres, boxes, cylinders."""
    points = points.double()
    double = {f.name: getattr(shapes, f.name) for f in fields(shapes)}
    s = replace(shapes, **{name: v.double() for name, v in double.items() if isinstance(v, Tensor)})
    x, y, z = points.unbind(-1)
    wide, deep, high = s.room[:, None].unbind(-1)
    faces = [x + wide, wide - x, y + deep, deep - y, z, 2 * high - z]
    found = [torch.stack(faces, -1)]
    found.append((points[:, :, None] - s.sphere_centre[:, None]).norm(dim=-1) - s.sphere_radius[:, None])
    local = (s.box_from_world[:, None] @ (points[:, :, None] - s.box_centre[:, None])[..., None])[..., 0]
    found.append(beyond_box(local, s.box_half[:, None]))
    offset = points[:, :, None] - s.cylinder_centre[:, None]
    profile = torch.stack([offset[..., :2].norm(dim=-1), offset[..., 2]], -1)
    found.append(beyond_box(profile, torch.stack([s.cylinder_radius, s.cylinder_half], -1)[:, None]))
    return torch.cat(found, -1)


def nearest_on_the_way(shapes: Shapes, origin: Tensor, path: Tensor, steps: int) -> Float[Tensor, "b p"]:
    """The least signed distance on a march from the origin to just before the path's end."""
    shares = torch.linspace(0, 0.998, steps)[:, None]
    march = rearrange(origin[:, :, None] + shares * path[:, :, None], "b p steps c -> b (p steps) c")
    return reduce(signed_distances(shapes, march), "b (p steps) surfaces -> b p", "min", steps=steps)


# --- casting, by hand ------------------------------------------------------------------------------------------------

DIAGONAL = 0.5**0.5
CASTS = {
    # name: origin, direction, ray parameter, surface, normal
    "sphere": ((-0.5, 0, 0.5), (1, 0, 0), 1.0, SPHERE, (-1, 0, 0)),
    "sphere, longer ray": ((-0.5, 0, 0.5), (4, 0, 0), 0.25, SPHERE, (-1, 0, 0)),
    "sphere from above": ((1, 0, 2), (0, 0, -1), 1.0, SPHERE, (0, 0, 1)),
    "sphere 3-4-5": ((-0.5, 0.3, 0.5), (1, 0, 0), 1.1, SPHERE, (-0.8, 0.6, 0)),
    "sphere just within": ((-0.5, 0.4999, 0.5), (1, 0, 0), 1.49, SPHERE, (-0.02, 0.9998, 0)),
    "sphere grazed is missed": ((-0.5, 0.5, 0.5), (1, 0, 0), 3.5, 1, (-1, 0, 0)),
    "sphere just without": ((-0.5, 0.5001, 0.5), (1, 0, 0), 3.5, 1, (-1, 0, 0)),
    "sphere behind": ((2, 0, 0.5), (1, 0, 0), 1.0, 1, (-1, 0, 0)),
    "box": ((-1, 1.1, 0.4), (1, 0, 0), 1 - (0.4 * DIAGONAL - 0.1), BOX, (-DIAGONAL, DIAGONAL, 0)),
    "box, the other face": ((-1, 0.9, 0.4), (1, 0, 0), 1 - (0.4 * DIAGONAL - 0.1), BOX, (-DIAGONAL, -DIAGONAL, 0)),
    "box square on": ((-DIAGONAL, 1 - DIAGONAL, 0.4), (DIAGONAL, DIAGONAL, 0), 0.8, BOX, (-DIAGONAL, -DIAGONAL, 0)),
    "box from above": ((0.1, 1, 2), (0, 0, -1), 1.2, BOX, (0, 0, 1)),
    "box just within": ((-1, 1.282, 0.4), (1, 0, 0), 0.9992, BOX, (-DIAGONAL, DIAGONAL, 0)),
    "box just without": ((-1, 1.284, 0.4), (1, 0, 0), 4.0, 1, (-1, 0, 0)),
    "box behind": ((1, 1, 0.4), (1, 0, 0), 2.0, 1, (-1, 0, 0)),
    "over the box": ((-1, 1, 0.801), (1, 0, 0), 4.0, 1, (-1, 0, 0)),
    "bar": ((-1, -1, 0.6), (0, 1, 0), 1 - 0.04 / math.cos(LEAN), BAR, (0, -math.cos(LEAN), -math.sin(LEAN))),
    "bar from its thin side": ((-2, 0, 0.6), (1, 0, 0), 0.95, BAR, (-1, 0, 0)),
    "bar stands askew": ((-2, 0, 1.05), (1, 0, 0), 5.0, 1, (-1, 0, 0)),
    "bar higher up": ((-2, -0.3 * math.tan(LEAN), 0.9), (1, 0, 0), 0.95, BAR, (-1, 0, 0)),
    "can": ((-1, -1, 0.5), (1, 0, 0), 0.7, CYLINDER, (-1, 0, 0)),
    "can 3-4-5": ((-1, -0.82, 0.5), (1, 0, 0), 0.76, CYLINDER, (-0.8, 0.6, 0)),
    "can from above": ((0.1, -1, 2), (0, 0, -1), 1.0, CYLINDER, (0, 0, 1)),
    "can through its lid": ((-1, -1, 1.5), (1, 0, -0.5), 1.0, CYLINDER, (0, 0, 1)),
    "can below its lid": ((-1, -1, 1.5), (1, 0, -0.9), 0.7, CYLINDER, (-1, 0, 0)),
    "can grazed is missed": ((-1, -0.7, 0.5), (1, 0, 0), 4.0, 1, (-1, 0, 0)),
    "over the can": ((-1, -1, 1.001), (1, 0, 0), 4.0, 1, (-1, 0, 0)),
    "beside the can, down": ((0.31, -1, 2), (0, 0, -1), 2.0, 4, (0, 0, 1)),
    "wall -x": ((0, 0, 1.5), (-1, 0, 0), 3.0, 0, (1, 0, 0)),
    "wall +x": ((0, 0, 1.5), (1, 0, 0), 3.0, 1, (-1, 0, 0)),
    "wall -y": ((0, 0, 1.5), (0, -1, 0), 3.0, 2, (0, 1, 0)),
    "wall +y": ((0, 0, 1.5), (0, 1, 0), 3.0, 3, (0, -1, 0)),
    "floor": ((0, 0, 1.5), (0, 0, -1), 1.5, 4, (0, 0, 1)),
    "ceiling": ((0, 0, 1.5), (0, 0, 1), 1.5, 5, (0, 0, -1)),
    "wall before floor": ((0, 0, 1.6), (3, 0, -1.5), 1.0, 1, (-1, 0, 0)),
    "floor before wall": ((0, -2, 1.4), (3, 0, -1.5), 14 / 15, 4, (0, 0, 1)),
}


@pytest.mark.parametrize("name", CASTS)
def test_cast_known(name: str):
    origin, direction, distance, surface, normal = CASTS[name]
    hits = cast(hand_made(), ray(*origin), ray(*direction))
    assert hits.surface.item() == surface
    assert hits.distance.item() == pytest.approx(distance, abs=2e-4)
    torch.testing.assert_close(hits.normal, ray(*normal), rtol=0, atol=2e-4)


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_points_lie_on_their_surface_and_nothing_is_closer(seed: int, difficulty: Difficulty):
    shapes = draw_shapes(2, difficulty=difficulty, generator=generator(seed))
    world_to_cam, _ = draw_cameras(torch.full((2, 1), 60.0), generator=generator(seed))
    origin = camera_centre(world_to_cam)[:, :1].expand(-1, 250, -1)
    direction = torch.randn(2, 250, 3, generator=generator(seed)) - 0.5 * origin  # mostly towards the middle
    hits = cast(shapes, origin, direction)
    end = signed_distances(shapes, origin + hits.distance[..., None] * direction)
    there = end.gather(-1, hits.surface[..., None])[..., 0]
    torch.testing.assert_close(there, torch.zeros_like(there), rtol=0, atol=2e-5)
    # march: no step lies inside of a solid, or out of the room
    assert nearest_on_the_way(shapes, origin, hits.distance[..., None] * direction, 150).min() > -2e-5
    assert hits.surface.min() < ROOM_FACES
    assert hits.surface.max() >= ROOM_FACES  # solids are met, too


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_normals_are_the_gradient_of_the_distance_and_face_the_camera(seed: int, difficulty: Difficulty):
    shapes, views = photograph(seed, difficulty, b=1, size=12)
    origin, direction = rays_of(views)
    hits = cast(shapes, origin, direction)
    torch.testing.assert_close(hits.normal.norm(dim=-1), torch.ones(1, hits.surface.shape[1]), **CLOSE)
    assert ((hits.normal * direction).sum(-1) < 0).all()
    points = (origin + hits.distance[..., None] * direction).double()
    outside = points + 1e-3 * hits.normal.double()  # off the surface, so that edges of boxes have a gradient
    slope = []
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-5
        change = signed_distances(shapes, outside + step) - signed_distances(shapes, outside - step)
        slope.append(change.gather(-1, hits.surface[..., None])[..., 0] / 2e-5)
    torch.testing.assert_close(torch.stack(slope, -1).float(), hits.normal, rtol=0, atol=3e-3)


def test_first_distance_is_that_of_cast():
    shapes, views = photograph(3)
    origin, direction = rays_of(views)
    distance, surface = first_distance(shapes, origin, direction)
    hits = cast(shapes, origin, direction)
    assert torch.equal(distance, hits.distance)
    assert torch.equal(surface, hits.surface)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_draw_shapes_counts_and_stands_on_the_floor():
    for difficulty, (spheres, boxes, cylinders, bars) in OBJECTS.items():
        shapes = draw_shapes(50, difficulty=difficulty, generator=generator(1))
        assert shapes.sphere_centre.shape == (50, spheres, 3)
        assert shapes.box_half.shape == (50, boxes + bars, 3)
        assert shapes.cylinder_half.shape == (50, cylinders)
        assert shapes.base.shape == (50, ROOM_FACES + spheres + boxes + cylinders + bars, 3)
        torch.testing.assert_close(shapes.sphere_centre[..., 2], shapes.sphere_radius)
        torch.testing.assert_close(shapes.box_centre[..., 2], shapes.box_half[..., 2])
        torch.testing.assert_close(shapes.cylinder_centre[..., 2], shapes.cylinder_half)
        up = shapes.box_from_world[..., 2, 2]  # cosine of the lean
        torch.testing.assert_close(up[:, :boxes], torch.ones(50, boxes))
        assert (up[:, boxes:] >= math.cos(0.6) - 1e-6).all()
        assert (up[:, boxes:] < 0.99).any()
        torch.testing.assert_close(shapes.light.norm(dim=-1), torch.ones(50))


@laws
@given(seed=SEEDS)
def test_boxes_are_turned_without_being_bent(seed: int):
    turns = draw_shapes(4, difficulty="cluttered", generator=generator(seed)).box_from_world
    identity = torch.eye(3).expand_as(turns)
    torch.testing.assert_close(turns @ turns.mT, identity, **CLOSE)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(turns.shape[:2]), **CLOSE)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_solids_stay_in_the_room(difficulty: Difficulty):
    shapes = draw_shapes(2000, difficulty=difficulty, generator=generator(7))
    reach = torch.cat(
        [
            shapes.sphere_centre[..., :2].norm(dim=-1) + shapes.sphere_radius,
            shapes.box_centre[..., :2].norm(dim=-1) + shapes.box_half.norm(dim=-1),
            shapes.cylinder_centre[..., :2].norm(dim=-1) + shapes.cylinder_radius,
        ],
        dim=1,
    )
    assert (reach < shapes.room[:, :2].amin(-1, keepdim=True)).all()
    top = torch.cat([shapes.sphere_radius, shapes.box_half.norm(dim=-1), shapes.cylinder_half], dim=1)
    assert (2 * top < 2 * shapes.room[:, 2:]).all()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_cameras_stand_in_the_room_and_in_no_solid(difficulty: Difficulty):
    for seed in range(12):
        g = generator(seed)
        shapes = draw_shapes(500, difficulty=difficulty, generator=g)
        world_to_cam, _ = draw_cameras(120 * torch.rand(500, 4, generator=g), generator=g)
        placed = keep_inside(world_to_cam, shapes.room)
        assert signed_distances(shapes, camera_centre(placed)).min() > 0


def test_keep_inside_known():
    shapes = hand_made()
    world_to_cam, _ = draw_cameras(torch.tensor([[40.0, 70.0]]), generator=generator(0))
    assert torch.equal(keep_inside(world_to_cam, shapes.room), world_to_cam)  # bit for bit: they stand inside
    turn = world_to_cam[..., :3, :3]
    centre = torch.tensor([[[2.9, 3.02, 1.0], [-3.0, 0, 2.99], [3.1, -3.2, 3.3]]])
    world_to_cam[..., :3, 3] = -einsum(turn, centre, "b f i j, b f j -> b f i")
    placed = keep_inside(world_to_cam, shapes.room)
    expected = torch.tensor([[[2.9, 2.95, 1.0], [-2.95, 0, 2.95], [2.95, -2.95, 2.95]]])
    torch.testing.assert_close(camera_centre(placed), expected, **CLOSE)
    assert torch.equal(placed[..., :3, :3], turn)
    assert torch.equal(placed[..., 3, :], world_to_cam[..., 3, :])


def test_views_are_photographed_from_inside(monkeypatch: pytest.MonkeyPatch):
    rotation = torch.tensor([[40.0, 70.0]])
    drawn, field = draw_cameras(rotation, generator=generator(0))
    drawn[0, 1, :3, 3] = -drawn[0, 1, :3, :3] @ torch.tensor([3.02, 0.0, 1.0])  # behind the wall
    monkeypatch.setattr("probe.scenes.shapes.draw_cameras", lambda rotation, generator: (drawn, field))
    views = make_views(hand_made(), rotation, size=1, n_ref=1, generator=generator(0))
    assert signed_distances(hand_made(), camera_centre(views.world_to_cam)).min() > 0
    assert torch.equal(views.world_to_cam[0, [0, 2]], drawn[0, [0, 2]])


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 10.0, 24.0, 30.0, 60.0, 90.0, 119.0, 120.0, 150.0, 180.0])
def test_draw_cameras_turns_by_the_request(degrees: float):
    world_to_cam, _ = draw_cameras(torch.full((200, 3), degrees), generator=generator(5))
    turned = rotation_degrees(world_to_cam[:, :1].expand(-1, 3, -1, -1), world_to_cam[:, 1:])
    torch.testing.assert_close(turned, torch.full((200, 3), degrees), rtol=0, atol=0.02)
    down = torch.rad2deg(torch.asin(world_to_cam[..., 2, 2]))  # the optical axis points down by the elevation
    assert (down <= -15 + 1e-3).all()
    assert (down >= -40 - 1e-3).all()
    differs = (down[:, 1:] - down[:, :1]).abs()
    assert (differs <= degrees + 1e-3).all()
    if degrees > 25:  # then elevations are free
        assert differs.mean() > 5
        assert differs.max() > 20


def test_draw_cameras_known():
    world_to_cam, field = draw_cameras(torch.tensor([[60.0, 90.0]] * 300), generator=generator(2))
    assert world_to_cam.shape == (300, 3, 4, 4)
    rotation = world_to_cam[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), **CLOSE)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(300, 3), **CLOSE)
    torch.testing.assert_close(rotation[..., 0, 2], torch.zeros(300, 3))  # no roll: the right is level
    assert (rotation[..., 1, 2] < 0).all()  # and the image's down is the world's
    middle = torch.tensor([0.0, 0.0, 0.3]).expand(300, 3, 1, 3)
    local = (rotation @ middle.mT + world_to_cam[..., :3, 3:])[..., 0]
    assert (local[..., :2].abs() < 0.2).all()  # they look at the middle, from 2.2 to 2.7
    assert ((local[..., 2] > 2.0) & (local[..., 2] < 2.9)).all()
    assert ((field >= 50) & (field <= 60)).all()
    assert (field == field[:, :1]).all()
    assert field[:, 0].std() > 1


def test_views_turn_to_both_sides():
    world_to_cam, _ = draw_cameras(torch.full((100, 1), 60.0), generator=generator(0))
    centre = camera_centre(world_to_cam)[..., :2]
    side = torch.linalg.det(centre).sign()  # of the turn about the vertical
    assert 20 < (side > 0).sum() < 80


def test_draw_rotations_stay_in_their_bins():
    rotation = draw_rotations([0, 1, 2, 3] * 50, 4, generator=generator(0)).reshape(50, 4, 4)
    for k in range(4):
        assert (rotation[:, k] >= ROTATION_BINS[k]).all()
        assert (rotation[:, k] < ROTATION_BINS[k + 1]).all()
        assert rotation[:, k].max() - rotation[:, k].min() > 25


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_seed_gives_the_same_bytes_and_another_seed_others(difficulty: Difficulty):
    first, second, other = (photograph(seed, difficulty, size=8)[1] for seed in (4, 4, 5))
    for name in ("image", "point_map", "world_to_cam", "intrinsics", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.world_to_cam, other.world_to_cam)
    assert not torch.equal(first.image, other.image)
    assert not torch.equal(first.world_to_cam[0], first.world_to_cam[1])  # nor are the scenes of a batch alike


def test_drawing_leaves_the_global_random_state():
    before = torch.random.get_rng_state()
    photograph(1, size=4)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unknown_difficulty_is_refused():
    with pytest.raises(ValueError, match="unknown difficulty 'hard'; choose one of plain, cluttered, repetitive"):
        draw_shapes.__wrapped__(1, difficulty="hard", generator=generator(0))  # type: ignore[attr-defined]


# --- versions of the rooms -------------------------------------------------------------------------------------------

FIRST = {  # of the rooms before they had versions: base colour of a wall, means of |wave|, amplitude, and of an image
    "plain": ([0.564615, 0.620173, 0.275816], 6.117642, 0.006057, 0.443464),
    "cluttered": ([0.493887, 0.536443, 0.379295], 7.037235, -0.000171, 0.423556),
    "repetitive": ([0.564615, 0.620173, 0.275816], 13.788100, 0.019110, 0.395529),
    "textureless": ([0.564615, 0.620173, 0.275816], 6.117642, 0.0, 0.417351),
    "fine": ([0.564615, 0.620173, 0.275816], 6.117642, 0.006057, 0.443464),
}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_first_version_is_what_it_was(difficulty: Difficulty):
    shapes = draw_shapes(2, world=WORLDS["shapes-v1"], difficulty=difficulty, generator=generator(7))
    base, wave, amplitude, image = FIRST[difficulty]
    torch.testing.assert_close(shapes.base[0, 0], torch.tensor(base), rtol=0, atol=1e-6)
    assert float(shapes.wave.abs().mean()) == pytest.approx(wave, abs=1e-5)
    assert float(shapes.amplitude.mean()) == pytest.approx(amplitude, abs=1e-6)
    request = Request(groups=1, views=2, n_ref=1, size=16)
    views, _ = open_scenes(f"shapes-v1:{difficulty}", request).load(0)
    assert views.names == (f"{difficulty}-0-0000",)
    assert float(views.image.mean()) == pytest.approx(image, abs=1e-5)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", WORLDS)
def test_base_colours_keep_to_their_ranges_and_walls_share_one_where_the_version_says_so(
    name: str, difficulty: Difficulty
):
    world = WORLDS[name]
    base = draw_shapes(500, world=world, difficulty=difficulty, generator=generator(0)).base
    walls, objects = base[:, :ROOM_FACES], base[:, ROOM_FACES:]
    ranges = [(walls, world.wall_colours), (objects, world.object_colours)]
    if difficulty == "repetitive":  # the colour of a wall everywhere
        ranges = [(base, world.wall_colours)]
    for colours, (low, high) in ranges:
        assert float(colours.min()) == pytest.approx(low, abs=0.01)
        assert float(colours.max()) == pytest.approx(high, abs=0.01)
    shared = world.one_wall_colour or difficulty == "repetitive"
    assert torch.equal(walls, walls[:, :1].expand_as(walls)) == shared


@pytest.mark.parametrize("difficulty", ["plain", "cluttered", "fine"])
@pytest.mark.parametrize("name", WORLDS)
def test_waves_have_the_frequencies_and_amplitudes_of_their_octaves(name: str, difficulty: Difficulty):
    octaves = FINE_OCTAVES if difficulty == "fine" else WORLDS[name].octaves
    shapes = draw_shapes(2000, world=WORLDS[name], difficulty=difficulty, generator=generator(0))
    assert shapes.wave.shape[2] == WAVES * len(octaves)
    for k, (frequency, height) in enumerate(octaves.items()):
        here = slice(k * WAVES, (k + 1) * WAVES)
        walls, objects = shapes.wave[:, :ROOM_FACES, here], shapes.wave[:, ROOM_FACES:, here]
        assert float(walls.std()) == pytest.approx(1.25 * frequency, rel=0.02)
        assert float(objects.std()) == pytest.approx(2.5 * frequency, rel=0.02)
        assert float(shapes.amplitude[:, :, here].abs().max()) == pytest.approx(height, rel=0.01)


# --- views -----------------------------------------------------------------------------------------------------------


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_points_project_to_their_pixels(seed: int, difficulty: Difficulty):
    _, views = photograph(seed, difficulty, size=16)
    xy, depth = project(points_of(views), views.intrinsics, views.world_to_cam)
    expected = pixel_centres(16, 16).flatten(0, 1).expand_as(xy)
    torch.testing.assert_close(xy, expected, rtol=0, atol=1e-3)
    assert (depth > 0.1).all()
    torch.testing.assert_close(point_map_to_depth(views.point_map, views.world_to_cam).flatten(-2), depth, **CLOSE)


@laws
@given(seed=SEEDS, height=st.integers(1, 12), width=st.integers(1, 12))
def test_any_size_and_intrinsics_project_to_their_pixels(seed: int, height: int, width: int):
    shapes, views = photograph(seed, b=1)
    intrinsics = views.intrinsics.clone()
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 10.0, 14.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 0.4 * width, 0.7 * height
    image, points, _ = render(shapes, intrinsics, views.world_to_cam, (height, width))
    assert image.shape == points.shape == (1, 3, 3, height, width)
    xy, _ = project(rearrange(points, "b f c h w -> b f (h w) c"), intrinsics, views.world_to_cam)
    torch.testing.assert_close(xy, pixel_centres(height, width).flatten(0, 1).expand_as(xy), rtol=0, atol=1e-3)


def test_make_views_known():
    g = generator(3)
    shapes = draw_shapes(2, generator=g)
    rotation = torch.tensor([[20.0, 50.0, 80.0], [0.0, 100.0, 119.0]])
    views = make_views(shapes, rotation, size=10, n_ref=2, generator=g)
    assert views.image.shape == views.point_map.shape == (2, 4, 3, 10, 10)
    assert (views.n_ref, views.unit, views.names) == (2, None, ())
    assert views.valid.all()
    turned = rotation_degrees(views.world_to_cam[:, :1].expand(-1, 3, -1, -1), views.world_to_cam[:, 1:])
    torch.testing.assert_close(turned, rotation, rtol=0, atol=0.02)
    focal = views.intrinsics[..., 0, 0]
    assert ((focal > 5 / math.tan(math.radians(30))) & (focal < 5 / math.tan(math.radians(25)))).all()
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]) * focal[..., None, None]
    expected = expected + torch.tensor([[0.0, 0, 5], [0, 0, 5], [0, 0, 1]])
    torch.testing.assert_close(views.intrinsics, expected, rtol=0, atol=0)
    assert ((views.image >= 0) & (views.image <= 1)).all()


def test_a_batch_is_rendered_as_its_scenes_alone():
    shapes, views = photograph(11, b=3)
    for index in range(3):
        one = views.scene(index)
        image, points, _ = render(alone(shapes, index), one.intrinsics, one.world_to_cam, views.size)
        same = ((points - one.point_map).abs() < 1e-4).all(2)
        assert same.float().mean() > 0.998  # a pixel on an edge may fall to either side
        torch.testing.assert_close(image.movedim(2, -1)[same], one.image.movedim(2, -1)[same], rtol=0, atol=1e-4)


def test_supersampling_averages_colours_and_keeps_points():
    shapes, views = photograph(6, b=1, size=12)
    fine_intrinsics = views.intrinsics * torch.tensor([2.0, 2.0, 1.0])[:, None]
    fine, _, _ = render(shapes, fine_intrinsics, views.world_to_cam, (24, 24))
    image, points, _ = render(shapes, views.intrinsics, views.world_to_cam, (12, 12), supersample=2)
    mean = reduce(fine, "b f c (h i) (w j) -> b f c h w", "mean", i=2, j=2)
    torch.testing.assert_close(image, mean, **CLOSE)
    assert torch.equal(points, views.point_map)
    assert (image - views.image).abs().max() > 0.05  # edges are smoothed


def test_shapes_move_with_all_their_tensors():
    shapes = draw_shapes(1, difficulty="repetitive", generator=generator(0)).to("meta")
    assert all(value.is_meta for value in vars(shapes).values() if isinstance(value, Tensor))
    assert shapes.tile == TILE


# --- colours ---------------------------------------------------------------------------------------------------------


def plain_colours(shapes: Shapes, points: Tensor, surface: Tensor, normal: Tensor) -> Float[Tensor, "b p 3"]:
    """The formula, surface by surface and without tiles: cosines of the position itself, then shading."""
    colours = torch.full_like(points, torch.nan)
    for b in range(points.shape[0]):
        for k in surface[b].unique().tolist():
            here = surface[b] == k
            waves = (points[b, here] @ shapes.wave[b, k].T + shapes.phase[b, k]).cos() @ shapes.amplitude[b, k]
            shade = 0.75 + 0.25 * normal[b, here] @ shapes.light[b]
            colours[b, here] = ((shapes.base[b, k] + waves) * shade[:, None]).clamp(0, 1)
    return colours


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_colours_are_the_formula_and_continuous_across_tiles(difficulty: Difficulty):
    # for "repetitive" the reference knows no tiles: a jump at a tile's border would show as a difference
    for seed in range(3):
        shapes, views = photograph(seed, difficulty)
        origin, direction = rays_of(views)
        hits = cast(shapes, origin, direction)
        points = origin + hits.distance[..., None] * direction
        expected = plain_colours(shapes, points, hits.surface, hits.normal)
        image = rearrange(views.image, "b f c h w -> b (f h w) c")
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-4)


def test_textureless_has_one_colour_per_surface_and_direction():
    shapes, views = photograph(1, "textureless", b=1, size=32)
    hits = cast(shapes, *rays_of(views))
    image = rearrange(views.image, "b f c h w -> (b f h w) c")
    shade = 0.75 + 0.25 * (hits.normal[0] @ shapes.light[0])
    for k in hits.surface.unique().tolist():
        here = hits.surface[0] == k
        base = image[here] / shade[here, None]
        torch.testing.assert_close(base, shapes.base[0, k].expand_as(base), rtol=0, atol=1e-5)
        if k < ROOM_FACES:
            assert image[here].std(dim=0).max() < 1e-6
    _, plain = photograph(1, "plain", b=1, size=32)
    floor = rearrange(plain.image, "b f c h w -> (b f h w) c")[hits.surface[0] == 4]
    assert floor.std(dim=0).max() > 0.02  # the same room with texture: the same rays, other colours
    torch.testing.assert_close(plain.point_map, views.point_map, rtol=0, atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("difficulty", ["repetitive", "plain"])
def test_repetitive_repeats_with_the_tile(difficulty: Difficulty, axis: int):
    # a camera moved by a tile sees the same picture wherever it sees a point moved by that tile
    shapes, views = photograph(9, difficulty, b=4, size=32)
    shift = torch.zeros(4, 3, 3)
    shift[..., axis] = -TILE * camera_centre(views.world_to_cam)[..., axis].sign()  # towards the middle of the room
    moved = views.world_to_cam.clone()
    moved[..., :3, 3] -= einsum(moved[..., :3, :3], shift, "b f i j, b f j -> b f i")
    image, points, _ = render(shapes, views.intrinsics, moved, views.size)
    along = ((points - views.point_map - shift[..., None, None]).abs() < 1e-4).all(2)
    change = (image - views.image).abs().movedim(2, -1)[along]
    assert along.float().mean() > 0.1
    if difficulty == "repetitive":
        assert (change < 3e-4).all(-1).float().mean() > 0.999  # a pixel on an edge may fall to either face
        assert views.image.movedim(2, -1)[along].std(dim=0).min() > 0.02  # and there is something to repeat
    else:
        assert change.mean() > 0.02


def test_cluttered_hides_more_than_plain():
    hidden, jumps = {}, {}
    for difficulty in ("plain", "cluttered"):
        g = generator(0)
        shapes = draw_shapes(200, difficulty=difficulty, generator=g)
        views = make_views(shapes, torch.full((200, 1), 60.0), size=16, n_ref=1, generator=g)
        points, camera = points_of(views)[:, 0], (views.world_to_cam[:, 1], views.intrinsics[:, 1])
        xy, _ = project(points, camera[1], camera[0])
        framed = ((xy >= 0) & (xy < 16)).all(-1)
        hidden[difficulty] = (~visible_points(shapes, points, *camera, (16, 16)))[framed].float().mean().item()
        depth = point_map_to_depth(views.point_map, views.world_to_cam)
        jumps[difficulty] = ((depth[..., 1:] / depth[..., :-1]).log().abs() > 0.1).float().mean().item()
    assert hidden["cluttered"] > hidden["plain"] + 0.02  # a third of what is framed is hidden at 60 degrees in any case
    assert jumps["cluttered"] > 1.4 * jumps["plain"]


# --- visibility ------------------------------------------------------------------------------------------------------


def camera_at(*origin: float) -> Float[Tensor, "1 4 4"]:
    """A camera that looks along +x, with the world's z up."""
    world_to_cam = torch.eye(4)[None]
    world_to_cam[0, :3, :3] = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    world_to_cam[0, :3, 3] = -world_to_cam[0, :3, :3] @ torch.tensor(origin)
    return world_to_cam


WIDE = torch.tensor([[[10.0, 0, 10], [0, 10, 10], [0, 0, 1]]])  # 90 degrees for 20 pixels


def test_visible_points_known():
    points = {
        (0.5, 0, 0.5): True,  # the near side of the sphere
        (1.5, 0, 0.5): False,  # its far side
        (3, 0, 0.5): False,  # the wall behind it
        (3, 0, 1.6): True,  # the wall above it
        (1, 0.3, 0.9): False,  # on the sphere, just over its horizon
        (0.8, 0.1, 0.7): False,  # in the sphere
        (0.5, 0, 0.4): True,  # just before it
        (-0.8, 0, 0.5): False,  # beside the camera, not in front
        (-2, 0, 0.5): False,  # behind it
        (3, 2.9, 0.5): True,  # near the left border
        (0.5, 1.6, 0.5): False,  # out of the frame
    }
    seen = visible_points(hand_made(), torch.tensor([list(points)]), camera_at(-0.8, 0, 0.5), WIDE, (20, 20))
    assert seen[0].tolist() == list(points.values())


def test_visible_points_count_the_first_border_of_the_frame_and_not_the_last():
    # at a depth of 2 the column is 10 - 5 y and the row 10 - 5 (z - 1.5): exactly 0, 20, and just within
    shapes, camera = hand_made(), camera_at(0, 0, 1.5)
    points = torch.tensor([[[2.0, 2, 1.5], [2, -2, 1.5], [2, 1.999, 1.5], [2, -1.999, 1.5], [2, 0, 2.9], [2, 0, 1.3]]])
    assert visible_points(shapes, points, camera, WIDE, (20, 20))[0].tolist() == [True, False, True, True, True, True]
    # the size is (height, width)
    assert visible_points(shapes, points, camera, WIDE, (20, 11))[0].tolist() == [True, False, True, False, True, True]
    assert visible_points(shapes, points, camera, WIDE, (10, 20))[0].tolist() == [False] * 4 + [True, False]


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_visible_points_agree_with_depth_maps_away_from_edges(seed: int, difficulty: Difficulty):
    shapes, views = photograph(seed, difficulty, b=2, size=48)
    points = points_of(views)[:, 0, ::3]
    for j in (1, 2):
        camera = (views.world_to_cam[:, j], views.intrinsics[:, j])
        seen = visible_points(shapes, points, *camera, views.size)
        xy, depth = project(points, camera[1], camera[0])
        framed = ((xy >= 1) & (xy < 47)).all(-1)
        column, row = xy.nan_to_num().clamp(1, 46).long().unbind(-1)
        map_ = point_map_to_depth(views.point_map[:, j], camera[0])
        scene = torch.arange(2)[:, None]
        around = torch.stack([map_[scene, row + y, column + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
        low, high = around.amin(0), around.amax(0)
        flat = framed & (high < 1.1 * low)
        on, behind = flat & (depth < 1.01 * high) & (depth > 0.99 * low), flat & (depth > 1.15 * high)
        assert on.sum() + behind.sum() > 10
        wrong = seen[behind].sum() + (~seen[on]).sum()  # a gap or a bar may slip between the pixels of a depth map
        assert wrong <= 3 + 0.05 * (on.sum() + behind.sum())


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_nothing_solid_stands_before_visible_points(seed: int, difficulty: Difficulty):
    shapes, views = photograph(seed, difficulty, b=1)
    points = points_of(views)[:, 0, ::2]
    camera = (views.world_to_cam[:, 1], views.intrinsics[:, 1])
    centre = camera_centre(camera[0])[:, None]
    free = nearest_on_the_way(shapes, centre, points - centre, 250)
    xy, _ = project(points, camera[1], camera[0])
    framed = ((xy >= 0) & (xy < 24)).all(-1)
    seen = visible_points(shapes, points, *camera, views.size)
    assert (free[seen] > -1e-4).all()
    assert (framed & ~seen & (free >= 0)).sum() <= 12  # of 288: a step may leap over a sharp edge
    assert not seen[~framed].any()


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_a_view_sees_all_its_own_points(seed: int, difficulty: Difficulty):
    shapes, views = photograph(seed, difficulty)
    for j in range(3):
        camera = (views.world_to_cam[:, j], views.intrinsics[:, j])
        assert visible_points(shapes, points_of(views)[:, j], *camera, views.size).all()


@laws
@given(seed=SEEDS, difficulty=st.sampled_from(DIFFICULTIES))
def test_overlaps_laws(seed: int, difficulty: Difficulty):
    shapes, views = photograph(seed, difficulty)
    overlap = overlaps(shapes, views, grid=8)
    assert overlap.shape == (2, 3, 3)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    assert (overlap.diagonal(dim1=1, dim2=2) == 1).all()
    order = [2, 0, 1]
    again = overlaps(shapes, views.reorder(order, 1), grid=8)
    torch.testing.assert_close(again, overlap[:, order][:, :, order], rtol=0, atol=0)
    torch.testing.assert_close(overlaps(alone(shapes, 1), views.scene(1), grid=8), overlap[1:], rtol=0, atol=0.02)


def test_overlaps_known():
    # a camera with twice the focal length sees half the width and half the height, and nothing else
    shapes, views = photograph(2, b=1)
    intrinsics = views.intrinsics[:, :1].repeat(1, 2, 1, 1)
    intrinsics[:, 1, 0, 0] *= 2
    intrinsics[:, 1, 1, 1] *= 2
    world_to_cam = views.world_to_cam[:, :1].expand(-1, 2, -1, -1)
    image, points, _ = render(shapes, intrinsics, world_to_cam, views.size)
    zoomed = Views(image, intrinsics, world_to_cam, points, views.valid[:, :2], 1)
    expected = torch.tensor([[[1.0, 0.25], [1.0, 1.0]]])  # [i, j]: share of view i that view j sees
    torch.testing.assert_close(overlaps(shapes, zoomed, grid=12), expected, rtol=0, atol=0)
