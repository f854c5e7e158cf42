"""The training loop on accelerate: takes steps, validates, logs."""

from train.loop.train import (
    LOG_EVERY,
    MUON_RATE,
    VALIDATION_TIMESTEPS,
    Evaluate,
    Rhythm,
    TrainingStep,
    accumulate_gradients,
    make_optimizers,
    own_scenes,
    start,
    take_step,
    train,
    validate,
    weight_at,
)

__all__ = [
    "LOG_EVERY",
    "MUON_RATE",
    "VALIDATION_TIMESTEPS",
    "Evaluate",
    "Rhythm",
    "TrainingStep",
    "accumulate_gradients",
    "make_optimizers",
    "own_scenes",
    "start",
    "take_step",
    "train",
    "validate",
    "weight_at",
]
