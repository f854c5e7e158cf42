"""CAMEO: a layer's attention is supervised with true matches, by one of several truth rules."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from probe.attention.call import Call
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.correspondence import TokenMatches, match_views, visible_tokens
from probe.layers import Layer
from probe.matching import hides_image_tokens
from probe.metrics import scene_size
from probe.views import Views
from train.alignment import CorrespondenceAlignment
from train.objectives.base import Average, Grid, Objective, grid_of
from train.settings import Control, Mixing, Target, Truth

GATE = 0.02
"""Share of the scene's size within which a match counts under ``gated`` truth: .10 units in a room of 5."""


def cycle_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the cycle-consistent matches: the paper's rule."""
    return match_views(views, grid, cycle_tolerance=tolerance)


def visible_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the matches of points that the key view shows by a depth test; the tolerance is ignored."""
    matches = match_views(views, grid, cycle_tolerance=tolerance)
    own = rearrange(torch.eye(views.count, dtype=torch.bool, device=matches.index.device), "fq fk -> fq 1 fk")
    return replace(matches, counted=visible_tokens(views, grid) & ~own)


def gated_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the cycle-consistent matches that lie within :data:`GATE` of the scene's size of the query's point."""
    matches = match_views(views, grid, cycle_tolerance=tolerance)
    limit = GATE * rearrange(scene_size(views), "b -> b 1 1 1")
    assert matches.distance is not None
    return replace(matches, counted=matches.counted & (matches.distance < limit))


TRUTHS: dict[Truth, Callable[[Views, Grid, float], TokenMatches]] = {
    "cycle": cycle_truth,
    "visible": visible_truth,
    "gated": gated_truth,
}


def shuffled(matches: TokenMatches) -> TokenMatches:
    """Exchange the truths of scenes: each takes the next one's in the batch. The negative control.

    Raises:
        ValueError: If there is a single scene, whose truth would stay its own.
    """
    if matches.index.shape[0] < 2:
        raise ValueError("shuffled: one scene has no other scene's truth to take; use a batch of at least 2 scenes")
    moved = {name: getattr(matches, name).roll(1, 0) for name in ("index", "counted")}
    distance = None if matches.distance is None else matches.distance.roll(1, 0)
    return TokenMatches(**moved, distance=distance)


def counted_pairs(matches: TokenMatches, n_ref: int) -> Float[Tensor, "2"]:
    """Return the number of counted pairs with a reference query, and with a target query."""
    counted = matches.counted
    return torch.stack([counted[:, :n_ref].sum(), counted[:, n_ref:].sum()]).float()


@dataclass(frozen=True, kw_only=True)
class AttentionTruth:
    """The true matches of a batch.

    The loss divides by the average counts: then the mean over processes and parts is the mean over the whole batch.

    Attributes:
        matches: On each grid.
        average: Counted pairs with a reference query and with a target query, on each grid: the mean over the processes
            and parts that share a batch.
    """

    matches: dict[Grid, TokenMatches]
    average: dict[Grid, Float[Tensor, "2"]]

    def scenes(self, chosen: slice) -> "AttentionTruth":
        """Select scenes of the batch."""
        return replace(self, matches={grid: _select(one, chosen) for grid, one in self.matches.items()})


def _select(matches: TokenMatches, chosen: slice) -> TokenMatches:
    distance = None if matches.distance is None else matches.distance[chosen]
    return TokenMatches(matches.index[chosen], matches.counted[chosen], distance)


class AttentionSupervision(Objective):
    """Supervise the attention of one or several layers with true correspondence.

    Args:
        layers: Layers that join views on a grid.
        mixing: How the logits of heads become one, see :class:`CorrespondenceAlignment`.
        target: Which pairs have a match, see :class:`CorrespondenceAlignment`.
        truth: Which pairs count: a key of :data:`TRUTHS`.
        cycle_tolerance: Round trip, in tokens, below which a match is cycle consistent.
        control: ``"shuffled"`` takes another scene's matches.
        max_queries: Pairs of each scene and side that are drawn; None takes all.
        shares: Weight of each layer; None for equal ones that add up to 1.
        heads: Of each layer, by its index: those whose logits are mixed; None, or a layer that is not named, for all.

    Raises:
        ValueError: If a layer cannot be supervised.

    Source:
        CAMEO, arXiv 2512.03045.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        mixing: Mixing,
        target: Target,
        truth: Truth,
        cycle_tolerance: float,
        control: Control,
        max_queries: int | None,
        shares: Sequence[float] | None = None,
        heads: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(layers, shares)
        self.heads = {layer.name: _heads_of(layer, heads or {}) for layer in layers}
        self.truth, self.cycle_tolerance, self.control = truth, cycle_tolerance, control
        self.losses = nn.ModuleList(
            CorrespondenceAlignment(len(chosen), mixing=mixing, target=target, max_queries=max_queries)
            for chosen in self.heads.values()
        )

    def prepare(self, views: Views, average: Average) -> AttentionTruth:
        """Match the tokens of every grid that the layers have."""
        rule = TRUTHS[self.truth]
        matches = {grid: rule(views, grid, self.cycle_tolerance) for grid in self.grids}
        if self.control == "shuffled":
            matches = {grid: shuffled(one) for grid, one in matches.items()}
        counts = {grid: average(counted_pairs(one, views.n_ref)) for grid, one in matches.items()}
        return AttentionTruth(matches=matches, average=counts)

    def watch(self, network: nn.Module) -> AbstractContextManager[AttentionTap]:
        """Return a tap that keeps queries and keys of the layers, with gradients."""
        return AttentionTap(network, self.layers, keep="graph")

    def forward(
        self,
        seen: AttentionTap,
        truth: AttentionTruth,
        n_ref: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Average the alignment losses of the layers by their shares.

        Args:
            seen: The tap of a forward pass.
            truth: Of the same scenes.
            n_ref: Reference views; they come first.
            generator: Of the draw under ``max_queries``; None for PyTorch's own.

        Returns:
            In nats, 0 or more.
        """
        losses = []
        for layer, loss in zip(self.layers, self.losses, strict=True):
            grid = grid_of(layer)
            matches, counts = truth.matches[grid], truth.average[grid]
            q, k = view_tokens(layer, seen[layer], matches.index.shape[1], self.heads[layer.name])
            losses.append(loss(q, k, matches, n_ref, scale=seen[layer].scale, generator=generator, counts=counts))
        return self.weigh(losses)


def _heads_of(layer: Layer, chosen: Mapping[int, Sequence[int]]) -> list[int]:
    every = range(layer.heads)
    return list(every if layer.index is None else chosen.get(layer.index, every))


def view_tokens(
    layer: Layer, call: Call, views: int, heads: Sequence[int] | None = None
) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b heads n d"]]:
    """Return the queries and keys of the views' own tokens; text and registers are left out.

    Args:
        layer: Joins views on a grid.
        call: Of that layer.
        views: Views per scene.
        heads: To return; None for all.

    Raises:
        ValueError: If the layer's mask hides image tokens, which the losses compare.
    """
    layout = layer.layout(views)
    if hides_image_tokens(logit_bias(call), layout):
        raise ValueError(f"layer {layer.index} ({layer.name}) hides image tokens by its mask: it cannot be supervised")
    q, k = (rearrange(layout.split(x), "b heads f h w d -> b heads (f h w) d") for x in (call.q, call.k_per_head))
    if heads is None or len(heads) == layer.heads:
        return q, k
    return torch.stack([q[:, head] for head in heads], 1), torch.stack([k[:, head] for head in heads], 1)
