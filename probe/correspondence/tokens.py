"""Where the point of a token lies in the other views, to a fraction of a pixel, and whether it is seen there."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.correspondence.grid import check_grid, own_view, pixel_xy, points_at, token_of, token_pixels, values_at
from probe.geometry import point_map_to_depth, project
from probe.views import Views

DEPTH_TOLERANCE = 0.03
"""Relative difference of depth up to which two depths are the same surface (:func:`project_tokens` says why)."""


@dataclass(frozen=True)
class TokenProjections:
    """Where the point of every query token lies in every key view, and whether it is seen there.

    Attributes:
        points: World point of each token at the time of its view, in scene units; NaN where not ``valid``.
        valid: The token has a point.
        points_at_key: Where that point is at the time of each key view, NaN where unknown.
        moves: It is elsewhere then: it belongs to a part of the scene that has moved.
        xy: Its projection in the key view, in pixels of the views' size; may lie outside the frame. NaN where the token
            has no point or the point lies behind the camera. In the own view the centre of the point's pixel.
        visible: The key view really shows the point. In the own view wherever ``valid``.
        depth_ratio: Depth of the point over the depth of the surface that the key view shows at ``xy``: above 1 behind
            it. NaN off the frame, behind the camera, and where the key view's depth is missing.
    """

    points: Float[Tensor, "b f n 3"]
    valid: Bool[Tensor, "b f n"]
    points_at_key: Float[Tensor, "b fq n fk 3"]
    moves: Bool[Tensor, "b fq n fk"]
    xy: Float[Tensor, "b fq n fk 2"]
    visible: Bool[Tensor, "b fq n fk"]
    depth_ratio: Float[Tensor, "b fq n fk"]


@torch.no_grad()
def project_tokens(views: Views, grid: tuple[int, int]) -> TokenProjections:
    """Project every token's point into every view, and test whether it is seen there.

    The point of a token is that of :func:`token_points`, ``edge_aware``. It is seen in a key view if it projects into
    the frame, in front of the camera, onto a pixel of valid depth, and agrees with the surface of that pixel: its depth
    differs by at most :data:`DEPTH_TOLERANCE`, relatively, from the surface's depth at the very place. The surface is
    the plane through the pixel that its neighbours suggest; along each axis the neighbour of more equal depth is
    believed, so a slanted surface agrees with itself and a depth edge does not widen the test. A point too far (hidden)
    and one too near (floating in front of the surface) both fail.

    Where something moves between views, a point is followed to the time of the key view; one that has moved is seen
    only on a pixel that shows the same part of the scene.

    Measured on two spheres in a box, where .19 of the points in frame are hidden, for images of 32, 128 and 512 pixels:
    of the visible points .042, .012 and .006 fail, at depth edges; of the hidden ones .039, .027 and .035 pass, and
    .010, .009 and .004 if those are left out that a shift of one pixel or of .02 of their depth would bring into sight.
    Real depth needs .03: between kitchen frames of 7-Scenes 50 apart, the share of points in frame that agree with the
    key's depth is .65, .85, .89 and .90 for tolerances of .01, .02, .03 and .05.

    Args:
        views: The views, with point maps that fit their cameras.
        grid: Tokens (rows, columns) of a view.

    Raises:
        ValueError: If the grid does not fit the images.
    """
    check_grid("project_tokens", views.size, grid)
    known = views.valid & views.point_map.isfinite().all(2)
    pixel, valid = token_pixels(known, grid)
    points = points_at(views.point_map, pixel, valid)
    part = None if views.part is None else values_at(views.part, pixel)
    points_at_key, moves = views.follow(points, part)
    xy, depth_ratio = _seen_in_views(points_at_key, views, known)
    visible = (depth_ratio - 1).abs() <= DEPTH_TOLERANCE
    if part is not None:
        visible &= ~moves | _same_part(xy, part, views)
    own = own_view(views.count, device=valid.device)
    own_xy = pixel_xy(pixel, views.size[1]).to(xy).where(rearrange(valid, "b f n -> b f n 1"), torch.nan)
    return TokenProjections(
        points=points,
        valid=valid,
        points_at_key=points_at_key,
        moves=moves,
        xy=torch.where(rearrange(own, "fq n fk -> fq n fk 1"), rearrange(own_xy, "b f n c -> b f n 1 c"), xy),
        visible=torch.where(own, rearrange(valid, "b f n -> b f n 1"), visible),
        depth_ratio=depth_ratio,
    )


# The depth test


def _seen_in_views(
    points_at_key: Float[Tensor, "b f n f 3"], views: Views, known: Bool[Tensor, "b f height width"]
) -> tuple[Float[Tensor, "b f n f 2"], Float[Tensor, "b f n f"]]:
    """Return where points are seen in each view, and their depth over that of the surface there."""
    all_points = rearrange(points_at_key, "b fq n fk c -> b fk (fq n) c")
    xy, depth = project(all_points, views.intrinsics, views.world_to_cam)
    surface = _inverse_depth_at(xy, views, known)
    back = "b fk (fq n) ... -> b fq n fk ..."
    return rearrange(xy, back, fq=views.count), rearrange(depth * surface, back, fq=views.count)


def _same_part(xy: Float[Tensor, "b f n f 2"], part: Int[Tensor, "b f n"], views: Views) -> Bool[Tensor, "b f n f"]:
    """Return whether the pixel of the key view shows the part of the scene that the query's point belongs to."""
    assert views.part is not None
    pixel = token_of(xy, views.size, views.size).clamp(min=0)
    shown = values_at(views.part, rearrange(pixel, "b fq n fk -> b fk (fq n)"))
    return rearrange(shown, "b fk (fq n) -> b fq n fk", fq=views.count) == part[..., None]


def _inverse_depth_at(
    xy: Float[Tensor, "b f p 2"], views: Views, known: Bool[Tensor, "b f height width"]
) -> Float[Tensor, "b f p"]:
    """1 / depth of the surface at xy, on the plane of the pixel there; NaN off the frame or where depth is missing.

    Inverse depth, because that of a plane is linear in the image.
    """
    depth = point_map_to_depth(views.point_map, views.world_to_cam)
    inverse = torch.where(known, 1 / depth, torch.nan)
    planes = torch.stack([inverse, _slope(inverse, -1), _slope(inverse, -2)], dim=2)
    pixel = token_of(xy, views.size, views.size)
    inside = pixel >= 0
    pixel = pixel.where(inside, 0)
    flat = rearrange(planes, "b f c height width -> b f c (height width)")
    here, rightwards, downwards = torch.take_along_dim(flat, pixel[:, :, None], dim=-1).unbind(2)
    right, down = (xy - pixel_xy(pixel, views.size[1])).unbind(-1)
    return (here + rightwards * right + downwards * down).where(inside, torch.nan)


def _slope(inverse: Float[Tensor, "b f height width"], axis: int) -> Float[Tensor, "b f height width"]:
    """Change per pixel along an axis, to the side where it is smaller; 0 where neither neighbour is known."""
    step = inverse.diff(dim=axis)
    step = step.where(~step.isnan(), torch.inf)
    none = torch.full_like(inverse.narrow(axis, 0, 1), torch.inf)
    before, after = torch.cat([none, step], dim=axis), torch.cat([step, none], dim=axis)
    smaller = torch.where(after.abs() < before.abs(), after, before)
    return smaller.where(smaller.isfinite(), 0)
