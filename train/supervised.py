"""Builders: from plain values to the objects of a training (layers, objective, batches, trainer)."""

import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from probe.layers import Layer, select_layers
from probe.models.model import MultiViewModel
from probe.records import parse_json
from probe.seeds import derive
from train.batches import Batches, Draw
from train.footage import CPU
from train.loop.trainer import Trainer, make_trainer, weight_at
from train.objectives import AttentionSupervision, Objective, grid_of, make_competing_objective
from train.objectives.truth import TruthTransform, keep_truth
from train.settings import (
    AUTO,
    CompetingObjective,
    Control,
    Mixing,
    Settings,
    Target,
    Truth,
    read_heads,
    read_trainable,
)
from train.trainable import choose_weights


def choose_layers(choice: str, layers: Sequence[Layer], *, probe: Path, seed: int) -> list[Layer]:
    """Return the layers to supervise; an empty list for none.

    Args:
        choice: "none", "random", "auto", or as :func:`probe.layers.select_layers` takes it.
        layers: All of a model.
        probe: Folder of the probe run that "auto" reads.
        seed: Of "random".

    Raises:
        ValueError: If the choice is unknown, or names a layer that does not join views on a grid.
    """
    if choice == "none":
        return []
    if choice == "random":
        return [random.Random(derive("layer", seed)).choice(select_layers(layers, "3d"))]
    chosen = [selected_layer(probe, layers)] if choice == "auto" else select_layers(layers, choice)
    for layer in chosen:
        grid_of(layer)
    return chosen


def selected_layer(probe: Path, layers: Sequence[Layer]) -> Layer:
    """Return the layer that a probe run selected, among those of the model to be trained.

    Args:
        probe: Folder of the probe run.
        layers: Of the model to be trained.

    Raises:
        ValueError: If there is no such run, or it selected none, or the model has no layer of that index and name.
    """
    path = probe / "selection.json"
    if not path.is_file():
        raise ValueError(f"auto: {path} does not exist; run python -m probe.run --out {probe} first")
    try:
        selection = parse_json(path.read_text(encoding="utf-8"))
        index, name = int(selection["layer"]), str(selection["name"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"auto: {path} names no layer ({error!r}); probe again, or name an index") from error
    for layer in layers:
        if (layer.index, layer.name) == (index, name):
            return layer
    raise ValueError(
        f"auto: {path} selected layer {index}, {name}, of {selection.get('model')}, which the model to be trained does "
        "not have; probe that model, or name an index"
    )


def is_shown(probe: Path) -> bool:
    """Return whether the layer that a probe run selected is shown to be above its strongest null.

    Args:
        probe: Folder of the probe run, with a selection that :func:`selected_layer` reads.
    """
    return bool(parse_json((probe / "selection.json").read_text(encoding="utf-8")).get("above_null", True))


def choose_heads(choice: str, layers: Sequence[Layer], *, probe: Path) -> dict[int, tuple[int, ...]] | None:
    """Return the heads to supervise by the index of their layer; None for all of every layer.

    Args:
        choice: As :func:`train.settings.read_heads` takes it.
        layers: That are supervised.
        probe: Folder of the probe run that "auto" reads.

    Raises:
        ValueError: If the probe run chose no head of a supervised layer, or a layer is not supervised, or lacks a head.
    """
    chosen = _selected_heads(probe, layers) if choice == AUTO else read_heads(choice)
    counts = {layer.index: layer.heads for layer in layers}
    for index, heads in (chosen or {}).items():
        if index not in counts:
            supervised = ", ".join(str(number) for number in counts)
            raise ValueError(
                f"{choice}: layer {index} is not supervised, but --layer {supervised}; add {index} or auto there"
            )
        if max(heads) >= counts[index]:
            raise ValueError(f"{choice}: layer {index} has the heads 0 to {counts[index] - 1}, not {max(heads)}")
    return chosen


def _selected_heads(probe: Path, layers: Sequence[Layer]) -> dict[int, tuple[int, ...]]:
    path = probe / "selection.json"
    if not path.is_file():
        raise ValueError(f"auto: {path} does not exist; run python -m probe.run --out {probe} first")
    try:
        selection = parse_json(path.read_text(encoding="utf-8"))
        layer, name = int(selection["layer"]), str(selection["name"])
        heads = tuple(int(head) for head in selection["heads"]["chosen"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"auto: {path} names no heads ({error!r}); probe again, or name them") from error
    if not heads:
        raise ValueError(f"auto: {path} chose no head of layer {layer}, as none is above its null; name some, or all")
    if any(own.index == layer and own.name != name for own in layers):
        raise ValueError(f"auto: {path} chose heads of {name}, of another model's layer {layer}; probe this model")
    return {layer: heads}


def read_shares(text: str | None, count: int) -> tuple[float, ...]:
    """Return each layer's share in the objective; the shares add up to 1.

    Args:
        text: Numbers separated by commas; None for equal shares.
        count: Of the layers.

    Raises:
        ValueError: If there is not one number above 0 for every layer.
    """
    try:
        numbers = [1.0] * count if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError(f"{text}: expected {count} numbers above 0 separated by commas, one per layer")
    return tuple(number / sum(numbers) for number in numbers)


def make_objective(
    name: Literal["cameo", CompetingObjective],
    layers: Sequence[Layer],
    shares: Sequence[float],
    *,
    seed: int,
    mixing: Mixing,
    target: Target,
    truth: Truth,
    cycle_tolerance: float,
    control: Control,
    max_queries: int | None,
    heads: Mapping[int, Sequence[int]] | None = None,
) -> Objective | None:
    """Build the objective that is added to the diffusion objective; its weights are drawn by the seed.

    Args:
        name: "cameo", or a competing objective.
        layers: To supervise; without any there is no objective.
        shares: Of the layers.
        seed: Of the objective's weights.
        mixing: This and what follows: of :class:`train.objectives.AttentionSupervision`, ignored by the others.
        target: Which pairs have a match.
        truth: Which pairs count.
        cycle_tolerance: Of the cycle-consistent ones, in tokens.
        control: Negative control.
        max_queries: Pairs of each scene and side that are drawn.
        heads: Of each layer, by its index; None for all.

    Raises:
        ValueError: If a layer cannot be supervised, or the weights of an encoder are missing.
    """
    if not layers:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("objective", seed))
        if name != "cameo":
            return make_competing_objective(name, layers, shares)
        return AttentionSupervision(
            layers,
            mixing=mixing,
            target=target,
            truth=truth,
            cycle_tolerance=cycle_tolerance,
            control=control,
            max_queries=max_queries,
            shares=shares,
            heads=heads,
        )


def make_batches(settings: Settings, model: MultiViewModel, draw: Draw) -> Batches:
    """Build the batches of a training for a model.

    Args:
        settings: Of the run.
        model: Decides the shape of the noise.
        draw: Where the scenes come from.
    """
    return Batches(
        draw=draw,
        latent_shape=model.latent_shape,
        device=CPU if settings.workers else model.alpha_bar.device,
        seed=settings.seed,
        size=settings.batch_size,
        views=settings.views,
        rotation_ramp=settings.rotation_ramp,
        timestep_shift=settings.timestep_shift,
        camera_dropout=settings.camera_dropout,
        shuffle_views=settings.shuffle_views,
    )


def build_trainer(
    settings: Settings,
    model: MultiViewModel,
    draw: Draw,
    objective: Objective | None = None,
    *,
    accelerator: Accelerator | None = None,
    transform_truth: TruthTransform = keep_truth,
) -> Trainer:
    """Build the trainer of a run from its settings.

    Args:
        settings: Of the run.
        model: The denoiser; its network is trained in place.
        draw: Where the scenes come from.
        objective: The added one; None trains on the diffusion objective alone.
        accelerator: Of this process; None for one without mixed precision on the model's device.
        transform_truth: Turns a batch's views into those that supervision sees.

    Raises:
        ValueError: If the batch cannot be shared out evenly, or the network has no such weights to train.
    """
    until = settings.weight_until or settings.steps
    choose_weights(model, read_trainable(settings.trainable), settings.seed)
    return make_trainer(
        model,
        make_batches(settings, model, draw),
        objective,
        accelerator=accelerator or Accelerator(cpu=model.alpha_bar.device.type == "cpu"),
        weight=partial(weight_at, weight=settings.weight, schedule=settings.weight_schedule, until=until),
        transform_truth=transform_truth,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup=settings.warmup,
        steps=settings.steps,
        ema_decay=settings.ema_decay,
        accumulate=settings.accumulate,
        clip=settings.clip,
        workers=settings.workers,
        execution=settings.execution,
    )
