"""VGGT's aggregator: blocks within each view and over all views in turn, from the package that the user installed.

Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.

- Views: every ``global_blocks.N`` attends over all tokens of all views, every ``frame_blocks.N`` over one view's; the
  blocks of DINOv2 in front (``patch_embed.blocks.N``) see one view as well. One camera token and four registers stand
  before each view's patches; they are no part of the grid. The first view is the frame of reference.
- Numbers: of the release's 72 self-attentions, ``global_blocks.N`` is index 25 + 2 N and 3D layer N.
- No noise, no cameras: the network gets clean images. Its heads (cameras, depth, points, tracks) are not built.
- Weights: a file, folder or hub id with ``model.safetensors``; sizes are read off the weights. "random" draws those of
  the release's sizes (909 million).

Source: docs/references.md, "VGGT"; facebookresearch/vggt vggt/models/aggregator.py.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from probe.models.parts.feed_forward import (
    MARK,
    PATCH,
    FeedForwardModel,
    FeedForwardNetwork,
    Settings,
    as_grids,
    build,
    count_blocks,
    image_side,
    load_blocks,
)
from probe.models.parts.files import Loading, Weights, named
from probe.models.parts.installed import import_first
from probe.models.parts.latents import view_size

HUB = "facebook/VGGT-1B"
INSTALL = "clone github.com/facebookresearch/vggt and pip install it"
NATIVE = 518
RELEASE: Settings = {"img_size": NATIVE, "embed_dim": 1024, "depth": 24, "num_heads": 16, "num_register_tokens": 4}
ENCODERS = {384: "dinov2_vits14_reg", 768: "dinov2_vitb14_reg", 1024: "dinov2_vitl14_reg", 1536: "dinov2_vitg2_reg"}
"""The encoder in front, by its width."""
PUBLISHED = (10, 16)
"""Global blocks, first and last, whose heads match points by a summary, unchecked (docs/references.md, "VGGT")."""


class VGGTNetwork(FeedForwardNetwork):
    """Call the package's aggregator; its class stands behind this one."""

    def forward(self, images: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Return the patches' features after the last pair of blocks.

        Args:
            images: Colours in [0, 1], sides multiples of 14.
        """
        aggregator: Any = super()
        with self.running(images):
            layers, start = aggregator.forward(images.contiguous())
        return as_grids(layers[-1][:, :, start:], images)


def load_vggt(source: str, loading: Loading) -> FeedForwardModel:
    """Load the aggregator's weights into the class of the user's package.

    Args:
        source: A file, folder or hub id; empty for the release's hub id; "random" draws weights of its sizes.
        loading: The size of the views; it takes no base.

    Raises:
        ValueError: If the package or the weights are missing, or do not fit.
    """
    package = import_first(["vggt.models.aggregator"], install=INSTALL)
    size = view_size(loading, NATIVE, multiple=PATCH)
    make = partial(build, VGGTNetwork, package.Aggregator, size)
    network, path = load_blocks(source, HUB, loading, make=make, release=RELEASE, settings_of=settings_of)
    return FeedForwardModel(
        name=named("vggt", source),
        network=network,
        size=size,
        card={"weights": path.name if path else "random, seed 0", **published(network)},
        folder=path.parent if path else None,
    )


def settings_of(weights: Weights) -> Settings:
    """Read the aggregator's sizes off its weights.

    Raises:
        KeyError: If a weight is missing that all versions have.
    """
    width, plain = weights[MARK].shape[-1], "patch_embed.proj.weight" in weights
    positions = "patch_embed.pos_embed"
    return {
        "img_size": NATIVE if plain else image_side(weights[positions]),
        "embed_dim": width,
        "depth": count_blocks(weights, "frame_blocks"),
        "num_heads": width // len(weights["frame_blocks.0.attn.q_norm.weight"]),
        "num_register_tokens": weights["register_token"].shape[2],
        "patch_embed": "conv" if plain else ENCODERS[width],
    }


def published(network: nn.Module) -> dict[str, object]:
    """Return where the literature finds matching heads, in this suite's numbers; nothing of other depths."""
    names = [name for name, _ in network.named_parameters()]
    if count_blocks(names, "global_blocks") != RELEASE["depth"]:
        return {}
    first, last = (count_blocks(names, "patch_embed.blocks") + 1 + 2 * block for block in PUBLISHED)
    blocks = f"global blocks {PUBLISHED[0]} to {PUBLISHED[1]}, which are layers {first} to {last} here"
    return {"published layers": f"a summary of arXiv 2512.11508, unchecked here, has matching heads in {blocks}"}
