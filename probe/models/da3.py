"""Depth Anything 3's backbone: DINOv2 whose later blocks attend to all views, from the package that the user installed.

Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.

- Views: the first blocks see one view each; from ``alt_start`` on (block 4 of small and base, 8 of large, 13 of giant)
  every block of odd number attends over all tokens of all views. A self-attention's index is its block's. One token
  stands before each view's patches: the class token, and from ``alt_start`` on the camera token in its place.
- Reference: the first view. By default the package picks one itself from three views on and moves it to the front,
  where tokens would no longer be in the views' order; here ``ref_view_strategy`` is "first".
- No noise, no cameras: the network gets clean images; the encoder that takes known cameras is not built, nor are heads.
- Weights: a file, folder or hub id with ``model.safetensors`` (of any-view models, nested ones too); sizes are read off
  the weights. "random" draws those of DA3-BASE's sizes (87 million).

Source: docs/references.md, "Depth Anything 3"; src/depth_anything_3/model/dinov2/vision_transformer.py.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from probe.models.parts.feed_forward import (
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

HUB = "depth-anything/DA3-BASE"
INSTALL = "pip install depth-anything-3"
NATIVE = 504
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARNINGS = 1
"""Level of the package's logger, which else prints a line per forward."""


def settings_for(
    *, width: int, depth: int, heads: int, alternating: int, side: int = 518, ffn: str = "mlp"
) -> Settings:
    """Return arguments of the package's class.

    Args:
        width: Channels of a token.
        depth: Number of blocks.
        heads: Of each block.
        alternating: First block with normalised queries, rotary positions and the camera token.
        side: In pixels, of the learned positions.
        ffn: Kind of the blocks' second part.
    """
    starts = dict.fromkeys(("alt_start", "qknorm_start", "rope_start"), alternating)
    sizes = {"img_size": side, "patch_size": PATCH, "embed_dim": width, "depth": depth, "num_heads": heads}
    return {**sizes, **starts, "ffn_layer": ffn, "cat_token": True, "drop_path_uniform": True}


RELEASE = settings_for(width=768, depth=12, heads=12, alternating=4)


class DA3Network(FeedForwardNetwork):
    """Call the package's backbone; its class stands behind this one."""

    def forward(self, images: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Return the patches' features after the last block.

        Args:
            images: Colours in [0, 1], sides multiples of 14.
        """
        backbone: Any = self
        mean, deviation = (images.new_tensor(value)[:, None, None] for value in (MEAN, DEVIATION))
        with self.running(images):
            outputs, _ = backbone.get_intermediate_layers((images - mean) / deviation, 1, ref_view_strategy="first")
        return as_grids(outputs[-1][0], images)


def load_da3(source: str, loading: Loading) -> FeedForwardModel:
    """Load the backbone's weights into the class of the user's package.

    Args:
        source: A file, folder or hub id; empty for DA3-BASE on the hub; "random" draws weights of its sizes.
        loading: The size of the views; it takes no base.

    Raises:
        ValueError: If the package or the weights are missing, do not fit, or see each view by itself.
    """
    package = import_first(["depth_anything_3.model.dinov2.vision_transformer"], install=INSTALL)
    package.logger.level = min(package.logger.level, WARNINGS)
    size = view_size(loading, NATIVE, multiple=PATCH)
    make = partial(build, DA3Network, package.DinoVisionTransformer, size)
    network, path = load_blocks(source, HUB, loading, make=make, release=RELEASE, settings_of=settings_of)
    return FeedForwardModel(
        name=named("da3", source),
        network=network,
        size=size,
        card={"weights": path.name if path else "random, seed 0"},
        folder=path.parent if path else None,
    )


def settings_of(weights: Weights) -> Settings:
    """Read the backbone's sizes off its weights.

    Raises:
        KeyError: If a weight is missing that all versions have.
    """
    width, depth = weights["cls_token"].shape[-1], count_blocks(weights, "blocks")
    normalised = [block for block in range(depth) if f"blocks.{block}.attn.q_norm.weight" in weights]
    return settings_for(
        width=width,
        depth=depth,
        heads=width // len(weights[f"blocks.{normalised[0]}.attn.q_norm.weight"]),
        alternating=normalised[0],
        side=image_side(weights["pos_embed"]),
        ffn="swiglufused" if "blocks.0.mlp.w12.weight" in weights else "mlp",
    )
