"""Matches and truth to numbers: pure. A fraction of nothing is NaN with count 0."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.correspondence import own_view, project_tokens, token_centres, token_of
from probe.records.names import MOVING, STILL, of_queries, threshold_metric
from probe.views import IMAGE_PLANE, Views

Kind = Literal["image", "token", "projection", "scene", "metric"]
Measured = dict[str, tuple[Tensor, Tensor]]
"""Metric to its value and count, [1 rows fq fk] each."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Call a match right if its error is below a threshold.

    Attributes:
        name: As in the column ``metric``.
        kind: "image": distance in the key image over the image's side; "token": distance in the key image in tokens;
            "projection": as "image", but from where the matched token's point is seen, not from the token's centre;
            "scene": distance in 3D over the scene's size; "metric": distance in 3D in metres.
        value: An error equal to it is wrong, unless ``inclusive``.
        inclusive: An error equal to it is right.
    """

    name: str
    kind: Kind
    value: float
    inclusive: bool = False


def thresholds(unit: str | None) -> tuple[Threshold, ...]:
    """Return the thresholds of all protocols: in the image, in tokens, and in 3D.

    Args:
        unit: "m" for metric scenes: 1 cm to 50 cm; None: shares of the scene's size; :data:`IMAGE_PLANE`: none in 3D.
    """
    image = [Threshold(name=threshold_metric(share, "%"), kind="image", value=share / 100) for share in (2, 5, 10)]
    token = [Threshold(name=threshold_metric(1, "token"), kind="token", value=1.0)]
    if unit == "m":
        metres = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
        in_3d = [Threshold(name=threshold_metric(value, "m"), kind="metric", value=value) for value in metres]
    else:
        in_3d = [Threshold(name=threshold_metric(s, "%scene"), kind="scene", value=s / 100) for s in (1, 2, 5, 10)]
    return (*image, *token, *(() if unit == IMAGE_PLANE else in_3d))


@dataclass(frozen=True, kw_only=True)
class GridTruth:
    """What is true of the tokens of one grid.

    Attributes:
        grid: Token rows and columns of a view.
        centres: Of the tokens, xy in pixels.
        points: World point of each token, at the time of its view.
        points_at_key: Where it is at the time of each key view; NaN where unknown.
        moves: It is elsewhere then; None where nothing moves between the views.
        valid: Tokens whose point is known.
        xy: Where the query token's point lies in the key view, in pixels; NaN where unknown or behind the camera.
        visible: The key view, another one than the query's, really shows the point.
        token: Token of the key view that contains it; -1 where it is not visible.
        side: Of the image, in pixels: the geometric mean of height and width.
        token_size: Width and height of a token in pixels.
        scene_size: Of each scene, in world units.
        n_ref: Number of reference views, which come first.
    """

    grid: tuple[int, int]
    centres: Float[Tensor, "n 2"]
    points: Float[Tensor, "b f n 3"]
    points_at_key: Float[Tensor, "b fq n fk 3"]
    moves: Bool[Tensor, "b fq n fk"] | None = None
    valid: Bool[Tensor, "b f n"]
    xy: Float[Tensor, "b fq n fk 2"]
    visible: Bool[Tensor, "b fq n fk"]
    token: Int[Tensor, "b fq n fk"]
    side: float
    token_size: Float[Tensor, " 2"]
    scene_size: Float[Tensor, " b"]
    n_ref: int


def grid_truth(views: Views, grid: tuple[int, int]) -> GridTruth:
    """Work out the truth of every token of a grid, in every other view."""
    seen = project_tokens(views, grid)
    height, width = views.size
    own = own_view(views.count, device=seen.visible.device)
    visible = seen.visible & ~own
    known = torch.nan_to_num(seen.xy, nan=-1.0)
    return GridTruth(
        grid=grid,
        centres=token_centres(grid, views.size, device=seen.xy.device),
        points=seen.points,
        points_at_key=seen.points_at_key,
        moves=None if views.part is None else seen.moves,
        valid=seen.valid,
        xy=seen.xy,
        visible=visible,
        token=torch.where(visible, token_of(known, views.size, grid), -1),
        side=(height * width) ** 0.5,
        token_size=torch.tensor([width / grid[1], height / grid[0]], device=seen.xy.device),
        scene_size=scene_size(views),
        n_ref=views.n_ref,
    )


def scene_size(views: Views) -> Float[Tensor, " b"]:
    """Measure a scene: twice the distance from the mean of its points within which 95 % of them lie, in world units.

    Returns:
        NaN where no point is known.
    """
    points = rearrange(views.point_map, "b f c h w -> b (f h w) c")
    known = rearrange(views.valid & views.point_map.isfinite().all(2), "b f h w -> b (f h w)")
    return torch.stack([_cloud_size(point[seen]) for point, seen in zip(points, known, strict=True)])


def _cloud_size(points: Float[Tensor, "p 3"]) -> Float[Tensor, ""]:
    if not len(points):
        return points.new_tensor(torch.nan)
    distance = (points - points.mean(0)).norm(dim=-1)
    return 2 * torch.quantile(distance[:: 1 + len(distance) // 100_000], 0.95)


def errors(token: Int[Tensor, "b rows fq n fk"], truth: GridTruth, kind: Kind) -> Float[Tensor, "b rows fq n fk"]:
    """Measure how far matched tokens lie from the truth, in the unit of the threshold's kind.

    Args:
        token: Matched token of the key view; its centre (in the image) or its point (in 3D, and where that is seen) is
            compared.
        truth: Of the same grid.
        kind: See :class:`Threshold`.

    Returns:
        At least 0; NaN where the truth or the matched token's point is unknown.
    """
    if kind in ("image", "token"):
        unit = truth.token_size if kind == "token" else truth.side
        return ((F.embedding(token, truth.centres) - truth.xy[:, None]) / unit).norm(dim=-1)
    if kind == "projection":
        return ((_at_matched(own_xy(truth), token) - truth.xy[:, None]) / truth.side).norm(dim=-1)
    points = torch.where(truth.valid[..., None], truth.points, torch.nan)
    distance = (_at_matched(points, token) - truth.points_at_key[:, None]).norm(dim=-1)
    return distance / truth.scene_size[:, None, None, None, None] if kind == "scene" else distance


def own_xy(truth: GridTruth) -> Float[Tensor, "b f n 2"]:
    """Return where each token's point is seen in its own view, in pixels; NaN where it is unknown."""
    return rearrange(truth.xy.diagonal(dim1=1, dim2=3), "b n xy f -> b f n xy")


def _at_matched(
    values: Float[Tensor, "b fk n c"], token: Int[Tensor, "b rows fq n fk"]
) -> Float[Tensor, "b rows fq n fk c"]:
    """Look up what belongs to the matched tokens."""
    b, fk, n = values.shape[:3]
    first = rearrange(torch.arange(b * fk, device=token.device) * n, "(b fk) -> b 1 1 1 fk", b=b)
    return F.embedding(first + token, rearrange(values, "b fk n c -> (b fk n) c"))


def correct(
    token: Int[Tensor, "b rows fq n fk"], truth: GridTruth, threshold: Threshold
) -> Bool[Tensor, "b rows fq n fk"]:
    """Return which matches are right: their error is known and below the threshold."""
    return is_below(errors(token, truth, threshold.kind), threshold)


def right_matches(
    token: Int[Tensor, "b rows fq n fk"], truth: GridTruth, limits: tuple[Threshold, ...]
) -> dict[str, Bool[Tensor, "b rows fq n fk"]]:
    """Return which matches are right, by the threshold's name."""
    error = {kind: errors(token, truth, kind) for kind in {limit.kind for limit in limits}}
    return {limit.name: is_below(error[limit.kind], limit) for limit in limits}


def is_below(error: Float[Tensor, "*shape"], threshold: Threshold) -> Bool[Tensor, "*shape"]:
    """Return which errors are known and below the threshold; one equal to it is right only if it is inclusive."""
    return error <= threshold.value if threshold.inclusive else error < threshold.value


def precisions(
    token: Int[Tensor, "b rows fq n fk"],
    counted: Bool[Tensor, "b #rows fq n fk"],
    truth: GridTruth,
    limits: tuple[Threshold, ...],
) -> Measured:
    """Measure the share of the counted queries whose match is right, per threshold.

    Returns:
        In [0, 1]; NaN with count 0 where nothing was counted.
    """
    return judged_mean(right_matches(token, truth, limits), counted, truth)


def judged_mean(
    right: Mapping[str, Float[Tensor, "b rows fq n fk"] | Bool[Tensor, "b rows fq n fk"]],
    counted: Bool[Tensor, "b #rows fq n fk"],
    truth: GridTruth,
) -> Measured:
    """Average what is right over the counted queries; where something moves, also over moving and still ones apart.

    Args:
        right: By the threshold's name.
        counted: Queries that count.
        truth: Of the same grid.

    Returns:
        In [0, 1]; NaN with count 0 where nothing was counted.
    """
    measured = {name: counted_mean(value, counted) for name, value in right.items()}
    if truth.moves is None:
        return measured
    moves = truth.moves[:, None]
    for kind, queries in ((MOVING, counted & moves), (STILL, counted & ~moves)):
        measured |= {of_queries(name, kind): counted_mean(value, queries) for name, value in right.items()}
    return measured


def counted_mean(
    values: Float[Tensor, "b rows fq n fk"] | Bool[Tensor, "b rows fq n fk"], counted: Bool[Tensor, "b #rows fq n fk"]
) -> tuple[Float[Tensor, "b rows fq fk"], Int[Tensor, "b rows fq fk"]]:
    """Average over the counted query tokens.

    Returns:
        The mean, NaN where nothing was counted; and the count. A counted NaN makes the mean NaN.
    """
    counted = counted.expand_as(values)
    total = torch.where(counted, values.float(), 0.0).sum(3)
    count = counted.sum(3)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan), count


def best_share(
    ratio: Float[Tensor, "b fq n fk"], valid: Bool[Tensor, "b fq n fk"], coverage: float, most: int | None = None
) -> Bool[Tensor, "b fq n fk"]:
    """Choose the queries with the lowest ratio; of equal ones the first.

    Args:
        ratio: Finite where valid.
        valid: Queries to choose from.
        coverage: Share of the valid ones to choose, rounded up.
        most: Choose no more than these.
    """
    ordered = torch.where(valid, ratio, torch.inf).argsort(dim=2, stable=True)
    rank = torch.empty_like(ordered).scatter_(2, ordered, _positions(ordered))
    wanted = (valid.sum(2, keepdim=True).double() * coverage - 1e-9).ceil()  # in float32 0.09 * 300 is more than 27
    return valid & (rank < (wanted if most is None else wanted.clamp(max=most)))


def _positions(like: Int[Tensor, "b fq n fk"]) -> Int[Tensor, "b fq n fk"]:
    return rearrange(torch.arange(like.shape[2], device=like.device), "n -> 1 1 n 1").expand_as(like).contiguous()


def uniform_chance(
    truth: GridTruth, thresholds: tuple[Threshold, ...], *, at_once: int = 4_000_000
) -> dict[str, Float[Tensor, "b 1 fq n fk"]]:
    """Compute each query's probability of being right when the match is a token drawn uniformly from the key view."""

    def alike(tokens: Int[Tensor, " m"]) -> Float[Tensor, "1 m 1 1 1"]:
        return rearrange(torch.ones_like(tokens, dtype=torch.float32), "m -> 1 m 1 1 1")

    return drawn_chance(truth, thresholds, alike, at_once=at_once)


Weigh = Callable[[Int[Tensor, " m"]], Float[Tensor, "#b m #fq #n #fk"]]
"""Weigh some tokens of the key view, for every query: how likely each is drawn, up to a factor."""


def drawn_chance(
    truth: GridTruth, thresholds: tuple[Threshold, ...], weigh: Weigh, *, at_once: int = 4_000_000
) -> dict[str, Float[Tensor, "b 1 fq n fk"]]:
    """Compute each query's probability of being right when the match is a token drawn by weight from the key view.

    Args:
        truth: Of the grid.
        thresholds: Which errors are right.
        weigh: At least 0.
        at_once: Pairs of a query and a token that are held at a time.

    Returns:
        In [0, 1]; 0 where no token has any weight: nothing is drawn then.
    """
    n, shape = len(truth.centres), truth.visible.shape
    right = {threshold.name: torch.zeros(shape, device=truth.xy.device) for threshold in thresholds}
    whole = torch.zeros(shape, device=truth.xy.device)
    step = max(1, at_once // truth.visible.numel())
    for tokens in torch.arange(n, device=truth.xy.device).split(step):
        guess = rearrange(tokens, "m -> 1 m 1 1 1").expand(shape[0], -1, *shape[1:])
        weight = weigh(tokens).expand_as(guess)
        whole += reduce(weight, "b m fq n fk -> b fq n fk", "sum")
        found = {kind: errors(guess, truth, kind) for kind in {threshold.kind for threshold in thresholds}}
        for threshold in thresholds:
            share = torch.where(is_below(found[threshold.kind], threshold), weight, 0)
            right[threshold.name] += reduce(share, "b m fq n fk -> b fq n fk", "sum")
    total = torch.where(whole > 0, whole, 1)
    return {name: rearrange(value / total, "b fq n fk -> b 1 fq n fk") for name, value in right.items()}


def same_position(truth: GridTruth) -> Int[Tensor, "b 1 fq n fk"]:
    """Match every token to the token at the same place in the key view: what a static camera would reward."""
    b, fq, n, fk = truth.visible.shape
    return rearrange(torch.arange(n, device=truth.xy.device), "n -> 1 1 1 n 1").expand(b, 1, fq, n, fk)


def nearest_token(truth: GridTruth, size: tuple[int, int]) -> Int[Tensor, "b 1 fq n fk"]:
    """Match every token to the one that contains the true position (clamped into the frame): the grid's ceiling."""
    bounds = torch.tensor([size[1], size[0]], device=truth.xy.device) - 1e-3
    inside = torch.nan_to_num(truth.xy, nan=0.0).clamp(min=0).minimum(bounds)
    return rearrange(token_of(inside, size, truth.grid), "b fq n fk -> b 1 fq n fk")


def nearest_projection(truth: GridTruth, *, at_once: int = 4_000_000) -> Int[Tensor, "b 1 fq n fk"]:
    """Match every token to the one whose point is seen nearest to the true position; the first where that is unknown.

    Args:
        truth: Of the grid.
        at_once: Pairs of a query and a token that are held at a time.
    """
    b, fq, n, fk = truth.visible.shape
    known = own_xy(truth).isfinite().all(-1)
    keys = rearrange(own_xy(truth).nan_to_num(nan=0.0), "b fk n xy -> (b fk) n xy")
    missing = rearrange(torch.where(known, 0.0, torch.inf), "b fk n -> (b fk) 1 n")
    queries = rearrange(truth.xy.nan_to_num(nan=0.0), "b fq n fk xy -> (b fk) (fq n) xy")
    parts = queries.split(max(1, at_once // (b * fk * n)), dim=1)
    nearest = torch.cat([(torch.cdist(part, keys) + missing).argmin(-1) for part in parts], dim=1)
    return rearrange(nearest, "(b fk) (fq n) -> b 1 fq n fk", b=b, fq=fq)
