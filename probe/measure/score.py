"""From scores to rows of the score table: pure."""

from collections.abc import Mapping

import numpy as np
import torch

from probe.measure.scene import Grid, LayerCall, Scene
from probe.metrics import Measured
from probe.protocols import Protocol
from probe.records import NO_LAYER, Rows, grid_name


def score_call(call: LayerCall, scene: Scene, protocol: Protocol) -> list[Rows]:
    """Score one layer's call on one scene.

    Returns:
        Rows by metric, head and ordered pair of views; on the layer's grid, and on the common one if the protocol
        resamples.
    """
    own = {
        "model": call.model,
        "step": call.step,
        "layer": call.layer.index,
        "layer_name": call.layer.name,
        "timestep": call.timestep,
    }
    return [
        tabulate(
            scores.measured, scene, {**own, "grid": grid_name(scores.grid), "protocol": protocol.name + scores.suffix}
        )
        for scores in protocol.score(call, scene)
    ]


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
    return Rows(columns=columns, constants={"scene": scene.name, "unit": scene.name, "pair_list": "", **constants})


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
