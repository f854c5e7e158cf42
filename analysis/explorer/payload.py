"""What the explorer of a page is given: names, geometry, packed blocks, the start, and what was left out. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from analysis.explorer.packing import EXACT, FIELDS, Block, nested, pack, pack_exact, pack_floats, within
from analysis.explorer.reading import HEADS, TOGETHER, Explored, shared_scenes
from analysis.probing import tables
from analysis.probing.words import layer_places
from analysis.words import listing
from probe.records import parse_grid

BUDGET = 4_000_000  # characters of packed blocks in a page, of all models and scenes together
LEVELS, MAP_LEVELS, CELLS = 255, 15, 8  # as probe.measure.explored codes
SELECTED, OTHERS = slice(0, 1), slice(1, None)  # of a model's layers, the selected one first
START_RULE = (
    "It opens at the pair of views whose precision, of a target's tokens in the first view, is nearest the median of "
    "those shown here, at the token whose match has the median error of that pair: right where most are."
)
LEFT_OUT = {
    "together": "matches",
    "exact": "attention of some layers",
    "map": "attention",
    "heads": "matches of single heads",
    "head_map": "attention of single heads",
}
"""What a page lacks where it lacks a kind of block."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the explorer shows first, and the still picture always.

    Attributes:
        scene: Position among the scenes.
        layer: Index of the layer.
        time: Position among the timesteps.
        view: Position among the kept views, of the query's.
        token: Position among the asked tokens.
    """

    scene: int
    layer: int
    time: int
    view: int
    token: int


def start_of(model: Explored, scenes: Sequence[str], numbers: Sequence[int]) -> Start:
    """Start at the selected layer and the middle timestep, at a pair and a token chosen by :data:`START_RULE`.

    Args:
        model: The page's own.
        scenes: Those that all models were shown.
        numbers: Of the scenes that the page holds.

    Returns:
        Where nothing is seen, in the first scene's last view, at the token nearest the middle.
    """
    layer, time = model.layers[0], len(model.run.timesteps) // 2
    grid = tables.layer_grids(model.run)[layer]
    pairs = [pair for n in numbers for pair in _precisions(model, scenes[n], n, layer, time)]
    if not pairs:
        view = len(model.get("views", "-", scenes[numbers[0]])) - 1
        return Start(
            scene=numbers[0], layer=layer, time=time, view=view, token=_nearest_middle(model, grid, scenes[numbers[0]])
        )
    median = np.median([precision for precision, _, _ in pairs])
    _, scene, view = min(pairs, key=lambda pair: (abs(pair[0] - median), pair[1:]))
    token = _median_error(model, scenes[scene], view)
    return Start(scene=scene, layer=layer, time=time, view=view, token=token)


def _median_error(model: Explored, scene: str, view: int) -> int:
    """Return the place of the token whose match in the first view has the median error, the lower of two."""
    layer, time = model.layers[0], len(model.run.timesteps) // 2
    grid = tables.layer_grids(model.run)[layer]
    rows, columns = parse_grid(grid)
    token = model.get("token", layer, scene)[time][view][:, 0].astype(int)
    match = np.stack([(token % columns + 0.5) / columns, (token // columns + 0.5) / rows], axis=-1)
    seen = np.flatnonzero(model.get("visible", grid, scene)[view][:, 0])
    error = np.linalg.norm(match - model.get("true_xy", grid, scene)[view][:, 0], axis=-1)[seen]
    return int(seen[np.argsort(error, kind="stable")[(len(seen) - 1) // 2]])


def _precisions(model: Explored, scene: str, number: int, layer: int, time: int) -> Iterator[tuple[float, int, int]]:
    """Yield the share of right matches in the first view of each target view that sees a point of it, and where."""
    grid, n_ref = tables.layer_grids(model.run)[layer], int(model.run.settings.get("n_ref", 1))
    right, seen = model.get("right", layer, scene)[time], model.get("visible", grid, scene).astype(bool)
    for view, index in enumerate(model.get("views", "-", scene)):
        if index >= max(1, n_ref) and seen[view][:, 0].any():
            yield float(right[view][:, 0][seen[view][:, 0]].mean()), number, view


def _nearest_middle(model: Explored, grid: str, scene: str) -> int:
    """Return the place, among the asked tokens, of the one nearest the middle of the image."""
    rows, columns = parse_grid(grid)
    asked = model.get("asked", grid, scene)
    return int(np.argmin(np.hypot((asked % columns + 0.5) / columns - 0.5, (asked // columns + 0.5) / rows - 0.5)))


def payload(models: Sequence[Explored], budget: int = BUDGET) -> dict[str, Any]:
    """Put together what the page's script reads, as plain values.

    Args:
        models: The page's own first; all of the same views.
        budget: Characters of packed blocks.
    """
    scenes = shared_scenes(models)
    chosen, dropped = within(groups(models, scenes), budget)
    kept = sorted({block.path[0] for block in chosen})
    start = start_of(models[0], scenes, kept)
    return {
        "fields": FIELDS,
        "levels": {"share": LEVELS, "map": MAP_LEVELS, "cells": CELLS},
        "judged": bool(models[0].run.metric),
        "scenes": [_scene(models, scenes[n]) if n in kept else None for n in range(len(scenes))],
        "models": [_model(model) for model in models],
        "blocks": nested(chosen),
        "start": {
            "scene": start.scene, "model": 0, "layer": start.layer, "view": start.view,
            "t": int(models[0].run.timesteps["timestep"].iloc[start.time]),
            "token": start.token, "protocol": models[0].run.protocol.partition("-")[0],
        },
        "dropped": dropped_words(models, scenes, chosen, dropped),
    }  # fmt: skip


def groups(models: Sequence[Explored], scenes: Sequence[str]) -> Iterator[list[Block]]:
    """Return blocks by use.

    Of every scene the matches, and the selected layer's attention at the middle timestep; then the other layers' there,
    single heads, the selected layer's at other timesteps, and the rest.

    Args:
        models: The page's own first.
        scenes: Those that all models were shown.
    """
    count = max(len(model.run.timesteps) for model in models)
    middle, *others = sorted(range(count), key=lambda t: (abs(t - count // 2), t))
    numbers = range(len(scenes))

    def of_all(make: Callable[..., list[Block]], n: int, *more: Any) -> list[Block]:
        return _interleaved([make(model, scenes, n, m, *more) for m, model in enumerate(models)])

    for n in numbers:
        yield of_all(_together, n) + of_all(_attention, n, middle, SELECTED)
    for n in numbers:
        yield of_all(_attention, n, middle, OTHERS)
        yield of_all(_maps, n)
    for n in numbers:
        yield of_all(_heads, n, middle)
    for t in others:
        for n in numbers:
            yield of_all(_attention, n, t, SELECTED)
            yield of_all(_heads, n, t)
    for t in others:
        for n in numbers:
            yield of_all(_attention, n, t, OTHERS)


def _interleaved(parts: Sequence[list[Block]]) -> list[Block]:
    longest = max(len(part) for part in parts)
    return [part[n] for n in range(longest) for part in parts if n < len(part)]


def _together(model: Explored, scenes: Sequence[str], scene: int, number: int) -> list[Block]:
    return [
        Block(
            path=(scene, number, layer, None),
            text=pack({name: model.get(name, layer, scenes[scene]) for name in TOGETHER}, "together"),
        )
        for layer in model.layers
    ]


def _attention(model: Explored, scenes: Sequence[str], scene: int, number: int, t: int, which: slice) -> list[Block]:
    name, there = scenes[scene], t < len(model.run.timesteps)
    return [
        Block(
            path=(scene, number, layer, t),
            kind="exact",
            text=pack_exact({part: model.get(part, layer, name)[t] for part in EXACT}),
        )
        for layer in model.layers[which]
        if there and model.is_exact(layer, name)
    ]


def _maps(model: Explored, scenes: Sequence[str], scene: int, number: int) -> list[Block]:
    """Return the pooled maps of the layers whose queries and keys were not kept."""
    name = scenes[scene]
    pooled = [layer for layer in model.layers if not model.is_exact(layer, name)]
    return [
        Block(path=(scene, number, layer, None), kind="map", text=pack({"map": model.get("map", layer, name)}, "map"))
        for layer in pooled
    ]


def _heads(model: Explored, scenes: Sequence[str], scene: int, number: int, t: int) -> list[Block]:
    kept, name = model.get("head_timesteps", "-", scenes[scene]).tolist(), scenes[scene]
    if t not in kept:
        return []
    place, blocks = kept.index(t), []
    for layer in model.layers:
        for kind, names in (("heads", HEADS), ("head_map", () if model.is_exact(layer, name) else ("head_map",))):
            if names:
                arrays = {part: model.get(part, layer, name)[place] for part in names}
                blocks.append(Block(path=(scene, number, layer, t), kind=kind, text=pack(arrays, kind)))
    return blocks


def _scene(models: Sequence[Explored], scene: str) -> dict[str, Any]:
    """Describe a scene: its views, its epipolar geometry, and on each grid where tokens' points truly lie."""
    first, n_ref = models[0], int(models[0].run.settings.get("n_ref", 1))
    height, width = first.run.images[f"image/{scene}"].shape[2:]
    views = [int(view) for view in first.get("views", "-", scene)]
    owners = {grid: model for model in reversed(models) for grid in tables.layer_grids(model.run).values()}
    return {
        "name": scene,
        "aspect": round(height / width, 6),
        "views": [{"index": view, "role": "reference" if view < n_ref else "target"} for view in views],
        "fundamental": pack_floats(first.get("fundamental", "-", scene)),
        "grids": {
            grid: {
                "asked": [int(token) for token in model.get("asked", grid, scene)],
                **{name: pack_floats(model.get(name, grid, scene)) for name in ("query_xy", "true_xy", "visible")},
            }
            for grid, model in owners.items()
            if ("asked", grid, scene) in model.tensors
        },
    }


def _model(model: Explored) -> dict[str, Any]:
    run, places, grids = model.run, layer_places(model.run), tables.layer_grids(model.run)
    heads = {layer: len(model.get("head_token", layer, model.scenes[0])[0]) for layer in model.layers}
    return {
        "name": f"{run.model} ({run.name})",
        "selected": run.layer,
        "timesteps": [int(t) for t in run.timesteps["timestep"]],
        "layers": [
            {"layer": n, "place": places[n], "grid": list(parse_grid(grids[n])), "heads": heads[n]}
            for n in sorted(heads)
        ],
    }


# --- what was left out -----------------------------------------------------------------------------------------------


def dropped_words(
    models: Sequence[Explored], scenes: Sequence[str], chosen: Sequence[Block], dropped: Sequence[Block]
) -> str:
    """Return what a page leaves out to stay small, as a sentence; empty where nothing is left out.

    Args:
        models: The page's own first.
        scenes: Those that all models were shown.
        chosen: Blocks in the page.
        dropped: Blocks left out.
    """
    whole = {b.path[0] for b in dropped if b.kind == "together"} - {block.path[0] for block in chosen}
    parts = [f"scene {scenes[n]}" for n in sorted(whole)]
    rest = [block for block in dropped if block.path[0] not in whole]
    rest.sort(
        key=lambda b: (b.path[0], list(LEFT_OUT).index(b.kind), -1 if b.path[3] is None else b.path[3], b.path[2])
    )
    for (n, kind), group in groupby(rest, key=lambda block: (block.path[0], block.kind)):
        by_time = groupby(group, key=lambda block: block.path[3])
        where = {t: sorted({block.path[2] for block in blocks}) for t, blocks in by_time}
        parts.append(f"{LEFT_OUT[kind]}{_times(models[0], where)} of scene {scenes[n]}")
    return f"Left out to keep this page small: {'; '.join(parts)}." if parts else ""


def _times(model: Explored, where: Mapping[int | None, list[int]]) -> str:
    """Return which layers, and at which timesteps; all alike in one."""
    if None in where:
        return f" of layers {listing(where[None])}"
    times = listing([int(model.run.timesteps["timestep"].iloc[t]) for t in where])
    return f" at t = {times}"
