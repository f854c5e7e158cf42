"""One optimiser step: gradients of a batch, part by part and process by process, then the update."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from probe.seeds import derive
from probe.views import Views
from train.batches import Batch, step_seed
from train.loop.sharing import own_parts, whole
from train.loop.trainer import Trainer
from train.objectives import BatchTruth
from train.trainable import trained_weights


def take_step(trainer: Trainer, step: int) -> dict[str, float]:
    """Take one optimiser step.

    What PyTorch draws meanwhile (a network's dropout) is seeded by the step, so that a resumed run draws the same.

    Args:
        trainer: Changed in place.
        step: From 0.

    Returns:
        The losses, and the gradient's norm before clipping.

    Raises:
        FloatingPointError: If a loss is not finite, or the gradient is not. In fp16 such a gradient has overflowed, and
            the step is skipped.
    """
    if trainer.replay is None:
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()
    seed, accelerator = trainer.batches.seed, trainer.accelerator
    torch.manual_seed(derive("inside the network", seed, step, accelerator.process_index))
    losses = accumulate_gradients(trainer, step)
    _check_finite(losses, seed, step)
    norm = float(whole(accelerator.clip_grad_norm_(trainer.module.parameters(), trainer.clip)))
    if accelerator.scaler is None:
        _check_finite({"gradient": norm}, seed, step)
    if accelerator.scaler is None or math.isfinite(norm):
        _update(trainer)
    if accelerator.scaler is not None:
        accelerator.scaler.update()
    return {**losses, "gradient_norm": norm}


def accumulate_gradients(trainer: Trainer, step: int) -> dict[str, float]:
    """Add up the gradients of one step's scenes, part by part.

    Args:
        trainer: Its parameters' gradients are added to.
        step: From 0.

    Returns:
        The losses, averaged over parts and processes.
    """
    batch = trainer.reader.at(step)
    if trainer.replay is not None:
        losses = [trainer.replay(partial(whole_gradients, trainer), batch, trainer.weight(step))]
    else:
        losses = _gradients_of_parts(trainer, batch, step)
    mean = trainer.accelerator.reduce(torch.stack(losses).mean(0), "mean")
    return {"loss": float(mean[0]), "objective": float(mean[1])}


def whole_gradients(trainer: Trainer, batch: Batch, weight: Tensor) -> Tensor:
    """Add a whole batch's gradients, in this process alone, from truth that nothing is drawn for.

    Args:
        trainer: Its parameters' gradients are added to.
        batch: Of the step.
        weight: Of the added objective.

    Returns:
        The denoising error and the added objective.
    """
    return _add_gradients(trainer, batch, prepare_truth(trainer, batch.views, 0), weight, None)


def _gradients_of_parts(trainer: Trainer, batch: Batch, step: int) -> list[Tensor]:
    """Add the gradients of a step's scenes, part by part; return the losses of each."""
    accelerator = trainer.accelerator
    truth = prepare_truth(trainer, batch.views, step)
    seed = derive("query subset", trainer.batches.seed, step, accelerator.process_index)
    generator = torch.Generator().manual_seed(seed)
    size, weight = len(batch.t) // trainer.accumulate, trainer.weight(step)
    losses = []
    for part in (slice(first, first + size) for first in range(0, len(batch.t), size)):
        last = part.stop == len(batch.t)
        with _synchronised(trainer, last):
            losses.append(_add_gradients(trainer, batch.scenes(part), truth and truth.scenes(part), weight, generator))
    return losses


def _add_gradients(
    trainer: Trainer, part: Batch, truth: BatchTruth | None, weight: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    error, extra = trainer.module(part, truth, generator)
    trainer.accelerator.backward((error + weight * extra) / trainer.accumulate)
    return torch.stack([error.detach(), extra.detach()])


def prepare_truth(trainer: Trainer, views: Views, step: int) -> BatchTruth | None:
    """Compute what the added objective compares this process's scenes with; None without an objective.

    Args:
        trainer: With the objective.
        views: This process's scenes.
        step: From 0.
    """
    first = trainer.own_scenes.start
    seeds = [derive("truth noise", trainer.batches.seed, step, first + number) for number in range(len(views.image))]

    def average(counts: Tensor) -> Tensor:
        return trainer.accelerator.reduce(counts, "mean") / trainer.accumulate

    objective = trainer.objective
    return None if objective is None else objective.prepare(trainer.transform_truth(views, seeds), average)


def _synchronised(trainer: Trainer, last: bool) -> AbstractContextManager[Any]:
    """Exchange gradients between processes in the last part of a step only."""
    return nullcontext() if last else trainer.accelerator.no_sync(trainer.module)


def _check_finite(numbers: dict[str, float], seed: int, step: int) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"the {name} is {value} at step {step} (batch seed {step_seed(seed, step)})")


def _update(trainer: Trainer) -> None:
    """Step all optimisers, their schedules and the average.

    In fp16 this bypasses accelerate's own step, which updates the scale after every optimiser: the next one would then
    divide its gradients by the scale a second time.
    """
    scaler = trainer.accelerator.scaler
    for optimizer, schedule in zip(trainer.optimizers, trainer.rate_schedules, strict=True):
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer.optimizer)  # type: ignore[attr-defined]
        schedule.step()
    trainer.ema.step(own_parts(trained_weights(trainer.network).values()))
