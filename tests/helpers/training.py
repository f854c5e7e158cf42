"""A training that takes milliseconds: a small network, small scenes, and the trainer around them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from probe.layers import find_layers, select_layers
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.schedules import pixel_scheduler
from train.batches import Batches, Rooms
from train.loop import Schedule, Trainer, train
from train.objectives import AttentionSupervision, Objective, make_competing_objective
from train.objectives.diffusion import denoising_error
from train.settings import Settings
from train.supervised import build_trainer, make_batches

SMALL = {**TINY, "sample_size": 8, "block_out_channels": (8, 8, 8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
SETTINGS = Settings(
    steps=4,
    batch_size=2,
    views=2,
    learning_rate=1e-3,
    max_rotation=60,
    rotation_ramp=3,
    timestep_shift=4.0,
    camera_dropout=0.5,
    ema_decay=0.9,
    seed=3,
    warmup=2,
)
SUPERVISION: dict[str, Any] = {
    "mixing": "mlp",
    "target": "per_pair",
    "truth": "cycle",
    "cycle_tolerance": 1.5,
    "control": "none",
    "max_queries": None,
}


def small_model(seed: int = 0) -> MultiViewModel:
    torch.manual_seed(seed)
    network = load_unet(None, SMALL)
    return MultiViewModel(name="small", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=8)


def make_commands_small(patch: pytest.MonkeyPatch) -> None:
    """Let python -m train.cameo train the small network, and validate it on few scenes."""
    patch.setattr("train.training.fresh_tiny", small_model)
    patch.setattr("train.monitor.VALIDATION_SCENES", 2)


def rooms(settings: Settings = SETTINGS, size: int = 8) -> Rooms:
    return Rooms(rotation_bins=tuple(range(settings.max_rotation // 30)), views=settings.views, size=size)


def small_batches(settings: Settings = SETTINGS, model: MultiViewModel | None = None) -> Batches:
    return make_batches(settings, model or small_model(), rooms(settings).draw)


def supervision(model: MultiViewModel, **changes: object) -> AttentionSupervision:
    torch.manual_seed(1)
    return AttentionSupervision(select_layers(find_layers(model.network), "10"), **{**SUPERVISION, **changes})


def added(model: MultiViewModel, name: str) -> Objective:
    """Build an added objective for layer 10, with the same weights every time."""
    if name == "cameo":
        return supervision(model)
    torch.manual_seed(1)
    return make_competing_objective(name, select_layers(find_layers(model.network), "10"))


def small_trainer(
    settings: Settings = SETTINGS,
    model: MultiViewModel | None = None,
    objective: Objective | None = None,
    accelerator: Accelerator | None = None,
) -> Trainer:
    return build_trainer(settings, model or small_model(), rooms(settings).draw, objective, accelerator=accelerator)


def supervised_trainer(settings: Settings = SETTINGS) -> Trainer:
    model = small_model()
    return small_trainer(settings, model, supervision(model))


def step_loss(model: MultiViewModel, step: int, settings: Settings = SETTINGS) -> float:
    batch = small_batches(settings, model).at(step)
    with torch.no_grad():
        return denoising_error(model, batch.views, batch.t, batch.noise, batch.keep_cameras).mean().item()


def evaluate(model: MultiViewModel, step: int) -> dict[str, float]:
    """Stand in for an evaluation: the denoising error on one batch."""
    return {"loss": step_loss(model, 0)}


def run(
    out: Path,
    *,
    resume: bool = False,
    steps: int = 4,
    every: int = 2,
    supervised: bool = False,
    model: MultiViewModel | None = None,
    **changes: object,
) -> MultiViewModel:
    """Train a run to its end."""
    model = model or small_model()
    settings = replace(SETTINGS, steps=steps, weight=0.5, **changes)  # type: ignore[arg-type]
    trainer = small_trainer(settings, model, supervision(model) if supervised else None)
    schedule = Schedule(checkpoint_every=every, evaluate_every=2)
    list(train(trainer, out, schedule, steps=steps, resume=resume, evaluate=evaluate))
    return model


def weights(model: MultiViewModel) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())
