"""What the explorer of a page is given: names, geometry, packed blocks, the start, and what was left out. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from analysis.explorer.exact import pack_attention
from analysis.explorer.packing import FIELDS, Block, nested, pack, pack_floats, within
from analysis.explorer.reading import Explored, shared_scenes
from analysis.probing import tables
from analysis.probing.words import layer_places, standing
from analysis.words import listing, percent
from probe.records import parse_grid

BUDGET = 4_000_000  # characters of packed blocks in a page, of all models and scenes together
LEVELS, MAP_LEVELS, CELLS = 255, 15, 8  # as probe.measure.explored codes
SIDE = 16  # query tokens along a side of a view, at most
MATCH = ("token", "right")
LEAST = 0.25  # characters that a query's or key's number takes at least; one as a rule
FIRST, OTHERS = slice(0, 1), slice(1, None)  # of a model's layers, the one that it opens on first
START_RULE = (
    "There, it opens at the pair of views whose precision, of a target's tokens in the first view, is nearest the "
    "median of those shown here, at the token whose match has the median error of that pair: right where most are."
)
LEFT_OUT = {
    "together": "matches",
    "exact": "attention of some layers",
    "map": "pooled attention",
    "heads": "matches of single heads",
    "head_map": "pooled attention of single heads",
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
    """Start at the model's first layer and the middle timestep, at a pair and a token chosen by :data:`START_RULE`.

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


def layer_rule(model: Explored) -> str:
    """Return on which layer the explorer opens, and why, in a sentence."""
    if model.opens_on_selected:
        return f"It opens on the selected layer, {model.run.layer}, at the middle timestep."
    precision = model.run.layers.set_index("layer")["precision"]
    first, selected = model.layers[0], model.run.layer
    return (
        f"No layer is shown to be above its strongest null, so it opens on the one of highest precision: layer {first} "
        f"with {percent(precision[first])} (the selected layer, {selected}, has {percent(precision[selected])})."
    )


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
        "held": held_words(models[0], chosen, len(kept)),
        "dropped": dropped_words(models, scenes, chosen, dropped),
    }  # fmt: skip


def groups(models: Sequence[Explored], scenes: Sequence[str]) -> Iterator[list[Block]]:
    """Return blocks by use.

    Of every scene the matches, and the first layer's attention at the middle timestep; then the other layers' there,
    single heads, the first layer's at other timesteps, and the rest.

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
        yield of_all(_together, n) + of_all(_attention, n, middle, FIRST)
    for n in numbers:
        yield of_all(_attention, n, middle, OTHERS)
        yield of_all(_maps, n)
    for n in numbers:
        yield of_all(_heads, n, middle)
    for t in others:
        for n in numbers:
            yield of_all(_attention, n, t, FIRST)
            yield of_all(_heads, n, t)
    for t in others:
        for n in numbers:
            yield of_all(_attention, n, t, OTHERS)


def _interleaved(parts: Sequence[list[Block]]) -> list[Block]:
    longest = max(len(part) for part in parts)
    return [part[n] for n in range(longest) for part in parts if n < len(part)]


def _together(model: Explored, scenes: Sequence[str], scene: int, number: int) -> list[Block]:
    return [_block(model, scenes, (scene, number, layer, None), "together") for layer in model.layers]


def _attention(model: Explored, scenes: Sequence[str], scene: int, number: int, t: int, which: slice) -> list[Block]:
    name, there = scenes[scene], t < len(model.run.timesteps)
    return [
        Block(
            path=(scene, number, layer, t),
            kind="exact",
            make=partial(_packed_attention, model, name, layer, t),
            least=int(LEAST * sum(model.get(part, layer, name)[t].size for part in ("q", "k"))),
        )
        for layer in model.layers[which]
        if there and model.is_exact(layer, name)
    ]


def _packed_attention(model: Explored, scene: str, layer: int, t: int) -> str:
    """Pack a layer's attention at a timestep, with the single heads' matches where the run kept them."""
    times, grid = model.get("head_timesteps", "-", scene).tolist(), tables.layer_grids(model.run)[layer]
    columns = parse_grid(grid)[1]
    heads = {name: model.get(f"head_{name}", layer, scene)[times.index(t)] for name in MATCH} if t in times else {}
    return pack_attention(**model.attention(layer, scene, t), **heads, columns=(min(columns, SIDE), columns))


def _maps(model: Explored, scenes: Sequence[str], scene: int, number: int) -> list[Block]:
    """Return the pooled maps of the layers whose queries and keys were not kept."""
    pooled = [layer for layer in model.layers if not model.is_exact(layer, scenes[scene])]
    return [_block(model, scenes, (scene, number, layer, None), "map") for layer in pooled]


def _heads(model: Explored, scenes: Sequence[str], scene: int, number: int, t: int) -> list[Block]:
    """Return the matches and pooled maps of such a layer's single heads, where the run kept them."""
    kept = model.get("head_timesteps", "-", scenes[scene]).tolist()
    pooled = [layer for layer in model.layers if not model.is_exact(layer, scenes[scene])]
    return [
        _block(model, scenes, (scene, number, layer, t), kind, kept.index(t))
        for layer in pooled
        for kind in ("heads", "head_map")
        if t in kept
    ]


def _block(
    model: Explored, scenes: Sequence[str], path: tuple[int, int, int, int | None], kind: str, place: int | None = None
) -> Block:
    """Return the block of a kind, of all timesteps or of that at a place."""
    layer, at = path[2], ... if place is None else place

    def packed() -> str:
        return pack({name: model.get(name, layer, scenes[path[0]])[at] for name, *_ in FIELDS[kind]}, kind)

    return Block(path=path, kind=kind, make=packed)


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
        "standing": standing(run) if "above_null" in run.layers else "",
        "timesteps": [int(t) for t in run.timesteps["timestep"]],
        "layers": [
            {"layer": n, "place": places[n], "grid": list(parse_grid(grids[n])), "heads": heads[n]}
            for n in sorted(heads)
        ],
        "heads_at": [int(t) for t in model.get("head_timesteps", "-", model.scenes[0])],
    }


# --- what was left out -----------------------------------------------------------------------------------------------


def held_words(model: Explored, chosen: Sequence[Block], scenes: int) -> str:
    """Return which layers' attention a page holds in all its scenes, by timestep; empty where it holds none.

    Args:
        model: The page's own.
        chosen: Blocks in the page.
        scenes: How many the page holds.
    """
    count = Counter(block.path[2:] for block in chosen if block.kind == "exact" and block.path[1] == 0)
    whole = sorted((t, layer) for (layer, t), n in count.items() if n == scenes and t is not None)
    at = {t: [layer for _, layer in group] for t, group in groupby(whole, key=lambda pair: pair[0])}
    parts = []
    for layers in dict.fromkeys(tuple(layers) for layers in sorted(at.values(), key=len, reverse=True)):
        times = [int(model.run.timesteps["timestep"].iloc[t]) for t in at if tuple(at[t]) == layers]
        named = f"layer{'s' if len(layers) > 1 else ''} {listing(layers)}"
        parts.append(f"of {'all layers' if len(layers) == len(model.layers) else named} at t = {listing(times)}")
    return f"The page holds the attention {'; '.join(parts)}, in every scene." if parts else ""


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
    rest = [block for block in dropped if block.path[0] not in whole]
    rest.sort(
        key=lambda b: (b.path[0], list(LEFT_OUT).index(b.kind), -1 if b.path[3] is None else b.path[3], b.path[2])
    )
    of_scenes: dict[str, list[str]] = {}
    for (n, kind), group in groupby(rest, key=lambda block: (block.path[0], block.kind)):
        by_time = groupby(group, key=lambda block: block.path[3])
        where = {t: sorted({block.path[2] for block in blocks}) for t, blocks in by_time}
        of_scenes.setdefault(f"{LEFT_OUT[kind]}{_times(models[0], where)}", []).append(scenes[n])
    parts = [f"scene {scenes[n]}" for n in sorted(whole)]
    parts += [f"{what} of scene{'s' if len(names) > 1 else ''} {listing(names)}" for what, names in of_scenes.items()]
    return f"Left out to keep this page small: {'; '.join(parts)}." if parts else ""


def _times(model: Explored, where: Mapping[int | None, list[int]]) -> str:
    """Return which layers, and at which timesteps; all alike in one."""
    if None in where:
        return f" of layers {listing(where[None])}"
    times = listing([int(model.run.timesteps["timestep"].iloc[t]) for t in where])
    return f" at t = {times}"
