"""Replayed gradients: laws on a CPU, where a recording is computed again; that nothing waits for a device."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import SETTINGS, small_model, small_trainer, supervision, weights

from train import loop
from train.alignment import loss as alignment_loss
from train.loop.replay import WARM_UP, Replay
from train.loop.step import whole_gradients


def recompute(compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record nothing: compute again at each replay, as a graph does, into the same result."""
    results = [compute() for _ in range(WARM_UP)]

    def replay() -> None:
        results[0].copy_(compute())

    return results[0], replay


@pytest.mark.parametrize("mixing", ["none", "mlp", "mean"])
def test_steps_with_replayed_gradients_equal_steps_with_computed_ones(mixing: Any):
    trained = []
    for replays in (False, True):
        model = small_model()
        objective = None if mixing == "none" else supervision(model, mixing=mixing)
        settings = replace(SETTINGS, views=4, weight=0.5, weight_schedule="linear", weight_until=5)
        trainer = small_trainer(settings, model, objective)
        if replays:
            trainer = replace(trainer, replay=Replay(list(trainer.module.parameters()), recompute))
        losses = [loop.take_step(trainer, step) for step in range(6)]
        trained.append((losses, weights(model)))
    (eager, eager_weights), (replayed, replayed_weights) = trained
    assert replayed == eager
    assert all(map(torch.equal, replayed_weights, eager_weights))


def test_each_number_of_references_is_recorded_once():
    trainer, recordings = small_trainer(replace(SETTINGS, views=4), small_model()), []

    def record(compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        recordings.append(compute)
        return recompute(compute)

    trainer = replace(trainer, replay=Replay(list(trainer.module.parameters()), record))
    references = {trainer.reader.at(step).views.n_ref for step in range(8)}
    for step in range(8):
        loop.take_step(trainer, step)
    assert len(recordings) == len(references) > 1


def test_what_is_returned_is_not_overwritten_by_the_next_replay():
    trainer = small_trainer(SETTINGS, small_model())
    replay = Replay(list(trainer.module.parameters()), recompute)
    batches = [trainer.reader.at(step) for step in (0, 1)]
    first, second = (replay(lambda batch, _: batch.noise.mean()[None], batch, 1.0) for batch in batches)
    assert (first, second) == tuple(batch.noise.mean() for batch in batches)
    assert first != second


class Waiting(TorchDispatchMode):
    """Note what would make a device wait, or bring in numbers from elsewhere: a graph can record neither."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if any(x.device.type == "cpu" for x in tensors):
            self.operations.append(str(function))
        return result


@pytest.mark.parametrize(
    "changes",
    [None, {}, {"mixing": "mean"}, {"mixing": "positive"}, {"control": "shuffled"}, {"truth": "visible"},
     {"target": "global_nearest"}],
)  # fmt: skip
def test_gradients_of_a_batch_need_no_number_of_another_device(
    changes: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alignment_loss.torch, "autocast", lambda *_, **__: nullcontext())  # knows no device "meta"
    model = small_model()
    objective = None if changes is None else supervision(model, shares=[1.0], **changes)
    trainer = small_trainer(replace(SETTINGS, views=3), model, objective)
    batch = trainer.reader.at(0).to(torch.device("meta"))  # numbers that nobody can ask for
    trainer.module.to("meta")
    trainer.module.model = replace(model, alpha_bar=model.alpha_bar.to("meta"))
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):  # would copy to the device
        monkeypatch.setattr(owner, name, None)
    with Waiting() as waiting:
        whole_gradients(trainer, batch, torch.zeros((), device="meta"))
    assert waiting.operations == []


def test_a_graph_needs_a_cuda_device():
    with pytest.raises(ValueError, match="by one process on a CUDA device, not by 1 on cpu; choose eager"):
        small_trainer(replace(SETTINGS, execution="graph"), small_model())
