"""One training run, from its command line to its folder: model, scenes, objective, loop, final weights, page."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from probe.cli import flag
from probe.image_quality import LPIPS_WEIGHTS, absence
from probe.layers import Layer
from probe.models import fresh_tiny, load_model
from probe.models.hunyuan_dit import HUB
from probe.models.model import MultiViewModel, check_predicts, model_layers, to_device
from probe.models.parts.files import Loading
from probe.models.parts.latents import RANDOM
from probe.plan.settings import Watch
from probe.records import LPIPS, alone, environment, open_run, write_folder, write_json
from probe.records.names import FINAL
from probe.scenes import GENERATED
from probe.scenes.reading import record_reading
from train.batches import Draw, moved_to, open_training_scenes
from train.flags import DEFAULT, Command, can_grow, settings_of
from train.footage import CPU
from train.loop import Schedule, Trainer, train
from train.loop.checkpoints import naming_last_checkpoint
from train.loop.trackers import check_tracker, start_tracker, track_precision
from train.monitor import HeldOutScenes, evaluate, follow_precision, hold_out
from train.objectives import Objective
from train.objectives.truth import check_noise, make_truth_transform
from train.processes import make_accelerator
from train.settings import ALL, AUTO
from train.supervised import build_trainer, choose_heads, choose_layers, is_shown, make_objective, read_shares
from train.trainable import count_weights, merge_adapters

RELOADED = ("cat3d-tiny", "cat3d", "mvgenmaster", "hunyuan-dit")
"""Models whose name takes the folder that a training writes."""
NOT_DECISIVE = ("resume", "out", "report", "probe", "keep_checkpoints", "tracker", "workers", "execution")
PROBE_TIMESTEPS = "500,900"


def train_model(command: Command) -> None:
    """Train as a command line says, and write the run's folder.

    Args:
        command: As :func:`train.flags.check_command` accepts it.

    Raises:
        ValueError: If the model, scenes, layers or objective cannot be used; before anything is written.
    """
    with flag("--tracker"):
        check_tracker(command.tracker)
    accelerator = make_accelerator(command.device, command.precision, command.tracker, command.out)
    if command.execution == "graph" and accelerator.device.type != "cuda":
        raise ValueError("--execution graph: needs a CUDA device, and none is here; choose --execution eager")
    model = _make_model(command, accelerator.device)
    if command.layer == DEFAULT:
        command = replace(command, layer=str(model.default_layer))
    if command.sampling_steps > len(model.alpha_bar):
        raise ValueError(f"--sampling-steps {command.sampling_steps}: expected 1 to {len(model.alpha_bar)}")
    draw, held_out_draw = scenes_of(command, model)
    with flag("--layer"):
        layers = choose_layers(command.layer, model_layers(model), probe=command.probe, seed=command.seed)
    with flag("--truth-noise"):
        check_noise(command.truth_noise)
    with flag("--truth-source"):
        transform_truth = make_truth_transform(command.truth_source, command.truth_noise, accelerator.device)
    trainer = build_trainer(
        settings_of(command),
        model,
        draw,
        objective_of(command, layers),
        accelerator=accelerator,
        transform_truth=transform_truth,
    )
    if accelerator.is_main_process:
        _announce(command, layers, model.network)
    held_out = hold_out(model, held_out_draw, command.evaluate_scenes, command.sampling_steps)
    record = {name: value for name, value in record_reading(asdict(command)).items() if name not in NOT_DECISIVE}
    for name in ("trainable", "heads"):
        if record[name] == ALL:
            del record[name]  # as before there was a choice, so that runs of then go on
    if command.heads == AUTO:
        record["heads"] = _heads_text(command, layers)
    record["layers"] = [layer.name for layer in layers]
    if accelerator.is_main_process:
        may_grow = ("steps",) if can_grow(command) else ()
        open_run(command.out, {**record, "out": str(command.out)}, resume=command.resume, may_grow=may_grow)
        if held_out.lpips is None:
            print(absence(LPIPS, LPIPS_WEIGHTS))
    accelerator.wait_for_everyone()
    with alone(command.out) if accelerator.is_main_process else nullcontext(), naming_last_checkpoint(command.out):
        _run(command, trainer, held_out, record)


def _announce(command: Command, layers: Sequence[Layer], network: torch.nn.Module) -> None:
    """Print what is trained, and that a chosen layer is not shown to find correspondence."""
    if command.layer == AUTO and not is_shown(command.probe):
        print(f"layer {layers[0].index} was chosen, but is not shown to find correspondence: probe more pairs")
    trained, total = count_weights(network)
    print(f"trained weights: {trained:,} of {total:,} ({command.trainable})")


def _make_model(command: Command, device: torch.device) -> MultiViewModel:
    model = fresh_tiny(command.seed) if command.model == "cat3d-tiny:random" else _load_model(command)
    model = to_device(model, device)
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if command.gradient_checkpointing:
        model.network.enable_gradient_checkpointing()  # type: ignore[operator]
    return model


def _load_model(command: Command) -> MultiViewModel:
    """Load a checkpoint in single precision, in which mixed precision keeps the weights."""
    with flag("--model"):
        model = load_model(command.model, Loading(base=command.base, size=command.model_size))
        check_predicts(model, "training needs")
    if not hasattr(model.network, "save_pretrained"):
        raise ValueError(
            f"--model {command.model}: {type(model.network).__name__} has no save_pretrained(folder), so its trained "
            "weights could not be saved; add that method, or train in your own loop (README, five lines)"
        )
    model.network.float()
    return model


def scenes_of(command: Command, model: MultiViewModel) -> tuple[Draw, Draw]:
    """Open the scenes that a command line trains and tests a model on."""
    device = model.alpha_bar.device
    with flag("--scenes"):
        train, test = open_training_scenes(
            command.scenes,
            views=command.views,
            size=model.size,
            max_rotation=command.max_rotation,
            device=CPU if command.workers else device,
            supervised=command.layer != "none" and not command.truth_source,
            reading=command.reading,
        )
    return train, moved_to(device, test) if command.workers else test


def _heads_text(command: Command, layers: list[Layer]) -> str:
    """Return the heads that "auto" stands for, as --heads takes them: another probe must not change a run."""
    chosen = choose_heads(command.heads, layers, probe=command.probe) or {}
    return ";".join(f"{layer}:{','.join(map(str, heads))}" for layer, heads in chosen.items())


def objective_of(command: Command, layers: list[Layer]) -> Objective | None:
    """Build the objective that a command line adds for some layers."""
    with flag("--heads"):
        heads = choose_heads(command.heads, layers, probe=command.probe)
    with flag("--layer-weights"):
        shares = read_shares(command.layer_weights if layers else None, len(layers))
    with flag("--objective"):
        return make_objective(
            command.objective,
            layers,
            shares,
            seed=command.seed,
            mixing=command.mixing,
            target=command.target,
            truth=command.truth,
            cycle_tolerance=command.cycle_tolerance,
            control=command.control,
            max_queries=command.max_queries,
            heads=heads,
        )


def _run(command: Command, trainer: Trainer, held_out: HeldOutScenes, record: Mapping[str, object]) -> None:
    with flag("--tracker"):
        start_tracker(trainer.accelerator, command.tracker, command.out, record, resume=command.resume)
    _train(command, trainer, held_out)
    if trainer.accelerator.is_main_process:
        _finish(command, trainer.evaluated.model, record)
    if trainer.accelerator.trackers:
        trainer.accelerator.end_training()


def _train(command: Command, trainer: Trainer, held_out: HeldOutScenes) -> None:
    """Train, evaluate, probe, and rebuild the page."""
    schedule = Schedule(
        checkpoint_every=command.checkpoint_every,
        evaluate_every=command.evaluate_every,
        keep=command.keep_checkpoints,
    )
    rooms = command.scenes.partition(":")[0]
    watch = Watch(
        scenes=rooms if rooms in GENERATED else Watch.scenes, groups=command.probe_groups, timesteps=PROBE_TIMESTEPS
    )
    accelerator, measure = (
        trainer.accelerator,
        evaluate(held_out, trainer.evaluated.objective, command.out, _draw_samples),
    )

    def probe_and_measure(averaged: MultiViewModel, step: int) -> dict[str, object]:
        if command.probe_every and (step % command.probe_every == 0 or step == command.steps):
            track_precision(accelerator, follow_precision(averaged, step, watch, command.out), step)
        return measure(averaged)

    started = time.perf_counter()
    steps = train(
        trainer, command.out, schedule, steps=command.steps, resume=command.resume, evaluate=probe_and_measure
    )
    for step in steps:
        if command.report and accelerator.is_main_process and step % command.evaluate_every == 0:
            _report(command.out)
    waited, seconds = trainer.reader.waited, time.perf_counter() - started
    if accelerator.is_main_process and seconds:
        print(f"waited for scenes: {waited:.1f} of {seconds:.1f} s ({waited / seconds:.0%})")


def _finish(command: Command, model: MultiViewModel, record: Mapping[str, object]) -> None:
    """Save the averaged weights with their card, adapters merged into the weights beside them, and the page."""
    merge_adapters(model.network)

    def save(part: Path) -> None:
        model.network.save_pretrained(part)  # type: ignore[operator]
        write_json(part / "card.json", {**record, **environment()})

    final = command.out / FINAL
    write_folder(final, save)
    print(f"weights: {final}{probe_command(command, final)}")
    if command.report:
        print(f"page: {_report(command.out)}")


def probe_command(command: Command, final: Path) -> str:
    """Return the line that says how to probe the saved weights; empty if the model's name takes no such folder."""
    name = command.model.partition(":")[0]
    if name not in RELOADED:
        return ""
    flags = {"--base": command.base or _own_base(command.model), "--model-size": command.model_size}
    words = "".join(f" {name} {value}" for name, value in flags.items() if value is not None)
    return f"\nprobe them: python -m probe.run --model {name}:{final}{words} --out {command.out}-probe"


def _own_base(model: str) -> str | None:
    """Return where the autoencoder is without --base: saved weights have none."""
    name, _, source = model.partition(":")
    if name == "hunyuan-dit":
        return source or HUB
    return RANDOM if source == RANDOM and name != "cat3d-tiny" else None


def _report(out: Path) -> Path:
    from analysis.report import refresh  # commands may call the report last; it imports matplotlib

    return refresh(out)


def _draw_samples(targets: Mapping[str, torch.Tensor]) -> Figure:
    from analysis.training.pictures import draw_samples  # commands may call analysis; it imports matplotlib

    return draw_samples({name: images.cpu().numpy() for name, images in targets.items()})
