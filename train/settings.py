"""The choices of a training run and its plain values. Imports nothing heavy: the command line reads it first."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Mixing = Literal["mlp", "mean", "positive"]
Target = Literal["per_pair", "global_nearest"]
Truth = Literal["cycle", "visible", "gated"]
Control = Literal["none", "shuffled"]
CompetingObjective = Literal["repa-dsift", "repa-dinov2", "irepa-dsift", "trd-dsift", "geometry"]
Rotation = Literal[30, 60, 90, 120]
WeightSchedule = Literal["constant", "linear", "off"]
RateSchedule = Literal["constant_with_warmup", "linear", "cosine"]
OptimizerName = Literal["adamw", "muon"]
Precision = Literal["no", "bf16", "fp16"]
Execution = Literal["eager", "graph"]
Tracker = Literal["none", "tensorboard", "wandb"]
Device = Literal["auto", "cpu", "cuda"]
TrainedPart = Literal["all", "attention", "cross-view", "lora"]


class FeatureExtractor(NamedTuple):
    """What FID and KID compare images by.

    Attributes:
        about: For the command's help.
        files: Weights that it needs in torch's cache.
    """

    about: str
    files: tuple[str, ...]


COLOUR_CELLS, INCEPTION = "colour-cells", "inception-v3-compat"
EXTRACTORS: dict[str, FeatureExtractor] = {
    COLOUR_CELLS: FeatureExtractor("no weights; coarse", ()),
    INCEPTION: FeatureExtractor(
        "the usual one; NaN unless its weights are in torch's cache", ("weights-inception-2015-12-05-6726825d.pth",)
    ),
}
"""Feature extractors by torch-fidelity's names."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Which of a network's weights train.

    Attributes:
        part: All; those of all attention layers; of the layers that join views; or adapters on all attention layers.
        rank: Of the adapters; 0 for none.
    """

    part: TrainedPart = "all"
    rank: int = 0


def read_trainable(text: str) -> Trainable:
    """Read which weights train.

    Args:
        text: "all", "attention", "cross-view" or "lora:RANK".

    Raises:
        ValueError: If it is none of these, or the rank is not a whole number of at least 1.
    """
    for part in get_args(TrainedPart):
        if text == part != "lora":
            return Trainable(part=part)
    part, _, rank = text.partition(":")
    if part == "lora" and rank.isascii() and rank.isdigit() and int(rank) >= 1:
        return Trainable(part="lora", rank=int(rank))
    raise ValueError(
        f"{text!r}: expected all, attention, cross-view or lora:RANK with a whole number of at least 1, such as lora:16"
    )


ALL, AUTO = "all", "auto"


def read_heads(text: str) -> dict[int, tuple[int, ...]] | None:
    """Read which heads of which layers are supervised.

    Args:
        text: "all", "auto", or LAYER:HEAD,HEAD, several separated by semicolons.

    Returns:
        Heads by the index of their layer; None for "all" and "auto".

    Raises:
        ValueError: If it is none of these, or a layer or a head stands twice.
    """
    if text in (ALL, AUTO):
        return None
    chosen: dict[int, tuple[int, ...]] = {}
    for part in text.split(";"):
        layer, _, heads = part.partition(":")
        names = [layer, *heads.split(",")]
        if not all(name.isascii() and name.isdigit() for name in names) or int(layer) in chosen:
            raise ValueError(
                f"{text!r}: expected all, auto, or LAYER:HEAD,HEAD such as 10:0,2, layers after semicolons"
            )
        chosen[int(layer)] = tuple(map(int, names[1:]))
        if len(set(chosen[int(layer)])) < len(names) - 1:
            raise ValueError(f"{text!r}: names a head twice; name each once")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a training run, as plain values.

    The builders of :mod:`train.supervised` turn it into the objects of the loop; no function below them takes it.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Scenes per step, over all processes.
        views: Views per scene.
        learning_rate: Of AdamW.
        max_rotation: Largest rotation of a view against view 0, in degrees.
        rotation_ramp: Steps over which rotations grow from 0 to full.
        timestep_shift: 1 draws timesteps evenly; above 1 they lie nearer the noise.
        camera_dropout: Share of scenes whose cameras are blanked.
        ema_decay: Of the running average of the weights.
        seed: Of everything random in a step.
        optimizer: For the hidden matrices.
        shuffle_views: Share of steps whose views come in random order.
        weight: Of the added objective.
        weight_schedule: How that weight changes.
        weight_until: Step at which its schedule ends; 0 is ``steps``.
        accumulate: Parts in which a batch is computed.
        schedule: Of the learning rate.
        warmup: Steps over which the learning rate grows from 0.
        clip: Largest norm of the gradients.
        trainable: Which of the network's weights train, as :func:`read_trainable` takes it.
        workers: Processes that read scenes ahead, of each process that trains; decides nothing.
        execution: Whether a step's gradients are computed anew, or replayed from a CUDA graph.
    """

    steps: int
    batch_size: int
    views: int
    learning_rate: float
    max_rotation: int
    rotation_ramp: int
    timestep_shift: float
    camera_dropout: float
    ema_decay: float
    seed: int
    optimizer: OptimizerName = "adamw"
    shuffle_views: float = 0.0
    weight: float = 0.0
    weight_schedule: WeightSchedule = "constant"
    weight_until: int = 0
    accumulate: int = 1
    schedule: RateSchedule = "constant_with_warmup"
    warmup: int = 100
    clip: float = 1.0
    trainable: str = "all"
    workers: int = 0
    execution: Execution = "eager"
