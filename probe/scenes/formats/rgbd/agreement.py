"""Whether depths and cameras are of one scale: what frames see must agree when it is carried from one to another."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.geometry import depth_to_point_map, project
from probe.scenes.recordings import Recording, read_depth

RUNS, FRAMES, APART = 3, 4, 15  # short runs of frames that are compared, frames of each, and the most between two
COARSE = 48  # side of their depth maps
AGREES = 0.01  # relative difference of two depths of one place
COUNTS = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 6553.5, 10000.0, 1e6)
"""What depth files are known to count as one metre."""
CLOSE = 1.1  # scales whose shares differ less are as good as each other; the one nearest to millimetres is named
FEW, BETTER = 0.05, 1.3
"""A scale is named if a larger share of pixels than FEW agrees by it, and BETTER times the share as the files are read.

On the kitchen of 7-Scenes no wrong scale has more than 1.1 times the share of the true one, even for 2 neighbouring
frames. The true scale has 1.5 times the share of one that is 4 times off, for 10 neighbouring frames, and 3 times or
more the share of the others.
"""


def better_scale(recording: Recording, depth_scale: float) -> tuple[float, float, float] | None:
    """Find a depth scale by which the frames agree much better than as they are read.

    Cameras that only turn agree at every scale: then nothing can be told.

    Args:
        recording: With depth; a few frames are read.
        depth_scale: What a depth file counts as one metre, as it is read.

    Returns:
        The scale, the share of pixels that agrees by it, and as it is read; None if there is none, or too few frames
        can be read.
    """
    frames, depth = _read_some(recording)
    if len(frames) < 2:
        return None
    intrinsics = torch.stack([recording.camera(index, COARSE) for index in frames])
    cameras = recording.cameras[frames]
    shares = {scale: _agreement(depth * (depth_scale / scale), intrinsics, cameras) for scale in COUNTS}
    read = shares.get(depth_scale, _agreement(depth, intrinsics, cameras))
    most = max(shares.values())
    if most < FEW or most < BETTER * read:
        return None
    as_good = [scale for scale in COUNTS if shares[scale] * CLOSE >= most]
    best = min(as_good, key=lambda scale: abs(math.log(scale / 1000)))
    return best, shares[best], read


def _read_some(recording: Recording) -> tuple[list[int], Float[Tensor, "n size size"]]:
    """Read the coarse depth maps of runs of frames, evenly spread, as far as they can be read."""
    count = len(recording.names)
    step = min(APART, max(1, count // (RUNS * FRAMES)))
    wanted = {run * count // RUNS + place * step for run in range(RUNS) for place in range(FRAMES)}
    depths: dict[int, Tensor] = {}
    for index in sorted(wanted & set(range(count))):
        try:
            depths[index] = read_depth(recording, index, COARSE)
        except (ValueError, OSError):
            continue
    return list(depths), torch.stack([*depths.values()]) if depths else torch.zeros(0, COARSE, COARSE)


def _agreement(
    depth: Float[Tensor, "n size size"], intrinsics: Float[Tensor, "n 3 3"], cameras: Float[Tensor, "n 4 4"]
) -> float:
    """Return the share of pixels, of all that are seen from another place, whose depth another frame confirms."""
    points = depth_to_point_map(depth, intrinsics, cameras).flatten(-2).mT
    known = (depth > 0).flatten(1)
    pairs = [_confirmed(points, known, one, depth, intrinsics, cameras) for one in range(len(depth))]
    total = sum(int(mask.sum()) for mask, _ in pairs)
    return sum(int(agrees.sum()) for _, agrees in pairs) / max(total, 1)


def _confirmed(
    points: Float[Tensor, "n p 3"],
    known: Bool[Tensor, "n p"],
    frame: int,
    depth: Float[Tensor, "n size size"],
    intrinsics: Float[Tensor, "n 3 3"],
    cameras: Float[Tensor, "n 4 4"],
) -> tuple[Bool[Tensor, "n p"], Bool[Tensor, "n p"]]:
    """Return which points of the other frames are known, and which of them a frame sees at their very depth."""
    size = depth.shape[-1]
    xy, far = project(points, intrinsics[frame].expand(len(points), 3, 3), cameras[frame].expand(len(points), 4, 4))
    inside = ((xy >= 0) & (xy < size)).all(-1)
    place = torch.where(inside[..., None], xy, 0).long()
    seen = depth[frame][place[..., 1], place[..., 0]]
    others = known & (torch.arange(len(points)) != frame)[:, None]
    return others, others & inside & (seen > 0) & ((seen - far).abs() < AGREES * far)


def scale_note(name: str, recording: Recording, depth_scale: float) -> str:
    """Return a warning that depths and cameras seem to differ in scale; empty if they do not, or it cannot be told."""
    better = better_scale(recording, depth_scale)
    if better is None:
        return ""
    scale, share, read = better
    times = depth_scale / scale
    millimetres = " (or --unit 0.001, if its poses are in millimetres)" if abs(times / 1000 - 1) < 0.3 else ""
    return (
        f"WARNING: depths of {name} look {_times(times)} by its cameras: {share:.0%} of the pixels of other frames "
        f"agree if its files count {scale:g} for a metre, {read:.0%} with {depth_scale:g} as read; try --depth-scale "
        f"{scale:g}{millimetres}"
    )


def _times(factor: float) -> str:
    times = max(factor, 1 / factor)
    return f"{times:.{0 if times > 100 else 1}f} times too {'large' if factor < 1 else 'small'}".replace(".0 ", " ")


def join_notes(notes: Sequence[str]) -> str:
    """Join notes into one."""
    return "; ".join(note for note in notes if note)
