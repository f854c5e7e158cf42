"""The training loop: draws scenes, takes steps, validates, checkpoints, resumes.

Everything random in step ``s`` (rooms, cameras, timesteps, noise, dropout) is drawn from a generator seeded by
``(seed, s)``, so a resumed run sees what the unbroken run sees without storing any generator's state.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from probe.models.denoising import STEPS, MultiViewModel
from probe.records import write_text
from probe.scenes.shapes import Difficulty, draw_rotations, draw_shapes, make_views
from probe.seeds import derive
from probe.views import Views
from train.diffusion import denoising_error

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold what decides a training run; lengths in steps."""

    steps: int
    batch_size: int
    views: int
    learning_rate: float
    difficulty: Difficulty
    rotation_bins: tuple[int, ...]
    rotation_ramp: int
    timestep_shift: float
    camera_dropout: float
    ema_decay: float
    seed: int
    warmup: int = 100
    clip: float = 1.0
    validation_scenes: int = 32


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Hold what a step changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: EMAModel


def step_seed(seed: int, step: int) -> int:
    """Give the seed of everything random in one step."""
    return derive("training", seed, step)


def draw_batch(
    settings: Settings, model: MultiViewModel, generator: torch.Generator, count: int, n_ref: int, widest: float = 1.0
) -> Views:
    """Draw rooms and photograph them from rotations in the settings' bins, taken in turn, times ``widest`` (0 to 1)."""
    shapes = draw_shapes(count, difficulty=settings.difficulty, generator=generator)
    bins = [settings.rotation_bins[k % len(settings.rotation_bins)] for k in range(count)]
    rotation = widest * draw_rotations(bins, settings.views - 1, generator=generator)
    device = model.alpha_bar.device
    return make_views(shapes, rotation, size=model.size, n_ref=n_ref, generator=generator, supersample=2, device=device)


def ramp(step: int, length: int) -> float:
    """Grow linearly from 1 / length at step 0 to 1; always 1 where the length is 0."""
    return min(1.0, (step + 1) / length) if length else 1.0


def shift_timesteps(uniform: Tensor, shift: float) -> Tensor:
    """Turn numbers in [0, 1) into timestep indices that lie near the noise where ``shift`` is above 1.

    Source:
        arXiv 2403.03206 (Stable Diffusion 3), equation 23: shift t / (1 + (shift - 1) t).
    """
    return (STEPS * shift * uniform / (1 + (shift - 1) * uniform)).long().clamp(max=STEPS - 1)


def training_loss(settings: Settings, model: MultiViewModel, step: int) -> Tensor:
    """Draw one step's scenes, references, timesteps and noise; give the mean denoising error."""
    generator = torch.Generator().manual_seed(step_seed(settings.seed, step))
    n_ref = int(torch.randint(1, settings.views, (), generator=generator))
    widest = ramp(step, settings.rotation_ramp)
    views = draw_batch(settings, model, generator, settings.batch_size, n_ref, widest)
    t = shift_timesteps(torch.rand(settings.batch_size, generator=generator), settings.timestep_shift)
    noise = torch.randn(views.image.shape, generator=generator)
    keep = (torch.rand(settings.batch_size, generator=generator) >= settings.camera_dropout).float()
    device = model.alpha_bar.device
    return denoising_error(model, views, t.to(device), noise.to(device), keep.to(device)).mean()


@torch.no_grad()
def validate(settings: Settings, model: MultiViewModel) -> dict[str, float]:
    """Measure the denoising error on held-out scenes, at fixed timesteps and over their mean."""
    generator = torch.Generator().manual_seed(derive("validation"))
    views = draw_batch(settings, model, generator, settings.validation_scenes, n_ref=1)
    noise = torch.randn(views.image.shape, generator=generator).to(views.image)
    row = {}
    for t in VALIDATION_TIMESTEPS:
        index = torch.full((settings.validation_scenes,), t, device=views.image.device)
        row[f"loss_t{t}"] = float(denoising_error(model, views, index, noise).mean())
    return {"loss": sum(row.values()) / len(row), **row}


def start(settings: Settings, model: MultiViewModel) -> Trainer:
    """Set up AdamW, its warm-up and the running average of the weights."""
    network = model.network
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=settings.warmup)
    ema = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(model.alpha_bar.device)
    return Trainer(network=network, optimizer=optimizer, schedule=schedule, ema=ema)


def save_checkpoint(folder: Path, step: int, trainer: Trainer) -> None:
    """Write network, average, optimiser and schedule of a step whole, or not at all."""
    final = folder / f"step-{step:06d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    trainer.network.save_pretrained(part)  # type: ignore[operator]
    state = {name: getattr(trainer, name).state_dict() for name in ("optimizer", "schedule", "ema")}
    torch.save({**state, "step": step}, part / "trainer.pt")
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last whole checkpoint of a run."""
    whole = sorted(path for path in folder.glob("step-*") if path.suffix != ".part")
    return whole[-1] if whole else None


def restore(path: Path, trainer: Trainer) -> int:
    """Load a checkpoint in place; give its step."""
    trainer.network.load_state_dict(load_file(path / "diffusion_pytorch_model.safetensors"))
    state = torch.load(path / "trainer.pt", weights_only=True)
    for name in ("optimizer", "schedule", "ema"):
        getattr(trainer, name).load_state_dict(state[name])
    return int(state["step"])


def append_row(path: Path, row: dict[str, float | int]) -> None:
    """Append one JSON row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def drop_rows_after(path: Path, step: int) -> None:
    """Forget logged rows that a resumed run will log again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))


def take_step(settings: Settings, model: MultiViewModel, trainer: Trainer, step: int) -> tuple[float, float]:
    """Take one optimiser step; give the loss and the gradient's norm before clipping.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    loss = training_loss(settings, model, step)
    if not torch.isfinite(loss):
        seed = step_seed(settings.seed, step)
        raise FloatingPointError(f"the loss is {loss.item()} at step {step} (batch seed {seed})")
    trainer.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trainer.network.parameters(), settings.clip)
    trainer.optimizer.step()
    trainer.schedule.step()
    trainer.ema.step(trainer.network.parameters())
    return loss.item(), norm.item()


def with_average(
    settings: Settings, model: MultiViewModel, trainer: Trainer, out: Path, step: int, *, evaluate: bool
) -> None:
    """Validate, or save, the averaged weights; then put the live ones back."""
    parameters = list(trainer.network.parameters())
    trainer.ema.store(parameters)
    trainer.ema.copy_to(parameters)
    trainer.network.eval()
    if evaluate:
        append_row(out / "evaluation.jsonl", {"step": step, **validate(settings, model)})
    else:
        trainer.network.save_pretrained(out / "averaged" / f"step-{step:06d}")  # type: ignore[operator]
    trainer.ema.restore(parameters)
    trainer.network.train()


def train(
    settings: Settings, model: MultiViewModel, out: Path, *, resume: bool, checkpoint_every: int, evaluate_every: int
) -> Iterator[int]:
    """Train in place, yielding the step after each checkpoint; at the end the model holds the averaged weights.

    Args:
        settings: What decides the run.
        model: The denoiser; its network is trained.
        out: The run's folder.
        resume: Continue from the last whole checkpoint in ``out``, or start when there is none.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between validations.

    Raises:
        ValueError: If the loss is not finite; names the step, its seed and the last checkpoint.
    """
    trainer, checkpoints = start(settings, model), out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    found = last_checkpoint(checkpoints) if resume else None
    done = restore(found, trainer) if found else 0
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        drop_rows_after(out / name, done)
    trainer.network.train()
    progress = tqdm(range(done, settings.steps), initial=done, total=settings.steps, unit="step", desc="train")
    for step in progress:
        started = time.perf_counter()
        try:
            loss, norm = take_step(settings, model, trainer, step)
        except FloatingPointError as error:
            last_good = last_checkpoint(checkpoints) or "none yet"
            raise ValueError(f"train: {error}; last checkpoint: {last_good}; lower --learning-rate") from error
        at, last = step + 1, step + 1 == settings.steps
        if last or at % LOG_EVERY == 0:
            progress.set_postfix(loss=f"{loss:.3f}")
            row: dict[str, float | int] = {
                "step": at,
                "loss": loss,
                "gradient_norm": norm,
                "seconds": time.perf_counter() - started,
            }
            append_row(out / "metrics.jsonl", row)
        if last or at % evaluate_every == 0:
            with_average(settings, model, trainer, out, at, evaluate=True)
        if last or at % checkpoint_every == 0:
            with_average(settings, model, trainer, out, at, evaluate=False)
            save_checkpoint(checkpoints, at, trainer)
            yield at
    trainer.ema.copy_to(trainer.network.parameters())
    trainer.network.eval()
