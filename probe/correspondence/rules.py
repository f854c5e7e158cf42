"""Which tokens of two views show the same point of the scene. Pure functions.

Two rules, not to be confused. :func:`match_tokens` is the paper's: the nearest token in 3D, kept if it is
cycle consistent; it needs point maps only, but hidden points often pass. :func:`visible_tokens` is stricter: a depth
test checks that the key view sees the query's point.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import reduce
from itertools import cycle

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.correspondence.grid import own_view, token_pixels, token_points, values_at
from probe.correspondence.tokens import project_tokens
from probe.views import Views

DISTANCES_AT_ONCE = 2**17
"""Distances held at a time: half a MiB, which stays in a core's cache. It cannot change a result."""


@dataclass(frozen=True)
class TokenMatches:
    """For every query token and key view, the nearest token in 3D.

    Attributes:
        index: That token of the key view. In the query's own view the token itself; 0 where there is no match (the
            query's point is missing, or every point of the key view is).
        counted: The match serves as truth: both points valid, cycle consistent, another view.
        distance: From the query's point to the matched token's point, in scene units; NaN where there is no match, 0 in
            the own view.
    """

    index: Int[Tensor, "b fq n fk"]
    counted: Bool[Tensor, "b fq n fk"]
    distance: Float[Tensor, "b fq n fk"] | None = None


@torch.no_grad()
def match_tokens(
    point_map: Float[Tensor, "b f 3 height width"],
    valid: Bool[Tensor, "b f height width"],
    grid: tuple[int, int],
    *,
    cycle_tolerance: int | float = 1.5,
    resize: str = "edge_aware",
) -> TokenMatches:
    """Match every token with the nearest token, in 3D, of each view.

    Memory grows with the tokens, not with their pairs: distances are taken :data:`DISTANCES_AT_ONCE` at a time, as
    differences of coordinates. Of equally near tokens the first one is taken.

    Args:
        point_map: World point of each pixel, in scene units.
        valid: Pixels whose point is known; a point that is not finite is not.
        grid: Tokens (rows, columns) of a view.
        cycle_tolerance: In tokens: a match counts if the way to it and back ends nearer than this to where it began.
        resize: How a token gets its point, see :func:`token_points`.

    Raises:
        ValueError: If shapes, grid, ``resize`` or the tolerance make no sense.

    Source:
        CAMEO (arXiv 2512.03045); docs/references.md, "CAMEO: the loss". Its release has no validity; here missing
        points are neither queries nor keys.
    """
    points, known = token_points(point_map, valid, grid, resize)
    return _match_points(points, known, rearrange(points, "b f n c -> b f n 1 c"), grid, cycle_tolerance)


@torch.no_grad()
def match_views(views: Views, grid: tuple[int, int], *, cycle_tolerance: int | float = 1.5) -> TokenMatches:
    """Match every token as :func:`match_tokens`; where something moves, points are followed to the key view's time.

    Args:
        views: The views.
        grid: Tokens (rows, columns) of a view.
        cycle_tolerance: In tokens.

    Raises:
        ValueError: If the grid does not fit the images, or the tolerance makes no sense.
    """
    points, known = token_points(views.point_map, views.valid, grid)
    if views.part is None:
        part = None
    else:  # of the pixel that the token's point is from
        pixel, _ = token_pixels(views.valid & views.point_map.isfinite().all(2), grid)
        part = values_at(views.part, pixel)
    return _match_points(points, known, views.follow(points, part)[0], grid, cycle_tolerance)


def _match_points(
    points: Float[Tensor, "b f n 3"],
    known: Bool[Tensor, "b f n"],
    points_at_key: Float[Tensor, "b f n #f 3"],
    grid: tuple[int, int],
    cycle_tolerance: int | float,
) -> TokenMatches:
    if not cycle_tolerance > 0:
        raise ValueError(f"match_tokens: cycle_tolerance is {cycle_tolerance} tokens, expected more than 0; try 1.5")
    points, points_at_key = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (points, points_at_key))
    keys = torch.where(rearrange(known, "b f n -> b f n 1"), points, torch.inf)
    index, squared = _nearest_in_views(points_at_key, keys)
    matched = squared.isfinite()
    index = index.where(matched, 0)
    own = own_view(points.shape[1], device=known.device)
    tokens = rearrange(torch.arange(points.shape[2], device=known.device), "n -> n 1")
    index, distance = torch.where(own, tokens, index), torch.where(matched, squared.sqrt(), torch.nan)
    closed = _round_trip_squared(index, grid[1]) < _first_square(cycle_tolerance, grid)
    return TokenMatches(index=index, counted=matched & closed & ~own, distance=distance.masked_fill(own, 0))


def visible_tokens(views: Views, grid: tuple[int, int]) -> Bool[Tensor, "b fq {grid[0]*grid[1]} fk"]:
    """Return which query tokens' points each key view really shows, by the depth test of :func:`project_tokens`.

    Args:
        views: The views, with point maps that fit their cameras.
        grid: Tokens (rows, columns) of a view.

    Raises:
        ValueError: If the grid does not fit the images.
    """
    return project_tokens(views, grid).visible


def _nearest_in_views(
    queries: Float[Tensor, "b f n #f 3"], keys: Float[Tensor, "b f n 3"]
) -> tuple[Int[Tensor, "b f n f"], Float[Tensor, "b f n f"]]:
    pairs = [
        [_nearest(query, key) for query, key in zip(cycle(in_views.unbind(2)), keys.unbind(1), strict=False)]
        for in_views in queries.unbind(1)
    ]
    index = torch.stack([torch.stack([index for index, _ in row], dim=-1) for row in pairs], dim=1)
    return index, torch.stack([torch.stack([squared for _, squared in row], dim=-1) for row in pairs], dim=1)


def _nearest(
    query: Float[Tensor, "b q 3"], key: Float[Tensor, "b k 3"]
) -> tuple[Int[Tensor, "b q"], Float[Tensor, "b q"]]:
    rows = max(1, DISTANCES_AT_ONCE // (key.shape[0] * key.shape[1]))
    parts = [_squared_distances(part, key).min(dim=-1) for part in query.split(rows, dim=1)]
    return torch.cat([part.indices for part in parts], dim=1), torch.cat([part.values for part in parts], dim=1)


def _squared_distances(query: Float[Tensor, "b q 3"], key: Float[Tensor, "b k 3"]) -> Float[Tensor, "b q k"]:
    axes = zip(query.unbind(-1), key.unbind(-1), strict=True)
    # square, then add: a fused addcmul rounds differently at the end of a row, and equal distances would not tie
    return reduce(Tensor.add_, ((q[:, :, None] - k[:, None, :]).square_() for q, k in axes))


def _round_trip_squared(index: Int[Tensor, "b f n f"], columns: int) -> Int[Tensor, "b f n f"]:
    """Return the squared distance, in tokens, between a token and where it comes back to."""
    back = rearrange(index, "b fk k fq -> b fq k fk").gather(2, index)
    start = rearrange(torch.arange(index.shape[2], device=index.device), "n -> n 1")
    down, right = back // columns - start // columns, back % columns - start % columns
    return down**2 + right**2


def _first_square(tolerance: float, grid: tuple[int, int]) -> int:
    """Return the smallest square whose root reaches the tolerance. Python's root is exact, torch's is not always."""
    return bisect_left(range(grid[0] ** 2 + grid[1] ** 2), tolerance, key=math.sqrt)
