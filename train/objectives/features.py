"""Competing objectives: a layer's output is pulled, through a small projector, towards frozen features of the truth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from probe.layers import Layer
from probe.views import Views
from train.objectives.base import Average, Grid, Objective, grid_of
from train.objectives.encoders import ENCODERS
from train.settings import CompetingObjective


@dataclass(frozen=True, kw_only=True)
class FeatureTruth:
    """The frozen features of a batch's true views.

    Attributes:
        features: On each grid.
    """

    features: dict[Grid, Float[Tensor, "b f n c"]]

    def scenes(self, chosen: slice) -> "FeatureTruth":
        """Select scenes of the batch."""
        return FeatureTruth(features={grid: one[chosen] for grid, one in self.features.items()})


class FeatureAlignment(Objective):
    """Pull a layer's output, through a small projector, towards frozen features of the true views (REPA's loss).

    Minus the mean cosine over all tokens of all views.

    Args:
        layers: Layers that join views on a grid; the outputs of their attention modules are aligned.
        encode: Frozen features, (views, grid) to [b f n c]; no gradient passes.
        width: Number of features c.
        shares: Weight of each layer; None for equal ones that add up to 1.

    Raises:
        ValueError: If a layer joins no views, or joins them together with text.

    Source:
        REPA, arXiv 2410.06940.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        encode: Callable[[Views, Grid], Tensor],
        width: int,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__(layers, shares)
        for layer in layers:
            _check_output(layer)
        self.encode = encode
        self.projectors = nn.ModuleList(_projector(layer.heads * layer.channels, width) for layer in layers)

    def prepare(self, views: Views, average: Average) -> FeatureTruth:
        """Encode the true views on every grid that the layers have; all scenes weigh alike, so nothing is averaged."""
        with torch.no_grad():
            return FeatureTruth(features={grid: self.encode(views, grid) for grid in self.grids})

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Record the outputs of the layers' modules, with gradients."""
        outputs: dict[str, Tensor] = {}
        hooks = [_record_output(network.get_submodule(layer.name), outputs, layer.name) for layer in self.layers]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def forward(
        self,
        seen: Mapping[str, Tensor],
        truth: FeatureTruth,
        n_ref: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Average minus the mean cosine of projected outputs with features by the layers' shares.

        Args:
            seen: The outputs of a forward pass, by the layers' names.
            truth: Of the same scenes.
            n_ref: Ignored: references and targets weigh alike.
            generator: Ignored: nothing is drawn.

        Returns:
            From -1 to 1.
        """
        losses = []
        for layer, projector in zip(self.layers, self.projectors, strict=True):
            features = truth.features[grid_of(layer)]
            states = rearrange(seen[layer.name], "(b f) n c -> b f n c", b=features.shape[0])
            losses.append(-F.cosine_similarity(projector(states), features, dim=-1).mean())
        return self.weigh(losses)


def _check_output(layer: Layer) -> None:
    extra = layer.prefix + layer.suffix + layer.per_view_prefix
    if layer.kind != "3d" or extra:
        raise ValueError(
            f"layer {layer.index}, {layer.name}, is of kind {layer.kind!r} with {extra} tokens of text or registers; "
            "features are aligned with the outputs of layers that join nothing but the views' tokens; choose one of "
            "those, or supervise the attention"
        )


def _projector(channels: int, width: int) -> nn.Sequential:
    """Build REPA's three-layer projector (arXiv 2410.06940, section 3.2), as wide inside as twice its features."""
    hidden = 2 * width
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
    )


def _record_output(module: nn.Module, outputs: dict[str, Tensor], name: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():  # not in the first pass of a reentrant recomputation
            outputs[name] = output

    return module.register_forward_hook(record)


def make_competing_objective(
    name: CompetingObjective, layers: Sequence[Layer], shares: Sequence[float] | None = None
) -> FeatureAlignment:
    """Build a competing objective for layers of a network.

    Args:
        name: Key of :data:`train.objectives.encoders.ENCODERS`.
        layers: Layers that join views on a grid.
        shares: Weight of each layer; None for equal ones that add up to 1.

    Raises:
        ValueError: If the weights of its encoder are missing, or a layer does not fit.
    """
    encode, width = ENCODERS[name]()
    return FeatureAlignment(layers, encode, width, shares)
