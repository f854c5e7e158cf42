"""Training on real scenes: groups of frames, drawn per step from any data set and read when they are needed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.scenes import find_recordings
from probe.scenes.choosing import Recordings, without_broken
from probe.scenes.grouping import Pairs
from probe.scenes.reading import DEFAULT, Reading, left_out
from probe.scenes.recordings import (
    Recording,
    UnreadableFramesError,
    check_frames,
    compare_frames,
    load_views,
)
from probe.views import TENSORS, Views

Check = Callable[[Recording], None]
"""Raises ValueError of a recording that does not serve."""
CPU = torch.device("cpu")
MIN_OVERLAP = 0.2
TRAIN, GAP = 0.7, 0.05
"""Shares of a recording, in order of time: trained on, then left out so that test frames have no near neighbours."""
MOST_FRAMES, SOME_FRAMES = 1000, 100
"""Frames that are drawn from: of a lone recording, and of each of several; longer ones are thinned evenly."""
SEARCHED = 32
"""Recordings that are opened to find one with depth."""
MEMORY = 2**31
"""Bytes of frames, at the model's size, that are kept once read."""
FRAME_VALUES = 25
"""Bytes per pixel of a frame: colour and point in single precision, and validity."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The frames of one recording, and how each two lie to each other.

    Attributes:
        read: Returns a frame by its position, as a scene of one view.
        rotation_deg: Between each two frames.
        overlap: Share of a frame's pixels that the other sees, the smaller of both directions.
    """

    read: Callable[[int], Views]
    rotation_deg: Float[Tensor, "n n"]
    overlap: Float[Tensor, "n n"]

    @property
    def reachable(self) -> Float[Tensor, "n n"]:
        """Return each frame's rotation to the frames that it overlaps enough; infinite to itself and the others."""
        far = (self.overlap < MIN_OVERLAP) | torch.eye(len(self.overlap), dtype=torch.bool)
        return self.rotation_deg.masked_fill(far, torch.inf)

    def part(self, chosen: slice) -> "Footage":
        """Return some of the frames."""
        start = chosen.start or 0
        return Footage(
            read=lambda frame: self.read(start + frame),
            rotation_deg=self.rotation_deg[chosen, chosen],
            overlap=self.overlap[chosen, chosen],
        )

    def group(self, views: int, limit: float, generator: torch.Generator) -> list[int] | None:
        """Draw an anchor, then frames that overlap it enough and are rotated by at most ``limit`` degrees.

        An anchor without enough frames within the limit takes the least rotated ones.

        Args:
            views: Frames to draw, the anchor included.
            limit: Largest rotation against the anchor, in degrees.
            generator: Of the draw.

        Returns:
            Positions of the frames, the anchor first; None if no frame overlaps enough other frames.
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


def _no_frame(frame: int) -> Views:
    raise IndexError(f"a recording that was left out has no frame {frame}")


NO_FOOTAGE = Footage(read=_no_frame, rotation_deg=torch.zeros(0, 0), overlap=torch.zeros(0, 0))
"""Of a recording that was left out: no frame is drawn from it."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Recordings to draw scenes from.

    Attributes:
        count: Of recordings.
        open: Returns one of them, with the rotations and overlaps of its frames.
        views: Views per scene.
        max_rotation: Largest rotation of a view against the anchor, in degrees.
        device: Where the views lie.
    """

    count: int
    open: Callable[[int], Footage]
    views: int
    max_rotation: float
    device: torch.device = CPU

    def draw(
        self,
        generator: torch.Generator,
        count: int,
        n_ref: int,
        *,
        widest: float = 1.0,
        only: slice = slice(None),
    ) -> Views:
        """Draw scenes: a recording, then an anchor of it, then frames that overlap it enough, rotated by a limit.

        Every process draws all scenes' frames and reads only those of its own.

        Args:
            generator: Of the draw.
            count: Number of scenes.
            n_ref: Reference views; they come first.
            widest: Share of the largest rotation that is the limit, 0 to 1.
            only: The scenes to read.

        Raises:
            ValueError: If no recording has a frame that overlaps enough others, or a file is broken.
        """
        limit = widest * self.max_rotation
        drawn = [self._scene(limit, generator) for _ in range(count)][only]
        scenes = [[footage.read(frame) for frame in frames] for footage, frames in drawn]
        joined: dict[str, Any] = {
            name: torch.cat([torch.cat([getattr(view, name) for view in scene], dim=1) for scene in scenes])
            for name in TENSORS
        }
        return Views(**joined, n_ref=n_ref, unit=scenes[0][0].unit).to(self.device)

    def _scene(self, limit: float, generator: torch.Generator) -> tuple[Footage, list[int]]:
        order = [0] if self.count == 1 else torch.randperm(self.count, generator=generator).tolist()
        for index in order:  # the first one that has enough frames
            footage = self.open(index)
            frames = footage.group(self.views, limit, generator)
            if frames is not None:
                return footage, frames
        sizes = [len(self.open(index).overlap) for index in order]
        raise ValueError(
            f"Library: none of {sum(sizes)} frames shares {MIN_OVERLAP} of its pixels with {self.views - 1} others; "
            "use fewer views per scene or a denser recording"
        )


def _where(mask: Bool[Tensor, " n"]) -> Int[Tensor, " k"]:
    return mask.nonzero().flatten()


def open_library(
    name: str,
    root: str,
    *,
    size: int,
    views: int,
    max_rotation: float,
    device: torch.device = CPU,
    supervised: bool = False,
    reading: Reading = DEFAULT,
) -> tuple[Library, Library]:
    """Open a data set of real scenes: frames to train on, and frames to test on.

    A lone recording is split in time; of several, the last ones by name are tested on.

    Args:
        name: A key of :data:`probe.scenes.DATA_SETS`.
        root: Its folder.
        size: Side of the views, in pixels.
        views: Views per scene.
        max_rotation: Largest rotation of a view against the anchor, in degrees.
        device: Where the views lie.
        supervised: Whether the scenes need correspondence.
        reading: How its files are read: broken frames and recordings are left out with a warning, or refused.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If no frame can be read, one is broken and reading is strict, or scenes without depth are to be
            supervised.
    """
    recordings = find_recordings(name, root, reading)
    check = _check_depth if supervised else None
    if supervised and not any(_has_depth(recordings, one) for one in recordings.names[:SEARCHED]):
        raise ValueError(
            f"{name} carries no depth to supervise attention with; train without supervision, or on other scenes"
        )
    count = len(recordings.names)
    kept = MEMORY // (FRAME_VALUES * size * size) // count
    library = partial(Library, views=views, max_rotation=max_rotation, device=device)
    if count == 1:
        recording, pairs = _readable(recordings, recordings.names[0], MOST_FRAMES, reading, check)
        first, second = round(TRAIN * len(pairs.frames)), round((TRAIN + GAP) * len(pairs.frames))
        whole = footage(recording, pairs, size, kept)
        parts = slice(0, first), slice(second, None)
        train, test = (library(count=1, open=_constant(whole.part(part))) for part in parts)
        return train, test
    first = min(round((TRAIN + GAP) * count), count - 1)
    names = recordings.names[:first], recordings.names[first:]
    train, test = (
        library(count=len(part), open=_opener(recordings, part, size, kept, reading, check)) for part in names
    )
    return train, test


def footage(recording: Recording, pairs: Pairs, size: int, kept: int) -> Footage:
    """Prepare the frames of a recording for drawing.

    Args:
        recording: The recording.
        pairs: From :func:`probe.scenes.recordings.compare_frames`.
        size: Side of the views, in pixels.
        kept: Frames that stay in memory once read.
    """

    @lru_cache(maxsize=kept)
    def read(frame: int) -> Views:
        return load_views(recording, [pairs.frames[frame]], size=size, n_ref=1)

    return Footage(read=read, rotation_deg=pairs.rotation_deg, overlap=pairs.overlap)


def _constant(part: Footage) -> Callable[[int], Footage]:
    return lambda _: part


def _opener(
    recordings: Recordings, names: Sequence[str], size: int, kept: int, reading: Reading, check: Check | None
) -> Callable[[int], Footage]:
    @cache  # cameras and overlaps are small; comparing frames again is slow
    def open_footage(index: int) -> Footage:
        try:
            recording, pairs = _readable(recordings, names[index], SOME_FRAMES, reading, check)
        except (ValueError, OSError) as error:
            if reading.strict:
                raise
            warnings.warn(f"recording {names[index]} left out: {error}", stacklevel=2)
            return NO_FOOTAGE
        return footage(recording, pairs, size, kept)

    return open_footage


def _check_depth(recording: Recording) -> None:
    if not recording.has_truth:
        raise ValueError("it carries no depth to supervise attention with")


def _has_depth(recordings: Recordings, name: str) -> bool:
    try:
        return recordings.open(name).has_truth
    except (ValueError, OSError):
        return len(recordings.names) == 1  # its own fault is told when it is opened again


def _readable(
    recordings: Recordings, name: str, most: int, reading: Reading, check: Check | None
) -> tuple[Recording, Pairs]:
    """Open a recording and compare its frames; those that cannot be read are left out, and it is done anew."""

    def attempt(readable: Recordings) -> tuple[Recording, Pairs]:
        recording = readable.open(name)
        if check is not None:
            check(recording)
        pairs = compare_frames(recording, most=most)
        reasons = check_frames(recording, [recording.names[index] for index in pairs.frames])
        if reasons:
            raise UnreadableFramesError({name: reasons})
        return recording, pairs

    (recording, pairs), _ = without_broken(recordings, attempt, strict=reading.strict)
    if recording.dropped:
        number = len(recording.names) + len(recording.dropped)
        warnings.warn(left_out(recording.dropped, number, f"frames of {name}"), stacklevel=3)
    return recording, pairs
