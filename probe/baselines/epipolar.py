"""What the cameras alone allow: the true epipolar line is known, and nothing of the images.

The point that a query shows lies somewhere on its pixel's ray, so its match lies on the image of that ray in the key
view: the epipolar line, from the epipole (depth zero) to the vanishing point of the ray (depth infinite), as far as it
lies in front of the key camera and inside its frame. The oracle's match is a position drawn uniformly along that part;
its score is the exact probability of being right, so nothing is random. It is no upper limit of what cameras tell: one
who also knows at which depths scenes usually lie does better.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.baselines.describing import without_weights
from probe.geometry import camera_centre, ray_directions, stand_apart
from probe.measure.matcher import Scorer, drawn_scores
from probe.metrics import GridTruth, Measured, Threshold, Weigh
from probe.protocols import Protocol
from probe.views import Views

TOUCHED = 1e-6
"""Pixels added to every token that a line touches: a line that is a single point (no baseline) still has a token."""
NEAREST = 1e-9
"""Where a ray begins, as s: not in the camera's centre itself, which has no image in a camera at the same place."""


@dataclass(frozen=True, kw_only=True)
class Rays:
    """The image of every query's ray in every key view: homogeneous ``(1 - s) start + s end``, s from 0 to 1.

    Attributes:
        start: Of the query camera's centre: the epipole.
        end: Of the ray's direction: its vanishing point.
    """

    start: Float[Tensor, "b fq n fk 3"]
    end: Float[Tensor, "b fq n fk 3"]

    def at(self, s: Float[Tensor, "b fq n fk m"]) -> Float[Tensor, "b fq n fk m 2"]:
        """Return pixels; undefined where the ray is not in front of the key camera."""
        mixed = self.start[..., None, :] + s[..., None] * (self.end - self.start)[..., None, :]
        return mixed[..., :2] / mixed[..., 2:]

    def between(
        self, axis: int, edges: Float[Tensor, " edges"]
    ) -> tuple[Float[Tensor, "b fq n fk m"], Float[Tensor, "b fq n fk m"]]:
        """Return s where the ray enters and leaves each strip between two edges, in pixels of an axis (0 x, 1 y).

        Strips that it never enters have an end before their beginning. Inside a strip it is in front of the camera:
        behind it, the signs of both edges' sides turn.
        """
        a, b = (p[..., axis, None] - edges * p[..., 2, None] for p in (self.start, self.end))
        low, high = _where_positive(a[..., :-1], b[..., :-1]), _where_positive(-a[..., 1:], -b[..., 1:])
        return torch.maximum(low[0], high[0]), torch.minimum(low[1], high[1])


def _where_positive(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of s in [NEAREST, 1] where (1 - s) a + s b is at least 0; one that ends at 0 if there is none."""
    crossing = a / torch.where(a == b, 1, a - b)
    first = torch.where(a >= 0, 0.0, torch.where(b >= 0, crossing, 1.0))
    last = torch.where(b >= 0, 1.0, torch.where(a >= 0, crossing, 0.0))
    return first.clamp(min=NEAREST), last


def query_rays(views: Views, truth: GridTruth) -> Rays:
    """Send a ray through the pixel of every query's point, and see it from every view; double precision.

    From a camera at the same place the ray is one point: what rounding leaves of the epipole would be no line's end.
    """
    own = rearrange(truth.xy.diagonal(dim1=1, dim2=3), "b n c f -> b f n c").double()
    intrinsics, world_to_cam = views.intrinsics.double(), views.world_to_cam.double()
    direction = ray_directions(own, intrinsics, world_to_cam)
    centre = repeat(camera_centre(world_to_cam), "b fq c -> b fq n c", n=own.shape[2])
    turn = intrinsics @ world_to_cam[..., :3, :3]
    shift = rearrange(intrinsics @ world_to_cam[..., :3, 3:], "b fk c 1 -> b 1 1 fk c")
    end = torch.einsum("bkij,bqnj->bqnki", turn, direction)
    start = torch.einsum("bkij,bqnj->bqnki", turn, centre) + shift
    apart = stand_apart(*torch.broadcast_tensors(views.world_to_cam[:, :, None], views.world_to_cam[:, None]))
    return Rays(start=start.where(rearrange(apart, "b fq fk -> b fq 1 fk 1"), 0), end=end)


def weigh_tokens(views: Views, truth: GridTruth) -> Weigh:
    """Weigh every token by the length of the query's epipolar line inside it, in pixels.

    Queries without a known point have no ray, and weigh no token.
    """
    rays, (height, width), (h, w) = query_rays(views, truth), views.size, truth.grid
    columns = rays.between(0, torch.linspace(0, width, w + 1, dtype=torch.float64, device=truth.xy.device))
    rows = rays.between(1, torch.linspace(0, height, h + 1, dtype=torch.float64, device=truth.xy.device))

    def weigh(tokens: Int[Tensor, " m"]) -> Float[Tensor, "b m fq n fk"]:
        first = torch.maximum(columns[0][..., tokens % w], rows[0][..., tokens // w])
        last = torch.minimum(columns[1][..., tokens % w], rows[1][..., tokens // w])
        length = (rays.at(last) - rays.at(first)).norm(dim=-1) + TOUCHED
        inside = torch.where(first <= last, length, 0)  # false for NaN
        return rearrange(inside, "b fq n fk m -> b m fq n fk").to(truth.xy)

    return weigh


def match_on_lines(views: Views) -> Scorer:
    """Draw matches on the true epipolar lines.

    Raises:
        ValueError: If the views have no cameras.
    """
    if not views.has_cameras:
        raise ValueError(f"epipolar: {', '.join(views.names)} has no cameras, so no epipolar line; leave epipolar out")

    def score(truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
        return drawn_scores(weigh_tokens(views, truth), truth, thresholds, protocol)

    return score


load_matcher = without_weights(match_on_lines)
