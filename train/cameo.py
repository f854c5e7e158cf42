"""Train a multi-view model with supervised attention: ``python -m train.cameo --layer 10``."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure

from probe import cli as command
from probe.emergence import Watch
from probe.image_quality import LPIPS, LPIPS_WEIGHTS, absence
from probe.models import fresh_tiny, load_model
from probe.models.hunyuan_dit import HUB
from probe.models.model import MultiViewModel, place
from probe.models.parts.files import Loading
from probe.models.parts.latents import RANDOM
from probe.records import environment, open_run, write_folder, write_json
from train.batches import open_scenes
from train.flags import DEFAULT, Command, can_grow, settings_of
from train.loop import Rhythm, start, train
from train.loop.checkpoints import Trainer, naming_last_checkpoint
from train.loop.trackers import check_tracker, start_tracker, track_precision
from train.monitor import Held, evaluate, follow_precision, hold_out
from train.objectives.truth import supervision_of
from train.settings import Settings
from train.supervised import layers_of, objective_of

PROG = "python -m train.cameo"
FINAL = "final"
RELOADED = ("cat3d-tiny", "cat3d", "mvgenmaster", "hunyuan-dit")
"""Models whose name takes the folder that a training leaves."""
NOT_DECISIVE = ("resume", "out", "report", "probe", "keep_checkpoints", "tracker")


def main(given: Command) -> None:
    """Train; leave averaged weights in OUT/averaged/step-NNNNNN, the last ones in OUT/final, and the page."""
    settings = settings_of(given)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    check_tracker(given.tracker)
    accelerator = _accelerator(given)
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
        start_tracker(accelerator, given.tracker, given.out, {**decisive, **named}, resume=given.resume)
        _train(given, settings, model, trainer, held)
        if accelerator.is_main_process:
            _finish(given, model, {**decisive, **named})
        if accelerator.trackers:
            accelerator.end_training()


def _accelerator(given: Command) -> Accelerator:
    return Accelerator(
        cpu=given.device == "cpu",
        mixed_precision=given.precision,
        log_with=None if given.tracker == "none" else given.tracker,
        project_dir=given.out,
    )


def _train(given: Command, settings: Settings, model: MultiViewModel, trainer: Trainer, held: Held) -> None:
    """Train, evaluate, probe, and refresh the page."""
    rhythm = Rhythm(
        checkpoint_every=given.checkpoint_every, evaluate_every=given.evaluate_every, keep=given.keep_checkpoints
    )
    watch = Watch(groups=given.probe_groups, timesteps="500,900")
    measure = evaluate(settings, held, trainer.objective, given.out, _draw_samples)

    def look(averaged: MultiViewModel, step: int) -> dict[str, object]:
        if given.probe_every and (step % given.probe_every == 0 or step == given.steps):
            track_precision(trainer.accelerator, follow_precision(averaged, step, watch, given.out), step)
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


def _draw_samples(targets: Mapping[str, torch.Tensor]) -> Figure:
    from analysis.training.pictures import draw_samples  # an edge may call analysis; matplotlib is slow to import

    return draw_samples({name: images.cpu().numpy() for name, images in targets.items()})


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


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Command, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
