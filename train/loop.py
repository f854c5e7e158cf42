"""The training loop: draws scenes, takes steps, validates, checkpoints, resumes.

Everything random in step ``s`` (rooms, cameras, timesteps, noise, dropout) is drawn from a generator seeded by
``(seed, s)``, so a resumed run sees what the unbroken run sees without storing any generator's state.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from probe.models.denoising import STEPS, MultiViewModel
from probe.scenes.shapes import Difficulty, draw_rotations, draw_shapes, make_views
from probe.views import Views
from train.diffusion import denoising_error

VALIDATION_SEED = 2**40  # far from every training step's seed
VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold what decides a training run; lengths in steps."""

    steps: int
    batch_size: int
    views: int
    learning_rate: float
    difficulty: Difficulty
    rotation_bins: tuple[int, ...]
    camera_dropout: float
    ema_decay: float
    seed: int
    warmup: int = 100
    clip: float = 1.0
    validation_scenes: int = 32


def step_generator(seed: int, step: int) -> torch.Generator:
    """Seed a CPU generator for one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def draw_batch(settings: Settings, model: MultiViewModel, generator: torch.Generator, count: int, n_ref: int) -> Views:
    """Draw rooms and photograph them from rotations in the settings' bins, bins taken in turn."""
    shapes = draw_shapes(count, difficulty=settings.difficulty, generator=generator)
    bins = [settings.rotation_bins[k % len(settings.rotation_bins)] for k in range(count)]
    rotation = draw_rotations(bins, settings.views - 1, generator=generator)
    device = model.alpha_bar.device
    return make_views(shapes, rotation, size=model.size, n_ref=n_ref, generator=generator, supersample=2, device=device)


def training_loss(settings: Settings, model: MultiViewModel, step: int) -> Tensor:
    """Draw one step's scenes, timesteps and noise; give the mean denoising error."""
    generator = step_generator(settings.seed, step)
    n_ref = int(torch.randint(1, settings.views, (), generator=generator))
    views = draw_batch(settings, model, generator, settings.batch_size, n_ref)
    t = torch.randint(0, STEPS, (settings.batch_size,), generator=generator)
    noise = torch.randn(views.image.shape, generator=generator)
    keep = (torch.rand(settings.batch_size, generator=generator) >= settings.camera_dropout).float()
    device = model.alpha_bar.device
    return denoising_error(model, views, t.to(device), noise.to(device), keep.to(device)).mean()


@torch.no_grad()
def validate(settings: Settings, model: MultiViewModel) -> dict[str, float]:
    """Measure the denoising error on held-out scenes, at fixed timesteps and over their mean."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    views = draw_batch(settings, model, generator, settings.validation_scenes, n_ref=1)
    noise = torch.randn(views.image.shape, generator=generator).to(views.image)
    row = {}
    for t in VALIDATION_TIMESTEPS:
        index = torch.full((settings.validation_scenes,), t, device=views.image.device)
        row[f"loss_t{t}"] = float(denoising_error(model, views, index, noise).mean())
    return {"loss": sum(row.values()) / len(row), **row}


def save_checkpoint(
    folder: Path, step: int, network: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> None:
    """Write network, average and optimiser of a step whole, or not at all."""
    final = folder / f"step-{step:06d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    network.save_pretrained(part)  # type: ignore[operator]
    torch.save({"ema": ema.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part / "trainer.pt")
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last whole checkpoint of a run."""
    whole = sorted(path for path in folder.glob("step-*") if path.suffix != ".part")
    return whole[-1] if whole else None


def restore(path: Path, network: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint in place; give its step."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path / "diffusion_pytorch_model.safetensors"))
    state = torch.load(path / "trainer.pt", weights_only=True)
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON row."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def drop_rows_after(path: Path, step: int) -> None:
    """Forget logged rows that a resumed run will log again."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))


def train(
    settings: Settings, model: MultiViewModel, out: Path, *, resume: bool, checkpoint_every: int, evaluate_every: int
) -> Iterator[int]:
    """Train in place, yielding after each checkpoint its step; the model holds the averaged weights then and at the end.

    Args:
        settings: What decides the run.
        model: The denoiser; its network is trained.
        out: The run's folder.
        resume: Continue from the last whole checkpoint in ``out``, or start when there is none.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between validations.

    Raises:
        FloatingPointError: If the loss is not finite; names the step, its seed and the last checkpoint.
    """
    network = model.network
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(model.alpha_bar.device)
    checkpoints = out / "checkpoints"
    found = last_checkpoint(checkpoints) if resume else None
    done = restore(found, network, ema, optimizer) if found else 0
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        drop_rows_after(out / name, done)
    schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=settings.warmup)
    for _ in range(done):
        schedule.step()
    network.train()
    progress = tqdm(range(done, settings.steps), initial=done, total=settings.steps, unit="step", desc="train")
    for step in progress:
        started = time.perf_counter()
        loss = training_loss(settings, model, step)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"train: the loss is {loss.item()} at step {step} (batch seed {settings.seed * 1_000_003 + step}); "
                f"the last good checkpoint is {last_checkpoint(checkpoints) or 'none'}; lower --learning-rate"
            )
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
        seconds = time.perf_counter() - started
        if (step + 1) % 10 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
            append_row(
                out / "metrics.jsonl",
                {"step": step + 1, "loss": loss.item(), "gradient_norm": norm.item(), "seconds": seconds},
            )
        last = step + 1 == settings.steps
        if last or (step + 1) % evaluate_every == 0 or (step + 1) % checkpoint_every == 0:
            ema.store(network.parameters())
            ema.copy_to(network.parameters())
            network.eval()
            if last or (step + 1) % evaluate_every == 0:
                append_row(out / "evaluation.jsonl", {"step": step + 1, **validate(settings, model)})
            if (step + 1) % checkpoint_every == 0:
                network.save_pretrained(out / "averaged" / f"step-{step + 1:06d}")  # type: ignore[operator]
            ema.restore(network.parameters())
            network.train()
        if last or (step + 1) % checkpoint_every == 0:
            save_checkpoint(checkpoints, step + 1, network, ema, optimizer)
            yield step + 1
    ema.copy_to(network.parameters())
    network.eval()


def settings_record(settings: Settings) -> dict[str, Any]:
    """Give the settings as plain values."""
    return asdict(settings)
