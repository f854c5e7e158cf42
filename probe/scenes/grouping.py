"""Which views of a recording show the same place from how far: pairs, rotation bins and groups. Pure."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from probe.geometry import depth_to_point_map, project, rotation_degrees

BINS = (0.0, 30.0, 60.0, 90.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rotation and overlap of each two views of a recording.

    Attributes:
        frames: The recording's indices that rows and columns stand for.
        rotation_deg: Relative rotation, degrees from 0 to 180.
        overlap: Share of a view's pixels whose point the other view sees, from 0 to 1; the smaller of both directions.
    """

    frames: tuple[int, ...]
    rotation_deg: Float[Tensor, "n n"]
    overlap: Float[Tensor, "n n"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Name the frames of one scene: an anchor, then views that lie in one rotation bin around it.

    Attributes:
        frames: The recording's indices, the anchor first.
        bin: Degrees, from the first up to but not including the second.
        rotation_deg: Each further frame's rotation to the anchor, in degrees.
        overlap: Each further frame's overlap with the anchor, from 0 to 1.
    """

    frames: tuple[int, ...]
    bin: tuple[float, float]
    rotation_deg: tuple[float, ...]
    overlap: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BinSupply:
    """Count what one rotation bin can give.

    Attributes:
        bin: Degrees, from the first up to but not including the second.
        pairs: Pairs of frames in the bin that overlap enough.
        anchors: Frames with enough such partners to head a group.
        groups: Choices of an anchor and its further views; a set of frames counts once per frame that can head it.
    """

    bin: tuple[float, float]
    pairs: int
    anchors: int
    groups: int


def compare_views(
    depth: Float[Tensor, "n height width"],
    intrinsics: Float[Tensor, "*each 3 3"],
    world_to_cam: Float[Tensor, "n 4 4"],
    *,
    frames: tuple[int, ...] | None = None,
    step: int = 4,
    tolerance: float = 0.05,
) -> Pairs:
    """Measure the rotation and the overlap of each two views.

    A pixel agrees if it has depth and its point, projected into the other view, lands on a pixel that has depth too,
    equal to the point's z-depth there. A pixel without depth agrees with nothing, so that overlap is never NaN.

    Args:
        depth: z-depth in world units; not positive where it is missing.
        intrinsics: In pixels of these depth maps; one for all views or one each.
        world_to_cam: Cameras.
        frames: The recording's indices of these views; 0 to n - 1 by default.
        step: Every ``step``-th row and column is projected; they are looked up in the whole maps.
        tolerance: The largest difference of two depths that agree, as a fraction of the projected one, below 1;
            infinite where depths are only supposed.
    """
    intrinsics = intrinsics.expand(len(depth), 3, 3)
    points = depth_to_point_map(depth, intrinsics, world_to_cam)
    rows = columns = slice(step // 2, None, step)
    points = rearrange(points[..., rows, columns], "n c h w -> n (h w) c")
    present = rearrange(depth[:, rows, columns] > 0, "n h w -> n (h w)")
    agree = [_agree(p, depth, intrinsics, world_to_cam, tolerance) & v for p, v in zip(points, present, strict=True)]
    share = torch.stack(agree).float().mean(-1)
    row, column = (rearrange(world_to_cam, f"n i j -> {axes} i j") for axes in ("n 1", "1 n"))
    return Pairs(
        frames=frames if frames is not None else tuple(range(len(depth))),
        rotation_deg=rotation_degrees(*torch.broadcast_tensors(row, column)),
        overlap=torch.minimum(share, share.mT),
    )


def count_groups(
    pairs: Pairs, *, views: int, bins: tuple[float | int, ...] = BINS, min_overlap: float | int = 0.2
) -> list[BinSupply]:
    """Count what each rotation bin can give, for arguments as in :func:`draw_groups`.

    Raises:
        ValueError: If an argument is out of range.
    """
    bins = _edges(bins, views)
    supplies = []
    for low, high in pairwise(bins):
        partners = _partners(pairs, low, high, min_overlap)
        degrees = partners.sum(-1).tolist()
        groups = sum(math.comb(degree, views - 1) for degree in degrees)
        anchors = sum(degree >= views - 1 for degree in degrees)
        supplies.append(BinSupply(bin=(low, high), pairs=sum(degrees) // 2, anchors=anchors, groups=groups))
    return supplies


def draw_groups(
    pairs: Pairs,
    *,
    count: int | tuple[int, ...],
    views: int,
    bins: tuple[float | int, ...] = BINS,
    min_overlap: float | int = 0.2,
    seed: int = 0,
) -> list[Group]:
    """Draw groups of views at random, equally many per rotation bin as far as the recording allows.

    Each bin owes an equal share of ``count`` (the first ones owe the remainder) and gives less if it has less, which
    :func:`count_groups` tells. Within a bin anchors take turns, so that the groups spread over the recording. No two
    groups hold the same set of frames.

    Args:
        pairs: From :func:`compare_views`.
        count: Groups of all bins together, or of each bin.
        views: Frames per group, the anchor included.
        bins: Edges in degrees, ascending; a bin holds its lower edge and not its upper one.
        min_overlap: What each further frame must share with the anchor, from 0 to 1.
        seed: Equal seeds give equal groups.

    Returns:
        In order of the bins; at least one group.

    Raises:
        ValueError: If an argument is out of range or no bin can give a group.
    """
    bins = _edges(bins, views)
    owing = _shares(count, len(bins) - 1)
    generator = torch.Generator().manual_seed(seed)
    seen: set[frozenset[int]] = set()
    groups: list[Group] = []
    for owed, (low, high) in zip(owing, pairwise(bins), strict=True):
        drawn = _draw(_partners(pairs, low, high, min_overlap), views, owed, generator, seen)
        groups += [_group(pairs, (low, high), rows) for rows in drawn]
    if not groups:
        raise ValueError(_why_none(pairs, views, bins, min_overlap))
    return groups


def _shares(count: int | tuple[int, ...], bins: int) -> tuple[int, ...]:
    if isinstance(count, tuple):
        return count
    if count < 1:
        raise ValueError(f"draw_groups: count is {count}, expected at least 1")
    return tuple(count // bins + (index < count % bins) for index in range(bins))


def _agree(
    points: Float[Tensor, "p 3"],
    depth: Float[Tensor, "n height width"],
    intrinsics: Float[Tensor, "n 3 3"],
    world_to_cam: Float[Tensor, "n 4 4"],
    tolerance: float,
) -> Bool[Tensor, "n p"]:
    n, height, width = depth.shape
    xy, expected = project(points.expand(n, -1, -1), intrinsics, world_to_cam)
    inside = ((xy >= 0) & (xy < xy.new_tensor([width, height]))).all(-1)
    x, y = torch.where(inside[..., None], xy, 0).long().unbind(-1)
    surface = depth.flatten(1).gather(1, y * width + x)
    return inside & ((surface - expected).abs() <= tolerance * expected)


def _partners(pairs: Pairs, low: float, high: float, min_overlap: float | int) -> Bool[Tensor, "n n"]:
    partners = (pairs.rotation_deg >= low) & (pairs.rotation_deg < high) & (pairs.overlap >= min_overlap)
    return partners.fill_diagonal_(False)


def _draw(
    partners: Bool[Tensor, "n n"], views: int, owed: int, generator: torch.Generator, seen: set[frozenset[int]]
) -> list[tuple[int, ...]]:
    order = torch.randperm(len(partners), generator=generator).tolist()
    turns = deque((anchor, _choices(partners[anchor], views - 1, generator)) for anchor in order)
    drawn: list[tuple[int, ...]] = []
    while turns and len(drawn) < owed:
        anchor, choices = turns.popleft()
        fresh = next((others for others in choices if {anchor, *others} not in seen), None)
        if fresh is not None:
            seen.add(frozenset((anchor, *fresh)))
            drawn.append((anchor, *fresh))
            turns.append((anchor, choices))
    return drawn


def _choices(partners: Bool[Tensor, " n"], size: int, generator: torch.Generator) -> Iterator[tuple[int, ...]]:
    indices = torch.nonzero(partners).flatten()
    return combinations(indices[torch.randperm(len(indices), generator=generator)].tolist(), size)


def _group(pairs: Pairs, span: tuple[float, float], rows: tuple[int, ...]) -> Group:
    anchor, others = rows[0], list(rows[1:])
    return Group(
        frames=tuple(pairs.frames[row] for row in rows),
        bin=span,
        rotation_deg=tuple(pairs.rotation_deg[anchor, others].tolist()),
        overlap=tuple(pairs.overlap[anchor, others].tolist()),
    )


def _edges(bins: tuple[float | int, ...], views: int) -> tuple[float, ...]:
    if views < 2:
        raise ValueError(f"groups: views is {views}, expected at least 2: an anchor and another view")
    if len(bins) < 2 or any(not low < high for low, high in pairwise(bins)):
        raise ValueError(f"groups: bins are {bins}, expected two or more ascending edges in degrees")
    return tuple(float(edge) for edge in bins)


def _why_none(pairs: Pairs, views: int, bins: tuple[float, ...], min_overlap: float | int) -> str:
    if len(pairs.frames) < views:
        return f"draw_groups: {len(pairs.frames)} frames, expected {views} or more for {views} views"
    most = max(int(_partners(pairs, low, high, min_overlap).sum(-1).max()) for low, high in pairwise(bins))
    inside = _partners(pairs, bins[0], bins[-1], -1.0)
    best = f"{pairs.overlap[inside].max():.3f}" if inside.any() else "none, as no pair is rotated so"
    return (
        f"draw_groups: no {views} of {len(pairs.frames)} frames make a scene: one must share {min_overlap:.0%} of its "
        f"image (min_overlap) with {views - 1} that are turned from it by {_spans(bins)} degrees; the best overlap of "
        f"a pair is {best}, the most such partners of a frame {most}"
    )


def _spans(bins: tuple[float, ...]) -> str:
    """Return the rotation bins in words: "0 to 30, 30 to 60"."""
    return ", ".join(f"{low:g} to {high:g}" for low, high in pairwise(bins))
