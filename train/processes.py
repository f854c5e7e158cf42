"""How a training's processes work together: accelerate, as launched, and what of its settings is refused."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from train.settings import Device, Precision, Tracker

KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
CONFIGURATION = "take configs/accelerate/fsdp2.yaml as it is"


def make_accelerator(device: Device, precision: Precision, tracker: Tracker, out: Path) -> Accelerator:
    """Set accelerate up as this process was launched: alone, by torchrun, or by accelerate launch with a configuration.

    Args:
        device: That computes.
        precision: Of the network's arithmetic; takes precedence over the launch configuration's.
        tracker: That logs.
        out: The run's folder.

    Raises:
        ValueError: If there is no such device, or the launch asks for what training cannot do.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    sharding = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    _check_launch(sharding, precision)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=precision,
        log_with=None if tracker == "none" else tracker,
        project_dir=out,
    )
    if sharding and accelerator.distributed_type == DistributedType.MULTI_CPU:
        _share_on_processors(accelerator)
    if accelerator.distributed_type not in KNOWN:
        raise ValueError(
            f"accelerate was launched for {accelerator.distributed_type.value}, with which training does not work; "
            "launch it with a configuration of configs/accelerate"
        )
    return accelerator


def _check_launch(sharding: bool, precision: Precision) -> None:
    """Refuse, before accelerate imports what it needs, what would fail or be silently wrong later."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        raise ValueError(
            "accelerate was launched for DEEPSPEED, whose optimiser steps inside the backward pass and keeps its "
            "states in files of its own; share the states out with configs/accelerate/zero2.yaml instead"
        )
    if not sharding:
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(f"accelerate was launched for FSDP version 1, which hides the layers; {CONFIGURATION}")
    for name, word in (("FSDP_ACTIVATION_CHECKPOINTING", "renames the layers"), ("FSDP_OFFLOAD_PARAMS", "is not done")):
        if os.environ.get(name, "false") == "true":
            raise ValueError(f"{name.lower()} of the launch {word}; use --gradient-checkpointing, and {CONFIGURATION}")
    if precision == "fp16":
        raise ValueError("--precision fp16: its scaling of gradients is not done for shared weights; use bf16")


def _share_on_processors(accelerator: Accelerator) -> None:
    """Share weights out between processes without accelerators too, for which accelerate leaves them whole."""
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        accelerator.state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)
