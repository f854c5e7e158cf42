"""From the flags to what is supervised: the layers, their shares, and the objective that is added."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from probe.layers import Layer, select_layers
from probe.models.model import MultiViewModel, model_layers
from probe.seeds import derive
from train.flags import Command
from train.objectives import AttentionSupervision, Objective, Supervision, grid_of, make_rival


def layers_of(given: Command, model: MultiViewModel) -> list[Layer]:
    """Find the layers to supervise; empty for none.

    Raises:
        ValueError: If the choice is unknown, or names a layer that does not join views on a grid.
    """
    if given.layer == "none":
        return []
    found = model_layers(model)
    if given.layer == "random":
        joint = [layer for layer in found if layer.kind == "3d"]
        return [random.Random(derive("layer", given.seed)).choice(joint)]
    layers = [selected_layer(given.probe, found)] if given.layer == "auto" else select_layers(found, given.layer)
    for layer in layers:
        grid_of(layer)
    return layers


def selected_layer(probe: Path, layers: Sequence[Layer]) -> Layer:
    """Find the layer that a probe run chose, among those of the model to be trained.

    Raises:
        ValueError: If there is no such run, or it chose none, or the model has no layer of that index and name.
    """
    path = probe / "selection.json"
    if not path.is_file():
        raise ValueError(f"--layer auto: {path} does not exist; run python -m probe.run --out {probe} first")
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        index, name = int(chosen["layer"]), str(chosen["name"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"--layer auto: {path} names no layer ({error!r}); probe again, or give an index") from error
    for layer in layers:
        if (layer.index, layer.name) == (index, name):
            return layer
    raise ValueError(
        f"--layer auto: {path} chose layer {index}, {name}, of {chosen.get('model')}, which --model does not have; "
        "probe that model, or give an index"
    )


def shares_of(given: Command, layers: Sequence[Layer]) -> tuple[float, ...]:
    """Read each layer's share in the objective; the shares add up to 1.

    Raises:
        ValueError: If there is not one number above 0 for every layer.
    """
    text = given.layer_weights or ",".join("1" for _ in layers)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(layers) or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError(f"--layer-weights {text}: expected {len(layers)} numbers above 0 by commas, one per layer")
    return tuple(number / sum(numbers) for number in numbers)


def objective_of(given: Command, layers: Sequence[Layer]) -> Objective | None:
    """Build what is added to the diffusion objective; its weights are drawn by the seed."""
    if not layers:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("objective", given.seed))
        shares = shares_of(given, layers)
        if given.objective != "cameo":
            return make_rival(given.objective, layers, shares)
        return AttentionSupervision(
            layers,
            Supervision(
                mixing=given.mixing,
                target=given.target,
                truth=given.truth,
                cycle_tolerance=given.cycle_tolerance,
                control=given.control,
                max_queries=given.max_queries,
            ),
            shares,
        )
