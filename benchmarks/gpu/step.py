"""Seconds of a training step on a GPU, by way to compute the loss and to launch: python -m benchmarks.gpu.step

First the loss alone: each way's value and gradients against the plain formula's, on random queries and keys. Then
whole steps of the small model (scenes, truth, forward, loss, backward, optimisers, average), medians after warm-up, and
the loss of the last one, by which executions can be compared.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from torch import Tensor

from probe.correspondence import TokenMatches
from probe.models import fresh_tiny
from probe.models.model import model_layers, to_device
from train.alignment import CorrespondenceAlignment
from train.flags import Command, settings_of
from train.loop import take_step
from train.processes import make_accelerator
from train.settings import Execution
from train.supervised import build_trainer, choose_layers
from train.training import objective_of, scenes_of

WAYS = ("plain", "chunked", "scenes")
STEPS: dict[str, dict[str, Any]] = {
    "plain": {"layer": "none"},
    "mean": {"layer": "10", "mixing": "mean"},
    "mlp": {"layer": "10", "mixing": "mlp"},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time the steps."""

    out: Path = Path("step.csv")
    """Table to write."""
    device: str = "cuda"
    """Device."""
    batches: tuple[int, ...] = (8, 32)
    """Scenes per step."""
    steps: int = 12
    """Timed steps of each case, after four."""
    executions: tuple[Execution, ...] = ("eager", "graph")
    """Ways to launch; graph needs CUDA."""
    workers: int = 0
    """Processes that render scenes ahead; 0 renders on the device."""


def differences(device: str, mixing: str) -> dict[str, float]:
    """Return the largest difference of each way's value and gradients to the plain formula's, over the largest."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 64, (3, 4, 64, 4), generator=generator)
    matches = TokenMatches(index.to(device), (torch.rand(index.shape, generator=generator) < 0.3).to(device), None)
    q, k = (torch.randn(3, 4, 256, 16, generator=generator).to(device) for _ in range(2))
    torch.manual_seed(0)
    results = {}
    loss = CorrespondenceAlignment(4, mixing=mixing).to(device)
    for way in WAYS:
        loss.backend = way
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        value = loss(*leaves, matches, 1)
        gradients = torch.autograd.grad(value, [*leaves, *loss.parameters()], allow_unused=True)
        results[way] = [value.detach(), *(x for x in gradients if x is not None)]
    return {way: max(map(_difference, one, results["plain"])) for way, one in results.items()}


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))


def seconds_of_steps(settings: Settings, variant: str, way: str, execution: Execution, batch: int) -> dict[str, float]:
    """Return the median seconds of a step, the largest memory in GiB, and the loss of the last step."""
    command = Command(
        **STEPS[variant], batch_size=batch, device=settings.device, workers=settings.workers, execution=execution
    )
    accelerator = make_accelerator(command.device, command.precision, command.tracker, command.out)
    model = to_device(fresh_tiny(0), accelerator.device)
    model.network.to(memory_format=torch.channels_last)
    layers = choose_layers(command.layer, model_layers(model), probe=command.probe, seed=0)
    objective = objective_of(command, layers)
    for one in objective.losses if objective is not None else ():
        one.backend = way
    draw, _ = scenes_of(command, model)
    trainer = build_trainer(settings_of(command), model, draw, objective, accelerator=accelerator)
    cuda = accelerator.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], {}
    for step in range(settings.steps + 4):
        begun = time.perf_counter()
        losses = take_step(trainer, step)  # ends with numbers on the CPU
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    return {"seconds": statistics.median(seconds[4:]), "gib": memory, "loss": losses["loss"]}


def main(settings: Settings) -> None:
    rows = []
    for mixing in ("mean", "positive", "mlp"):
        print(mixing, "difference to the plain formula:", differences(settings.device, mixing), flush=True)
    cases: list[tuple[str, str, Execution]] = [
        ("plain", "auto", "eager"),
        ("plain", "auto", "graph"),
        *((variant, way, "eager") for variant in ("mean", "mlp") for way in ("chunked", "scenes")),
        *((variant, "scenes", "graph") for variant in ("mean", "mlp")),
    ]
    cases = [case for case in cases if case[2] in settings.executions]
    for batch in settings.batches:
        for variant, way, execution in cases:
            row = {"variant": variant, "way": way, "execution": execution, "workers": settings.workers, "batch": batch}
            row |= seconds_of_steps(settings, variant, way, execution, batch)
            print(row, flush=True)
            rows.append(row)
    table = pd.DataFrame(rows).assign(device=torch.cuda.get_device_name() if settings.device == "cuda" else "cpu")
    table.to_csv(settings.out, index=False, float_format="%.6f")


if __name__ == "__main__":
    main(tyro.cli(Settings))
