"""What a step changes and how it is computed: model, objective, optimisers, running average, accelerate around them."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from probe.models.model import MultiViewModel
from train.batches import Batch, Batches
from train.loop.muon import BatchedMuon
from train.loop.reading import SceneReader
from train.loop.replay import Replay
from train.loop.sharing import is_shared, own_parts, shared_out
from train.objectives import Objective
from train.objectives.diffusion import denoising_error
from train.objectives.truth import TruthTransform, keep_truth
from train.settings import Execution, OptimizerName, RateSchedule, WeightSchedule
from train.trainable import checksum_frozen, trained_weights

MUON_RATE = 2.5
"""Muon's matrices learn at this multiple of AdamW's learning rate (updates matched in size)."""


class TrainingStep(nn.Module):
    """The network and the added objective in one module, so that data parallelism sees every parameter used.

    Args:
        model: The denoiser.
        objective: The added one; None for none.
    """

    def __init__(self, model: MultiViewModel, objective: Objective | None) -> None:
        super().__init__()
        self.model, self.network, self.objective = model, model.network, objective
        self._no_split_modules = _blocks_of(model.network)

    def forward(self, batch: Batch, truth: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return the mean denoising error and the added objective (zero where there is none)."""
        if self.objective is None:
            error = self._error(batch)
            return error, torch.zeros_like(error)
        with self.objective.watch(self.network) as seen:
            error = self._error(batch)
            return error, self.objective(seen, truth, batch.views.n_ref, generator)

    def _error(self, batch: Batch) -> Tensor:
        return denoising_error(self.model, batch.views, batch.t, batch.noise, batch.keep_cameras).mean()


def _blocks_of(network: nn.Module) -> list[str]:
    """Return the classes of blocks that FSDP gathers one by one: those that the network names and has."""
    present = {type(module).__name__ for module in network.modules()}
    return [name for name in getattr(network, "_no_split_modules", None) or () if name in present]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a step changes, and how it is computed.

    Attributes:
        model: The denoiser whose network is trained.
        batches: The scenes of each step.
        reader: Reads those of this process.
        objective: The added one; None for none.
        weight: Of the added objective, by step.
        transform_truth: Turns a batch's views into those that supervision sees.
        accumulate: Parts in which a process computes its part of a batch.
        clip: Largest norm of the gradients.
        accelerator: Around everything that follows.
        module: Network and objective, prepared.
        optimizers: Prepared.
        rate_schedules: Of the learning rates, one per optimiser.
        ema: Running average of the network's weights that train, of this process's part of each.
        frozen: Checksum of the network's weights that do not train; None where all train.
        copy: Network and objective with whole weights, to evaluate and to save; only on the main process, and only
            where processes share the weights out.
        replay: Replays a step's gradients; None computes them anew.
    """

    model: MultiViewModel
    batches: Batches
    reader: SceneReader
    objective: Objective | None
    weight: Callable[[int], float]
    transform_truth: TruthTransform
    accumulate: int
    clip: float
    accelerator: Accelerator
    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    rate_schedules: list[torch.optim.lr_scheduler.LRScheduler]
    ema: EMAModel
    frozen: int | None
    copy: TrainingStep | None
    replay: Replay | None = None

    @property
    def shares_weights(self) -> bool:
        """Return whether each process holds a part of the weights only."""
        return any(map(is_shared, self.network.parameters()))

    @property
    def evaluated(self) -> TrainingStep:
        """Return what is evaluated and saved: the whole copy, or network and objective themselves."""
        return self.copy or TrainingStep(self.model, self.objective)

    @property
    def network(self) -> nn.Module:
        """Return the network that is trained, without accelerate's wrapper."""
        return self.model.network

    @property
    def own_scenes(self) -> slice:
        """Return which scenes of a batch this process computes."""
        return own_scenes(self.batches.size, self.accelerator)


def own_scenes(count: int, accelerator: Accelerator) -> slice:
    """Return which scenes of a batch a process computes."""
    each = count // accelerator.num_processes
    return slice(accelerator.process_index * each, (accelerator.process_index + 1) * each)


def make_trainer(
    model: MultiViewModel,
    batches: Batches,
    objective: Objective | None,
    *,
    accelerator: Accelerator,
    weight: Callable[[int], float],
    transform_truth: TruthTransform = keep_truth,
    optimizer: OptimizerName,
    learning_rate: float,
    schedule: RateSchedule,
    warmup: int,
    steps: int,
    ema_decay: float,
    accumulate: int,
    clip: float,
    workers: int = 0,
    execution: Execution = "eager",
) -> Trainer:
    """Set up optimisers, their schedules, the running average of the weights, and accelerate around them.

    Args:
        model: The denoiser; those of its network's weights that require gradients are trained in place.
        batches: The scenes of each step.
        objective: The added one; None trains on the diffusion objective alone.
        accelerator: Of this process.
        weight: Of the added objective, by step.
        transform_truth: Turns a batch's views into those that supervision sees.
        optimizer: See :func:`make_optimizers`.
        learning_rate: Of AdamW.
        schedule: Of the learning rate, as diffusers names it.
        warmup: Steps over which the learning rate grows from 0.
        steps: In all.
        ema_decay: Of the running average.
        accumulate: Parts in which a process computes its part of a batch.
        clip: Largest norm of the gradients.
        workers: Processes that read scenes ahead.
        execution: graph replays a step's gradients from a CUDA graph.

    Raises:
        ValueError: If the batch cannot be shared out evenly, or a graph cannot be recorded.
    """
    if execution == "graph":
        _check_recordable(accelerator)
    shares = accelerator.num_processes * accumulate
    if batches.size % shares:
        raise ValueError(
            f"a batch of {batches.size} scenes cannot be shared by {accelerator.num_processes} processes "
            f"in {accumulate} parts each; choose a multiple of {shares}"
        )
    module, frozen = TrainingStep(model, objective).to(model.alpha_bar.device), checksum_frozen(model.network)
    copy = _whole_copy(module, accelerator)
    optimizers = make_optimizers(module, optimizer, learning_rate)
    lengths = {"num_warmup_steps": warmup, "num_training_steps": steps}
    schedules = [get_scheduler(schedule, one, **lengths) for one in optimizers]
    module, *prepared = accelerator.prepare(module, *optimizers)
    parts = own_parts(trained_weights(model.network).values())
    ema = EMAModel(parts, decay=ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    ema.to(model.alpha_bar.device)
    own = own_scenes(batches.size, accelerator)
    return Trainer(
        model=model,
        batches=batches,
        reader=SceneReader(batches, own, device=model.alpha_bar.device, workers=workers, steps=steps),
        objective=objective,
        weight=weight,
        transform_truth=transform_truth,
        accumulate=accumulate,
        clip=clip,
        accelerator=accelerator,
        module=module,
        optimizers=prepared,
        rate_schedules=schedules,
        ema=ema,
        frozen=frozen,
        copy=copy,
        replay=Replay(list(module.parameters())) if execution == "graph" else None,
    )


def _check_recordable(accelerator: Accelerator) -> None:
    if accelerator.device.type != "cuda" or accelerator.num_processes > 1:
        raise ValueError(
            f"a graph is recorded by one process on a CUDA device, not by {accelerator.num_processes} on "
            f"{accelerator.device.type}; choose eager"
        )


def _whole_copy(module: TrainingStep, accelerator: Accelerator) -> TrainingStep | None:
    """Copy network and objective on the main process before their weights are shared out; None where they are not."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return None
    module.cpu()  # so that a device never holds two; FSDP moves each process's parts back
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP takes no channels_last
    if not accelerator.is_main_process:
        return None
    return TrainingStep(replace(module.model, network=deepcopy(module.network)), deepcopy(module.objective))


def make_optimizers(module: TrainingStep, name: OptimizerName, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Build AdamW for all weights that train, or Muon for the network's hidden matrices and AdamW for the rest.

    Args:
        module: Network and objective.
        name: Of the optimiser of the hidden matrices.
        learning_rate: Of AdamW; Muon takes :data:`MUON_RATE` times as much.

    Source:
        Muon: Jordan et al. 2024, as torch.optim.Muon; embeddings, convolutions and vectors stay with AdamW as advised
        there.
    """
    named = trained_weights(module.network).items()
    hidden = [weight for own, weight in named if _is_hidden_matrix(own, weight)] if name == "muon" else []
    known = set(map(id, hidden))
    rest = [weight for weight in trained_weights(module).values() if id(weight) not in known]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(torch.optim.AdamW(rest, learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True))
    if hidden:
        optimizers.append(BatchedMuon(hidden, lr=MUON_RATE * learning_rate, weight_decay=0.01))
    return optimizers


def _is_hidden_matrix(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and "emb" not in name


def weight_at(step: int, *, weight: float, schedule: WeightSchedule, until: int) -> float:
    """Return the weight of the added objective at a step.

    Args:
        step: From 0.
        weight: At the start.
        schedule: constant; linear falls to 0 at ``until``; off is constant before ``until`` and 0 from there on.
        until: Step at which the schedule ends.
    """
    if schedule == "linear":
        return weight * max(0.0, 1 - step / until)
    return 0.0 if schedule == "off" and step >= until else weight


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights into a module in place, each shared out as the module's own is; others stay.

    Args:
        module: Changed in place.
        weights: By name; names that it has not are left out.
    """
    own = module.state_dict()
    module.load_state_dict(
        {name: shared_out(weight, own[name]) for name, weight in weights.items() if name in own}, strict=False
    )
