"""What decides a training run."""

from dataclasses import dataclass
from typing import Literal

from probe.scenes import Difficulty

WeightSchedule = Literal["constant", "linear", "off"]
OptimizerName = Literal["adamw", "muon"]
Precision = Literal["no", "bf16", "fp16"]


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
    optimizer: OptimizerName = "adamw"
    shuffle_views: float = 0.0
    weight: float = 0.0
    weight_schedule: WeightSchedule = "constant"
    weight_until: int = 0
    accumulate: int = 1
    schedule: str = "constant_with_warmup"
    warmup: int = 100
    clip: float = 1.0
    validation_scenes: int = 32
