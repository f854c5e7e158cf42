"""The training loop on accelerate: one step, the loop around it, checkpoints and trackers."""

from train.loop.step import accumulate_gradients, take_step
from train.loop.train import Evaluate, Schedule, train
from train.loop.trainer import Trainer, TrainingStep, make_optimizers, make_trainer, weight_at

__all__ = [
    "Evaluate",
    "Schedule",
    "Trainer",
    "TrainingStep",
    "accumulate_gradients",
    "make_optimizers",
    "make_trainer",
    "take_step",
    "train",
    "weight_at",
]
