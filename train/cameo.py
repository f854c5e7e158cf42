"""Train a multi-view model with supervised attention: ``python -m train.cameo --layer 10``."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from probe import command
from probe.emergence import Watch
from probe.image_quality import LPIPS, LPIPS_WEIGHTS, absence
from probe.layers import Layer, select_layers
from probe.models import fresh_tiny, load_model
from probe.models.denoising import MultiViewModel, model_layers, place
from probe.models.files import Loading
from probe.models.hunyuan_dit import HUB
from probe.models.latents import RANDOM
from probe.records import environment, open_run, write_folder, write_json
from probe.seeds import derive
from train.batches import open_scenes
from train.checkpoints import Trainer, naming_last_checkpoint
from train.loop import Rhythm, start, train
from train.mixing import Mixing
from train.monitor import Held, evaluate, follow_precision, hold_out
from train.objectives import AttentionSupervision, Control, Objective, Rival, Supervision, Truth, grid_of, make_rival
from train.pair_weights import Target
from train.settings import OptimizerName, Precision, Settings, WeightSchedule
from train.truth import supervision_of

PROG = "python -m train.cameo"
DEFAULT = "default"
FINAL = "final"
RELOADED = ("cat3d-tiny", "cat3d", "mvgenmaster", "hunyuan-dit")
"""Models whose name takes the folder that a training leaves."""
NOT_DECISIVE = ("resume", "out", "report", "probe", "keep_checkpoints")


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
    mixing: Mixing = "mlp"
    """How the logits of the heads become one: mlp (the paper), mean times a learned scale, positive weights."""
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


def main(given: Command) -> None:
    """Train; leave averaged weights in OUT/averaged/step-NNNNNN, the last ones in OUT/final, and the page."""
    settings = settings_of(given)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    accelerator = Accelerator(cpu=given.device == "cpu", mixed_precision=given.precision)
    model = _model(given, accelerator.device)
    if given.layer == DEFAULT:
        given = replace(given, layer=str(model.default_layer))
    if given.sampling_steps > len(model.alpha_bar):
        raise ValueError(f"--sampling-steps {given.sampling_steps}: expected 1 to {len(model.alpha_bar)}")
    draw, held_draw = open_scenes(given.scenes, model.size, supervised=given.layer != "none" and not given.truth_source)
    layers = layers_of(given, model)
    objective = objective_of(given, layers)
    supervise = supervision_of(given.truth_source, given.truth_noise, accelerator.device)
    decisive = {name: value for name, value in asdict(given).items() if name not in NOT_DECISIVE}
    named = {"layers": [layer.name for layer in layers]}
    trainer = replace(start(settings, model, objective, accelerator), draw=draw, supervise=supervise)
    held = hold_out(settings, model, given.evaluate_scenes, given.sampling_steps, held_draw)
    if accelerator.is_main_process:
        own = {**decisive, **named, "out": str(given.out)}
        open_run(given.out, own, resume=given.resume, may_grow=("steps",) if can_grow(given) else ())
        if held.lpips is None:
            print(absence(LPIPS, LPIPS_WEIGHTS))
    accelerator.wait_for_everyone()
    with naming_last_checkpoint(given.out):
        _train(given, settings, model, trainer, held)
        if accelerator.is_main_process:
            _finish(given, model, {**decisive, **named})


def _train(given: Command, settings: Settings, model: MultiViewModel, trainer: Trainer, held: Held) -> None:
    """Train, evaluate, probe, and refresh the page."""
    rhythm = Rhythm(
        checkpoint_every=given.checkpoint_every, evaluate_every=given.evaluate_every, keep=given.keep_checkpoints
    )
    watch = Watch(groups=given.probe_groups, timesteps="500,900")
    measure = evaluate(settings, held, trainer.objective, given.out)

    def look(averaged: MultiViewModel, step: int) -> dict[str, object]:
        if given.probe_every and (step % given.probe_every == 0 or step == given.steps):
            follow_precision(averaged, step, watch, given.out)
        return measure(averaged)

    for step in train(settings, model, given.out, rhythm, resume=given.resume, trainer=trainer, evaluate=look):
        if given.report and trainer.accelerator.is_main_process and step % given.evaluate_every == 0:
            _report(given.out)


def _finish(given: Command, model: MultiViewModel, decisive: dict[str, object]) -> None:
    """Save the averaged weights with their card, and the page."""

    def save(part: Path) -> None:
        model.network.save_pretrained(part)  # type: ignore[operator]
        write_json(part / "card.json", {**decisive, **environment()})

    final = given.out / FINAL
    write_folder(final, save)
    print(f"weights: {final}{probing(given, final)}")
    if given.report:
        print(f"page: {_report(given.out)}")


def probing(given: Command, final: Path) -> str:
    """Say how to probe the saved weights, where the model's name takes such a folder."""
    name = given.model.partition(":")[0]
    if name not in RELOADED:
        return ""
    flags = {"--base": given.base or _own_base(given.model), "--model-size": given.model_size}
    words = "".join(f" {flag} {value}" for flag, value in flags.items() if value is not None)
    return f"\nprobe them: python -m probe.run --model {name}:{final}{words} --out {given.out}-probe"


def _own_base(model: str) -> str | None:
    """Give where the autoencoder lies if --base did not say: saved weights bring none."""
    name, _, source = model.partition(":")
    if name == "hunyuan-dit":
        return source or HUB
    return RANDOM if source == RANDOM and name != "cat3d-tiny" else None


def _report(out: Path) -> Path:
    from analysis.report import refresh  # an edge may call the report last; matplotlib is slow to import

    return refresh(out)


def _model(given: Command, device: torch.device) -> MultiViewModel:
    model = fresh_tiny(given.seed) if given.model == "cat3d-tiny:random" else _loaded(given)
    model = place(model, device)
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if given.gradient_checkpointing:
        model.network.enable_gradient_checkpointing()  # type: ignore[operator]
    return model


def _loaded(given: Command) -> MultiViewModel:
    """Load a checkpoint to be trained: in single precision, which mixed precision keeps its weights in."""
    model = load_model(given.model, Loading(base=given.base, size=given.model_size))
    if not hasattr(model.network, "save_pretrained"):
        raise ValueError(
            f"--model {given.model}: {type(model.network).__name__} has no save_pretrained(folder), so that nothing of "
            "the training could be kept; give it one, or train in a loop of your own (README, five lines)"
        )
    model.network.float()
    return model


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


def can_grow(given: Command) -> bool:
    """Tell whether a run with more steps begins as this one does: nothing may be scheduled by the number of steps."""
    scheduled = given.weight_schedule != "constant" and not given.weight_until
    return given.schedule == "constant_with_warmup" and not scheduled


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


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Command, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
