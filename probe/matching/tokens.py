"""Which tokens of a joint sequence are those of the views, and whether a mask hides some of them. Pure."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.masks import HIDDEN
from probe.layers import ViewLayout

Bias = Float[Tensor, "#b #heads #joint joint"] | None
WEIGHTS_AT_ONCE = 4_000_000  # attention weights, or distances, held at a time, over all heads


def image_tokens(joint: Float[Tensor, "*lead joint d"], layout: ViewLayout) -> Int[Tensor, " tokens"]:
    """Return the positions of the views' tokens in a joint sequence, view-major, rows before columns.

    Raises:
        ValueError: If the sequence has not the layout's length.
    """
    positions = torch.arange(joint.shape[-2], device=joint.device)
    return rearrange(layout.split(positions[:, None]), "f h w 1 -> (f h w)")


def in_order(inside: Int[Tensor, " tokens"], count: int) -> bool:
    """Return whether image tokens are the whole sequence in its own order: view after view, row after row."""
    return len(inside) == count and bool((inside.diff() == 1).all())


def hides_image_tokens(bias: Bias, layout: ViewLayout) -> bool:
    """Return whether a mask hides tokens of the views from any query, not only text."""
    return bias is not None and bool(layout.split((bias <= HIDDEN / 2).mT).any())
