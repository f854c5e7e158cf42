"""Which frames of a data set are measured: groups drawn evenly over recordings and rotation bins, or a published list.

A view list names recordings and frames, never indices, so that its digest is the same wherever the data lie, and a list
that was written to a file is read back to the same scenes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from probe.records import parse_json
from probe.records.names import block_name
from probe.scenes.grouping import BINS, BinSupply, Group, Pairs, count_groups, draw_groups
from probe.scenes.reading import Dropped, flag_of, left_out
from probe.scenes.recordings import (
    Recording,
    UnreadableFramesError,
    check_frames,
    compare_frames,
    frame_index,
    scene_name,
)
from probe.seeds import derive

Result = TypeVar("Result")
DRAWN = "rotation-v1"  # the protocol of lists that are drawn here
MOST_VISITS = 32  # recordings that are opened and compared for a list, unless more scenes are requested
MOST_FRAMES = 200  # frames compared of a lone recording
FEW_FRAMES = 60  # frames compared of each of several
BLOCKS = 8  # of time, into which a lone recording is cut
FEWER = f"lower {flag_of('min_overlap')} or {flag_of('views')}, or add frames between"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Name the frames of one scene.

    Attributes:
        recording: Its name.
        frames: Names, the anchor (view 0) first.
        overlap: Of view 0 with views 1, 2, ..., from 0 to 1; NaN where nobody measured it.
        n_ref: References that a published list prescribes; None where the caller chooses.
    """

    recording: str
    frames: tuple[str, ...]
    overlap: tuple[float, ...]
    n_ref: int | None = None

    @property
    def name(self) -> str:
        """Name the scene by its recording and frames."""
        return scene_name(self.recording, self.frames)


@dataclass(frozen=True, kw_only=True)
class ViewList:
    """Freeze which scenes are measured.

    Attributes:
        protocol: With its version, such as "rotation-v1".
        scenes: In order.
        note: What the reader should know of how many there are.
        broken: By recording and frame, why frames were left out when the list was made.
    """

    protocol: str
    scenes: tuple[Scene, ...]
    note: str = ""
    broken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Name the list's content by 12 hexadecimal digits, the same on every machine."""
        lines = [self.protocol, *(f"{scene.name} {scene.n_ref}" for scene in self.scenes)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """A data set's recordings, which are opened one at a time.

    Attributes:
        root: The folder; every file lies inside it.
        names: Of the recordings, in order.
        open: Opens one by its name: reads cameras, but no pixels.
        lists: Published protocols: from the list's file (None: the data set's own) to the scenes.
        note: What the reader should know of what was found.
    """

    root: Path
    names: tuple[str, ...]
    open: Callable[[str], Recording]
    lists: Mapping[str, Callable[[Path | None], ViewList]] = field(default_factory=dict)
    note: str = ""

    def without(self, broken: Mapping[str, Mapping[str, str]]) -> "Recordings":
        """Return the recordings without some of their frames.

        Args:
            broken: By recording and frame, why the frame is left out.
        """
        return replace(self, open=lambda name: self.open(name).without(broken.get(name, {})))


# --- drawing ---------------------------------------------------------------------------------------------------------


def without_broken(
    recordings: Recordings, attempt: Callable[[Recordings], Result], *, strict: bool
) -> tuple[Result, dict[str, dict[str, str]]]:
    """Do something with recordings, anew without the frames that it finds unreadable until it finds none.

    Args:
        recordings: The data set.
        attempt: What is done; it raises :class:`probe.scenes.recordings.UnreadableFramesError`.
        strict: Whether that error is passed on at once.

    Returns:
        What the last attempt returned, and why frames were left out, by recording and frame.
    """
    broken: dict[str, dict[str, str]] = {}
    while True:
        try:
            return attempt(recordings.without(broken)), broken
        except UnreadableFramesError as fault:
            if strict:
                raise
            for name, reasons in fault.reasons.items():
                broken.setdefault(name, {}).update(reasons)


def draw_readable(recordings: Recordings, draw: Callable[[Recordings], ViewList], *, strict: bool = False) -> ViewList:
    """Draw scenes all of whose frames can be read.

    Args:
        recordings: The data set.
        draw: Draws a list, such as :func:`draw_list` with all else bound.
        strict: Whether broken frames are refused instead of left out.

    Raises:
        ValueError: As ``draw``; if a frame is broken and ``strict``.
    """

    def attempt(readable: Recordings) -> ViewList:
        drawn = draw(readable)
        check_scenes(readable, drawn.scenes)
        return drawn

    drawn, broken = without_broken(recordings, attempt, strict=strict)
    return replace(drawn, broken=broken)


def check_scenes(recordings: Recordings, scenes: Sequence[Scene]) -> None:
    """Read the frames of scenes to see whether they are whole.

    Raises:
        UnreadableFramesError: If some are not.
    """
    frames: dict[str, dict[str, None]] = {}
    for scene in scenes:
        frames.setdefault(scene.recording, {}).update(dict.fromkeys(scene.frames))
    opened = {name: recordings.open(name) for name in frames}
    broken = [name for name, names in frames.items() if check_frames(opened[name], names)]
    if broken:  # then all of them are read once, lest each new list meet another one
        every = {name: dict.fromkeys((*frames[name], *opened[name].names)) for name in broken}
        raise UnreadableFramesError({name: check_frames(opened[name], names) for name, names in every.items()})


def draw_list(
    recordings: Recordings,
    *,
    count: int,
    views: int,
    min_overlap: float,
    seed: int,
    strict: bool = False,
    usable: Callable[[Recording], None] | None = None,
) -> ViewList:
    """Draw scenes evenly over rotation bins, and over recordings as far as needed.

    Recordings are visited in random order, and only until each bin can be filled; of several, each gives few groups per
    bin. Bins that no visited recording can fill leave their share to the others.

    Args:
        recordings: The data set.
        count: Scenes.
        views: Frames per scene.
        min_overlap: What each further frame must share with the anchor, from 0 to 1.
        seed: Equal seeds give equal lists.
        strict: Whether a broken recording among others is refused instead of left out.
        usable: Raises ValueError of a recording that does not serve.

    Raises:
        UnreadableFramesError: If depth maps that are compared cannot be read.
        ValueError: If no recording can give a group; if one is broken and ``strict`` or alone.
    """
    visited, dropped = _visit(recordings, count, views, min_overlap, seed, usable, strict=strict)
    missing = (left_out(dropped, len(visited) + len(dropped), "recordings"), _frames_note([one for one, _ in visited]))
    try:
        scenes, supplies = _draw_all(recordings, visited, count, views, min_overlap, seed)
    except ValueError as error:
        raise ValueError("; ".join(filter(None, (str(error), *missing)))) from None
    ordered = tuple(scene for _, scene in sorted(scenes, key=lambda pair: pair[0]))  # a stable sort: by bin
    lone = len(recordings.names) == 1
    notes = (
        _note(supplies, len(ordered), count, views, len(visited)),
        _near_note(visited[0][0], ordered) if lone else "",
        *missing,
    )
    return ViewList(protocol=DRAWN, scenes=ordered, note="; ".join(filter(None, notes)))


def _draw_all(
    recordings: Recordings,
    visited: Sequence[tuple[Recording, Pairs]],
    count: int,
    views: int,
    min_overlap: float,
    seed: int,
) -> tuple[list[tuple[float, Scene]], list[list[BinSupply]]]:
    """Draw from the recordings visited; return the scenes, each with its bin, and what each recording could give."""
    supplies = [count_groups(pairs, views=views, min_overlap=min_overlap) for _, pairs in visited]
    owed = share_out([[bin.groups for bin in supply] for supply in supplies], count)
    lone = len(recordings.names) == 1
    scenes: list[tuple[float, Scene]] = []
    for (recording, pairs), quota in zip(visited, owed, strict=True):
        own = seed if lone else derive(f"groups of {recording.name}", seed)
        if sum(quota) or lone:
            groups = _draw(recording, pairs, quota, views, min_overlap, own)
            scenes += [(group.bin[0], _scene(recording, group)) for group in groups]
    if not scenes:
        raise ValueError(_why_none(recordings, visited, views, min_overlap))
    return scenes, supplies


def share_out(supplies: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Share scenes out over rotation bins that have some, then over recordings, in turns.

    Args:
        supplies: Per recording and bin, how many groups it has.
        count: Scenes of all bins together.

    Returns:
        Per recording and bin, how many it owes, never more than it has.
    """
    totals = [sum(bins) for bins in zip(*supplies, strict=True)]
    filled = sum(total > 0 for total in totals)
    spread = count * len(totals) // max(filled, 1)  # the bins that have pairs share what the empty ones lack
    shares = [spread // len(totals) + (index < spread % len(totals)) for index in range(len(totals))]
    columns = [_in_turns([bins[index] for bins in supplies], share) for index, share in enumerate(shares)]
    return [list(row) for row in zip(*columns, strict=True)]


def _in_turns(supply: Sequence[int], share: int) -> list[int]:
    """Let those that have something give one each, again and again, until the share is full or nothing is left."""
    quota = [0] * len(supply)
    while sum(quota) < min(share, sum(supply)):
        for index, most in enumerate(supply):
            quota[index] += quota[index] < most and sum(quota) < share
    return quota


def _visit(
    recordings: Recordings,
    count: int,
    views: int,
    min_overlap: float,
    seed: int,
    usable: Callable[[Recording], None] | None,
    *,
    strict: bool,
) -> tuple[list[tuple[Recording, Pairs]], list[Dropped]]:
    """Open and compare recordings until each bin can be filled; return them, and those left out."""
    names, visited, dropped = recordings.names, list[tuple[Recording, Pairs]](), list[Dropped]()
    if len(names) == 1:
        recording = _open(recordings, names[0], usable)
        pairs = compare_frames(recording, most=MOST_FRAMES)
        frames = len(recording.names)
        return [(recording, within_blocks(pairs, frames, count=count, views=views, min_overlap=min_overlap))], []
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(derive("visits", seed))).tolist()
    share = -(-count // (len(BINS) - 1))
    each = -(-share // min(len(names), max(count, 1)))
    supplied = [0] * (len(BINS) - 1)
    for index in order:
        try:
            recording = _open(recordings, names[index], usable)
        except (ValueError, OSError) as error:
            if strict:
                raise
            dropped.append(Dropped(names[index], str(error)))
            continue
        pairs = compare_frames(recording, most=FEW_FRAMES)
        visited.append((recording, pairs))
        supply = count_groups(pairs, views=views, min_overlap=min_overlap)
        supplied = [total + min(bin.groups, each) for total, bin in zip(supplied, supply, strict=True)]
        if min(supplied) >= share or len(visited) == max(MOST_VISITS, count):
            break
    _check_any(visited, dropped, recordings)
    return visited, dropped


def _open(recordings: Recordings, name: str, usable: Callable[[Recording], None] | None) -> Recording:
    recording = recordings.open(name)
    if usable is not None:
        usable(recording)
    return recording


def _reasons(dropped: Sequence[Dropped]) -> str:
    """Return the first reason, and how many others there are."""
    others = len({one.reason for one in dropped}) - 1
    return f"the first: {dropped[0].name}: {dropped[0].reason}" + (f"; and {others} other reasons" if others else "")


def _check_any(visited: Sequence[object], dropped: Sequence[Dropped], recordings: Recordings) -> None:
    """Refuse recordings of which none can be used, by their reason where they share one."""
    if visited:
        return
    if len({one.reason for one in dropped}) == 1:
        raise ValueError(dropped[0].reason)
    raise ValueError(f"none of {len(dropped)} recordings of {recordings.root} can be used; {_reasons(dropped)}")


def _draw(
    recording: Recording, pairs: Pairs, quota: Sequence[int], views: int, min_overlap: float, seed: int
) -> list[Group]:
    if len(pairs.frames) < views:
        raise ValueError(f"{recording.name} {_too_few(len(pairs.frames), views)}")
    try:
        return draw_groups(pairs, count=tuple(quota), views=views, min_overlap=min_overlap, seed=seed)
    except ValueError as error:
        raise ValueError(f"{recording.name}: {error}; {FEWER}") from None


def _too_few(frames: int, views: int) -> str:
    """Return that a recording has fewer frames than a scene has views, and what to do."""
    count = f"{frames} frame{'' if frames == 1 else 's'}"
    flag = flag_of("views")
    return f"has {count} that can be read, {flag} {views} needs {views}; lower {flag} or add frames"


def _scene(recording: Recording, group: Group) -> Scene:
    frames = tuple(recording.names[index] for index in group.frames)
    return Scene(recording=recording.name, frames=frames, overlap=group.overlap)


def _note(supplies: Sequence[Sequence[BinSupply]], drawn: int, count: int, views: int, visited: int) -> str:
    empty = [
        f"{bins[0].bin[0]:.0f}-{bins[0].bin[1]:.0f}"
        for bins in zip(*supplies, strict=True)
        if not any(b.groups for b in bins)
    ]
    lacking = f"no group of {views} views overlaps enough at {', '.join(empty)} degrees" if empty else ""
    fewer = f"{drawn} of {count} scenes found in {visited} recordings" if drawn < count else ""
    return "; ".join(part for part in (lacking, fewer) if part)


def _near_note(recording: Recording, scenes: Sequence[Scene]) -> str:
    """Return that views of a scene were drawn near each other in time, where they were; else nothing."""
    frames = len(recording.names)
    blocks = [{block_of(frame_index(recording, name), frames) for name in scene.frames} for scene in scenes]
    near = all(len(one) == 1 for one in blocks)
    return (
        f"the views of each scene lie within one of {BLOCKS} blocks of time, so that blocks share no frame"
        if near
        else ""
    )


def _frames_note(visited: Sequence[Recording]) -> str:
    """Return which frames of the recordings were left out."""
    kept = sum(len(recording.names) for recording in visited)
    if len(visited) == 1:
        dropped = list(visited[0].dropped)
        return left_out(dropped, kept + len(dropped), f"frames of {visited[0].name}")
    dropped = [Dropped(f"{one.name}:{frame.name}", frame.reason) for one in visited for frame in one.dropped]
    return left_out(dropped, kept + len(dropped), f"frames of {len(visited)} recordings")


def _why_none(
    recordings: Recordings, visited: Sequence[tuple[Recording, Pairs]], views: int, min_overlap: float
) -> str:
    most = max(len(pairs.frames) for _, pairs in visited)
    if most < views:
        return f"draw_list: of {len(visited)} recordings of {recordings.root} the longest {_too_few(most, views)}"
    best = max(float((pairs.overlap - torch.eye(len(pairs.overlap))).max()) for _, pairs in visited)
    return (
        f"draw_list: {len(visited)} of {len(recordings.names)} recordings of {recordings.root} were compared and none "
        f"has {views} frames that overlap by min_overlap {min_overlap}; the best overlap of a pair is {best:.3f}; "
        f"{FEWER}"
    )


# --- what is independent ---------------------------------------------------------------------------------------------


def independent_units(scenes: Sequence[Scene], open_recording: Callable[[str], Recording]) -> tuple[str, ...]:
    """Name the independent unit that each scene belongs to: its recording.

    Groups of views of one recording show the same place and are no independent evidence. Of a lone recording the units
    are :data:`BLOCKS` blocks of time, by a scene's first frame; blocks whose scenes share a frame are one. They still
    show the same place: less alike than neighbours in time, not independent.

    Args:
        scenes: In order.
        open_recording: Opens one by its name.
    """
    recordings = {scene.recording for scene in scenes}
    if len(recordings) > 1:
        return tuple(scene.recording for scene in scenes)
    recording = open_recording(scenes[0].recording)
    blocks = [block_of(frame_index(recording, scene.frames[0]), len(recording.names)) for scene in scenes]
    joined = _join_blocks(blocks, [scene.frames for scene in scenes])
    return tuple(block_name(recording.name, joined[block] + 1) for block in blocks)


def block_of(frame: int, frames: int) -> int:
    """Return the block of time that a frame of a recording lies in, from 0."""
    return BLOCKS * frame // frames


def _join_blocks(blocks: Sequence[int], frames: Sequence[Sequence[str]]) -> dict[int, int]:
    """Return for each block the first of those that its scenes share frames with, directly or over others."""
    first = {block: block for block in blocks}
    owner: dict[str, int] = {}
    for block, names in zip(blocks, frames, strict=True):
        for name in names:
            one, other = sorted((first[block], first[owner.setdefault(name, block)]))
            first = {key: one if root == other else root for key, root in first.items()}
    return first


def within_blocks(pairs: Pairs, frames: int, *, count: int, views: int, min_overlap: float) -> Pairs:
    """Keep the pairs of a lone recording that lie in one block of time, in rotation bins that have enough of them.

    Then scenes of two blocks share no frame. A bin whose blocks cannot give the scenes that it owes keeps all pairs.

    Args:
        pairs: Of the recording.
        frames: Number of its frames.
        count: Scenes of all bins together.
        views: Frames per scene.
        min_overlap: What each further frame must share with the anchor, from 0 to 1.
    """
    block = torch.tensor([block_of(index, frames) for index in pairs.frames])
    inside = replace(pairs, overlap=torch.where(block[:, None] == block, pairs.overlap, 0.0))
    supplies = count_groups(inside, views=views, min_overlap=min_overlap)
    share = -(-count // len(supplies))
    overlap = pairs.overlap
    for supply in supplies:
        low, high = supply.bin
        here = (pairs.rotation_deg >= low) & (pairs.rotation_deg < high)
        overlap = torch.where(here & (supply.groups >= share), inside.overlap, overlap)
    return replace(pairs, overlap=overlap)


# --- files -----------------------------------------------------------------------------------------------------------


def list_record(chosen: ViewList) -> dict[str, Any]:
    """Return a list as plain values, to be written as JSON; :func:`read_list` reads it."""
    return {"protocol": chosen.protocol, "digest": chosen.digest, "scenes": [asdict(scene) for scene in chosen.scenes]}


def read_list(path: Path) -> ViewList:
    """Read a view list from a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or its scenes are not those that its digest names.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8-sig"))
        scenes = tuple(_scene_of(scene) for scene in record["scenes"])
        chosen = ViewList(protocol=str(record["protocol"]), scenes=scenes)
        digest = str(record["digest"])
    except FileNotFoundError:
        raise FileNotFoundError(f"read_list: {path} does not exist; expected a view list in JSON") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"read_list: {path} is no view list (protocol, digest, scenes): {error!r}") from None
    if digest != chosen.digest:
        raise ValueError(f"read_list: {path} says digest {digest} but its scenes have {chosen.digest}; was it edited?")
    return chosen


def _scene_of(record: Mapping[str, Any]) -> Scene:
    overlap = tuple(float("nan") if share is None else float(share) for share in record["overlap"])
    n_ref = None if record["n_ref"] is None else int(record["n_ref"])
    frames = tuple(str(name) for name in record["frames"])
    return Scene(recording=str(record["recording"]), frames=frames, overlap=overlap, n_ref=n_ref)
