"""One network of the table, and inputs that many of them take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import probe.models  # noqa: F401  (declares what torchvision's wheel lacks, before diffusers is imported)
from probe.layers import ViewLayout

ROWS, COLUMNS = 4, 6
"""Tokens of a view at scale 1: what proves an order, and not square."""
TEXT, WIDTH = 8, 16
"""Tokens of a prompt, and channels of each."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network to build, and how to call it.

    Attributes:
        network: Name of diffusers' class.
        config: What it is built with.
        inputs: From views and a scale to keyword arguments of its forward.
        expects: Kinds of its attentions, in the order of first sight, as its source says; empty where it is refused.
        views: Numbers of views to try: frames, or images of a batch.
        scales: As in find_layers.
        aspect: As in find_layers, where its inputs do not tell.
        layout: As in find_layers, where no sizes tell.
        prepare: What is done to the network before it is looked at.
        note: What a reader must know.
    """

    network: str
    config: Mapping[str, Any]
    inputs: Callable[[int, int], Mapping[str, Any]]
    expects: tuple[str, ...]
    views: tuple[int, ...] = (2, 3)
    scales: tuple[int, ...] = (1, 2)
    aspect: tuple[int, int] | None = None
    layout: ViewLayout | None = None
    prepare: Callable[[nn.Module], object] | None = field(default=None)
    note: str = ""


def build(entry: Entry) -> nn.Module:
    """Build a network with random weights, none of them zero."""
    import diffusers

    torch.manual_seed(0)
    network = getattr(diffusers, entry.network)(**entry.config).eval().requires_grad_(False)
    if entry.prepare is not None:
        entry.prepare(network)
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def frames(channels: int, views: int, scale: int, patch: int = 2, *, batch: int = 1) -> Tensor:
    """Latents [b, channels, views, h, w] of ROWS x COLUMNS patches."""
    return noise(batch, channels, views, ROWS * patch * scale, COLUMNS * patch * scale)


def images(channels: int, views: int, scale: int, patch: int = 2) -> Tensor:
    """Latents [views, channels, h, w] of ROWS x COLUMNS patches."""
    return noise(views, channels, ROWS * patch * scale, COLUMNS * patch * scale)


def packed(channels: int, views: int, scale: int) -> Tensor:
    """Latents [1, views * h * w, channels] that do not show their grid."""
    return noise(1, views * ROWS * COLUMNS * scale**2, channels)


def packed_images(channels: int, views: int, scale: int) -> Tensor:
    return noise(views, ROWS * COLUMNS * scale**2, channels)


def prompt(width: int = WIDTH, *, batch: int = 1, tokens: int = TEXT) -> dict[str, Tensor]:
    return {"encoder_hidden_states": noise(batch, tokens, width)}


def step(batch: int = 1) -> dict[str, Tensor]:
    return {"timestep": torch.full((batch,), 500)}


def real_step(batch: int = 1) -> dict[str, Tensor]:
    return {"timestep": torch.full((batch,), 0.5)}


def places(views: int, scale: int, axes: int = 3) -> Tensor:
    """Position [n, axes] of each token: view, row, column, and zeros."""
    sides = (torch.arange(side) for side in (views, ROWS * scale, COLUMNS * scale))
    ids = torch.cartesian_prod(*sides)
    return torch.cat([ids, torch.zeros(len(ids), axes - 3, dtype=ids.dtype)], 1)


def half_padded(batch: int = 1, tokens: int = TEXT) -> Tensor:
    """Mask [b, tokens] of a prompt that is half as long as the longest."""
    return (torch.arange(tokens) < tokens // 2).expand(batch, -1)
