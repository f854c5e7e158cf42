"""Time and memory of a supervised training step against a plain one, truth included: python benchmarks/step_cost.py

Each variant trains the small model in a process of its own; their rounds alternate. A step is what the trainer takes:
scenes, truth, forward, loss, backward, optimisers, running average. Peak memory is above that of the loaded trainer.
"""

import statistics
from dataclasses import dataclass
from itertools import count

import torch
import tyro
from alternating import ask, finish, resident, serve, start

from probe.models import fresh_tiny
from probe.models.model import model_layers
from train.flags import Command, settings_of
from train.loop import take_step
from train.supervised import build_trainer, choose_layers
from train.training import objective_of, scenes_of

VARIANTS: dict[str, dict] = {
    "plain": {"layer": "none"},
    "mlp": {"mixing": "mlp"},
    "mean": {"mixing": "mean"},
    "positive": {"mixing": "positive"},
    "mlp, 256 queries": {"mixing": "mlp", "max_queries": 256},
    "mlp, visible truth": {"mixing": "mlp", "truth": "visible"},
    "repa-dsift": {"objective": "repa-dsift"},
    "irepa-dsift": {"objective": "irepa-dsift"},
    "trd-dsift": {"objective": "trd-dsift"},
    "geometry": {"objective": "geometry"},
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the variants."""

    layer: int = 12
    """Supervised layer."""
    rounds: int = 7
    """Timed rounds after two warm-ups; medians of paired ratios are printed."""
    threads: int = 2
    """CPU threads."""
    variant: str | None = None
    """Internal: run one variant."""


def child(given: Benchmark) -> None:
    torch.set_num_threads(given.threads)
    command = Command(**{"layer": str(given.layer), **VARIANTS[given.variant]})
    model, steps = fresh_tiny(0), count()
    model.network.to(memory_format=torch.channels_last)  # as the command does
    layers = choose_layers(command.layer, model_layers(model), probe=command.probe, seed=command.seed)
    draw, _ = scenes_of(command, model)
    trainer = build_trainer(settings_of(command), model, draw, objective_of(command, layers))
    serve(lambda: take_step(trainer, next(steps)), resident("VmRSS"))


def main(given: Benchmark) -> None:
    if given.variant is not None:
        child(given)
        return
    arguments = [f"--layer={given.layer}", f"--threads={given.threads}"]
    processes = {name: start(__file__, name, arguments) for name in VARIANTS}
    rows = [{name: ask(process) for name, process in processes.items()} for _ in range(given.rounds + 2)][2:]
    for process in processes.values():
        finish(process)
    print(f"layer {given.layer}, {given.threads} threads, {len(rows)} rounds")
    print(f"{'variant':20} {'seconds':>9} {'ratio':>7} {'peak MiB':>9} {'ratio':>7}")
    base = max(row["plain"]["mib"] for row in rows)
    for name in VARIANTS:
        seconds = statistics.median(row[name]["seconds"] for row in rows)
        ratio = statistics.median(row[name]["seconds"] / row["plain"]["seconds"] for row in rows)
        peak = max(row[name]["mib"] for row in rows)
        print(f"{name:20} {seconds:9.3f} {ratio:7.2f} {peak:9.0f} {peak / base:7.2f}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
