"""Videos with point tracks, as TAP-Vid lays them out, in .npz files: truth at tracked points alone, no cameras.

A file holds ``video`` (uint8, [frames height width 3]), ``points`` ([tracks frames 2], x and y; in shares of width and
height where no visible one lies beyond 1, else in pixels; zero is the image's upper left corner) and ``occluded``
([tracks frames], true where the point is not seen). Pickles, which can run code, are not loaded; docs/data.md says how
to convert TAP-Vid's.

Each track is a rigid part of its own that moves in a plane before an unmoving camera: so a point is followed, and a
view shows it only at its own track's pixel. Of tracks that share a pixel of a view, the last is seen there.

Source: docs/references.md, "TAP-Vid".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from probe.scenes.files import DAMAGE
from probe.scenes.reading import printable
from probe.seeds import derive
from probe.views import IMAGE_PLANE, Views, resample

KEYS = ("video", "points", "occluded")
SUFFIXES = (".npz", ".pkl", ".pickle")
DRAWS = 100
"""Stretches of a video that are tried until view 0 shares a tracked point with another view."""
OPENED = 2  # videos that are kept in memory


@dataclass(frozen=True, kw_only=True)
class TrackedVideo:
    """A video whose points are tracked.

    Attributes:
        name: Of its file.
        video: Colours.
        xy: Of each track in each frame, in pixels; undefined where not ``seen``.
        seen: The point is visible in the frame.
    """

    name: str
    video: UInt8[np.ndarray, "frames height width 3"]
    xy: Float[Tensor, "frames tracks 2"]
    seen: Bool[Tensor, "frames tracks"]


def find_videos(root: Path) -> list[Path]:
    """Find the files of a folder, or take the file alone.

    Raises:
        ValueError: If one of them is a pickle.
        FileNotFoundError: If there is none.
    """
    files = sorted(p for p in root.iterdir() if p.suffix in SUFFIXES) if root.is_dir() else [root]
    pickles = [path for path in files if path.suffix in SUFFIXES[1:]]
    if pickles:
        raise ValueError(
            f"tracks: {pickles[0]} is a pickle, which can run code and is not loaded; convert it to .npz files "
            "yourself (docs/data.md, Point tracks) and name their folder"
        )
    if not files or not root.exists():
        raise FileNotFoundError(f"tracks: {root} holds no .npz file with {', '.join(KEYS)}; see docs/data.md")
    return files


@lru_cache(maxsize=OPENED)
def read_video(path: Path) -> TrackedVideo:
    """Read a file.

    Raises:
        ValueError: If it is no .npz of the three arrays, their shapes or types do not fit, or points could be pixels
            or shares.
    """
    arrays = _arrays(path)
    video, points, occluded = (arrays[key] for key in KEYS)
    shapes = {key: f"{arrays[key].dtype} {arrays[key].shape}" for key in KEYS}
    tracks, frames = points.shape[:2] if points.ndim == 3 else (0, 0)
    fits = video.dtype == np.uint8 and video.ndim == 4 and video.shape[0] == frames and video.shape[3] == 3
    if not (fits and points.shape[2] == 2 and occluded.shape == (tracks, frames) and occluded.dtype == bool):
        raise ValueError(
            f"tracks: {path} holds {shapes}, expected video uint8 (frames, height, width, 3), points (tracks, frames, "
            "2) and occluded bool (tracks, frames)"
        )
    xy = torch.from_numpy(np.asarray(points, np.float32).swapaxes(0, 1).copy())
    seen = torch.from_numpy(~occluded.T) & xy.isfinite().all(-1)
    if bool(seen.any()) and _are_shares(xy[seen], path):
        xy = xy * torch.tensor([video.shape[2], video.shape[1]])
    return TrackedVideo(name=printable(path.stem), video=video, xy=xy, seen=seen)


def _are_shares(xy: Float[Tensor, "points 2"], path: Path) -> bool:
    """Return whether coordinates are shares of width and height, rather than pixels."""
    beyond = xy > 1
    if bool(beyond.any()) and float(beyond.double().mean()) < 0.5:
        raise ValueError(
            f"tracks: {path} holds points up to {float(xy.max()):g}, while most are at most 1: shares of width and "
            "height end at 1, pixels do not; mark points beyond the image as occluded, or multiply by its size"
        )
    return not bool(beyond.any())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in KEYS}
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"tracks: {path} is not a .npz of plain arrays {', '.join(KEYS)}: {reason}") from error


def draw_frames(tracked: TrackedVideo, views: int, seed: int, index: int) -> list[int]:
    """Draw frames evenly spaced over a stretch of a video, in order of time, such that view 0 shares a point.

    Args:
        tracked: The video.
        views: Number of frames.
        seed: Of the run.
        index: Of the scene.

    Raises:
        ValueError: If the video is too short, or no stretch that was drawn has a common point.
    """
    frames = len(tracked.video)
    if frames < views:
        raise ValueError(f"tracks: {tracked.name} has {frames} frames, expected at least {views}, one per view")
    generator = torch.Generator().manual_seed(derive("tracks", seed, index))
    for _ in range(DRAWS):
        span = int(torch.randint(views - 1, frames, (), generator=generator))
        start = int(torch.randint(0, frames - span, (), generator=generator))
        chosen = torch.linspace(start, start + span, views).round().long()
        shown = _in_square(tracked)[chosen]
        if (shown[0] & shown[1:]).any():
            return [int(frame) for frame in chosen]
    raise ValueError(f"tracks: {tracked.name}: no tracked point is seen in two of {views} frames ({DRAWS} draws)")


def _in_square(tracked: TrackedVideo) -> Bool[Tensor, "frames tracks"]:
    """Return which points are seen within the largest centred square of the image, which becomes the view."""
    xy, side = _square_xy(tracked)
    return tracked.seen & ((xy >= 0) & (xy < side)).all(-1)


def _square_xy(tracked: TrackedVideo) -> tuple[Float[Tensor, "frames tracks 2"], int]:
    height, width = tracked.video.shape[1:3]
    side = min(height, width)
    return tracked.xy - torch.tensor([(width - side) // 2, (height - side) // 2]), side


def tracked_views(tracked: TrackedVideo, frames: list[int], *, size: int, n_ref: int) -> Views:
    """Return frames as the views of a scene, whose truth is known at the pixels of tracked points.

    Args:
        tracked: The video.
        frames: Indices, the references first.
        size: Side of the views, in pixels.
        n_ref: Number of reference views.
    """
    (height, width), f = tracked.video.shape[1:3], len(frames)
    xy, side = _square_xy(tracked)
    top, left = (height - side) // 2, (width - side) // 2
    square = tracked.video[frames, top : top + side, left : left + side]
    colours = torch.from_numpy(square).float() / 255
    place, shown = xy[frames] * (size / side), _in_square(tracked)[frames]
    plane = torch.cat([place / size - 0.5, torch.ones_like(place[..., :1])], -1)  # at depth 1, in views one unit wide
    part, point_map = torch.zeros(f, size, size, dtype=torch.long), torch.zeros(f, size, size, 3)
    for view, track in shown.nonzero().tolist():
        x, y = place[view, track].long().clamp(max=size - 1).tolist()
        part[view, y, x], point_map[view, y, x] = track + 1, plane[view, track]
    return Views(
        image=resample(rearrange(colours, "f h w c -> f c h w"), size, size)[None],
        intrinsics=torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]).expand(1, f, 3, 3).clone(),
        world_to_cam=torch.eye(4).expand(1, f, 4, 4).clone(),
        point_map=rearrange(point_map, "f h w c -> 1 f c h w"),
        valid=(part > 0)[None],
        n_ref=n_ref,
        unit=IMAGE_PLANE,
        part=part[None],
        part_pose=_poses(plane, tracked.seen[frames])[None],
    )


def _poses(plane: Float[Tensor, "f tracks 3"], seen: Bool[Tensor, "f tracks"]) -> Float[Tensor, "f parts 4 4"]:
    """Return where each track is, carried from the middle of the plane; NaN where it is not seen."""
    pose = torch.eye(4).repeat(seen.shape[0], seen.shape[1] + 1, 1, 1)
    shift = torch.where(seen[..., None], plane[..., :2], torch.nan)
    pose[:, 1:, :2, 3] = shift
    return pose


def shared_points(views: Views) -> Iterator[float]:
    """Yield the share of view 0's tracked points that each other view sees."""
    assert views.part is not None
    numbers = [set(part[part > 0].tolist()) for part in views.part[0]]
    for other in numbers[1:]:
        yield len(numbers[0] & other) / max(len(numbers[0]), 1)
