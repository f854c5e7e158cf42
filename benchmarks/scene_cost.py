"""Cost of drawing and rendering a training batch, against a training step: python benchmarks/scene_cost.py"""

import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from probe.models import fresh_tiny
from train.flags import Command, settings_of
from train.loop import take_step
from train.supervised import build_trainer
from train.training import scenes_of


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time both on the same settings as the shipped model's training."""

    rounds: int = 7
    """Timed rounds after one warm-up; medians are printed."""
    threads: int = 2
    """CPU threads."""


def main(given: Benchmark) -> None:
    torch.set_num_threads(given.threads)
    command, model = Command(), fresh_tiny(0)
    draw, _ = scenes_of(command, model)
    trainer = build_trainer(settings_of(command), model, draw)
    scenes, steps = [], []
    for number in range(given.rounds + 1):
        begun = time.perf_counter()
        draw(torch.Generator().manual_seed(number), command.batch_size, 1)
        drawn = time.perf_counter()
        take_step(trainer, number)
        scenes.append(drawn - begun)
        steps.append(time.perf_counter() - drawn)
    scene, step = statistics.median(scenes[1:]), statistics.median(steps[1:])
    share = statistics.median(a / b for a, b in zip(scenes[1:], steps[1:], strict=True))
    print(f"scenes {scene * 1000:.0f} ms, whole step {step * 1000:.0f} ms, share {share:.1%} ({given.threads} threads)")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
