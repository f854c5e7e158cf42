"""Frozen encoders of the true views: what competing objectives align a layer's output with."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.baselines import dsift
from probe.baselines.dino import load_encoder
from probe.baselines.maps import at_tokens
from probe.correspondence import token_points
from probe.metrics import scene_size
from probe.views import Views
from train.objectives.base import Grid

Encoder = Callable[[Views, Grid], Tensor]
"""Return frozen features of the true views on a token grid, [b f n c]."""

OCTAVES = 6
"""Frequencies that a coordinate is encoded by, each twice the one before."""

SHARE_OF_MEAN = 0.8
"""Share of a feature's mean that :func:`normalise_over_space` subtracts: iREPA's for models that denoise pixels."""


def encode_points(views: Views, grid: Grid) -> Float[Tensor, "b f n 36"]:
    """Encode each token's true point, in view 0's frame and in units of the scene's size, by sines and cosines.

    A frozen encoder of true geometry: what a perfect geometry network would know.

    Args:
        views: The true views.
        grid: Token rows and columns.

    Returns:
        From -1 to 1; zeros for tokens without a point.
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
    """Encode each token of the true images by its SIFT descriptor, minus the descriptor's mean entry.

    Args:
        views: The true views.
        grid: Token rows and columns.
    """
    described = dsift.describe(views.image, grid)
    return described - described.mean(-1, keepdim=True)


def normalise_over_space(features: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
    """Subtract most of each feature's mean over the tokens of a view, then divide by its deviation there.

    What all tokens of a view share is weakened, and where they differ counts, for all features alike.

    Args:
        features: Of the tokens of each view.

    Source:
        iREPA, arXiv 2512.10794; docs/references.md, "iREPA". The deviation is the population's, the release's the
        sample's: the same factor for every feature of a token, which no cosine sees.
    """
    mean, deviation = features.mean(2, keepdim=True), features.std(2, correction=0, keepdim=True)
    return (features - SHARE_OF_MEAN * mean) / (deviation + 1e-6)


def encode_normalised_dsift(views: Views, grid: Grid) -> Float[Tensor, "b f n 128"]:
    """Encode each token as :func:`encode_dsift` does, then normalise each entry over the tokens of a view.

    Args:
        views: The true views.
        grid: Token rows and columns.
    """
    return normalise_over_space(encode_dsift(views, grid))


def dinov2_encoder() -> tuple[Encoder, int]:
    """Load DINOv2 from the local cache: the paper's REPA encoder (ViT-B/14 at 518 pixels).

    Raises:
        ValueError: If transformers is not installed, or the weights are not in the cache.
    """
    try:
        encoder = load_encoder("dinov2")
    except ValueError as error:
        raise ValueError(f"repa-dinov2: {error}; or choose repa-dsift or geometry, which need no download") from error

    def encode(views: Views, grid: Grid) -> Tensor:
        encoder.network.to(views.image.device)
        return at_tokens(encoder.encode(views.image), grid).to(views.image)

    return encode, encoder.width
