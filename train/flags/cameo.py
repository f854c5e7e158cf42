"""The command line of ``python -m train.cameo``: its flags, their ranges, and the settings that they stand for."""

import math
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from probe.cli import check_model, check_scenes, flag
from probe.scenes.reading import Reading
from train.settings import (
    ALL,
    CompetingObjective,
    Control,
    Device,
    Execution,
    Mixing,
    OptimizerName,
    Precision,
    RateSchedule,
    Rotation,
    Settings,
    Target,
    Tracker,
    Trainable,
    Truth,
    WeightSchedule,
    read_heads,
    read_trainable,
)

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Command(Reading):
    """Train a multi-view diffusion model with one layer's attention supervised by true matches."""

    layer: str = DEFAULT
    """3D layers to supervise: indexes separated by commas; default is the model's own (10, the paper's); auto takes the
    layer of --probe's selection.json; random draws one by --seed; none trains on the diffusion objective alone."""
    probe: Path = Path("runs/probe")
    """Probe run whose selection.json --layer auto reads."""
    objective: Literal["cameo", CompetingObjective] = "cameo"
    """Objective for the layer: cameo supervises its attention with true matches; repa-dsift and repa-dinov2 align its
    output with frozen image features, irepa-dsift through a convolution and with features normalised over each view
    (iREPA); trd-dsift aligns the similarities of its tokens with those of the features (VideoREPA's token relation
    distillation); geometry aligns its output with an encoding of the true points."""
    weight: float = 0.02
    """Weight of the added objective (0.02 in the paper)."""
    layer_weights: str | None = None
    """Shares of several layers in the objective, separated by commas in order of their indexes, such as 2,1; default
    equal."""
    weight_schedule: WeightSchedule = "constant"
    """Schedule of that weight: constant; linear falls to 0 at --weight-until; off drops to 0 there."""
    weight_until: int = 0
    """Step at which the schedule of the weight ends; 0 means --steps."""
    mixing: Mixing = "mean"
    """How the logits of the heads are combined: mean times a learned scale, mlp (the paper; can satisfy the loss by
    weighing heads negatively), positive learned weights."""
    heads: str = ALL
    """Heads whose attention is supervised, which --mixing mixes: all; auto, those that the probe run in --probe chose
    of its layer; or LAYER:HEAD,HEAD, such as 10:0,2, several layers separated by semicolons."""
    target: Target = "per_pair"
    """per_pair: one match per key view (the paper); global_nearest: one over all key views (the release)."""
    truth: Truth = "cycle"
    """Pairs that count: cycle consistent (the paper), visible by a depth test, or gated by cycle and 3D distance."""
    truth_source: str | None = None
    """Source of the points that supervision uses: depth (the scene's own, the default), tracks (SIFT matches that fit
    the cameras), vggt or vggt:FOLDER (needs its package), module:package.function (Views to point_map and valid)."""
    truth_noise: str | None = None
    """Noise on those points, drawn anew at every step: KIND:AMOUNT separated by commas, of depth (relative standard
    deviation), holes (share of the area), rotation (of the cameras, degrees), translation (share of the scene's size),
    such as depth:.05,holes:.3."""
    cycle_tolerance: float = 1.5
    """Round trip, in tokens, below which a match is cycle consistent."""
    max_queries: int | None = None
    """Largest number of random pairs to supervise per scene, for reference and for target queries; None takes all."""
    control: Control = "none"
    """Negative control: shuffled supervises every scene with another scene's matches, which must not help."""
    model: str = "cat3d-tiny:base"
    """Model to train: cat3d-tiny:base has learned to draw single views and not to match, as the paper's start has;
    cat3d-tiny:random starts from weights drawn by --seed, cat3d-tiny from the plainly trained ones,
    NAME:PATH_OR_HUB_ID from a checkpoint (names as in python -m probe.run)."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, for models that need one."""
    model_size: int | None = None
    """Side of the views in pixels; default the model's native size."""
    scenes: str = "shapes"
    """Scenes to train on: shapes[:DIFFICULTY] or shapes-v1[:DIFFICULTY] (procedural, see python -m probe.run), or
    NAME:FOLDER with a data set of python -m probe.run. Of a single recording the first 70 % of the frames are trained
    on and the last 25 % tested on; of several recordings the last quarter by name is tested on."""
    workers: int = 0
    """Processes that read scenes ahead while a step is computed, of each process that trains; the numbers stay the same
    to the bit, and each keeps up to 2 GiB of frames. 0 reads them when they are needed."""
    steps: int = 4000
    """Number of optimiser steps."""
    batch_size: int = 3
    """Scenes per step, over all processes."""
    accumulate: int = 1
    """Number of parts in which a batch is computed, to save memory."""
    views: int = 4
    """Views per scene; 1 to views - 1 of them are references, drawn per step. 1, with --layer none, trains on single
    views without any reference: a base to start from."""
    max_rotation: Rotation = 60
    """Largest rotation of a view against view 0, in degrees."""
    rotation_ramp: int = 300
    """Steps over which rotations grow from 0 to the largest: matching starts between views that hardly differ."""
    shuffle_views: float = 0.0
    """Share of steps whose views come in random order (0.5 in the paper); the others take references evenly spaced
    among the views in order of rotation."""
    timestep_shift: float = 4.0
    """Shift of the training timesteps towards noise: 1 draws evenly, 4 draws four of five from the noisier half."""
    optimizer: OptimizerName = "muon"
    """Optimiser: muon for the hidden matrices and adamw for the rest (learns several times faster from scratch), or
    adamw for all."""
    learning_rate: float = 1.2e-3
    """Learning rate of AdamW; Muon takes 2.5 times as much."""
    schedule: RateSchedule = "constant_with_warmup"
    """Schedule of the learning rate; each starts with --warmup steps."""
    warmup: int = 100
    """Steps over which the learning rate grows from 0."""
    clip: float = 1.0
    """Largest norm of the gradients."""
    camera_dropout: float = 0.0
    """Share of scenes whose cameras are blanked, for guidance, 0 to 1 (0.1 in the paper)."""
    ema_decay: float = 0.998
    """Decay of the running average of the weights, which is what is evaluated and saved."""
    precision: Precision = "no"
    """Mixed precision: no (float32), bf16 or fp16."""
    trainable: str = "all"
    """Weights of the network that train: all; attention (those of every attention layer); cross-view (those of the
    layers that join views); lora:RANK (adapters of that rank on every linear layer of the attention layers, merged into
    OUT/final; needs peft). Checkpoints and OUT/averaged then hold only what trains."""
    execution: Execution = "eager"
    """How a GPU is told a step's work: eager launches each kernel; graph records a step's gradients once as a CUDA
    graph and replays it, which is faster where the network is small. graph needs CUDA, one process, --precision no, and
    supervision of all true pairs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    seed: int = 0
    """Random seed for weights, scenes, timesteps and noise."""
    out: Path = Path("runs/train")
    """Folder of the run; rejected if it has a run with other settings."""
    resume: bool = False
    """Resume from the last complete checkpoint in --out, or start if there is none; --steps may have grown."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of checkpoints with trainer state to keep (about 30 MB each); all averaged weights are kept."""
    evaluate_every: int = 500
    """Steps between evaluations: validation loss, samples, PSNR, SSIM, readout gap."""
    evaluate_scenes: int = 16
    """Number of held-out scenes that are sampled at each evaluation."""
    sampling_steps: int = 20
    """DDIM steps at each evaluation."""
    probe_every: int = 500
    """Steps between probes of every 3D layer (emergence.csv); a multiple of --evaluate-every; 0 never probes."""
    probe_groups: int = 8
    """Number of scenes of three views that are probed."""
    device: Device = "auto"
    """Device; auto takes CUDA if it is available."""
    report: bool = True
    """Rebuild OUT/report.html at every evaluation."""
    tracker: Tracker = "none"
    """Also log to tensorboard (OUT/tensorboard) or wandb (OUT/wandb; WANDB_MODE=offline needs no account)."""


def settings_of(command: Command) -> Settings:
    """Return the settings that a command line stands for."""
    return Settings(**{field.name: getattr(command, field.name) for field in fields(Settings)})


AT_LEAST_ONE = (
    "steps",
    "batch_size",
    "views",
    "accumulate",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_scenes",
    "sampling_steps",
    "probe_groups",
)
NOT_NEGATIVE = ("rotation_ramp", "weight", "weight_until", "warmup", "probe_every", "workers")
POSITIVE = ("timestep_shift", "learning_rate", "clip", "cycle_tolerance")
SHARES = ("camera_dropout", "shuffle_views", "ema_decay")


def check_command(command: Command) -> None:
    """Check what can be checked before PyTorch is loaded: ranges, flags that exclude each other, missing folders.

    Raises:
        ValueError: If a number is out of range, or flags do not go together.
        FileNotFoundError: If a folder does not exist.
    """
    _check_ranges(command)
    _check_combinations(command)
    _check_execution(command)
    with flag("--scenes"):
        check_scenes(command.scenes)
    with flag("--model"):
        check_model(command.model)
    with flag("--trainable"):
        check_trainable(read_trainable(command.trainable))
    if "auto" in (command.layer, command.heads) and not (command.probe / "selection.json").is_file():
        raise FileNotFoundError(
            f"--probe {command.probe}: it has no selection.json; run python -m probe.run --out {command.probe} first"
        )


def check_trainable(trainable: Trainable) -> None:
    """Refuse adapters where the package that makes them is missing.

    Raises:
        ValueError: If it is not installed.
    """
    if trainable.part == "lora" and find_spec("peft") is None:
        raise ValueError(
            f"lora:{trainable.rank}: peft makes the adapters and is not installed; install it with: python -m pip "
            "install 'attention-probing[lora]', or train attention"
        )


def _check_ranges(command: Command) -> None:
    rules = (
        (AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (POSITIVE, lambda value: value > 0, "above 0"),
        (SHARES, lambda value: 0 <= value <= 1, "from 0 to 1"),
    )
    for names, holds, expected in rules:
        for name in names:
            value = getattr(command, name)
            if not (math.isfinite(value) and holds(value)):
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected {expected}")

    if command.max_queries is not None and command.max_queries < 1:
        raise ValueError(f"--max-queries {command.max_queries}: expected at least 1")


def _check_combinations(command: Command) -> None:
    if command.control == "shuffled" and command.objective != "cameo":
        raise ValueError(f"--control shuffled: goes with --objective cameo, not {command.objective}")
    if command.control == "shuffled" and command.batch_size < 2:
        raise ValueError(
            "--control shuffled: expected --batch-size of at least 2; one scene has no other scene's truth"
        )
    if command.views == 1 and command.layer != "none":
        raise ValueError(
            "--views 1 has no other view to match, so it goes with --layer none only; supervise with at least 2 views"
        )
    if command.views == 1 and command.model.partition(":")[0] == "mvgenmaster":
        raise ValueError(
            "--views 1 has no reference, whose depth mvgenmaster takes as an input; train it on at least 2 views"
        )
    if command.heads != ALL and (command.objective != "cameo" or command.layer == "none"):
        raise ValueError(f"--heads {command.heads}: goes with --objective cameo and a supervised layer; leave it out")
    with flag("--heads"):
        read_heads(command.heads)
    if command.layer == "none" and (command.truth_source or command.truth_noise):
        raise ValueError("--layer none supervises nothing: leave --truth-source and --truth-noise out, or name a layer")
    if command.probe_every % command.evaluate_every:
        raise ValueError(
            f"--probe-every {command.probe_every}: expected a multiple of --evaluate-every {command.evaluate_every}, "
            "or 0"
        )


def _check_execution(command: Command) -> None:
    """Refuse to record what differs from step to step, or waits for the device."""
    eager = {
        "--device cpu": command.device == "cpu",
        f"--precision {command.precision}": command.precision != "no",
        f"--accumulate {command.accumulate}": command.accumulate != 1,
        f"--max-queries {command.max_queries}": command.max_queries is not None,
        "--truth gated": command.truth == "gated",
        f"--objective {command.objective}": command.objective != "cameo",
        "--truth-source and --truth-noise": bool(command.truth_source or command.truth_noise),
        "--gradient-checkpointing": command.gradient_checkpointing,
    }
    wrong = [flags for flags, present in eager.items() if present]
    if command.execution == "graph" and wrong:
        raise ValueError(f"--execution graph: does not go with {', '.join(wrong)}; choose --execution eager")


def can_grow(command: Command) -> bool:
    """Return whether a run with more steps starts identically: nothing may be scheduled by the number of steps."""
    scheduled = command.weight_schedule != "constant" and not command.weight_until
    return command.schedule == "constant_with_warmup" and not scheduled
