"""From scores to rows of the score table: pure."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from probe.measure.scene import Grid, LayerCall, Scene
from probe.metrics import Measured
from probe.protocols import Probabilities, Protocol
from probe.records import NO_LAYER, Rows, grid_name


def score_call(
    call: LayerCall,
    scene: Scene,
    protocol: Protocol,
    guesses: Mapping[Grid, Mapping[str, Probabilities]] = MappingProxyType({}),
) -> list[Rows]:
    """Score one layer's call on one scene.

    Args:
        call: Of the layer.
        scene: That it was made on.
        protocol: How matches are made and counted.
        guesses: Of each grid, by the reference's name: scored on the very queries that the layer chooses.

    Returns:
        Rows by metric, head and ordered pair of views; on the layer's grid, and on the common one if the protocol
        resamples. Those of guesses have the layer's columns, and the reference's name as model.
    """
    own = {
        "step": call.step,
        "layer": call.layer.index,
        "layer_name": call.layer.name,
        "timestep": call.timestep,
    }
    rows = []
    for scores in protocol.score(call, scene):
        columns = {**own, "grid": grid_name(scores.grid), "protocol": protocol.name + scores.suffix}
        rows.append(tabulate(scores.measured, scene, {**columns, "model": call.model}))
        if scores.on_same_queries is not None:
            rows += [
                tabulate(scores.on_same_queries(guess), scene, {**columns, "model": name})
                for name, guess in guesses.get(scores.grid, {}).items()
            ]
    return rows


def tabulate(measured: Measured, scene: Scene, constants: Mapping[str, object]) -> Rows:
    """Lay measured values out as rows of the score table, one per metric, head and ordered pair.

    Args:
        measured: Row 0 of the second axis becomes head -1, the others heads 0, 1, ...
        scene: That was measured on.
        constants: The remaining columns: model, step, layer, layer_name, grid, timestep, protocol.
    """
    pairs = scene.pairs
    queries, keys = list(pairs.query_view), list(pairs.key_view)
    value, count = (torch.cat(parts, dim=1)[0, :, queries, keys] for parts in zip(*measured.values(), strict=True))
    rows = [value.shape[1] for value, _ in measured.values()]
    heads = np.concatenate([np.arange(number) - 1 for number in rows])
    text = {"pair": pairs.pair, "direction": pairs.direction}
    columns = {
        **{name: np.tile(np.array(column, dtype=object), len(heads)) for name, column in text.items()},
        "query_view": np.tile(queries, len(heads)),
        "key_view": np.tile(keys, len(heads)),
        "rotation_deg": np.tile(pairs.rotation_deg, len(heads)),
        "head": np.repeat(heads, len(queries)),
        "metric": np.repeat(np.array(list(measured), dtype=object), np.multiply(rows, len(queries))),
        "value": value.flatten().double().cpu().numpy(),
        "count": count.flatten().long().cpu().numpy(),
    }
    return Rows(columns=columns, constants={"scene": scene.name, "pair_list": "", **constants})


def without_layer(model: str, grid: Grid, protocol: Protocol) -> dict[str, object]:
    """Return the columns of rows that belong to a grid and not to a layer."""
    return {
        "model": model,
        "step": -1,
        "layer": NO_LAYER,
        "layer_name": "",
        "grid": grid_name(grid),
        "timestep": -1,
        "protocol": protocol.name,
    }
