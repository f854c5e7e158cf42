"""What the explorer of a page is given: names, geometry, packed blocks, the start, and what was left out. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from analysis.explorer.packing import FIELDS, Block, nested, pack, pack_floats, within
from analysis.explorer.reading import HEADS, TOGETHER, Explored, shared_scenes
from analysis.probing import tables
from analysis.probing.words import layer_places
from analysis.words import listing, metric_words
from probe.records import parse_grid

BUDGET = 4_000_000  # characters of packed blocks in a page, of all models and scenes together
LEVELS, MAP_LEVELS, CELLS = 255, 15, 8  # as probe.measure.explored codes


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


def start_of(model: Explored, scenes: Sequence[str]) -> Start:
    """Start at the selected layer and the middle timestep, in the last view, at the best seen token nearest the middle.

    Args:
        model: The page's own.
        scenes: Those shown.
    """
    layer = model.layers[0]
    grid, view = tables.layer_grids(model.run)[layer], len(model.get("views", "-", scenes[0])) - 1
    seen = model.get("visible", grid, scenes[0])[view].sum(-1)
    place = np.nan_to_num(model.get("query_xy", grid, scenes[0])[view], nan=9.0)
    order = np.lexsort((np.hypot(*(place - 0.5).T), -seen))
    return Start(scene=0, layer=layer, time=len(model.run.timesteps) // 2, view=view, token=int(order[0]))


def payload(models: Sequence[Explored], budget: int = BUDGET) -> dict[str, Any]:
    """Put together what the page's script reads, as plain values.

    Args:
        models: The page's own first; all of the same views.
        budget: Characters of packed blocks.
    """
    scenes = shared_scenes(models)
    chosen, dropped = within(groups(models, scenes), budget)
    kept = sorted({block.path[0] for block in chosen})
    start = start_of(models[0], scenes)
    return {
        "fields": FIELDS,
        "levels": {"share": LEVELS, "map": MAP_LEVELS, "cells": CELLS},
        "right": metric_words(models[0].run.metric),
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
    """Return blocks by use, scene after scene: all heads together, then the single heads, the middle timestep first.

    Args:
        models: The page's own first.
        scenes: Those that all models were shown.
    """
    times = range(max(len(model.run.timesteps) for model in models))
    for n in range(len(scenes)):
        yield _interleaved([_together(model, scenes, n, m) for m, model in enumerate(models)])
        for t in sorted(times, key=lambda t: (abs(t - len(times) // 2), t)):
            yield _interleaved([_heads(model, scenes, n, m, t) for m, model in enumerate(models)])


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


def _heads(model: Explored, scenes: Sequence[str], scene: int, number: int, t: int) -> list[Block]:
    kept = model.get("head_timesteps", "-", scenes[scene]).tolist()
    if t not in kept:
        return []
    place = kept.index(t)
    return [
        Block(
            path=(scene, number, layer, t),
            text=pack({name: model.get(name, layer, scenes[scene])[place] for name in HEADS}, "heads"),
        )
        for layer in model.layers
    ]


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
    whole = {block.path[0] for block in dropped} - {block.path[0] for block in chosen}
    parts = [f"scene {scenes[n]}" for n in sorted(whole)]
    rest = sorted((b.path for b in dropped if b.path[0] not in whole), key=lambda p: (p[0], p[3] is not None, p[2]))
    for (n, heads), group in groupby(rest, key=lambda path: (path[0], path[3] is not None)):
        paths = list(group)
        times = sorted({int(models[p[1]].run.timesteps["timestep"].iloc[p[3]]) for p in paths if p[3] is not None})
        layers = listing(sorted({path[2] for path in paths}))
        what = f"single heads at t = {listing(times)}" if heads else f"layers {layers}"
        parts.append(f"{what} of scene {scenes[n]}")
    return f"Left out to keep this page small: {'; '.join(parts)}." if parts else ""
