"""Feature alignment: a layer's output is pulled, through a small projector, towards frozen features of the truth."""

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
from train.objectives.encoders import Encoder

Projector = Callable[[Layer, int], nn.Module]
"""Build what maps a layer's output, [b f n heads*channels], to as many features, [b f n c]."""
Comparison = Callable[[Tensor, Tensor], Tensor]
"""Return the loss of projected outputs against features, both [b f n c]."""

MARGIN = 0.1
"""Difference of two relations that :func:`relation_loss` forgives: VideoREPA's."""


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
    """Pull a layer's output, through a small projector, towards frozen features of the true views.

    Args:
        layers: Layers that join views on a grid; the outputs of their attention modules are aligned.
        encode: The features; no gradient passes.
        width: Number of features c.
        shares: Weight of each layer; None for equal ones that add up to 1.
        projector: Of each layer; trained along and thrown away.
        compare: The loss, such as :func:`cosine_loss`.

    Raises:
        ValueError: If a layer joins no views, or joins them together with text.

    Source:
        REPA, arXiv 2410.06940, which takes the outputs of whole blocks, not of attention modules.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        encode: Encoder,
        width: int,
        shares: Sequence[float] | None = None,
        *,
        projector: Projector,
        compare: Comparison,
    ) -> None:
        super().__init__(layers, shares)
        for layer in layers:
            _check_output(layer)
        self.encode, self.compare = encode, compare
        self.projectors = nn.ModuleList(projector(layer, width) for layer in layers)

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
        """Average the losses of projected outputs against features by the layers' shares.

        Args:
            seen: The outputs of a forward pass, by the layers' names.
            truth: Of the same scenes.
            n_ref: Ignored: references and targets weigh alike.
            generator: Ignored: nothing is drawn.

        Returns:
            In the range of ``compare``.
        """
        losses = []
        for layer, projector in zip(self.layers, self.projectors, strict=True):
            features = truth.features[grid_of(layer)]
            states = rearrange(seen[layer.name], "(b f) n c -> b f n c", b=features.shape[0])
            losses.append(self.compare(projector(states), features))
        return self.weigh(losses)


def _check_output(layer: Layer) -> None:
    extra = layer.prefix + layer.suffix + layer.per_view_prefix
    if layer.kind != "3d" or extra:
        raise ValueError(
            f"layer {layer.index}, {layer.name}, is of kind {layer.kind!r} with {extra} tokens of text or registers; "
            "features are aligned with the outputs of layers that join nothing but the views' tokens; choose one of "
            "those, or supervise the attention"
        )


def _record_output(module: nn.Module, outputs: dict[str, Tensor], name: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():  # not in the first pass of a reentrant recomputation
            outputs[name] = output

    return module.register_forward_hook(record)


# Projectors


def mlp_projector(layer: Layer, width: int) -> nn.Sequential:
    """Build REPA's three-layer projector of each token, as wide inside as twice its features.

    Args:
        layer: Whose output is projected.
        width: Number of features.

    Source:
        REPA, arXiv 2410.06940, section 3.2.
    """
    hidden = 2 * width
    return nn.Sequential(
        nn.Linear(layer.heads * layer.channels, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, width),
    )


class ConvolutionProjector(nn.Module):
    """Project each view's tokens by one convolution of 3 x 3 tokens, with zeros around the view.

    Args:
        layer: Whose output is projected.
        width: Number of features.

    Raises:
        ValueError: If the layer joins no views, or not on one grid.

    Source:
        iREPA, arXiv 2512.10794; docs/references.md, "iREPA".
    """

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__()
        self.grid = grid_of(layer)
        self.convolution = nn.Conv2d(layer.heads * layer.channels, width, kernel_size=3, padding=1)

    def forward(self, states: Float[Tensor, "b f n channels"]) -> Float[Tensor, "b f n c"]:
        """Return the features of every token.

        Args:
            states: The layer's output, rows before columns.
        """
        height, width = self.grid
        images = rearrange(states, "b f (h w) c -> (b f) c h w", h=height, w=width)
        return rearrange(self.convolution(images), "(b f) c h w -> b f (h w) c", b=states.shape[0])


# Losses


def cosine_loss(projected: Float[Tensor, "b f n c"], features: Float[Tensor, "b f n c"]) -> Float[Tensor, ""]:
    """Return minus the mean cosine of projected outputs with features, over all tokens of all views.

    Args:
        projected: Outputs of a layer.
        features: Of the same tokens.

    Returns:
        From -1, where every token points as its features do, to 1.

    Source:
        REPA, arXiv 2410.06940.
    """
    return -F.cosine_similarity(projected, features, dim=-1).mean()


def relation_loss(projected: Float[Tensor, "b f n d"], features: Float[Tensor, "b f n c"]) -> Float[Tensor, ""]:
    """Return by how much the relations among projected outputs differ from those among features.

    A relation is the cosine of two tokens of a scene, of one view or of two. Of each difference what exceeds
    :data:`MARGIN` counts; the mean is over all pairs, a token with itself among them. Holds the relations of a whole
    batch, (f n)^2 numbers per scene, in float32 at least and outside autocast.

    Args:
        projected: Outputs of a layer; may have another width.
        features: Of the same tokens.

    Returns:
        From 0, where all relations agree to within the margin, to below 1.9.

    Source:
        VideoREPA, arXiv 2505.23656: token relation distillation; docs/references.md, "VideoREPA".
    """
    with torch.autocast(projected.device.type, enabled=False):
        difference = (relations(projected) - relations(features)).abs()
    return (difference - MARGIN).clamp(min=0).mean()


def relations(tokens: Float[Tensor, "b f n c"]) -> Float[Tensor, "b fn fn"]:
    """Return the cosine of every two tokens of a scene, view-major.

    Args:
        tokens: Of all views.

    Returns:
        From -1 to 1; 0 for a token without length.
    """
    exact = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    unit = F.normalize(rearrange(exact, "b f n c -> b (f n) c"), dim=-1)
    return unit @ unit.mT
