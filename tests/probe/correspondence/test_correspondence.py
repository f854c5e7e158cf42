"""Laws of true token matches, projections and the depth test."""

import math
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

import jaxtyping
import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from probe.correspondence import (
    match_tokens,
    project_tokens,
    rules,
    token_centres,
    token_of,
    token_points,
    visible_tokens,
)
from probe.correspondence.tokens import DEPTH_TOLERANCE
from probe.geometry import camera_centre, depth_to_point_map, pixel_centres, ray_directions, rotation_degrees
from probe.views import Views, concatenate

KITCHEN = Path(__file__).parents[4] / "shared" / "data" / "seven_scenes_kitchen"
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}
SEEDS = st.integers(0, 2**31 - 1)
RESIZES = pytest.mark.parametrize("resize", ["edge_aware", "bilinear"])


# Scenes


def some_points(seed: int, b: int = 1, f: int = 3, size: tuple[int, int] = (5, 7), holes: float = 0.3):
    """Random point maps in float64, where ties do not happen, with holes."""
    generator = torch.Generator().manual_seed(seed)
    point_map = torch.randn(b, f, 3, *size, generator=generator, dtype=torch.float64)
    return point_map, torch.rand(b, f, *size, generator=generator) >= holes


def on_a_line(*views: list[float], grid: tuple[int, int]):
    """A point map per view, of one pixel per token, with the points on the x axis."""
    x = torch.tensor(views, dtype=torch.float64)
    point_map = torch.zeros(1, len(views), 3, *grid, dtype=torch.float64)
    point_map[0, :, 0] = rearrange(x, "f (h w) -> f h w", h=grid[0])
    return point_map, torch.ones(1, len(views), *grid, dtype=torch.bool)


def views_of(depth: torch.Tensor, intrinsics: torch.Tensor, world_to_cam: torch.Tensor, valid=None) -> Views:
    b, f, height, width = depth.shape
    point_map = depth_to_point_map(depth, intrinsics, world_to_cam)
    valid = torch.ones(b, f, height, width, dtype=torch.bool) if valid is None else valid
    return Views(torch.zeros(b, f, 3, height, width), intrinsics, world_to_cam, point_map, valid, n_ref=1)


def facing(depth: list, shift: list[float], focal: float = 4.0) -> Views:
    """Parallel cameras, moved to the right by ``shift``, of 8 x 8 pixels."""
    f = len(shift)
    maps = [torch.as_tensor(d, dtype=torch.float64).expand(8, 8) for d in depth]
    intrinsics = torch.tensor([[focal, 0, 4], [0, focal, 4], [0, 0, 1]], dtype=torch.float64).expand(1, f, 3, 3)
    world_to_cam = torch.eye(4, dtype=torch.float64).repeat(1, f, 1, 1)
    world_to_cam[0, :, 0, 3] = -torch.tensor(shift, dtype=torch.float64)
    return views_of(torch.stack(maps)[None], intrinsics, world_to_cam)


ROOM = torch.tensor([3.0, 2.8, 1.3], dtype=torch.float64)
SPHERES = torch.tensor([[0.6, 0.1, -0.8, 0.45], [-0.5, -0.4, -0.85, 0.35]], dtype=torch.float64)


def cast(origin: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """First hit, as ray parameter, of two spheres in a box seen from within."""
    first = ((direction.sign() * ROOM - origin) / direction).amin(-1)
    for sphere in SPHERES:
        offset = origin - sphere[:3]
        a, b = (direction * direction).sum(-1), (offset * direction).sum(-1)
        root = b * b - a * ((offset * offset).sum(-1) - sphere[3] ** 2)
        hit = (-b - root.clamp_min(0).sqrt()) / a
        first = torch.where((root > 0) & (hit > 0) & (hit < first), hit, first)
    return first


def orbit(degrees: float) -> torch.Tensor:
    """world_to_cam of a camera on a circle, looking down at the spheres."""
    target = torch.tensor([0.0, 0.0, -0.6], dtype=torch.float64)
    angle, lift = math.radians(degrees), math.radians(28)
    away = [math.cos(lift) * math.cos(angle), math.cos(lift) * math.sin(angle), math.sin(lift)]
    centre = target + 2.4 * torch.tensor(away, dtype=torch.float64)
    forward = F.normalize(target - centre, dim=0)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0, 1], dtype=torch.float64)), dim=0)
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    camera[:3, 3] = -camera[:3, :3] @ centre
    return camera


def room(degrees: list[float], size: tuple[int, int]) -> Views:
    """Spheres in a box, cast exactly."""
    height, width = size
    intrinsics = torch.tensor([[0.96 * width, 0, width / 2], [0, 0.96 * width, height / 2], [0, 0, 1]])
    intrinsics = intrinsics.double().expand(1, len(degrees), 3, 3)
    world_to_cam = torch.stack([orbit(angle) for angle in degrees])[None]
    xy = rearrange(pixel_centres(height, width, dtype=torch.float64), "h w c -> (h w) c").expand(1, len(degrees), -1, 2)
    rays = ray_directions(xy, intrinsics, world_to_cam)
    depth = cast(camera_centre(world_to_cam)[..., None, :].expand_as(rays), rays)
    return views_of(rearrange(depth, "b f (h w) -> b f h w", h=height), intrinsics, world_to_cam)


def similarity(seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    return (
        rotation,
        torch.randn(3, generator=generator, dtype=torch.float64),
        0.1 + 9 * torch.rand(1, generator=generator).item(),
    )


def others(f: int) -> torch.Tensor:
    """[f 1 f]: true between different views."""
    return ~torch.eye(f, dtype=torch.bool)[:, None]


# match_tokens, known


def test_match_tokens_of_a_view_moved_by_one_token():
    x, y = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="xy")
    plane = torch.stack([x, y, torch.zeros_like(x)])
    moved = plane + torch.tensor([1.0, 0, 0])[:, None, None]  # its column c sees what column c + 1 of the first sees
    matches = match_tokens(torch.stack([plane, moved])[None], torch.ones(1, 2, 3, 4, dtype=torch.bool), (3, 4))
    assert matches.index[0, 0, :, 1].tolist() == [0, 0, 1, 2, 4, 4, 5, 6, 8, 8, 9, 10]
    assert matches.index[0, 1, :, 0].tolist() == [1, 2, 3, 3, 5, 6, 7, 7, 9, 10, 11, 11]
    assert matches.distance is not None
    assert matches.distance[0, 0, :, 1].tolist() == [1, 0, 0, 0] * 3
    assert matches.index[0, [0, 1], :, [0, 1]].tolist() == [list(range(12))] * 2
    assert matches.distance[0, [0, 1], :, [0, 1]].eq(0).all()
    assert matches.counted[0, 0, :, 1].all()  # the first column comes back one token off
    assert not matches.counted[0, [0, 1], :, [0, 1]].any()
    assert matches.index.dtype == torch.long


def test_match_tokens_takes_the_first_of_equally_near_tokens():
    width = 37  # longer than a vector register: the end of a row is computed by other instructions
    points = torch.full((1, 2, 3, 1, width), 1 / 3)
    points[0, 1] += torch.tensor([0.7, -1.3, 0.9])[:, None, None]
    index = match_tokens(points, torch.ones(1, 2, 1, width, dtype=torch.bool), (1, width)).index
    assert index[0, 0, :, 1].eq(0).all()
    assert index[0, 1, :, 0].eq(0).all()
    left_or_right = on_a_line([1.0, 9, 9], [2.0, 0, 7], grid=(1, 3))
    assert match_tokens(*left_or_right, (1, 3)).index[0, 0, 0, 1] == 0


@pytest.mark.parametrize(("end", "length"), [(1, 1.0), (8, 1.0), (9, math.sqrt(2)), (2, 2.0), (10, math.sqrt(5))])
def test_match_tokens_counts_round_trips_strictly_under_the_tolerance(end: int, length: float):
    start = [100.0 * i for i in range(16)]
    start[end] = 1.0  # token 0 of the first view, at 0, goes to 0.7, which goes back to token `end`, at 1
    key = [100.0 * i + 5000 for i in range(16)]
    key[3] = 0.7
    point_map, valid = on_a_line(start, key, grid=(2, 8))
    for tolerance, counted in ((length, False), (math.nextafter(length, 9), True), (1.5, length < 1.5)):
        matches = match_tokens(point_map, valid, (2, 8), cycle_tolerance=tolerance)
        assert matches.index[0, 0, 0, 1] == 3
        assert matches.index[0, 1, 3, 0] == end
        assert matches.counted[0, 0, 0, 1].item() is counted


def test_match_tokens_counts_rows_before_columns():
    """On a 2 x 8 grid token 8 lies a row below token 0 and far from token 7; on 8 x 2, it is the other way round."""
    start, key = [100.0 * i for i in range(16)], [100.0 * i + 5000 for i in range(16)]
    start[8], key[7] = 701.0, 700.7  # 7 (at 700) -> 7 -> 8
    wide, tall = (match_tokens(*on_a_line(start, key, grid=grid), grid) for grid in ((2, 8), (8, 2)))
    assert wide.index[0, 0, 7, 1] == tall.index[0, 0, 7, 1] == 7
    assert wide.index[0, 1, 7, 0] == tall.index[0, 1, 7, 0] == 8
    assert not wide.counted[0, 0, 7, 1]  # (0, 7) to (1, 0)
    assert tall.counted[0, 0, 7, 1]  # (3, 1) to (4, 0)


def test_match_tokens_with_holes():
    point_map, valid = on_a_line([0.0, 1, 2, 3], [0.0, 1, 2, 3], [0.0, 1, 2, 3], grid=(2, 2))
    valid[0, 1, 0, 1] = False  # token 1 of view 1
    point_map[0, 0, 1, 1, 0] = math.inf  # token 2 of view 0, marked valid
    valid[0, 2] = False
    matches = match_tokens(point_map, valid, (2, 2))
    assert matches.distance is not None
    assert matches.index[0, 0, :, 1].tolist() == [0, 0, 0, 3]
    assert matches.counted[0, 0, :, 1].tolist() == [True, True, False, True]
    torch.testing.assert_close(matches.distance[0, 0, :, 1], torch.tensor([0, 1, math.nan, 0]).double(), **EXACT)
    assert matches.index[0, :2, :, 2].eq(0).all()  # nothing to find in view 2
    assert matches.distance[0, :2, :, 2].isnan().all()
    assert not matches.counted[0, :, :, 2].any()
    assert not matches.counted[0, 2].any()
    assert matches.index[0, 2, :, 2].tolist() == [0, 1, 2, 3]
    assert matches.distance[0, 2, :, 2].eq(0).all()


def test_match_tokens_of_a_single_view():
    point_map, valid = some_points(0, b=2, f=1)
    matches = match_tokens(point_map, valid, (5, 7))
    assert matches.index.shape == (2, 1, 35, 1)
    assert matches.index[:, 0, :, 0].eq(torch.arange(35)).all()
    assert not matches.counted.any()
    assert matches.distance is not None
    assert matches.distance.eq(0).all()


# match_tokens, laws


@RESIZES
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, h=st.integers(1, 5), w=st.integers(1, 7), holes=st.sampled_from([0.0, 0.3, 0.9]))
def test_match_tokens_counts_valid_pairs_of_two_views_only(resize: str, seed: int, h: int, w: int, holes: float):
    point_map, valid = some_points(seed, holes=holes)
    _, known = token_points(point_map, valid, (h, w), resize)
    matches = match_tokens(point_map, valid, (h, w), resize=resize)
    assert matches.distance is not None
    key_known = rearrange(known, "b fk k -> b 1 k fk").expand(-1, 3, -1, -1).gather(2, matches.index)
    assert (known[..., None] & key_known)[matches.counted].all()
    assert not (matches.counted & ~others(3)).any()
    assert matches.index.ge(0).all()
    assert matches.index.lt(h * w).all()
    found = known[..., None] & rearrange(known.any(-1), "b f -> b 1 1 f")
    torch.testing.assert_close(~matches.distance.isnan(), found | ~others(3), **EXACT)
    assert matches.index[~found & others(3)].eq(0).all()
    if h * w == 1:  # the way back cannot go astray
        torch.testing.assert_close(matches.counted, found & others(3), **EXACT)


@RESIZES
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, order=st.permutations([0, 1, 2]))
def test_match_tokens_follows_the_order_of_views(resize: str, seed: int, order: list[int]):
    point_map, valid = some_points(seed)
    plain = match_tokens(point_map, valid, (3, 4), resize=resize)
    moved = match_tokens(point_map[:, order], valid[:, order], (3, 4), resize=resize)
    for name in ("index", "counted", "distance"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name)[:, order][..., order], **EXACT)


@RESIZES
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_match_tokens_does_not_depend_on_where_the_world_is(resize: str, seed: int):
    point_map, valid = some_points(seed)
    rotation, translation, scale = similarity(seed)
    moved_map = scale * torch.einsum("ij,bfjhw->bfihw", rotation, point_map) + translation[:, None, None]
    plain, moved = (match_tokens(points, valid, (4, 5), resize=resize) for points in (point_map, moved_map))
    torch.testing.assert_close(moved.index, plain.index, **EXACT)
    torch.testing.assert_close(moved.counted, plain.counted, **EXACT)
    torch.testing.assert_close(moved.distance, scale * plain.distance, equal_nan=True)


@RESIZES
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_match_tokens_batched_is_looped(resize: str, seed: int):
    point_map, valid = some_points(seed, b=3)
    batched = match_tokens(point_map.float(), valid, (4, 5), resize=resize)
    looped = [match_tokens(point_map[i : i + 1].float(), valid[i : i + 1], (4, 5), resize=resize) for i in range(3)]
    for name in ("index", "counted", "distance"):
        torch.testing.assert_close(getattr(batched, name), torch.cat([getattr(one, name) for one in looped]), **EXACT)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, entries=st.integers(1, 2000))
def test_match_tokens_does_not_depend_on_chunks(seed: int, entries: int):
    point_map, valid = some_points(seed, b=2)
    point_map = (2 * point_map).round().float()  # with ties
    whole = match_tokens(point_map, valid, (5, 7))
    with patch.object(rules, "DISTANCES_AT_ONCE", entries):
        parts = match_tokens(point_map, valid, (5, 7))
    for name in ("index", "counted", "distance"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), **EXACT)


@RESIZES
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, garbage=st.sampled_from([0.0, 1e6, math.nan, -math.inf]))
def test_match_tokens_never_looks_at_invalid_points(resize: str, seed: int, garbage: float):
    point_map, valid = some_points(seed)
    spoilt = point_map.where(rearrange(valid, "b f h w -> b f 1 h w"), garbage)
    marked = valid | ~spoilt.isfinite().all(2)  # a point that is not finite is invalid, whatever is said of it
    plain, other = (
        match_tokens(point_map, valid, (4, 5), resize=resize),
        match_tokens(spoilt, marked, (4, 5), resize=resize),
    )
    for name in ("index", "counted", "distance"):
        torch.testing.assert_close(getattr(other, name), getattr(plain, name), **EXACT)


def test_match_tokens_keeps_no_graph():
    point_map, valid = some_points(0)
    matches = match_tokens(point_map.requires_grad_(), valid, (5, 7))
    assert matches.distance is not None
    assert not matches.distance.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_match_tokens_measures_in_single_precision_or_better(dtype: torch.dtype):
    point_map, valid = on_a_line([0.0, 8], [1.0, 3], grid=(1, 2))
    distance = match_tokens(point_map.to(dtype), valid, (1, 2)).distance
    assert distance is not None
    assert distance.dtype == torch.promote_types(dtype, torch.float32)
    assert distance[0, 0, :, 1].tolist() == [1, 5]


# match_tokens, references


def slow_points(point_map: torch.Tensor, valid: torch.Tensor, grid: tuple[int, int], resize: str):
    """One token of one view at a time, by the words of the definition: a dict of points, None where there is none."""
    _, height, width = point_map.shape
    known = valid & point_map.isfinite().all(0)
    chosen = slow_nearest_pixel if resize == "edge_aware" else slow_bilinear
    return [chosen(point_map, known, grid, (r, c), (height, width)) for r in range(grid[0]) for c in range(grid[1])]


def slow_nearest_pixel(point_map, known, grid, token, size):
    edges = [[Fraction(t + i) * s / n for i in (0, 1)] for t, n, s in zip(token, grid, size, strict=True)]
    half, best = Fraction(1, 2), None
    for i in range(size[0]):
        for j in range(size[1]):
            inside = edges[0][0] <= i + half < edges[0][1] and edges[1][0] <= j + half < edges[1][1]
            offset = (i + half - sum(edges[0]) / 2) ** 2 + (j + half - sum(edges[1]) / 2) ** 2
            if inside and known[i, j] and (best is None or offset < best[0]):
                best = (offset, point_map[:, i, j])
    return None if best is None else best[1]


def slow_bilinear(point_map, known, grid, token, size):
    taps = []
    for t, n, s in zip(token, grid, size, strict=True):
        place = max((Fraction(t) + Fraction(1, 2)) * s / n - Fraction(1, 2), Fraction(0))
        low = min(int(place), s - 1)
        taps.append([(low, 1 - (place - low)), (min(low + 1, s - 1), place - low)])
    total = torch.zeros(3, dtype=torch.float64)
    for i, down in taps[0]:
        for j, right in taps[1]:
            if down * right > 0:
                if not known[i, j]:
                    return None
                total += float(down * right) * point_map[:, i, j]
    return total


def slow_matches(point_map: torch.Tensor, valid: torch.Tensor, grid: tuple[int, int], tolerance: float, resize: str):
    """Index, counted and distance of one scene, one pair of tokens at a time."""
    f, n = len(point_map), grid[0] * grid[1]
    points = [slow_points(point_map[view], valid[view], grid, resize) for view in range(f)]

    def nearest(query, key):
        best = (0, math.nan)
        for k in range(n):
            if points[query[0]][query[1]] is not None and points[key][k] is not None:
                distance = math.dist(points[query[0]][query[1]].tolist(), points[key][k].tolist())
                best = (k, distance) if math.isnan(best[1]) or distance < best[1] else best
        return best

    index, counted, distance = torch.zeros(f, n, f).long(), torch.zeros(f, n, f).bool(), torch.zeros(f, n, f).double()
    for q in range(f):
        for i in range(n):
            index[q, i, q] = i
            for k in set(range(f)) - {q}:
                index[q, i, k], distance[q, i, k] = nearest((q, i), k)
                back, _ = nearest((k, int(index[q, i, k])), q)
                apart = math.hypot(back // grid[1] - i // grid[1], back % grid[1] - i % grid[1])
                counted[q, i, k] = not distance[q, i, k].isnan() and apart < tolerance
    return index, counted, distance


@RESIZES
@pytest.mark.parametrize("grid", [(5, 7), (2, 3), (3, 5), (4, 1)])
@pytest.mark.parametrize("tolerance", [1.5, 1.0, 2.3])
def test_match_tokens_is_the_double_loop(resize: str, grid: tuple[int, int], tolerance: float):
    for seed in range(2):
        point_map, valid = some_points(seed, f=2 + seed, holes=0.25)
        matches = match_tokens(point_map, valid, grid, cycle_tolerance=tolerance, resize=resize)
        index, counted, distance = slow_matches(point_map[0], valid[0], grid, tolerance, resize)
        torch.testing.assert_close(matches.index[0], index, **EXACT)
        torch.testing.assert_close(matches.counted[0], counted, **EXACT)
        torch.testing.assert_close(matches.distance[0], distance, equal_nan=True)


def test_match_tokens_bilinear_is_the_release():
    """The release in a few plain lines: interpolate, all distances at once, argmin, there and back under 1.5 tokens."""
    point_map, valid = some_points(3, f=2, size=(12, 12), holes=0.0)
    tokens = rearrange(
        F.interpolate(point_map[0], (5, 5), mode="bilinear", align_corners=False), "f c h w -> f (h w) c"
    )
    there, back = torch.cdist(tokens[0], tokens[1]).argmin(1), torch.cdist(tokens[1], tokens[0]).argmin(1)
    place = torch.stack([torch.arange(25) % 5, torch.arange(25) // 5], dim=1).double()
    consistent = (place[back[there]] - place).norm(dim=1) < 1.5
    matches = match_tokens(point_map, valid, (5, 5), resize="bilinear")
    torch.testing.assert_close(matches.index[0, 0, :, 1], there, **EXACT)
    torch.testing.assert_close(matches.counted[0, 0, :, 1], consistent, **EXACT)
    assert 0 < consistent.sum() < 25


class Sizes(TorchDispatchMode):
    """Record the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            self.largest = max(self.largest, part.numel() if isinstance(part, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("side", [16, 32, 64])
def test_match_tokens_needs_memory_for_tokens_not_for_pairs(side: int):
    point_map, valid = some_points(0, f=2, size=(side, side))
    point_map, n = point_map.float(), side * side
    with Sizes() as sizes, patch.object(rules, "DISTANCES_AT_ONCE", 8 * n):
        match_tokens(point_map, valid, (side, side))
    assert sizes.largest <= 8 * n  # of n * n pairs
    with Sizes() as sizes, patch.object(rules, "DISTANCES_AT_ONCE", 24 * n):
        match_tokens(point_map.expand(3, -1, -1, -1, -1), valid.expand(3, -1, -1, -1), (side, side))
    assert sizes.largest <= 24 * n  # the chunks shrink with the number of scenes
    with Sizes() as sizes, patch.object(rules, "DISTANCES_AT_ONCE", 1):
        match_tokens(point_map[..., :8], valid[..., :8], (side, 8))
    assert sizes.largest <= 8 * side * 8


def test_project_tokens_needs_memory_for_tokens_not_for_pairs():
    views = room([0, 40], (64, 64))
    with Sizes() as sizes:
        project_tokens(views, (64, 64))
    assert sizes.largest <= 2 * 2 * 3 * 64 * 64  # 3 numbers per query view, key view and token


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@RESIZES
def test_matches_on_cuda_are_those_on_the_cpu(resize: str):
    point_map, valid = some_points(1, b=2, size=(40, 40))
    cpu = match_tokens(point_map, valid, (20, 17), resize=resize)
    cuda = match_tokens(point_map.cuda(), valid.cuda(), (20, 17), resize=resize)
    torch.testing.assert_close(cuda.index.cpu(), cpu.index, **EXACT)
    torch.testing.assert_close(cuda.counted.cpu(), cpu.counted, **EXACT)
    views = room([0, 40, 100], (64, 48))
    seen = visible_tokens(views.to("cuda"), (16, 12)).cpu()
    assert seen.eq(visible_tokens(views, (16, 12))).float().mean() > 0.999  # depths at the tolerance may differ


# token_points


def test_token_points_edge_aware_known():
    point_map = torch.arange(16.0).reshape(1, 1, 1, 4, 4).repeat(1, 1, 3, 1, 1)  # each point tells its pixel
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert token_points(point_map, valid, (2, 2))[0][0, 0, :, 0].tolist() == [0, 2, 8, 10]  # four tie: the first
    assert token_points(point_map, valid, (1, 1))[0][0, 0, :, 0].tolist() == [5]
    valid[0, 0, 0, :3] = False
    valid[0, 0, 2:, 2:] = False
    points, known = token_points(point_map, valid, (2, 2))
    torch.testing.assert_close(points[0, 0, :, 0], torch.tensor([4, 3, 8, math.nan]), **EXACT)
    assert known[0, 0].tolist() == [True, True, True, False]
    points, known = token_points(point_map[..., :3], valid[..., :3], (4, 3))  # one pixel each
    torch.testing.assert_close(known[0, 0], valid[0, 0, :, :3].flatten(), **EXACT)
    torch.testing.assert_close(points[0, 0, known[0, 0], 0], point_map[0, 0, 0, :, :3].flatten()[known[0, 0]], **EXACT)


@RESIZES
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_token_points_are_the_definition(resize: str, seed: int, height: int, width: int, data: st.DataObject):
    grid = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    point_map, valid = some_points(seed, f=1, size=(height, width))
    points, known = token_points(point_map, valid, grid, resize)
    for point, is_known, slow in zip(
        points[0, 0], known[0, 0], slow_points(point_map[0, 0], valid[0, 0], grid, resize), strict=True
    ):
        assert is_known.item() is (slow is not None)
        torch.testing.assert_close(point, torch.full((3,), math.nan).double() if slow is None else slow, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, h=st.integers(1, 9), w=st.integers(1, 8))
def test_token_points_edge_aware_never_makes_up_a_point(seed: int, h: int, w: int):
    point_map, valid = some_points(seed, f=2, size=(9, 8), holes=0.6)
    points, known = token_points(point_map, valid, (h, w))
    xy = rearrange(pixel_centres(9, 8, dtype=torch.float64), "h w c -> (h w) c")
    token = token_of(xy, (9, 8), (h, w))
    for view in range(2):
        given_points = rearrange(point_map[0, view], "c h w -> (h w) c")
        same = (points[0, view][:, None] == given_points).all(-1)
        own_cell = token == torch.arange(h * w)[:, None]
        usable = own_cell & valid[0, view].flatten()
        assert (same & usable).any(1)[known[0, view]].all()
        assert not same[~known[0, view]].any()
        torch.testing.assert_close(known[0, view], usable.any(1), **EXACT)


# Projection and the depth test


def test_project_tokens_known():
    views = facing([2.0, 2.0], shift=[0.0, 1.0])  # a wall at depth 2; the second camera is 2 pixels to the right
    seen = project_tokens(views, (4, 4))
    assert seen.valid.all()
    torch.testing.assert_close(seen.points[0, 0, 0], torch.tensor([-1.75, -1.75, 2]).double())
    centres = token_centres((4, 4), (8, 8)).double() - 0.5  # of the pixel left and above a cell's centre
    shift = torch.tensor([2.0, 0.0]).double()
    for view in (0, 1):
        torch.testing.assert_close(seen.xy[0, view, :, view], centres, **EXACT)
    torch.testing.assert_close(seen.xy[0, 0, :, 1], centres - shift)
    torch.testing.assert_close(seen.xy[0, 1, :, 0], centres + shift)
    assert seen.visible[0, 0, :, 1].tolist() == [False, True, True, True] * 4
    assert seen.visible[0, 1, :, 0].tolist() == [True, True, True, False] * 4
    assert seen.visible[0, [0, 1], :, [0, 1]].all()
    torch.testing.assert_close(visible_tokens(views, (4, 4)), seen.visible, **EXACT)


def test_project_tokens_where_there_is_nothing_to_project():
    views = facing([2.0, 2.0, 2.0], shift=[0.0, 0.0, 0.0])
    views.valid[0, 0, :2, :2] = False  # the first token of view 0
    views.point_map[0, 0, 1, :2, 2:4] = math.nan  # the second, marked valid
    views.world_to_cam[0, 2] = torch.diag(torch.tensor([-1.0, 1, -1, 1]).double())  # looks away
    views.valid[0, 1, 4:] = False  # and view 1 misses its lower half
    seen = project_tokens(views, (4, 4))
    assert seen.valid[0, 0].tolist() == [False, False] + [True] * 14
    assert seen.points[0, 0, :2].isnan().all()
    assert seen.xy[0, 0, :2].isnan().all()
    assert not seen.visible[0, 0, :2].any()
    assert seen.xy[0, :2, :, 2].isnan().all()  # behind the camera
    assert not seen.visible[0, :2, :, 2].any()
    assert seen.visible[0, 0, :, 1].tolist() == [False, False] + [True] * 6 + [False] * 8
    assert not seen.xy[0, 0, 2:, 1].isnan().any()  # missing depth hides the point, not its place
    torch.testing.assert_close(seen.visible[0, [0, 1], :, [0, 1]], seen.valid[0, :2], **EXACT)


@pytest.mark.parametrize(
    ("depth", "visible"),
    [(0.5, False), (0.969, False), (0.971, True), (1.0, True), (1.029, True), (1.031, False), (4.0, False)],
)
def test_project_tokens_compares_depths(depth: float, visible: bool):
    """A point nearer than the surface is floating, a farther one hidden; DEPTH_TOLERANCE of 1 is still the surface."""
    seen = project_tokens(facing([depth, 1.0], shift=[0.0, 0.0]), (8, 8))
    assert seen.visible[0, 0, :, 1].eq(visible).all()
    assert DEPTH_TOLERANCE == 0.03


def slanted() -> Views:
    """A wall whose depth changes by a seventh to two thirds per pixel, in views 0.06 to 0.34 pixels apart."""
    shift = [0.0, -0.1]
    column = pixel_centres(8, 8, dtype=torch.float64)[..., 0]
    # 0.4 x + 0.5 z = 1, seen by cameras of focal length 4 at x = shift: inverse depth is linear in the column
    return facing([(1 - 0.4 * x) / (0.5 + 0.1 * (column - 4)) for x in shift], shift)


def transposed(views: Views) -> Views:
    """The scene mirrored in x = y: rows become columns."""
    swap = torch.eye(4, dtype=torch.float64)[[1, 0, 2, 3]]
    point_map = rearrange(views.point_map[:, :, [1, 0, 2]], "b f c h w -> b f c w h")
    valid = rearrange(views.valid, "b f h w -> b f w h")
    return Views(views.image, views.intrinsics, swap @ views.world_to_cam @ swap, point_map, valid, 1)


@pytest.mark.parametrize("turn", [lambda views: views, transposed], ids=["across", "down"])
def test_project_tokens_sees_a_slanted_wall(turn):
    """The pixel's plane is right where its own depth is not, also where a neighbour is missing on either side."""
    views = slanted()
    views.valid[0, 1, :, 5] = False
    views.valid[0, 1, 2] = False
    views = turn(views)
    seen = project_tokens(views, (8, 8))
    place = token_of(seen.xy, (8, 8), (8, 8))[0, 0, :, 1]
    assert (place >= 0).sum() >= 56
    expected = views.valid[0, 1].flatten()[place.clamp(min=0)] & (place >= 0)
    torch.testing.assert_close(seen.visible[0, 0, :, 1], expected, **EXACT)


def test_project_tokens_trusts_a_view_about_itself():
    """Point maps need not fit their cameras: in its own view a point lies at its pixel and is seen."""
    views = facing([2.0, 2.0], shift=[0.0, 1.0])
    views.point_map[:] = torch.randn(views.point_map.shape, generator=torch.Generator().manual_seed(0))
    seen = project_tokens(views, (8, 8))
    centres = token_centres((8, 8), (8, 8)).double()
    for view in (0, 1):
        torch.testing.assert_close(seen.xy[0, view, :, view], centres, **EXACT)
        assert seen.visible[0, view, :, view].all()


def test_project_tokens_believes_no_slope_across_an_edge():
    """Behind a post of one pixel nothing is seen, beside it everything, however deep the wall lies."""
    wall = torch.full((8, 8), 4.0).double()
    post = wall.clone()
    post[:, 4] = 1.0
    views = facing([wall, post], shift=[0.0, 0.1])  # the wall moves by 0.1 pixels
    seen = project_tokens(views, (8, 8))
    column = seen.xy[0, 0, :, 1, 0].floor()
    torch.testing.assert_close(seen.visible[0, 0, :, 1], column != 4, **EXACT)


def test_project_tokens_next_to_missing_depth():
    views = facing([2.0, 2.0], shift=[0.0, 0.1])
    views.valid[0, 1, :, 3] = views.valid[0, 1, :, 5] = False  # column 4 has no neighbour across
    views.valid[0, 1, 1] = False
    views.point_map[0, 1, :, :, 3] = math.nan
    seen = project_tokens(views, (8, 8))
    place = token_of(seen.xy[0, 0, :, 1], (8, 8), (8, 8))
    torch.testing.assert_close(seen.visible[0, 0, :, 1], views.valid[0, 1].flatten()[place], **EXACT)


@pytest.mark.parametrize(
    ("size", "grid", "fail", "passes"), [((64, 48), (16, 12), 0.03, 0.045), ((192, 256), (24, 32), 0.015, 0.045)]
)
def test_project_tokens_against_exact_visibility(size, grid, fail: float, passes: float):
    """The truth is a ray from camera to point; ``fail`` bounds the share of the visible, ``passes`` of the hidden."""
    views = room([0, 20, 45, 70, 150], size)
    seen = project_tokens(views, grid)
    count = torch.zeros(4)
    for q, k in permutations(range(views.count), 2):
        centre = camera_centre(views.world_to_cam)[0, k]
        rays = seen.points[0, q] - centre
        truth = cast(centre.expand_as(rays), rays) > 1 - 1e-9
        frame = token_of(seen.xy[0, q, :, k], size, grid) >= 0
        answer = seen.visible[0, q, :, k]
        assert not (answer & ~frame).any()
        wide = depths_around(seen.xy[0, q, :, k], views, k)
        depth = (rays @ views.world_to_cam[0, k, 2, :3])[:, None]
        clear = frame & ((wide / depth - 1).abs() < 0.03).all(1)  # the same surface all around
        hidden = frame & (wide < 0.9 * depth).all(1)
        assert answer[clear].all()
        assert not answer[hidden].any()
        count += torch.stack(
            [(truth & frame).sum(), (truth & frame & ~answer).sum(), (~truth & frame).sum(), (~truth & answer).sum()]
        )
    assert count[1] / count[0] < fail
    assert count[3] / count[2] < passes
    assert count[2] / (count[0] + count[2]) > 0.1


def depths_around(xy: torch.Tensor, views: Views, k: int) -> torch.Tensor:
    """Exact depths of view k at xy and around it, to a distance of one pixel: [p places]."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    places = xy[:, None] + torch.cat([0 * circle[:1], circle, circle / 2])
    camera = slice(k, k + 1)
    flat = rearrange(places, "p i c -> 1 1 (p i) c")
    rays = ray_directions(flat, views.intrinsics[:, camera], views.world_to_cam[:, camera])[0, 0]
    centre = camera_centre(views.world_to_cam)[0, k]
    return rearrange(cast(centre.expand_as(rays), rays), "(p i) -> p i", p=len(xy))


def test_the_cycle_test_is_not_a_visibility_test():
    """Nearly every visible pair is counted, but many counted pairs are not visible.

    Source: docs/references.md, "The cycle test lets hidden points pass".
    """
    views = room([0, 20, 45, 70, 150], (64, 64))
    counted = match_tokens(views.point_map, views.valid, (16, 16)).counted
    visible = visible_tokens(views, (16, 16)) & others(5)
    assert counted[visible].float().mean() > 0.95
    assert 0.4 < visible[counted].float().mean() < 0.95


@settings(max_examples=5, deadline=None)
@given(order=st.permutations([0, 1, 2]), seed=SEEDS)
def test_project_tokens_laws(order: list[int], seed: int):
    views, other = room([0, 50, 130], (24, 32)), room([10, 90, 100], (24, 32))
    views.valid[:] = torch.rand(views.valid.shape, generator=torch.Generator().manual_seed(seed)) > 0.2
    plain, grid = project_tokens(views, (6, 8)), (6, 8)
    moved = project_tokens(views.reorder(order, 1), grid)
    torch.testing.assert_close(moved.visible, plain.visible[:, order][..., order], **EXACT)
    torch.testing.assert_close(moved.xy, plain.xy[:, order][:, :, :, order], **EXACT)
    both = project_tokens(concatenate([views, other]), grid)
    torch.testing.assert_close(both.xy, torch.cat([plain.xy, project_tokens(other, grid).xy]), equal_nan=True)
    assert both.visible[:1].eq(plain.visible).float().mean() > 0.999  # products of batches may round differently
    points, valid = token_points(views.point_map, views.valid, grid)
    torch.testing.assert_close(plain.points, points, **EXACT)
    torch.testing.assert_close(plain.valid, valid, **EXACT)
    assert not (plain.visible & ~plain.valid[..., None]).any()
    assert (token_of(plain.xy, (24, 32), grid) >= 0)[plain.visible].all()
    assert (plain.xy.isnan().any(-1) | plain.valid[..., None]).all()


def test_project_tokens_does_not_depend_on_where_the_world_is():
    views = room([0, 50, 130], (48, 48))
    rotation, translation, scale = similarity(4)
    rotation = rotation * torch.linalg.det(rotation)
    moved_map = scale * torch.einsum("ij,bfjhw->bfihw", rotation, views.point_map) + translation[:, None, None]
    cameras = views.world_to_cam.clone()
    cameras[..., :3, :3] = views.world_to_cam[..., :3, :3] @ rotation.mT
    cameras[..., :3, 3] = scale * views.world_to_cam[..., :3, 3] - cameras[..., :3, :3] @ translation
    plain = project_tokens(views, (12, 12))
    moved = project_tokens(Views(views.image, views.intrinsics, cameras, moved_map, views.valid, 1), (12, 12))
    torch.testing.assert_close(moved.xy, plain.xy, equal_nan=True)
    torch.testing.assert_close(moved.visible, plain.visible, **EXACT)


def kitchen(frames: list[int]) -> Views:
    cv2 = pytest.importorskip("cv2", reason="reads 16-bit depth")
    raw = np.stack([cv2.imread(str(KITCHEN / f"frame-{i:06d}.depth.png"), cv2.IMREAD_UNCHANGED) for i in frames])
    cam_to_world = torch.tensor(np.stack([np.loadtxt(KITCHEN / f"frame-{i:06d}.pose.txt") for i in frames]))
    intrinsics = torch.tensor(np.loadtxt(KITCHEN / "camera-intrinsics.txt")).expand(1, len(frames), 3, 3)
    valid = torch.tensor((raw != 0) & (raw != 65535))[None]
    depth = torch.tensor(raw / 1000.0)[None]
    return views_of(depth, intrinsics, torch.linalg.inv(cam_to_world)[None], valid)


@pytest.mark.data
@pytest.mark.skipif(not KITCHEN.is_dir(), reason="the frames of ../shared/data are not part of the project")
def test_project_tokens_on_real_depth():
    views = kitchen([0, 5, 300, 305])
    seen = project_tokens(views, (30, 40))
    frame = (token_of(seen.xy, views.size, (30, 40)) >= 0) & others(4)
    for q, k in ((0, 1), (1, 0), (2, 3), (3, 2)):  # neighbours see the same
        assert rotation_degrees(views.world_to_cam[0, q], views.world_to_cam[0, k]) < 4
        assert seen.visible[0, q, :, k][frame[0, q, :, k]].float().mean() > 0.9
    assert not (seen.visible & ~frame & others(4)).any()
    matches = match_tokens(views.point_map, views.valid, (30, 40))
    assert matches.counted[seen.visible & others(4)].float().mean() > 0.9


# token_of and token_centres


def test_token_of_known():
    xy = torch.tensor(
        [[0.0, 0], [3.99, 0], [4, 0], [11.9, 5.9], [0, 3], [4, 3], [12, 0], [0, 6], [-0.1, 0], [math.nan, 1]]
    )
    assert token_of(xy, (6, 12), (2, 3)).tolist() == [0, 0, 1, 5, 3, 4, -1, -1, -1, -1]
    assert token_of(xy[0], (6, 12), (2, 3)).item() == 0
    assert token_centres((2, 3), (6, 12)).tolist() == [[2, 1.5], [6, 1.5], [10, 1.5], [2, 4.5], [6, 4.5], [10, 4.5]]


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 99), width=st.integers(1, 99), data=st.data())
def test_token_of_is_exact(height: int, width: int, data: st.DataObject):
    grid = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    x, y = (data.draw(st.integers(-8, 8 * side + 8)) / 8 for side in (width, height))
    inside = 0 <= x < width and 0 <= y < height
    row, column = (math.floor(Fraction(v) * n / s) for v, n, s in ((y, grid[0], height), (x, grid[1], width)))
    assert token_of(torch.tensor([x, y]), (height, width), grid).item() == (row * grid[1] + column if inside else -1)
    centres = token_centres(grid, (height, width))
    assert token_of(centres, (height, width), grid).tolist() == list(range(grid[0] * grid[1]))


@settings(max_examples=50, deadline=None)
@given(width=st.integers(1, 4096), data=st.data())
def test_token_of_stays_inside_up_to_the_edge(width: int, data: st.DataObject):
    tokens = data.draw(st.integers(1, width))
    edge = torch.tensor([float(width), 0.5])
    assert token_of(torch.nextafter(edge, torch.zeros(2)), (1, width), (1, tokens)).item() == tokens - 1
    assert token_of(edge, (1, width), (1, tokens)).item() == -1


# Refusals


@pytest.fixture
def unchecked():
    """Let wrong shapes reach the function, as they do outside of tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", [token_points, match_tokens])
@pytest.mark.parametrize(
    ("points", "valid"),
    [
        ((1, 2, 3, 4, 4), (1, 2, 4, 5)),
        ((1, 2, 4, 4, 4), (1, 2, 4, 4)),
        ((2, 3, 4, 4), (2, 4, 4)),
        ((1, 2, 4, 4, 3), (1, 2, 4, 4)),
    ],
)
def test_wrong_shapes_are_refused(function, points, valid):
    with pytest.raises(ValueError, match=r"token_points: point_map \(.*expected \(scenes, views, 3, height, width\)"):
        function(torch.zeros(points), torch.ones(valid, dtype=torch.bool), (2, 2))


@pytest.mark.parametrize("grid", [(0, 2), (2, -1), (5, 2), (2, 7)])
def test_grids_that_do_not_fit_are_refused(grid: tuple[int, int]):
    point_map, valid = torch.zeros(1, 1, 3, 4, 6), torch.ones(1, 1, 4, 6, dtype=torch.bool)
    views = Views(torch.zeros(1, 1, 3, 4, 6), torch.eye(3)[None, None], torch.eye(4)[None, None], point_map, valid, 1)
    calls = {
        "token_points": [lambda: token_points(point_map, valid, grid), lambda: match_tokens(point_map, valid, grid)],
        "project_tokens": [lambda: project_tokens(views, grid), lambda: visible_tokens(views, grid)],
        "token_of": [lambda: token_of(torch.zeros(1, 2), (4, 6), grid)],
        "token_centres": [lambda: token_centres(grid, (4, 6))],
    }
    for name, functions in calls.items():
        for call in functions:
            with pytest.raises(ValueError, match=rf"{name}: grid .* of 4 x 6 pixels, expected 1 to 4 rows .* choose"):
                call()


def test_unknown_choices_are_refused():
    point_map, valid = some_points(0)
    with pytest.raises(ValueError, match="resize is 'nearest', expected one of edge_aware, bilinear; choose"):
        match_tokens(point_map, valid, (2, 2), resize="nearest")
    for tolerance in (0, 0.0, -1.5, math.nan):
        with pytest.raises(ValueError, match=r"cycle_tolerance is .* tokens, expected more than 0; try 1.5"):
            match_tokens(point_map, valid, (2, 2), cycle_tolerance=tolerance)
