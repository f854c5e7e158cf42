"""How fast workers read real scenes, and how long a training step waits for them: python benchmarks/worker_loading.py

Every frame is new to each worker at first; frames that were read are kept, as in training.
"""

import time
from dataclasses import dataclass, replace

import torch

from probe import cli
from probe.models import load_model
from train.flags import Command, settings_of
from train.loop import take_step
from train.loop.reading import SceneReader
from train.supervised import build_trainer, make_batches
from train.training import scenes_of

PROG = "python benchmarks/worker_loading.py"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read the scenes of some steps alone, then train on them."""

    scenes: str
    """NAME:FOLDER of real scenes."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of workers to measure."""
    steps: int = 20
    """Steps of each."""


def main(settings: Settings) -> None:
    """Print samples per second, per worker, and the share of a step that waits for files."""
    torch.set_num_threads(1)
    for workers in settings.workers:
        command = Command(scenes=settings.scenes, workers=workers, steps=settings.steps, layer="none", device="cpu")
        print(f"{workers} workers: {_read_alone(command):.1f} samples/s alone; {_train(command)}", flush=True)


def _read_alone(command: Command) -> float:
    model = load_model("cat3d-tiny:base")
    batches = make_batches(settings_of(command), model, scenes_of(command, model)[0])
    reader = SceneReader(batches, slice(None), device=torch.device("cpu"), workers=command.workers, steps=command.steps)
    started = time.perf_counter()
    for step in range(command.steps):
        reader.at(step)
    return command.steps * command.batch_size / (time.perf_counter() - started)


def _train(command: Command) -> str:
    model = load_model("cat3d-tiny:base")
    draw, _ = scenes_of(command, model)
    trainer = build_trainer(settings_of(replace(command, optimizer="adamw")), model, draw)
    trainer.network.train()
    started = time.perf_counter()
    for step in range(command.steps):
        take_step(trainer, step)
    seconds = time.perf_counter() - started
    waited = trainer.reader.waited
    return f"{seconds / command.steps:.2f} s per step, of which {waited / seconds:.1%} wait for scenes"


if __name__ == "__main__":
    cli.run(main, cli.parse(Settings, prog=PROG), prog=PROG)
