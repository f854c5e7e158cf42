"""Scenes by name: drawn or chosen from a list, and loaded one at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from probe.registry import Choice
from probe.scenes import shapes
from probe.scenes.choosing import (
    Recordings,
    Scene,
    ViewList,
    check_scenes,
    draw_list,
    draw_readable,
    independent_units,
    read_list,
)
from probe.scenes.formats import tracks
from probe.scenes.names import DATA_SETS, GENERATED, SCENES, VIDEOS, Difficulty, suggestion
from probe.scenes.reading import DEFAULT, Reading, flag_of, printable
from probe.scenes.recordings import (
    GeometrySource,
    Recording,
    frame_index,
    load_views,
    scene_name,
    with_geometry,
)
from probe.scenes.shapes import casting
from probe.seeds import derive
from probe.views import Views, group_frames

OPENED = 16  # recordings whose cameras are kept in memory


@dataclass(frozen=True, kw_only=True)
class SceneList:
    """Scenes that are loaded one at a time.

    Attributes:
        names: One per scene, in order.
        load: Gives scene ``i`` as a batch of one, and the overlap of view 0 with each other view.
        note: What the reader should know of how many there are.
        units: The independent unit that each scene belongs to: :func:`probe.scenes.choosing.independent_units`; empty
            where every scene is one.
        tracks: Whether true points of some scenes are those of sparse tracks; said where truth is needed.
    """

    names: tuple[str, ...]
    load: Callable[[int], tuple[Views, tuple[float, ...]]]
    note: str = ""
    units: tuple[str, ...] = ()
    tracks: bool = False

    def with_units(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Name the independent unit of each row's scene in the column unit."""
        units = dict(zip(self.names, self.units or self.names, strict=True))
        return rows.assign(unit=rows["scene"].astype(str).map(units).astype("category"))


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which scenes to open.

    Attributes:
        groups: Number of scenes.
        views: Views per scene.
        n_ref: References among them.
        seed: Of drawing and picking.
        min_overlap: Share of view 0 that each other view must see (real scenes).
        size: Side of the images, in pixels; None for the data set's own default.
        view_list: Real scenes: a published list (PROTOCOL or PROTOCOL:FILE), or FILE.json, in place of drawing.
        geometry: Where truth comes from, in place of the scenes' own points.
        needs_truth: Whether scenes without any truth are rejected.
        reading: How files are read.
        frames_per_view: Frames of a video that make one view, as a video autoencoder packs them: the first view is one
            frame, each later view the last frame of its group (:func:`probe.views.group_frames`). 1: views are images.
    """

    groups: int
    views: int
    n_ref: int
    seed: int = 0
    min_overlap: float = 0.2
    size: int | None = None
    view_list: str | None = None
    geometry: GeometrySource | None = None
    needs_truth: bool = True
    reading: Reading = DEFAULT
    frames_per_view: int = 1

    @property
    def frames(self) -> int:
        """Return the number of frames of a video that hold the views."""
        return 1 + self.frames_per_view * (self.views - 1)


def open_shapes(root: str, request: Request) -> SceneList:
    """Open procedural scenes; ``root`` names the difficulty (empty: plain). Scenes take the rotation bins in turn.

    ``root`` may also name a clip, :data:`probe.scenes.shapes.CLIPS`: its views are frames of a video.
    """
    return _open_rooms("shapes", root, request)


def open_shapes_v1(root: str, request: Request) -> SceneList:
    """Open scenes of the procedural rooms' first version, as :func:`open_shapes`."""
    return _open_rooms("shapes-v1", root, request)


def _open_rooms(name: str, root: str, request: Request) -> SceneList:
    world, difficulty = shapes.WORLDS[name], root or "plain"
    clips = shapes.CLIPS if name == "shapes" else {}
    if difficulty not in (*shapes.OBJECTS, *clips):
        raise ValueError(f"{name}:{difficulty} is unknown; choose {name}:{'|'.join([*shapes.OBJECTS, *clips])}")
    if difficulty not in clips:
        _check_no_video(f"{name}:{difficulty}", request)
    bins = len(shapes.ROTATION_BINS) - 1
    kind = "plain" if difficulty in clips else cast("Difficulty", difficulty)
    shoot = partial(_film, still=clips[difficulty]) if difficulty in clips else _photograph

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        generator = torch.Generator().manual_seed(derive("scene", request.seed, index))
        rooms = shapes.draw_shapes(1, world=world, difficulty=kind, generator=generator)
        views = shoot(rooms, index % bins, request, generator)
        overlap = casting.overlaps(rooms, views)[0]
        named = Views(**{**vars(views), "names": (names[index],)})
        return named, tuple(torch.minimum(overlap[0, 1:], overlap[1:, 0]).tolist())

    names = tuple(f"{world.prefix}{difficulty}-{request.seed}-{index:04d}" for index in range(request.groups))
    return SceneList(names=names, load=load)


def _photograph(rooms: casting.Shapes, rotation_bin: int, request: Request, generator: torch.Generator) -> Views:
    rotation = shapes.draw_rotations([rotation_bin], request.views - 1, generator=generator)
    return shapes.make_views(rooms, rotation, size=request.size or 128, n_ref=request.n_ref, generator=generator)


def _film(
    rooms: casting.Shapes, rotation_bin: int, request: Request, generator: torch.Generator, *, still: bool
) -> Views:
    rotation, size = shapes.draw_rotations([rotation_bin], 1, generator=generator), request.size or 128
    clip = {"views": request.frames, "size": size, "n_ref": 0, "still": still}
    video = shapes.make_clip(rooms, rotation, **clip, generator=generator)  # type: ignore[arg-type]
    return group_frames(video, request.frames_per_view, request.n_ref)


def _check_no_video(spec: str, request: Request) -> None:
    """Refuse frames between views where scenes are no videos.

    Raises:
        ValueError: If that is so.
    """
    if request.frames_per_view != 1:
        raise ValueError(
            f"{spec} has no frames between its views, and {flag_of('frames_per_view')} is {request.frames_per_view}; "
            f"choose {', '.join(f'shapes:{name}' for name in shapes.CLIPS)} or tracks:PATH, or leave it out"
        )


def open_tracks(root: str, request: Request) -> SceneList:
    """Open videos with point tracks; scenes take the videos in turn, and frames evenly spaced over a drawn stretch.

    Raises:
        ValueError: If a file is a pickle or broken, a video is too short, or another source of truth is requested.
        FileNotFoundError: If there is no such file.
    """
    if not root:
        raise ValueError("tracks needs a file or folder: tracks:PATH")
    if request.geometry is not None or request.view_list is not None:
        raise ValueError("tracks: the tracks are the truth and frames are drawn; leave out --truth-source, --view-list")
    files = tracks.find_videos(Path(root).expanduser())
    chosen = [files[index % len(files)] for index in range(request.groups)]
    videos = map(tracks.read_video, chosen)
    frames = [tracks.draw_frames(video, request.frames, request.seed, index) for index, video in enumerate(videos)]
    names = tuple(scene_name(path.stem, list(map(str, drawn))) for path, drawn in zip(chosen, frames, strict=True))

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        tracked, size = tracks.read_video(chosen[index]), request.size or 256
        video = tracks.tracked_views(tracked, frames[index], size=size, n_ref=0)
        views = group_frames(video, request.frames_per_view, request.n_ref)
        return replace(views, names=(names[index],)), tuple(tracks.shared_points(views))

    note = f"{len(files)} video{'s' * (len(files) > 1)}; no cameras are known, and rotations are recorded as 0"
    return SceneList(names=names, load=load, note=note, units=tuple(printable(path.stem) for path in chosen))


def open_data_set(name: str, root: str, request: Request) -> SceneList:
    """Open a data set of real scenes and choose some: drawn by rotation bin and overlap, or named by a view list."""
    recordings = find_recordings(name, root, request.reading)
    chosen = choose(recordings, request, partial(check_truth, f"{name}:{root}", request))
    opened = lru_cache(maxsize=OPENED)(recordings.without(chosen.broken).open)

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        scene = chosen.scenes[index]
        recording = opened(scene.recording)
        check_truth(f"{name}:{root}", request, recording)
        frames = [frame_index(recording, frame) for frame in scene.frames]
        views = load_views(recording, frames, size=request.size or 256, n_ref=request.n_ref)
        return views, scene.overlap

    return SceneList(
        names=tuple(scene.name for scene in chosen.scenes),
        load=load,
        note=chosen.note,
        units=independent_units(chosen.scenes, opened),
        tracks=request.needs_truth
        and request.geometry is None
        and any(opened(one).has_tracks_only for one in dict.fromkeys(scene.recording for scene in chosen.scenes)),
    )


def check_truth(spec: str, request: Request, recording: Recording) -> None:
    """Refuse a recording without truth, where truth is needed and no other source of it is named.

    Args:
        spec: NAME:ROOT of the scenes.
        request: Which scenes.
        recording: One of them.

    Raises:
        ValueError: If that is so.
    """
    if not recording.has_truth and request.needs_truth and request.geometry is None:
        raise ValueError(
            f"{spec} has no depth, so there is no truth to compare with; name a source of true points "
            f"({flag_of('truth_source')} tracks, or vggt), or add depth maps"
        )


def find_recordings(name: str, root: str, reading: Reading = DEFAULT) -> Recordings:
    """Find the recordings of a data set.

    Args:
        name: A key of :data:`DATA_SETS`.
        root: Its folder.
        reading: How its files are read; a loader of your own takes the folder alone.

    Raises:
        ValueError: If no folder is named, or a file is broken.
        FileNotFoundError: If it is no folder of that data set.
    """
    if not root:
        raise ValueError(f"{name} needs a folder: {name}:PATH")
    loader, path = DATA_SETS[name], Path(root).expanduser()
    try:
        recordings: Recordings = loader(path, reading) if isinstance(loader, Choice) else loader(path)
    except FileNotFoundError as error:
        other = suggestion(f"{name}:{root}")
        raise FileNotFoundError("; ".join(filter(None, (str(error), other)))) from None
    return recordings


def choose(recordings: Recordings, request: Request, usable: Callable[[Recording], None] | None = None) -> ViewList:
    """Draw the requested scenes, or read them from a list: a published protocol's, or a file of your own.

    Args:
        recordings: The data set.
        request: Which scenes.
        usable: Raises ValueError of a recording that none is to be drawn from.

    Raises:
        ValueError: If the list is unknown or broken, prescribes other numbers of views or references, or nothing can
            be drawn.
        FileNotFoundError: If the list's file does not exist.
    """
    if request.view_list is None:
        strict = request.reading.strict
        draw = partial(
            draw_list,
            count=request.groups,
            views=request.views,
            min_overlap=request.min_overlap,
            seed=request.seed,
            strict=strict,
            usable=usable,
        )
        drawn = draw_readable(recordings, draw, strict=strict)
        return replace(drawn, note="; ".join(part for part in (recordings.note, drawn.note) if part))
    protocol, _, path = request.view_list.partition(":")
    file = Path(path) if path else None
    if protocol in recordings.lists:
        chosen = recordings.lists[protocol](file)
    elif file is None and protocol.endswith(".json"):
        chosen = read_list(Path(protocol))
    else:
        known = ", ".join([*recordings.lists, "FILE.json"])
        raise ValueError(f"view list {request.view_list!r} is unknown for these scenes; choose from {known}")
    return _fitting(chosen, recordings, request)


def _fitting(chosen: ViewList, recordings: Recordings, request: Request) -> ViewList:
    """Keep the first scenes of a list that are on the disk, if they have the views and references requested."""
    known = set(recordings.names)
    present = [scene for scene in chosen.scenes if scene.recording in known]
    if not present:
        raise ValueError(
            f"view list {chosen.protocol} names {len(chosen.scenes)} scenes, of which {recordings.root} has none"
        )
    scenes = tuple(present[: request.groups])
    shapes = {(len(scene.frames), scene.n_ref or request.n_ref) for scene in scenes}
    if shapes != {(request.views, request.n_ref)}:
        prescribed = " or ".join(f"{views} views with {n_ref} references" for views, n_ref in sorted(shapes))
        raise ValueError(
            f"view list {chosen.protocol} prescribes {prescribed}, not {request.views} with {request.n_ref}"
        )
    scenes, broken = _readable_scenes(present, recordings, request)
    missing = len(chosen.scenes) - len(present)
    counts = f"{len(scenes)} of {len(chosen.scenes)} scenes, {missing} not on the disk{broken}"
    note = f"view list {chosen.protocol} ({chosen.digest}): {counts}"
    return replace(chosen, scenes=scenes, note="; ".join(part for part in (recordings.note, note) if part))


def _readable_scenes(
    scenes: Sequence[Scene], recordings: Recordings, request: Request
) -> tuple[tuple[Scene, ...], str]:
    """Keep as many scenes as requested whose frames can be read, the first of the list, and tell how many cannot."""
    broken, kept = dict[str, str](), list[Scene]()
    for scene in scenes:
        if len(kept) == request.groups:
            break
        try:
            check_scenes(recordings, [scene])
            kept.append(scene)
        except (ValueError, OSError) as error:
            if request.reading.strict:
                raise
            broken[scene.name] = str(error)
    if not kept:
        raise ValueError(f"none of the {len(scenes)} scenes of the list can be read: {next(iter(broken.values()))}")
    why = f", {len(broken)} cannot be read (the first: {next(iter(broken.values()))})" if broken else ""
    return tuple(kept), why


def open_scenes(spec: str, request: Request) -> SceneList:
    """Open scenes named as on the command line, ``NAME[:ROOT]``.

    Raises:
        ValueError: If the name is unknown or the scenes cannot be had.
        FileNotFoundError: If ROOT is no such folder.
    """
    name, _, root = spec.partition(":")
    if name not in SCENES:
        choices = f"{name!r} is unknown; choose one of {', '.join(SCENES)} (NAME or NAME:ROOT)"
        raise ValueError("; ".join(filter(None, (choices, suggestion(spec)))))
    if name in DATA_SETS:
        _check_no_video(spec, request)
    scenes = open_data_set(name, root, request) if name in DATA_SETS else (VIDEOS | GENERATED)[name](root, request)
    return scenes if request.geometry is None else _with_truth_of(request.geometry, scenes)


def _with_truth_of(source: GeometrySource, scenes: SceneList) -> SceneList:
    """Take the true points of scenes from a source; a scene of which it knows none counts nothing."""

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        views, overlap = scenes.load(index)
        return with_geometry(views, source), overlap

    return replace(scenes, load=load)
