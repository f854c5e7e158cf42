"""Feed-forward networks of 3D geometry as probed models: clean images in, no noise, no image out.

Their timestep index is always 0, where all of the signal is left. What they predict (cameras, depth, points) comes from
heads behind the blocks; only the blocks are built, and what they return are the patches' features.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probe.attention.modules import compute_device
from probe.models.model import Inputs, MultiViewModel
from probe.models.parts.files import (
    CPU,
    META,
    SAFETENSORS,
    Loading,
    Weights,
    build_of,
    fill,
    find_checkpoint,
    read_weights,
)
from probe.models.parts.installed import joined_class, own_precision
from probe.models.parts.latents import RANDOM
from probe.models.schedules import Prediction
from probe.views import Views

PATCH = 14
FILE = f"model{SAFETENSORS}"
MARK = "camera_token"
"""Weight that only the blocks have: what precedes its name in a file is the prefix of all of them."""

Settings = dict[str, Any]
Make = Callable[[Settings], nn.Module]


class FeedForwardNetwork(nn.Module):
    """Blocks of the user's package, called with views as an axis; the package's class stands behind this one.

    Attributes:
        settings: Arguments of the package's class.
        native_side: Side in pixels of the views it is shown.
    """

    settings: Settings
    native_side: int

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Patches along a side; None for the size that the views are shown at.
        """
        side = self.native_side if scale is None else PATCH * scale
        return {"images": next(self.parameters()).new_zeros(1, views, 3, side, side, device=compute_device(self))}

    def running(self, images: Float[Tensor, "b f 3 H W"]) -> AbstractContextManager[Any]:
        """Compute in the network's own precision; without numbers where the images have none."""
        stack = ExitStack()
        stack.enter_context(own_precision(self))
        if images.is_meta:
            stack.enter_context(PlainNumbers(max(images.shape[-2:]) // PATCH))
        return stack


class PlainNumbers(TorchFunctionMode):
    """Answer what packages ask of tensors without numbers (meta device): rates of dropout, and the largest position.

    Args:
        largest: What a tensor without numbers is as a whole number.
    """

    def __init__(self, largest: int = 0) -> None:
        super().__init__()
        self.largest = largest

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call every function as it is, but for those two."""
        if func is torch.Tensor.__int__ and args[0].is_meta:
            return self.largest
        device = {"device": CPU} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **device})


@dataclass(frozen=True, kw_only=True)
class FeedForwardModel(MultiViewModel):
    """The model: clean images of all views alike; cameras are predicted, not given."""

    alpha_bar: Float[Tensor, " 1"] = field(default_factory=lambda: torch.ones(1))
    prediction: Prediction = "none"
    clean_references: bool = False

    def encode(self, image: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 H W"]:
        """Return the colours in [0, 1] themselves; the network normalises them."""
        return image

    def decode(self, latents: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 H W"]:
        """Return what :meth:`encode` gave."""
        return latents

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return nothing: the network gets neither cameras nor a reference mask."""
        return {}

    def denoise(self, latents: Float[Tensor, "b f 3 H W"], t: Tensor, inputs: Inputs) -> Float[Tensor, "b f 3 H W"]:
        """Run the blocks on the images and return the images as they came: none is predicted."""
        self.network(latents)
        return latents

    def fresh(self, seed: int) -> nn.Module:
        """Return the same network with random weights, drawn by a seed without touching the caller's random state."""
        network: Any = self.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return prepared(type(network)(**network.settings), network.settings, network.native_side)


def build(way: Any, package: Any, side: int, settings: Settings) -> nn.Module:
    """Build the blocks of the user's package, to be called in this suite's way.

    Args:
        way: Subclass of :class:`FeedForwardNetwork` that overrides ``forward``.
        package: Class of the blocks.
        side: Of the views in pixels.
        settings: Arguments of the class.
    """
    return prepared(joined_class(way, package)(**settings), settings, side)


def prepared(network: nn.Module, settings: Settings, side: int) -> nn.Module:
    """Note what a network was built of and what it is shown, and set it to be looked at."""
    network.settings, network.native_side = settings, side  # type: ignore[assignment]
    return network.eval().requires_grad_(False)


def load_blocks(
    source: str,
    hub: str,
    loading: Loading,
    *,
    make: Make,
    release: Settings,
    settings_of: Callable[[Weights], Settings],
) -> tuple[nn.Module, Path | None]:
    """Load the blocks of a checkpoint, or draw them at random.

    Args:
        source: A file, folder or hub id; empty for the usual hub id; "random" draws weights, always the same ones.
        hub: The usual hub id.
        loading: Without a base.
        make: Builds the network of its settings.
        release: Settings of random weights.
        settings_of: Reads the settings off the weights.

    Returns:
        The network; and the file, None for random weights.

    Raises:
        ValueError: If a base is named, or the weights are not there or do not fit.
    """
    if loading.base is not None:
        raise ValueError(f"{hub} has no autoencoder: it takes no base; leave it out")
    if source == RANDOM:
        with torch.random.fork_rng(devices=[]), loading.device, PlainNumbers():
            torch.manual_seed(0)
            return make(release).to(loading.device), None
    path = find_checkpoint(source or hub, (FILE,))
    weights = blocks_of(read_weights(path, loading.device), path)
    with META, PlainNumbers():
        network = build_of(str(path), lambda: make(settings_of(weights)))
    fill(network, weights, origin=str(path), assign=True)
    return network.to(loading.device).requires_grad_(False), path


def blocks_of(weights: Weights, path: Path) -> dict[str, Tensor]:
    """Return the weights of the blocks, by their own names; those of heads and of other branches are left out.

    Raises:
        ValueError: If the file has no blocks that join views.
    """
    places = [name.removesuffix(MARK) for name in weights if name.rpartition(".")[2] == MARK]
    if not places:
        raise ValueError(
            f"{path} holds no {MARK}, expected a network whose blocks join views; a model of depth alone sees each "
            "view by itself, give an any-view one"
        )
    return {name.removeprefix(places[0]): x for name, x in weights.items() if name.startswith(places[0])}


def count_blocks(names: Iterable[str], folder: str) -> int:
    """Count the blocks under a name, from the names of weights."""
    return len({name[len(folder) + 1 :].partition(".")[0] for name in names if name.startswith(f"{folder}.")})


def image_side(positions: Float[Tensor, "1 n c"]) -> int:
    """Return the side in pixels that learned positions, a class token's first, were made for."""
    return math.isqrt(positions.shape[1] - 1) * PATCH


def as_grids(tokens: Float[Tensor, "b f n c"], images: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
    """Lay the patches' features out as images."""
    rows = images.shape[-2] // PATCH
    return rearrange(tokens, "b f (h w) c -> b f c h w", h=rows).to(images.dtype)
