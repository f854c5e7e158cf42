"""What is added to the diffusion objective: CAMEO's supervised attention, its rivals and its controls.

Each objective is a module that (1) prepares the truth of a batch, (2) watches chosen layers during the forward, (3)
turns what it saw and the truth into one number. Its weights serve training only and are thrown away afterwards.

Source: arXiv 2512.03045 (CAMEO); arXiv 2410.06940 (REPA); docs/references.md, "CAMEO: the loss".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from probe.baselines import dsift
from probe.baselines.dino import load_encoder
from probe.baselines.maps import at_tokens
from probe.capture import AttentionTap
from probe.correspondence import TokenMatches, match_tokens, own_view, token_points, visible_tokens
from probe.layers import Layer
from probe.metrics import scene_size
from probe.views import Views
from train.alignment import CorrespondenceAlignment
from train.alignment.mixing import Mixing
from train.alignment.pairs import Target

Truth = Literal["cycle", "visible", "gated"]
Control = Literal["none", "shuffled"]
Rival = Literal["repa-dsift", "repa-dinov2", "geometry"]
Grid = tuple[int, int]

GATE = 0.02
"""Share of the scene's size within which a match counts under ``gated`` truth: .10 units in a room of 5."""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Hold what decides the alignment loss."""

    mixing: Mixing
    target: Target
    truth: Truth
    cycle_tolerance: float
    control: Control
    max_queries: int | None


def cycle_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the cycle-consistent matches: the paper's rule."""
    return match_tokens(views.point_map, views.valid, grid, cycle_tolerance=tolerance)


def visible_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the matches of points that the key view really shows (depth test); the tolerance plays no part."""
    matches = match_tokens(views.point_map, views.valid, grid, cycle_tolerance=tolerance)
    own = own_view(views.count, device=matches.index.device)
    return replace(matches, counted=visible_tokens(views, grid) & ~own)


def gated_truth(views: Views, grid: Grid, tolerance: float) -> TokenMatches:
    """Count the cycle-consistent matches that lie within :data:`GATE` of the scene's size of the query's point."""
    matches = match_tokens(views.point_map, views.valid, grid, cycle_tolerance=tolerance)
    limit = GATE * rearrange(scene_size(views), "b -> b 1 1 1")
    assert matches.distance is not None
    return replace(matches, counted=matches.counted & (matches.distance < limit))


TRUTHS: dict[Truth, Callable[[Views, Grid, float], TokenMatches]] = {
    "cycle": cycle_truth,
    "visible": visible_truth,
    "gated": gated_truth,
}


def shuffled(matches: TokenMatches) -> TokenMatches:
    """Give every scene the truth of the next one in the batch: the control that must not help.

    Raises:
        ValueError: If there is a single scene, whose truth would stay its own.
    """
    if matches.index.shape[0] < 2:
        raise ValueError("shuffled: one scene has no other scene's truth to take; use a batch of at least 2")
    moved = {name: getattr(matches, name).roll(1, 0) for name in ("index", "counted")}
    distance = None if matches.distance is None else matches.distance.roll(1, 0)
    return TokenMatches(**moved, distance=distance)


def counted_pairs(matches: TokenMatches, n_ref: int) -> Float[Tensor, "2"]:
    """Count the pairs of reference queries and of target queries."""
    counted = matches.counted
    return torch.stack([counted[:, :n_ref].sum(), counted[:, n_ref:].sum()]).float()


@dataclass(frozen=True, kw_only=True)
class AttentionTruth:
    """Hold the true matches on each grid, and how many pairs of each side a process's part of a batch has on average.

    The loss divides by that average: then the mean over processes and parts is the mean over the whole batch.
    """

    matches: dict[Grid, TokenMatches]
    average: dict[Grid, Float[Tensor, "2"]]

    def scenes(self, chosen: slice) -> "AttentionTruth":
        """Pick scenes."""
        return replace(self, matches={grid: _some(one, chosen) for grid, one in self.matches.items()})


def _some(matches: TokenMatches, chosen: slice) -> TokenMatches:
    distance = None if matches.distance is None else matches.distance[chosen]
    return TokenMatches(matches.index[chosen], matches.counted[chosen], distance)


@dataclass(frozen=True, kw_only=True)
class FeatureTruth:
    """Hold the frozen features of the true views on each grid."""

    features: dict[Grid, Float[Tensor, "b f n c"]]

    def scenes(self, chosen: slice) -> "FeatureTruth":
        """Pick scenes."""
        return FeatureTruth(features={grid: one[chosen] for grid, one in self.features.items()})


Average = Callable[[Tensor], Tensor]
"""Average a number over the processes and parts that share a batch."""


def grid_of(layer: Layer) -> Grid:
    """Give a layer's token grid.

    Raises:
        ValueError: If it has none, or does not join views: nothing can be supervised there.
    """
    if layer.grid is None or layer.kind != "3d":
        raise ValueError(
            f"--layer {layer.index}: {layer.name} is of kind {layer.kind!r}; only 3D layers on a grid can be supervised"
        )
    return layer.grid


def grids_of(layers: Sequence[Layer]) -> list[Grid]:
    """List the grids of layers, each once."""
    return sorted({grid_of(layer) for layer in layers})


class AttentionSupervision(nn.Module):
    """Supervise the attention of one or several layers with true correspondence.

    Args:
        layers: 3D layers on a grid.
        settings: Truth, mixing and target.
        shares: Weight of each layer; default equal ones that add up to 1.
    """

    def __init__(self, layers: Sequence[Layer], settings: Supervision, shares: Sequence[float] | None = None) -> None:
        super().__init__()
        self.layers, self.settings, self.shares = list(layers), settings, shares
        self.losses = nn.ModuleList(
            CorrespondenceAlignment(
                layer.heads, mixing=settings.mixing, target=settings.target, max_queries=settings.max_queries
            )
            for layer in layers
        )

    def prepare(self, views: Views, average: Average) -> AttentionTruth:
        """Match the tokens of every grid that the layers have."""
        rule, tolerance = TRUTHS[self.settings.truth], self.settings.cycle_tolerance
        matches = {grid: rule(views, grid, tolerance) for grid in grids_of(self.layers)}
        if self.settings.control == "shuffled":
            matches = {grid: shuffled(one) for grid, one in matches.items()}
        counts = {grid: average(counted_pairs(one, views.n_ref)) for grid, one in matches.items()}
        return AttentionTruth(matches=matches, average=counts)

    def watch(self, network: nn.Module) -> AbstractContextManager[AttentionTap]:
        """Keep queries and keys of the layers, with gradients."""
        return AttentionTap(network, self.layers, keep="graph")

    def forward(
        self,
        seen: AttentionTap,
        truth: AttentionTruth,
        n_ref: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Average the alignment losses of the layers by their shares."""
        losses = []
        for layer, loss in zip(self.layers, self.losses, strict=True):
            call, grid = seen[layer], grid_of(layer)
            kinds = {"scale": call.scale, "generator": generator, "counts": truth.average[grid]}
            losses.append(loss(call.q, call.k_per_head, truth.matches[grid], n_ref, **kinds))
        return _shared_out(losses, self.shares)


def _shared_out(losses: list[Float[Tensor, ""]], shares: Sequence[float] | None) -> Float[Tensor, ""]:
    each = torch.stack(losses)
    return each.mean() if shares is None else (each * each.new_tensor(list(shares))).sum()


class FeatureAlignment(nn.Module):
    """Pull a layer's output, through a small projector, towards frozen features of the true views (REPA's loss).

    Minus the mean cosine over all tokens of all views.

    Args:
        layers: 3D layers; the outputs of their attention modules are aligned.
        encode: Frozen features, (views, grid) to [b f n c]; no gradient passes.
        width: Number of features c.
        shares: Weight of each layer; default equal ones that add up to 1.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        encode: Callable[[Views, Grid], Tensor],
        width: int,
        shares: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.encode, self.shares = list(layers), encode, shares
        self.projectors = nn.ModuleList(_projector(layer.heads * layer.channels, width) for layer in layers)

    def prepare(self, views: Views, average: Average) -> FeatureTruth:
        """Encode the true views on every grid that the layers have; all scenes weigh alike, so nothing is averaged."""
        with torch.no_grad():
            return FeatureTruth(features={grid: self.encode(views, grid) for grid in grids_of(self.layers)})

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Keep the outputs of the layers' modules, with gradients."""
        seen: dict[str, Tensor] = {}
        hooks = [_keep_output(network.get_submodule(layer.name), seen, layer.name) for layer in self.layers]
        try:
            yield seen
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
        """Give minus the mean cosine of projected outputs with features, averaged by the layers' shares; -1 to 1."""
        losses = []
        for layer, projector in zip(self.layers, self.projectors, strict=True):
            wanted = truth.features[grid_of(layer)]
            states = rearrange(seen[layer.name], "(b f) n c -> b f n c", b=wanted.shape[0])
            losses.append(-F.cosine_similarity(projector(states), wanted, dim=-1).mean())
        return _shared_out(losses, self.shares)


Objective = AttentionSupervision | FeatureAlignment


def _projector(channels: int, width: int) -> nn.Sequential:
    """Build REPA's three-layer projector (arXiv 2410.06940, section 3.2), as wide inside as twice its features."""
    hidden = 2 * width
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
    )


def _keep_output(module: nn.Module, seen: dict[str, Tensor], name: str) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():  # not in the first pass of a reentrant recomputation
            seen[name] = output

    return module.register_forward_hook(keep)


# --- frozen encoders -------------------------------------------------------------------------------------------------

OCTAVES = 6


def encode_points(views: Views, grid: Grid) -> Float[Tensor, "b f n 36"]:
    """Encode each token's true point, in view 0's frame and in units of the scene's size, by sines and cosines.

    A frozen encoder of true geometry: what a perfect geometry network would know. Tokens without a point give zeros.
    """
    points, known = token_points(views.point_map, views.valid, grid)
    first = views.world_to_cam[:, 0]
    local = torch.einsum("bij,bfnj->bfni", first[:, :3, :3], points) + rearrange(first[:, :3, 3], "b c -> b 1 1 c")
    scaled = local / rearrange(scene_size(views), "b -> b 1 1 1")
    angle = rearrange(
        scaled[..., None] * (torch.pi * 2.0 ** torch.arange(OCTAVES).to(scaled)), "b f n c o -> b f n (c o)"
    )
    return torch.cat([angle.sin(), angle.cos()], -1).where(known[..., None], 0)


def encode_dsift(views: Views, grid: Grid) -> Float[Tensor, "b f n 128"]:
    """Encode each token of the true images by its SIFT descriptor, less the descriptor's mean entry."""
    described = dsift.describe(views.image, grid)
    return described - described.mean(-1, keepdim=True)


def dinov2_encoder() -> tuple[Callable[[Views, Grid], Tensor], int]:
    """Load DINOv2 from the local cache: the paper's REPA encoder (ViT-B/14 at 518 pixels).

    Raises:
        ValueError: If transformers or the weights are not at hand.
    """
    try:
        encoder = load_encoder("dinov2")
    except ValueError as error:
        raise ValueError(
            f"--objective repa-dinov2: {error}; or choose repa-dsift or geometry, which need no download"
        ) from error

    def encode(views: Views, grid: Grid) -> Tensor:
        encoder.network.to(views.image.device)
        return at_tokens(encoder.encode(views.image), grid).to(views.image)

    return encode, encoder.width


ENCODERS: dict[Rival, Callable[[], tuple[Callable[[Views, Grid], Tensor], int]]] = {
    "repa-dsift": lambda: (encode_dsift, 128),
    "repa-dinov2": dinov2_encoder,
    "geometry": lambda: (encode_points, 6 * OCTAVES),
}


def make_rival(name: Rival, layers: Sequence[Layer], shares: Sequence[float] | None = None) -> FeatureAlignment:
    """Build a rival for layers of a network.

    Raises:
        ValueError: If its encoder is not at hand.
    """
    encode, width = ENCODERS[name]()
    return FeatureAlignment(layers, encode, width, shares)
