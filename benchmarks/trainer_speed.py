"""Time of a training step, PyTorch's own optimisers and all views against the trainer's: benchmarks/trainer_speed.py

Both trainers take the same steps in turn, from the same weights; the losses are compared at the end. "plain" updates
one weight after another, and computes the last block for references too, whose prediction nothing uses. Processor time
is the steadier measure where other programs run.
"""

import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
import tyro

from probe.models import fresh_tiny
from probe.models.model import model_layers
from train.flags import Command, settings_of
from train.loop import Trainer, take_step
from train.loop.trainer import MUON_RATE
from train.supervised import build_trainer, choose_layers
from train.training import objective_of, scenes_of


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the two."""

    layer: str = "10"
    """Supervised layer; none for none."""
    steps: int = 20
    """Steps that both take after two warm-ups; medians are printed."""
    threads: int = 2
    """CPU threads."""


def one_by_one(trainer: Trainer, rate: float) -> Trainer:
    """Return the trainer with PyTorch's default optimisers and the average of one weight after another."""
    adamw, muon = ([weight for group in one.param_groups for weight in group["params"]] for one in trainer.optimizers)
    decay = {"weight_decay": 0.01}
    optimizers = [
        torch.optim.AdamW(adamw, rate, betas=(0.9, 0.99), **decay),
        torch.optim.Muon(muon, MUON_RATE * rate, adjust_lr_fn="match_rms_adamw", **decay),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, old.lr_lambdas[0])
        for one, old in zip(optimizers, trainer.rate_schedules, strict=True)
    ]
    ema = type(trainer.ema)(trainer.network.parameters(), decay=trainer.ema.decay, use_ema_warmup=True, power=0.75)
    return replace(trainer, optimizers=optimizers, rate_schedules=schedules, ema=ema)


def make(given: Benchmark) -> Trainer:
    command, model = Command(layer=given.layer), fresh_tiny(0)
    model.network.to(memory_format=torch.channels_last)  # as the command does
    layers = choose_layers(command.layer, model_layers(model), probe=command.probe, seed=command.seed)
    draw, _ = scenes_of(command, model)
    trainer = build_trainer(settings_of(command), model, draw, objective_of(command, layers))
    trainer.network.train()
    return trainer


def main(given: Benchmark) -> None:
    torch.set_num_threads(given.threads)
    trainers = {"plain": one_by_one(make(given), Command().learning_rate), "as trained": make(given)}
    around = {
        "plain": patch("train.objectives.diffusion.targets_only", lambda _network, _n_ref: nullcontext()),
        "as trained": nullcontext(),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    losses: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(given.steps + 2):
        for name, trainer in trainers.items():
            with around[name]:
                begun, used = time.perf_counter(), time.process_time()
                losses[name].append(take_step(trainer, step)["loss"])
                times[name].append((time.perf_counter() - begun, time.process_time() - used))
    for name, rows in times.items():
        wall, used = (statistics.median(column) for column in zip(*rows[2:], strict=True))
        print(f"{name:10} {wall:.3f} s per step, {used:.3f} s of processor time ({given.threads} threads)")
    shares = [statistics.median(b[k] / a[k] for a, b in zip(*times.values(), strict=True)) for k in (0, 1)]
    print(f"ratio {shares[0]:.2f}, of processor time {shares[1]:.2f} (medians of paired steps)")
    old, new = losses.values()
    furthest = max(abs(a - b) / a for a, b in zip(old, new, strict=True))
    print(f"loss of the last step {old[-1]:.6f} and {new[-1]:.6f}; largest relative difference {furthest:.1e}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
