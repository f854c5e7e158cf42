"""What every added objective is: a module that prepares a batch's truth, watches layers, and returns one number."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.geometry import numbers_like
from probe.layers import Layer
from probe.views import Views

Grid = tuple[int, int]
Average = Callable[[Tensor], Tensor]
"""Average a number over the processes and parts that share a batch."""


@runtime_checkable
class BatchTruth(Protocol):
    """What an objective compares a batch with, scene by scene."""

    def scenes(self, chosen: slice) -> "BatchTruth":
        """Select scenes of the batch."""


class Objective(nn.Module):
    """An objective that is added to the diffusion loss.

    Its weights serve training only; they are saved with checkpoints and left out of the trained model.

    Args:
        layers: Layers that join views on a grid, see :func:`grid_of`.
        shares: Weight of each layer; None for equal ones that add up to 1.

    Raises:
        ValueError: If a layer cannot be supervised.
    """

    def __init__(self, layers: Sequence[Layer], shares: Sequence[float] | None = None) -> None:
        super().__init__()
        self.layers, self.shares = list(layers), shares
        self.grids = sorted({grid_of(layer) for layer in layers})

    def prepare(self, views: Views, average: Average) -> BatchTruth:
        """Compute what the objective compares a batch with.

        Args:
            views: The scenes of this process, as supervision sees them.
            average: Over the processes and parts that share a batch.
        """
        raise NotImplementedError

    def watch(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which a forward pass of the network records what :meth:`forward` needs."""
        raise NotImplementedError

    def weigh(self, losses: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Average the losses of the layers by their shares."""
        each = torch.stack(list(losses))
        return each.mean() if self.shares is None else (each * numbers_like(self.shares, each)).sum()


def grid_of(layer: Layer) -> Grid:
    """Return a layer's token grid. A layer can be supervised exactly where it can be probed: if it joins views.

    Args:
        layer: Of a model.

    Raises:
        ValueError: If the layer joins no views, or not on one grid.
    """
    try:
        return layer.layout(views=1).grid
    except ValueError as error:
        raise ValueError(
            f"layer {layer.index}, {layer.name}, is of kind {layer.kind!r}; expected a layer that joins views on a "
            "grid; choose one of those that a probe ranks"
        ) from error
