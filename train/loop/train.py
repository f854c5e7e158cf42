"""The training loop on accelerate: takes steps, validates, logs."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from probe.models.model import MultiViewModel
from probe.seeds import derive
from probe.views import Views
from train.batches import Batch, Draw, draw_batch, draw_step, step_seed
from train.loop.checkpoints import (
    FOLDER,
    Trainer,
    append_row,
    averaged,
    drop_rows_after,
    last_checkpoint,
    restore,
    save_all,
)
from train.loop.trackers import track
from train.objectives import AttentionTruth, FeatureTruth, Objective
from train.objectives.diffusion import denoising_error
from train.settings import Settings

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
LOG_EVERY = 10

MUON_RATE = 2.5  # matrices learn at this multiple of AdamW's learning rate (updates matched in size)


class TrainingStep(nn.Module):
    """Hold the network and the added objective in one module, so that data parallelism sees every parameter used."""

    def __init__(self, model: MultiViewModel, objective: Objective | None) -> None:
        super().__init__()
        self.model, self.network, self.objective = model, model.network, objective

    def forward(self, batch: Batch, truth: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Give the mean denoising error and the added objective (zero where there is none)."""
        if self.objective is None:
            error = self._error(batch)
            return error, torch.zeros_like(error)
        with self.objective.watch(self.network) as seen:
            error = self._error(batch)
            return error, self.objective(seen, truth, batch.views.n_ref, generator)

    def _error(self, batch: Batch) -> Tensor:
        return denoising_error(self.model, batch.views, batch.t, batch.noise, batch.keep_cameras).mean()


def weight_at(settings: Settings, step: int) -> float:
    """Give the weight of the added objective: constant; falling to 0 at ``weight_until``; or constant, then off."""
    until = settings.weight_until or settings.steps
    if settings.weight_schedule == "linear":
        return settings.weight * max(0.0, 1 - step / until)
    return 0.0 if settings.weight_schedule == "off" and step >= until else settings.weight


@torch.no_grad()
def validate(settings: Settings, model: MultiViewModel, draw: Draw = draw_batch) -> dict[str, float]:
    """Measure the denoising error on held-out scenes, at fixed timesteps and over their mean."""
    generator = torch.Generator().manual_seed(derive("validation"))
    views = draw(settings, model, generator, settings.validation_scenes, n_ref=1)
    noise = torch.randn(model.latent_shape(len(views.image), views.count), generator=generator).to(views.image)
    row = {}
    for t in VALIDATION_TIMESTEPS:
        index = torch.full((settings.validation_scenes,), t, device=views.image.device)
        row[f"loss_t{t}"] = float(denoising_error(model, views, index, noise).mean())
    return {"loss": sum(row.values()) / len(row), **row}


def start(
    settings: Settings,
    model: MultiViewModel,
    objective: Objective | None = None,
    accelerator: Accelerator | None = None,
) -> Trainer:
    """Set up AdamW, its schedule, the running average of the weights, and accelerate around them.

    Raises:
        ValueError: If the batch cannot be shared out evenly.
    """
    accelerator = accelerator or Accelerator(cpu=model.alpha_bar.device.type == "cpu")
    parts = accelerator.num_processes * settings.accumulate
    if settings.batch_size % parts:
        raise ValueError(
            f"train: a batch of {settings.batch_size} scenes cannot be shared by {accelerator.num_processes} processes "
            f"in {settings.accumulate} parts each; choose a multiple of {parts}"
        )
    network = model.network
    network.requires_grad_(True)
    module = TrainingStep(model, objective).to(model.alpha_bar.device)
    optimizers = make_optimizers(settings, module)
    lengths = {"num_warmup_steps": settings.warmup, "num_training_steps": settings.steps}
    schedules = [get_scheduler(settings.schedule, one, **lengths) for one in optimizers]
    ema = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(model.alpha_bar.device)
    module, *prepared = accelerator.prepare(module, *optimizers)
    return Trainer(
        accelerator=accelerator,
        module=module,
        network=network,
        objective=objective,
        optimizers=prepared,
        schedules=schedules,
        ema=ema,
    )


def make_optimizers(settings: Settings, module: "TrainingStep") -> list[torch.optim.Optimizer]:
    """Build AdamW for all, or Muon for the network's hidden matrices and AdamW for the rest.

    Source:
        Muon: Jordan et al. 2024, as torch.optim.Muon; embeddings, convolutions and vectors stay with AdamW as advised
        there.
    """
    parameters, hidden = list(module.parameters()), set[int]()
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        named = module.network.named_parameters()
        matrices = [weight for name, weight in named if weight.ndim == 2 and "emb" not in name]
        hidden = {id(weight) for weight in matrices}
        rate = {"lr": MUON_RATE * settings.learning_rate, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(matrices, weight_decay=0.01, **rate))  # type: ignore[arg-type]
    rest = [weight for weight in parameters if id(weight) not in hidden]
    return [torch.optim.AdamW(rest, settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01), *optimizers]


def own_scenes(settings: Settings, accelerator: Accelerator) -> slice:
    """Give this process's scenes of a batch."""
    each = settings.batch_size // accelerator.num_processes
    return slice(accelerator.process_index * each, (accelerator.process_index + 1) * each)


def accumulate_gradients(settings: Settings, model: MultiViewModel, trainer: Trainer, step: int) -> dict[str, float]:
    """Add up the gradients of one step's scenes, part by part; give the losses, averaged over parts and processes."""
    accelerator = trainer.accelerator
    batch = draw_step(settings, model, step, own_scenes(settings, accelerator), trainer.draw)
    truth = _truth(settings, trainer, batch.views, step)
    generator = torch.Generator().manual_seed(derive("query subset", settings.seed, step, accelerator.process_index))
    size, weight = len(batch.t) // settings.accumulate, weight_at(settings, step)
    losses = []
    for part in (slice(first, first + size) for first in range(0, len(batch.t), size)):
        last = part.stop == len(batch.t)
        with _synchronised(trainer, last):
            error, extra = trainer.module(batch.scenes(part), truth and truth.scenes(part), generator)
            accelerator.backward((error + weight * extra) / settings.accumulate)
        losses.append(torch.stack([error.detach(), extra.detach()]))
    mean = accelerator.reduce(torch.stack(losses).mean(0), "mean")
    return {"loss": float(mean[0]), "objective": float(mean[1])}


def _truth(settings: Settings, trainer: Trainer, views: Views, step: int) -> AttentionTruth | FeatureTruth | None:
    """Work out what the added objective needs to know of this process's scenes."""
    first = own_scenes(settings, trainer.accelerator).start
    seeds = [derive("truth noise", settings.seed, step, first + number) for number in range(len(views.image))]

    def average(counts: Tensor) -> Tensor:
        return trainer.accelerator.reduce(counts, "mean") / settings.accumulate

    objective = trainer.objective
    return None if objective is None else objective.prepare(trainer.supervise(views, seeds), average)


def _synchronised(trainer: Trainer, last: bool) -> AbstractContextManager[Any]:
    """Exchange gradients between processes in the last part of a step only."""
    return nullcontext() if last else trainer.accelerator.no_sync(trainer.module)


def take_step(settings: Settings, model: MultiViewModel, trainer: Trainer, step: int) -> dict[str, float]:
    """Take one optimiser step; give the losses and the gradient's norm before clipping.

    What PyTorch draws meanwhile (a network's dropout) is the step's own, so that a resumed run draws the same.

    Raises:
        FloatingPointError: If a loss is not finite, or the gradient is not. In fp16 such a gradient has overflown, and
            the step is left out with all that follows from it.
    """
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
    torch.manual_seed(derive("inside the network", settings.seed, step, trainer.accelerator.process_index))
    found = accumulate_gradients(settings, model, trainer, step)
    _check_finite(found, settings, step)
    norm = float(trainer.accelerator.clip_grad_norm_(trainer.module.parameters(), settings.clip))
    if trainer.accelerator.scaler is None:
        _check_finite({"gradient": norm}, settings, step)
    if trainer.accelerator.scaler is None or math.isfinite(norm):
        _step(trainer)
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.update()
    return {**found, "gradient_norm": norm}


def _check_finite(found: dict[str, float], settings: Settings, step: int) -> None:
    for name, value in found.items():
        if not math.isfinite(value):
            seed = step_seed(settings.seed, step)
            raise FloatingPointError(f"the {name} is {value} at step {step} (batch seed {seed})")


def _step(trainer: Trainer) -> None:
    """Step all optimisers, their schedules and the average.

    In fp16 past accelerate's own step, which lets the scale follow after every optimiser: the next one would then
    divide its gradients by the scale a second time.
    """
    scaler = trainer.accelerator.scaler
    for optimizer, schedule in zip(trainer.optimizers, trainer.schedules, strict=True):
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer.optimizer)  # type: ignore[attr-defined]
        schedule.step()
    trainer.ema.step(trainer.network.parameters())


Evaluate = Callable[[MultiViewModel, int], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Hold what happens how often, in steps; the last step has all of it."""

    checkpoint_every: int
    evaluate_every: int
    keep: int = 2


def train(
    settings: Settings,
    model: MultiViewModel,
    out: Path,
    rhythm: Rhythm,
    *,
    resume: bool,
    trainer: Trainer | None = None,
    evaluate: Evaluate | None = None,
) -> Iterator[int]:
    """Train in place, yielding the step after each checkpoint or evaluation; at the end the model holds the average.

    Args:
        settings: What decides the run.
        model: The denoiser; its network is trained.
        out: The run's folder.
        rhythm: How often to save and to evaluate.
        resume: Continue from the last whole checkpoint in ``out``, or start when there is none.
        trainer: From :func:`start`; None trains on the diffusion objective alone.
        evaluate: Measures the averaged weights, as named numbers; default :func:`validate`.

    Raises:
        ValueError: If a loss is not finite; names the step, its seed and the last checkpoint.
    """
    trainer = trainer or start(settings, model)
    done = _prepare_folder(out, trainer, resume=resume)
    main = trainer.accelerator.is_main_process
    trainer.network.train()
    bar = tqdm(range(done, settings.steps), initial=done, total=settings.steps, unit="step", disable=not main)
    for step in bar:
        started, at = time.perf_counter(), step + 1
        try:
            row = take_step(settings, model, trainer, step)
        except FloatingPointError as error:
            last_good = last_checkpoint(out / FOLDER) or "none yet"
            raise ValueError(f"train: {error}; last good checkpoint: {last_good}; lower --learning-rate") from error
        due = {name: _due(at, settings.steps, every) for name, every in _every(rhythm).items()}
        if main and due["log"]:
            bar.set_postfix(loss=f"{row['loss']:.3f}")
            _record(out / "metrics.jsonl", trainer, at, {**row, "seconds": time.perf_counter() - started})
        if due["evaluate"] and main:
            with averaged(trainer):
                found = evaluate(model, at) if evaluate else validate(settings, model)
            _record(out / "evaluation.jsonl", trainer, at, found)
        if due["checkpoint"] and main:
            save_all(out, at, trainer, rhythm.keep)
        if due["evaluate"] or due["checkpoint"]:
            trainer.accelerator.wait_for_everyone()
            yield at
    trainer.ema.copy_to(trainer.network.parameters())
    trainer.network.eval()


def _record(path: Path, trainer: Trainer, step: int, row: dict[str, Any]) -> None:
    """Keep a row in its file, and show it to the trackers."""
    append_row(path, {"step": step, **row})
    track(trainer.accelerator, path.stem, row, step)


def _every(rhythm: Rhythm) -> dict[str, int]:
    return {"log": LOG_EVERY, "evaluate": rhythm.evaluate_every, "checkpoint": rhythm.checkpoint_every}


def _due(at: int, steps: int, every: int) -> bool:
    return at == steps or at % every == 0


def _prepare_folder(out: Path, trainer: Trainer, *, resume: bool) -> int:
    """Make the folder of checkpoints, restore the last one on resuming, forget rows after it; give its step."""
    checkpoints = out / FOLDER
    checkpoints.mkdir(parents=True, exist_ok=True)
    found = last_checkpoint(checkpoints) if resume else None
    done = restore(found, trainer) if found else 0
    if trainer.accelerator.is_main_process:
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            drop_rows_after(out / name, done)
    return done
