"""Sparse tracks, points followed through views, as truth: 2D positions, with or without 3D points.

Where a reconstruction or a tracker gives tracks, :func:`match_tracks` turns them into token matches directly: the track
itself says which tokens belong together, and no nearest point in 3D is needed. :func:`track_points` puts tracks with
3D points into a point map that is known at few pixels. :func:`sift_tracks` makes tracks from the images alone, and
:func:`triangulate` their points from the cameras.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from probe.correspondence import TokenMatches, own_view, token_centres, token_of
from probe.geometry import camera_centre, project, ray_directions
from probe.views import Views

LOWE_RATIO = 0.8
PARALLAX_DEGREES = 1.0
REPROJECTION = 1.5
"""Pixels that a triangulated point may lie off each of its positions."""


@dataclass(frozen=True)
class Tracks:
    """Points followed through the views of each scene.

    Attributes:
        xy: Position in every view, in pixels; undefined where not ``seen``.
        seen: The track has a position in the view; scenes of fewer tracks are filled up with unseen ones.
    """

    xy: Float[Tensor, "b f p 2"]
    seen: Bool[Tensor, "b f p"]

    def kept(self, chosen: Bool[Tensor, "b p"]) -> "Tracks":
        """Leave out tracks."""
        return Tracks(xy=self.xy, seen=self.seen & rearrange(chosen, "b p -> b 1 p"))


@torch.no_grad()
def match_tracks(tracks: Tracks, size: tuple[int, int], grid: tuple[int, int]) -> TokenMatches:
    """Match every token with the token of each view that one of its tracks leads to.

    Of several tracks of a token that are seen in the key view, the one nearest to the token's centre leads (of equally
    near ones the first). A match counts wherever there is one: the track is its own way back.

    Args:
        tracks: Positions outside of the frame count as unseen.
        size: (height, width) of the views in pixels.
        grid: Tokens (rows, columns) of a view.

    Raises:
        ValueError: If the grid does not fit the images.
    """
    token = torch.where(tracks.seen, token_of(tracks.xy, size, grid), -1)
    centre = token_centres(grid, size, device=token.device)[token.clamp(min=0)]
    cost = (tracks.xy - centre).square().sum(-1)
    views, n = range(token.shape[1]), grid[0] * grid[1]
    pairs = [[_lead(token[:, q], cost[:, q], token[:, k], n) for k in views] for q in views]
    index = torch.stack([torch.stack(row, dim=-1) for row in pairs], dim=1)
    own = own_view(token.shape[1], device=token.device)
    itself = rearrange(torch.arange(index.shape[2], device=token.device), "n -> n 1")
    return TokenMatches(index=torch.where(own, itself, index.clamp(min=0)), counted=(index >= 0) & ~own)


def _lead(
    token: Int[Tensor, "b p"], cost: Float[Tensor, "b p"], other: Int[Tensor, "b p"], n: int
) -> Int[Tensor, "b n"]:
    """Return the key token that each query token's best track leads to; -1 where none does."""
    usable, p = (token >= 0) & (other >= 0), token.shape[1]
    slot = torch.where(usable, token, n)  # unusable tracks go to a slot that is cut off
    best = cost.new_full((len(token), n + 1), torch.inf).scatter_reduce(1, slot, cost, "amin")
    number = torch.arange(p, device=token.device).expand_as(token)
    winning = torch.where(usable & (cost == best.gather(1, slot)), number, p)
    first = token.new_full((len(token), n + 1), p).scatter_reduce(1, slot, winning, "amin")[:, :n]
    return F.pad(other, (0, 1), value=-1).gather(1, first)


@torch.no_grad()
def nearest_points(
    tracks: Tracks, intrinsics: Float[Tensor, "b f 3 3"], world_to_cam: Float[Tensor, "b f 4 4"]
) -> tuple[Float[Tensor, "b p 3"], Bool[Tensor, "b p"]]:
    """Find the point nearest to the rays of each track's positions, in the sum of squared distances.

    Args:
        tracks: Positions in pixels.
        intrinsics: Of each view, in the same pixels.
        world_to_cam: Of each view.

    Returns:
        World points; and which are determined: seen twice or more, by rays that differ by :data:`PARALLAX_DEGREES` or
        more. The others are undefined.
    """
    direction = ray_directions(tracks.xy.double(), intrinsics.double(), world_to_cam.double())
    direction = F.normalize(direction, dim=-1)
    identity = torch.eye(3, dtype=direction.dtype, device=direction.device)
    across = identity - einsum(direction, direction, "b f p i, b f p j -> b f p i j")
    across = across * rearrange(tracks.seen, "b f p -> b f p 1 1")
    centre = camera_centre(world_to_cam.double())
    matrix = reduce(across, "b f p i j -> b p i j", "sum")
    aim = einsum(across, centre, "b f p i j, b f j -> b p i")
    spread = 1 - math.cos(math.radians(PARALLAX_DEGREES))  # the smallest eigenvalue of two rays that far apart
    apart = torch.linalg.eigvalsh(matrix)[..., 0] >= spread  # 0 for a single ray
    points = torch.linalg.solve(torch.where(apart[..., None, None], matrix, identity), aim).to(tracks.xy)
    return points, apart


@torch.no_grad()
def triangulate(tracks: Tracks, views: Views) -> tuple[Float[Tensor, "b p 3"], Bool[Tensor, "b p"]]:
    """Find the points of tracks (:func:`nearest_points`), and reject those that do not fit the cameras.

    Returns:
        World points, NaN where not good; and which are good: seen twice or more, by rays that differ by
        :data:`PARALLAX_DEGREES` or more, in front of those cameras, projected within :data:`REPROJECTION` pixels of
        every position.
    """
    points, apart = nearest_points(tracks, views.intrinsics, views.world_to_cam)
    in_all = repeat(points, "b p c -> b f p c", f=views.count)
    xy, _ = project(in_all, views.intrinsics, views.world_to_cam)
    near = (xy - tracks.xy).norm(dim=-1) <= REPROJECTION  # false for NaN, behind the camera
    good = apart & (near | ~tracks.seen).all(1)
    return points.where(good[..., None], torch.nan), good


def track_points(
    tracks: Tracks, points: Float[Tensor, "b p 3"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b f 3 height width"], Bool[Tensor, "b f height width"]]:
    """Put the 3D points of tracks at the pixels they are seen at; of several at a pixel the last stays.

    Args:
        tracks: Positions outside of the frame are left out.
        points: World point of each track; tracks whose point is not finite are left out.
        size: (height, width) of the views in pixels.
    """
    (b, f, p), (height, width) = tracks.seen.shape, size
    pixel = torch.where(tracks.seen & points.isfinite().all(-1)[:, None], token_of(tracks.xy, size, size), -1)
    slot = torch.where(pixel >= 0, pixel, height * width)
    last = torch.full((b, f, height * width + 1), -1, device=slot.device)
    number = torch.arange(p, device=slot.device).expand_as(slot)
    last = last.scatter_reduce(2, slot, number, "amax")[..., :-1]
    scene = rearrange(torch.arange(b, device=slot.device), "b -> b 1 1")
    lasting = F.pad(points, (0, 0, 0, 1), value=torch.nan)[scene, last]  # -1 is the one that was added
    maps = rearrange(lasting, "b f (height width) c -> b f c height width", height=height)
    return maps, rearrange(last >= 0, "b f (height width) -> b f height width", height=height)


def sift_tracks(views: Views) -> Tracks:
    """Match SIFT keypoints between each two views: mutual nearest descriptors that pass Lowe's ratio test.

    Each match is a track of two views. Cameras are not used; :func:`triangulate` rejects what does not fit them.
    """
    bytes_ = (views.image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    scenes = rearrange(bytes_, "b f c height width -> b f height width c").numpy()
    tracks = [_scene_tracks(scene) for scene in scenes]
    most = max(len(seen[0]) for _, seen in tracks)
    xy = np.stack([np.pad(xy, ((0, 0), (0, most - xy.shape[1]), (0, 0))) for xy, _ in tracks])
    seen = np.stack([np.pad(seen, ((0, 0), (0, most - seen.shape[1]))) for _, seen in tracks])
    return Tracks(xy=torch.from_numpy(xy).to(views.image), seen=torch.from_numpy(seen).to(views.valid))


def _scene_tracks(
    images: UInt8[np.ndarray, "f height width 3"],
) -> tuple[Float[np.ndarray, "f p 2"], Bool[np.ndarray, "f p"]]:
    sift = cv2.SIFT.create(enable_precise_upscale=True)  # without, positions are a quarter of a pixel off
    described = [sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image in images]
    pairs = combinations(range(len(images)), 2)
    tracks = [(a, b, match) for a, b in pairs for match in mutual_matches(described[a][1], described[b][1])]
    xy = np.zeros((len(images), len(tracks), 2), dtype=np.float32)
    seen = np.zeros(xy.shape[:2], dtype=bool)
    for number, (a, b, match) in enumerate(tracks):
        for view, keypoint in ((a, described[a][0][match.queryIdx]), (b, described[b][0][match.trainIdx])):
            xy[view, number] = np.add(keypoint.pt, 0.5)  # OpenCV puts the first pixel's centre at (0, 0)
            seen[view, number] = True
    return xy, seen


def mutual_matches(first: np.ndarray | None, second: np.ndarray | None) -> list[cv2.DMatch]:
    """Match SIFT descriptors that are each other's nearest and pass Lowe's ratio test.

    Args:
        first: [n, 128]; None where an image has no keypoint.
        second: Of another image.

    Returns:
        At most one match for each of ``first``; none where an image has fewer than two keypoints.

    Source:
        Lowe 2004 (IJCV 60:2), section 7.1.
    """
    if first is None or second is None or min(len(first), len(second)) < 2:
        return []
    matcher = cv2.BFMatcher()
    back = {match.queryIdx: match.trainIdx for match in matcher.match(second, first)}
    two = matcher.knnMatch(first, second, k=2)
    return [a for a, b in two if a.distance < LOWE_RATIO * b.distance and back[a.trainIdx] == a.queryIdx]


def triangulated_tracks(views: Views) -> tuple[Tracks, Float[Tensor, "b p 3"]]:
    """Return the SIFT tracks that fit the cameras, with their points."""
    tracks = sift_tracks(views)
    points, good = triangulate(tracks, views)
    return tracks.kept(good), points


def track_geometry(views: Views) -> tuple[Float[Tensor, "b f 3 height width"], Bool[Tensor, "b f height width"]]:
    """Return the points of triangulated SIFT tracks, as a source of geometry: known at few pixels."""
    tracks, points = triangulated_tracks(views)
    return track_points(tracks, points, views.size)
