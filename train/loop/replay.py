"""The gradients of a step recorded once as a CUDA graph, and replayed: one launch in place of thousands.

Of a small network the processor's launches cost more than the GPU's arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from train.batches import Batch

Gradients = Callable[[Batch, Tensor], Tensor]
"""Add a batch's gradients, given the weight of the added objective, to those that parameters have; return the losses.
"""
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Record a computation on fixed tensors; return its result, and what computes it anew in place."""
WARM_UP = 3
"""Times that a computation runs before it is recorded: libraries choose their algorithms, buffers get their places."""


def record_graph(compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record a computation on the current CUDA device as a graph.

    Args:
        compute: Reads and writes the same tensors each time, and never waits for the device.

    Returns:
        Its result, which holds nothing yet, and the graph's replay, which fills it.

    Source:
        "CUDA Graphs" and "Whole-network capture" in PyTorch's CUDA semantics
        (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = compute()
    return result, graph.replay


class Replay:
    """Replays the gradients of batches, which it records once for each number of references and each set of shapes.

    Gradients keep their places in memory between steps: nothing else may set them to None.

    Args:
        parameters: Whose gradients are computed; those that never get one keep None.
        record: How a computation is recorded.
    """

    def __init__(self, parameters: Sequence[Tensor], record: Record = record_graph) -> None:
        self.parameters, self._record = parameters, record
        self._recorded: dict[Any, tuple[Batch, Tensor, Tensor, Callable[[], None]]] = {}

    def __call__(self, gradients: Gradients, batch: Batch, weight: float) -> Tensor:
        """Set the parameters' gradients to a batch's; return its losses.

        Args:
            gradients: The same computation at each call.
            batch: On the device.
            weight: Of the added objective.
        """
        key = (batch.views.n_ref, *((name, x.shape, x.dtype) for name, x in batch.tensors.items()))
        if key not in self._recorded:
            self._recorded[key] = self._recording(gradients, batch)
        fixed, fixed_weight, losses, replay = self._recorded[key]
        for name, tensor in fixed.tensors.items():
            tensor.copy_(batch.tensors[name])
        fixed_weight.fill_(weight)
        present = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if present:
            torch._foreach_zero_(present)
        replay()
        return losses.clone()

    def _recording(self, gradients: Gradients, batch: Batch) -> tuple[Batch, Tensor, Tensor, Callable[[], None]]:
        fixed, weight = _copied(batch), torch.zeros((), device=batch.t.device)
        losses, replay = self._record(partial(gradients, fixed, weight))
        return fixed, weight, losses, replay


def _copied(batch: Batch) -> Batch:
    own: dict[str, Any] = {name: tensor.clone() for name, tensor in batch.tensors.items()}
    views = replace(batch.views, **{name: own.pop(name) for name in batch.views.tensors})
    return replace(batch, views=views, **own)
