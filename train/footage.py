"""Training on real scenes: groups of frames drawn per step from any data set, read when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.models.model import MultiViewModel
from probe.scenes import find_recordings
from probe.scenes.choosing import Recordings
from probe.scenes.grouping import Pairs
from probe.scenes.recordings import Recording, compare_frames, load_views
from probe.views import TENSORS, Views
from train.settings import Settings

MIN_OVERLAP = 0.2
TRAIN, GAP = 0.7, 0.05
"""Shares of a recording, in order of time: trained on, then left out so that test frames have no near neighbours."""
MOST_FRAMES, SOME_FRAMES = 1000, 100
"""Frames of a lone recording, and of each of several, that are drawn from; a longer one is thinned evenly."""
MEMORY = 2**31
"""Bytes of frames, at the model's size, that are kept once read."""
FRAME_VALUES = 25
"""Bytes per pixel of a frame: colour and point in single precision, and validity."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Hold frames of one recording, and how each two lie to each other.

    Attributes:
        read: Gives a frame by its place, as a scene of one view.
        rotation_deg: Between each two frames.
        overlap: Share of a frame's pixels that the other sees, the smaller of both directions.
    """

    read: Callable[[int], Views]
    rotation_deg: Float[Tensor, "n n"]
    overlap: Float[Tensor, "n n"]

    @property
    def reachable(self) -> Float[Tensor, "n n"]:
        """Give each frame's rotation to the frames that it shares enough with; infinite to itself and the others."""
        far = (self.overlap < MIN_OVERLAP) | torch.eye(len(self.overlap), dtype=torch.bool)
        return self.rotation_deg.masked_fill(far, torch.inf)

    def part(self, chosen: slice) -> "Footage":
        """Pick frames."""
        start = chosen.start or 0
        return Footage(
            read=lambda place: self.read(start + place),
            rotation_deg=self.rotation_deg[chosen, chosen],
            overlap=self.overlap[chosen, chosen],
        )

    def group(self, views: int, limit: float, generator: torch.Generator) -> list[int] | None:
        """Draw an anchor, then frames that share enough with it and are rotated by at most ``limit`` degrees.

        An anchor without enough frames within the limit takes the least rotated ones.

        Returns:
            Places of the frames, the anchor first; None if no frame shares enough with so many others.
        """
        rotation, needed = self.reachable, views - 1
        anchors = _where(rotation.isfinite().sum(1) >= needed)
        if not len(anchors):
            return None
        anchor = anchors[torch.randint(len(anchors), (), generator=generator)]
        near = _where(rotation[anchor] <= limit)
        if len(near) < needed:
            near = rotation[anchor].topk(needed, largest=False).indices
        others = near[torch.randperm(len(near), generator=generator)[:needed]]
        return torch.cat([rearrange(anchor, "-> 1"), others]).tolist()


@dataclass(frozen=True, kw_only=True)
class Library:
    """Hold recordings to draw scenes from.

    Attributes:
        count: Of recordings.
        open: Gives one of them, compared.
    """

    count: int
    open: Callable[[int], Footage]

    def draw(
        self,
        settings: Settings,
        model: MultiViewModel,
        generator: torch.Generator,
        count: int,
        n_ref: int,
        *,
        widest: float = 1.0,
        only: slice = slice(None),
    ) -> Views:
        """Draw scenes: a recording, then an anchor of it, then frames that share enough with it, rotated by a limit.

        The limit is the settings' largest rotation times ``widest``. Every process draws all scenes' frames and reads
        only those of its own.

        Raises:
            ValueError: If a recording has no frame with enough others to share with, or a file is broken.
        """
        limit = widest * 30.0 * (max(settings.rotation_bins) + 1)
        drawn = [self._scene(settings.views, limit, generator) for _ in range(count)][only]
        scenes = [[footage.read(place) for place in places] for footage, places in drawn]
        joined: dict[str, Any] = {
            name: torch.cat([torch.cat([getattr(view, name) for view in scene], dim=1) for scene in scenes])
            for name in TENSORS
        }
        return Views(**joined, n_ref=n_ref, unit=scenes[0][0].unit).to(model.alpha_bar.device)

    def _scene(self, views: int, limit: float, generator: torch.Generator) -> tuple[Footage, list[int]]:
        order = [0] if self.count == 1 else torch.randperm(self.count, generator=generator).tolist()
        for index in order:  # the first one that has enough frames
            footage = self.open(index)
            frames = footage.group(views, limit, generator)
            if frames is not None:
                return footage, frames
        sizes = [len(self.open(index).overlap) for index in order]
        raise ValueError(
            f"Library: none of {sum(sizes)} frames shares {MIN_OVERLAP} of its pixels with {views - 1} others; "
            "use fewer --views or a denser recording"
        )


def _where(mask: Bool[Tensor, " n"]) -> Int[Tensor, " k"]:
    return mask.nonzero().flatten()


def open_library(name: str, root: str, size: int, *, supervised: bool = False) -> tuple[Library, Library]:
    """Open a data set of real scenes: frames to train on, and frames to test on.

    A lone recording is parted in time; of several, the last ones by name are tested on.

    Args:
        name: A key of :data:`probe.scenes.DATA_SETS`.
        root: Its folder.
        size: Side of the views, in pixels.
        supervised: Whether correspondence is asked for.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is broken, or scenes without depth are to be supervised.
    """
    recordings = find_recordings(name, root)
    if supervised and not recordings.open(recordings.names[0]).has_truth:
        raise ValueError(
            f"--scenes {name} carries no depth to supervise attention with; use --layer none or other scenes"
        )
    count = len(recordings.names)
    kept = MEMORY // (FRAME_VALUES * size * size) // count
    if count == 1:
        recording = recordings.open(recordings.names[0])
        pairs = compare_frames(recording, most=MOST_FRAMES)
        first, second = round(TRAIN * len(pairs.frames)), round((TRAIN + GAP) * len(pairs.frames))
        whole = footage(recording, pairs, size, kept)
        return _lone(whole.part(slice(0, first))), _lone(whole.part(slice(second, None)))
    first = min(round((TRAIN + GAP) * count), count - 1)
    train, test = (_shelf(recordings, names, size, kept) for names in (slice(0, first), slice(first, None)))
    return train, test


def footage(recording: Recording, pairs: Pairs, size: int, kept: int) -> Footage:
    """Make frames of a recording ready to be drawn from.

    Args:
        recording: The recording.
        pairs: What :func:`probe.scenes.recordings.compare_frames` gave.
        size: Side of the views, in pixels.
        kept: Frames that stay in memory once read.
    """

    @lru_cache(maxsize=kept)
    def read(place: int) -> Views:
        return load_views(recording, [pairs.frames[place]], size=size, n_ref=1)

    return Footage(read=read, rotation_deg=pairs.rotation_deg, overlap=pairs.overlap)


def _lone(part: Footage) -> Library:
    return Library(count=1, open=lambda _: part)


def _shelf(recordings: Recordings, names: slice, size: int, kept: int) -> Library:
    chosen = recordings.names[names]

    @cache  # cameras and overlaps are small; comparing frames again is slow
    def open_footage(index: int) -> Footage:
        recording = recordings.open(chosen[index])
        return footage(recording, compare_frames(recording, most=SOME_FRAMES), size, kept)

    return Library(count=len(chosen), open=open_footage)
