"""Train the small multi-view model: ``python -m train.cameo --layer none``."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from probe import command
from probe.models import fresh_tiny
from probe.models.denoising import MultiViewModel
from probe.records import environment, open_run, write_json
from probe.scenes.shapes import Difficulty
from train.loop import Settings, train

PROG = "python -m train.cameo"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a multi-view diffusion model on procedural scenes."""

    layer: Literal["none"] = "none"
    """Layer whose attention is supervised; none trains on the diffusion objective alone."""
    model: Literal["cat3d-tiny"] = "cat3d-tiny"
    """Network; it starts from random weights drawn from --seed."""
    scenes: Difficulty = "plain"
    """Difficulty of the procedural scenes."""
    steps: int = 4000
    """Optimiser steps in all."""
    batch_size: int = 4
    """Scenes per step."""
    views: int = 3
    """Views per scene; 1 to views - 1 of them are references, drawn per step."""
    max_rotation: Literal[30, 60, 90, 120] = 60
    """Largest rotation of a view against view 0, in degrees."""
    rotation_ramp: int = 1500
    """Steps over which rotations grow from 0 to full: matching starts between views that hardly differ."""
    timestep_shift: float = 4.0
    """Noise that is trained on: 1 draws timesteps evenly, 4 draws four of five from the noisier half."""
    learning_rate: float = 1.2e-3
    """Of AdamW, after 100 warm-up steps."""
    camera_dropout: float = 0.0
    """Share of scenes whose cameras are blanked, for guidance, 0 to 1."""
    ema_decay: float = 0.999
    """Of the running average of the weights, which is what is validated and saved."""
    seed: int = 0
    """Of weights, scenes, timesteps and noise; step s uses (seed, s)."""
    out: Path = Path("runs/train")
    """Run folder; it refuses other settings than those it was made with."""
    resume: bool = False
    """Continue from the last whole checkpoint in --out, or start when there is none."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    evaluate_every: int = 250
    """Steps between validations on 32 held-out scenes."""
    keep_checkpoints: int = 2
    """Checkpoints with trainer state that are kept (about 40 MB each); the averaged weights of all are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""


def main(given: Command) -> None:
    """Train; leave averaged weights in OUT/averaged/step-NNNNNN and the last ones in OUT/final."""
    settings = settings_of(given)
    decisive = {name: value for name, value in asdict(given).items() if name not in ("resume", "steps", "out")}
    open_run(given.out, {**decisive, "out": str(given.out)}, resume=given.resume)
    device = "cuda" if given.device != "cpu" and torch.cuda.is_available() else "cpu"
    model = fresh_tiny(given.seed)
    model.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = MultiViewModel(**{**vars(model), "alpha_bar": model.alpha_bar.to(device)})
    every = {"checkpoint_every": given.checkpoint_every, "evaluate_every": given.evaluate_every}
    for _step in train(settings, model, given.out, resume=given.resume, **every):
        for old in sorted((given.out / "checkpoints").glob("step-*"))[: -given.keep_checkpoints]:
            shutil.rmtree(old)
    final = given.out / "final"
    model.network.save_pretrained(final)  # type: ignore[operator]
    write_json(final / "card.json", {"steps": given.steps, **decisive, **environment()})
    print(f"weights: {final}\nprobe them: python -m probe.run --model cat3d-tiny:{final}")


def settings_of(given: Command) -> Settings:
    """Turn the command line into what decides the run.

    Raises:
        ValueError: If a number is out of range.
    """
    if min(given.steps, given.batch_size, given.checkpoint_every, given.evaluate_every, given.keep_checkpoints) < 1:
        raise ValueError("--steps, --batch-size, --checkpoint-every, --evaluate-every, --keep-checkpoints: at least 1")
    if given.rotation_ramp < 0 or given.timestep_shift <= 0:
        raise ValueError("expected --rotation-ramp of at least 0 and --timestep-shift above 0")
    if given.views < 2 or not 0 <= given.camera_dropout <= 1 or given.learning_rate <= 0:
        raise ValueError("expected --views of at least 2, --camera-dropout from 0 to 1, --learning-rate above 0")
    return Settings(
        steps=given.steps,
        batch_size=given.batch_size,
        views=given.views,
        learning_rate=given.learning_rate,
        difficulty=given.scenes,
        rotation_bins=tuple(range(given.max_rotation // 30)),
        rotation_ramp=given.rotation_ramp,
        timestep_shift=given.timestep_shift,
        camera_dropout=given.camera_dropout,
        ema_decay=given.ema_decay,
        seed=given.seed,
    )


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Command, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
