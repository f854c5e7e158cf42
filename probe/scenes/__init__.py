"""Scenes to probe on: one file per data set, one visible dict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from probe.scenes import casting, rgbd, shapes
from probe.scenes.grouping import count_groups
from probe.seeds import derive
from probe.views import Views


@dataclass(frozen=True, kw_only=True)
class SceneList:
    """Hold scenes that are loaded one at a time.

    Attributes:
        names: One per scene, in order.
        load: Gives scene ``i`` as a batch of one, and the overlap of view 0 with each other view.
        note: What the reader should know of how many there are.
    """

    names: tuple[str, ...]
    load: Callable[[int], tuple[Views, tuple[float, ...]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Say which scenes are wanted.

    Attributes:
        groups: Number of scenes.
        views: Views per scene.
        n_ref: References among them.
        seed: Of drawing and picking.
        min_overlap: Share of view 0 that each other view must see (real scenes).
        size: Side of the images, in pixels; None for the data set's own default.
    """

    groups: int
    views: int
    n_ref: int
    seed: int = 0
    min_overlap: float = 0.2
    size: int | None = None


def open_shapes(root: str, request: Request) -> SceneList:
    """Open procedural scenes; ``root`` names the difficulty (empty: plain). Scenes take the rotation bins in turn."""
    difficulty = root or "plain"
    if difficulty not in shapes.OBJECTS:
        raise ValueError(f"--scenes shapes:{difficulty} is unknown; choose shapes:{'|'.join(shapes.OBJECTS)}")
    bins = len(shapes.ROTATION_BINS) - 1

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        generator = torch.Generator().manual_seed(derive("scene", request.seed, index))
        rooms = shapes.draw_shapes(1, difficulty=difficulty, generator=generator)
        rotation = shapes.draw_rotations([index % bins], request.views - 1, generator=generator)
        views = shapes.make_views(rooms, rotation, size=request.size or 128, n_ref=request.n_ref, generator=generator)
        overlap = casting.overlaps(rooms, views)[0]
        named = Views(**{**vars(views), "names": (names[index],)})
        return named, tuple(torch.minimum(overlap[0, 1:], overlap[1:, 0]).tolist())

    names = tuple(f"{difficulty}-{request.seed}-{index:04d}" for index in range(request.groups))
    return SceneList(names=names, load=load)


def open_rgbd(root: str, request: Request) -> SceneList:
    """Open a folder of real RGB-D frames and pick groups of views by rotation bin and overlap."""
    if not root:
        raise ValueError("--scenes rgbd needs a folder: --scenes rgbd:PATH")
    frames = rgbd.load_frames(Path(root))
    pairs = rgbd.compare_frames(frames)
    supply = count_groups(pairs, views=request.views, min_overlap=request.min_overlap)
    filled = sum(found.groups > 0 for found in supply)
    spread = request.groups * len(supply) // max(filled, 1)  # the bins that have pairs share what the empty ones lack
    groups = rgbd.pick_groups(
        frames, count=spread, views=request.views, min_overlap=request.min_overlap, seed=request.seed, pairs=pairs
    )
    names = tuple(_group_name(frames, group) for group in groups)

    def load(index: int) -> tuple[Views, tuple[float, ...]]:
        views = rgbd.load_groups(frames, [groups[index]], size=request.size or 256, n_ref=request.n_ref)
        return Views(**{**vars(views), "names": (names[index],)}), groups[index].overlap

    empty = [f"{found.bin[0]:.0f}-{found.bin[1]:.0f}" for found in supply if not found.groups]
    note = f"no group of {request.views} views overlaps enough at {', '.join(empty)} degrees" if empty else ""
    return SceneList(names=names, load=load, note=note)


def _group_name(frames: rgbd.Frames, group: rgbd.Group) -> str:
    return f"{frames.root.resolve().name}:" + "-".join(frames.names[index] for index in group.frames)


SCENES: dict[str, Callable[[str, Request], SceneList]] = {"shapes": open_shapes, "rgbd": open_rgbd}


def open_scenes(spec: str, request: Request) -> SceneList:
    """Open scenes named as on the command line, ``NAME[:ROOT]``.

    Raises:
        ValueError: If the name is unknown or the scenes cannot be had.
        FileNotFoundError: If ROOT is no such folder.
    """
    name, _, root = spec.partition(":")
    if name not in SCENES:
        raise ValueError(f"--scenes {name!r} is unknown; choose one of {', '.join(SCENES)} (NAME or NAME:ROOT)")
    return SCENES[name](root, request)
