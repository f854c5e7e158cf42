"""What python -m train.cameo is asked: its flags, which of them are refused, and what decides a run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from train.alignment.mixing import Mixing
from train.alignment.pairs import Target
from train.loop.trackers import Tracker
from train.objectives import Control, Rival, Truth
from train.settings import OptimizerName, Precision, Settings, WeightSchedule

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a multi-view diffusion model with one layer's attention supervised by true matches."""

    layer: str = DEFAULT
    """3D layers to supervise: indexes by commas; default is the model's own (10, the paper's); auto takes the layer of
    --probe's selection.json; random draws one by --seed; none trains on the diffusion objective alone."""
    probe: Path = Path("runs/probe")
    """Probe run whose selection.json --layer auto reads."""
    objective: Literal["cameo", Rival] = "cameo"
    """What is asked of the layer: cameo supervises its attention with true matches; repa-dsift and repa-dinov2 pull its
    output towards frozen image features, geometry towards an encoding of the true points."""
    weight: float = 0.02
    """Of the added objective (the paper's value)."""
    layer_weights: str | None = None
    """Shares of several layers in the objective, by commas in order of their indexes, such as 2,1; default equal."""
    weight_schedule: WeightSchedule = "constant"
    """constant; linear falls to 0 at --weight-until; off stops there."""
    weight_until: int = 0
    """Step at which the schedule ends; 0 is --steps."""
    mixing: Mixing = "mean"
    """How the logits of the heads become one: mean times a learned scale (ahead of the paper's in all three seeds of
    reports/reference/study), mlp (the paper), positive weights."""
    target: Target = "per_pair"
    """per_pair: one match per key view (the paper); global_nearest: one over all key views (the release)."""
    truth: Truth = "cycle"
    """Pairs that count: cycle consistent (the paper), visible by a depth test, or gated by cycle and 3D distance."""
    truth_source: str | None = None
    """Where the points that supervision sees come from: depth (the scene's own, the default), tracks (SIFT matches that
    fit the cameras), vggt or vggt:FOLDER (its package), module:package.function (Views to point_map and valid)."""
    truth_noise: str | None = None
    """Noise on those points, drawn anew at every step: KIND:AMOUNT by commas, of depth (relative std), holes (share of
    area), rotation (of cameras, degrees), translation (share of the scene's size), such as depth:.05,holes:.3."""
    cycle_tolerance: float = 1.5
    """Round trip, in tokens, below which a match is cycle consistent."""
    max_queries: int | None = None
    """Supervise at most so many random pairs of each scene and side; None takes all."""
    control: Control = "none"
    """shuffled gives every scene another scene's matches: supervision that must not help."""
    model: str = "cat3d-tiny:random"
    """cat3d-tiny:random starts from weights drawn by --seed, cat3d-tiny from the shipped ones, NAME:PATH_OR_HUB_ID from
    a checkpoint (names as in python -m probe.run)."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, where --model has one."""
    model_size: int | None = None
    """Side in pixels of the views; default the model's native size."""
    scenes: str = "shapes"
    """shapes[:plain|cluttered|repetitive|textureless], procedural; NAME:FOLDER with rgbd, co3d, nerfstudio, re10k or
    dl3dv: of a lone recording the first 70 % of the frames are trained on and the last 25 % tested on, of several
    recordings the last quarter by name is tested on."""
    steps: int = 4000
    """Optimiser steps in all."""
    batch_size: int = 6
    """Scenes per step, over all processes."""
    accumulate: int = 1
    """Parts in which a batch is computed, to save memory."""
    views: int = 2
    """Views per scene; 1 to views - 1 of them are references, drawn per step."""
    max_rotation: Literal[30, 60, 90, 120] = 60
    """Largest rotation of a view against view 0, in degrees."""
    rotation_ramp: int = 1000
    """Steps over which rotations grow from 0 to full: matching starts between views that hardly differ."""
    shuffle_views: float = 0.0
    """Share of steps whose views come in random order (the paper: .5); the others take references evenly spaced among
    the views in order of rotation."""
    timestep_shift: float = 4.0
    """Noise that is trained on: 1 draws timesteps evenly, 4 draws four of five from the noisier half."""
    optimizer: OptimizerName = "muon"
    """muon for the hidden matrices (learns several times faster from scratch), adamw for the rest or for all."""
    learning_rate: float = 1.2e-3
    """Of AdamW; Muon takes 2.5 times as much."""
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Of the learning rate; each begins with --warmup steps."""
    warmup: int = 100
    """Steps over which the learning rate grows from 0."""
    clip: float = 1.0
    """Largest norm of the gradients."""
    camera_dropout: float = 0.0
    """Share of scenes whose cameras are blanked, for guidance, 0 to 1 (the paper: .1)."""
    ema_decay: float = 0.998
    """Of the running average of the weights, which is what is evaluated and saved."""
    precision: Precision = "no"
    """Mixed precision: no (float32), bf16 or fp16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    seed: int = 0
    """Of weights, scenes, timesteps and noise; step s uses (seed, s)."""
    out: Path = Path("runs/train")
    """Run folder; it refuses other settings than those it was made with."""
    resume: bool = False
    """Continue from the last whole checkpoint in --out, or start when there is none; --steps may have grown."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints with trainer state that are kept (about 30 MB each); the averaged weights of all are kept."""
    evaluate_every: int = 500
    """Steps between evaluations: validation loss, samples, PSNR, SSIM, readout gap."""
    evaluate_scenes: int = 16
    """Held-out scenes that are sampled at each evaluation."""
    sampling_steps: int = 20
    """Of DDIM, at each evaluation."""
    probe_every: int = 500
    """Steps between probes of every 3D layer (emergence.csv); a multiple of --evaluate-every; 0 never probes."""
    probe_groups: int = 8
    """Scenes of three views that are probed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    report: bool = True
    """Rebuild OUT/report.html at every evaluation."""
    tracker: Tracker = "none"
    """Also log to tensorboard (OUT/tensorboard) or wandb (OUT/wandb; WANDB_MODE=offline needs no account)."""


def settings_of(given: Command) -> Settings:
    """Turn the command line into what decides the run.

    Raises:
        ValueError: If a number is out of range.
    """
    _check(given)
    shared = {name: getattr(given, name) for name in Settings.__dataclass_fields__ if hasattr(given, name)}
    bins = tuple(range(given.max_rotation // 30))
    kind, _, root = given.scenes.partition(":")
    difficulty = root or "plain" if kind == "shapes" else "plain"
    return Settings(**{**shared, "difficulty": difficulty, "rotation_bins": bins})


AT_LEAST_ONE = (
    "steps",
    "batch_size",
    "accumulate",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_scenes",
    "sampling_steps",
    "probe_groups",
)
NOT_NEGATIVE = ("rotation_ramp", "weight", "weight_until", "warmup", "probe_every")
POSITIVE = ("timestep_shift", "learning_rate", "clip", "cycle_tolerance")
SHARES = ("camera_dropout", "shuffle_views", "ema_decay")


def _check(given: Command) -> None:
    rules = (
        (AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (POSITIVE, lambda value: value > 0, "above 0"),
        (SHARES, lambda value: 0 <= value <= 1, "from 0 to 1"),
        (("views",), lambda value: value >= 2, "at least 2"),
    )
    for names, holds, expected in rules:
        for name in names:
            if not (math.isfinite(getattr(given, name)) and holds(getattr(given, name))):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(given, name)}: expected {expected}")
    if given.control == "shuffled" and given.objective != "cameo":
        raise ValueError(f"--control shuffled: goes with --objective cameo, not {given.objective}")
    if given.control == "shuffled" and given.batch_size < 2:
        raise ValueError(
            "--control shuffled: expected --batch-size of at least 2; one scene has no other scene's truth"
        )
    if given.layer == "none" and (given.truth_source or given.truth_noise):
        raise ValueError("--layer none supervises nothing: leave --truth-source and --truth-noise out, or name a layer")
    if given.probe_every % given.evaluate_every:
        raise ValueError(
            f"--probe-every {given.probe_every}: expected a multiple of --evaluate-every {given.evaluate_every}, or 0"
        )


def can_grow(given: Command) -> bool:
    """Tell whether a run with more steps begins as this one does: nothing may be scheduled by the number of steps."""
    scheduled = given.weight_schedule != "constant" and not given.weight_until
    return given.schedule == "constant_with_warmup" and not scheduled
