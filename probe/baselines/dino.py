"""DINOv2 and DINOv3: self-supervised image features, one per token, through the optional package transformers.

- Weights: a transformers folder, or a hub id whose files are in the local cache; nothing is downloaded. Empty:
  ``facebook/dinov2-base`` (Apache-2.0) and ``facebook/dinov3-vitb16-pretrain-lvd1689m`` (DINOv3 License, gated).
- Size: the longer side becomes 37 patches of 14 pixels (518: that of CAMEO's REPA) or 32 of 16 (512), the other side
  the whole number of patches nearest to the image's shape. Colours less ImageNet's mean, over its deviation.
- Features: of the last block, after its norm; the class token and the registers are dropped (reference/formats.md A6).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from probe.baselines.describing import Described, by_descriptors
from probe.baselines.maps import at_tokens, unit
from probe.compat import declare_torchvision_operators
from probe.measure.matcher import Matcher
from probe.views import Views

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = {"dinov2": ("dinov2", "dinov2_with_registers"), "dinov3": ("dinov3_vit",)}
"""What ``model_type`` of config.json may be."""
USUAL = {"dinov2": "facebook/dinov2-base", "dinov3": "facebook/dinov3-vitb16-pretrain-lvd1689m"}
PATCHES = {"dinov2": 37, "dinov3": 32}
"""Along the longer side."""


@dataclass(frozen=True, kw_only=True)
class Dino:
    """Hold a frozen encoder.

    Attributes:
        network: Of transformers: pixel values to tokens, special ones first.
        patches: Along the longer side.
    """

    network: nn.Module
    patches: int

    @property
    def width(self) -> int:
        """Give the number of features."""
        return int(self.network.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b f 3 height width"]) -> Float[Tensor, "b f c h w"]:
        """Give the features of every patch, where the network lies."""
        config: Any = self.network.config
        grid = patch_grid((image.shape[-2], image.shape[-1]), self.patches)
        flat = rearrange(image, "b f c height width -> (b f) c height width").to(next(self.network.parameters()))
        big = F.interpolate(flat, [side * config.patch_size for side in grid], mode="bilinear", antialias=True)
        tokens = self.network(pixel_values=normalised(big)).last_hidden_state
        special = 1 + getattr(config, "num_register_tokens", 0)
        return rearrange(tokens[:, special:], "(b f) (h w) c -> b f c h w", f=image.shape[1], h=grid[0])


def normalised(image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Take ImageNet's mean from colours in [0, 1], and divide by its deviation."""
    mean, deviation = (rearrange(image.new_tensor(values), "c -> c 1 1") for values in (MEAN, DEVIATION))
    return (image - mean) / deviation


def patch_grid(size: tuple[int, int], patches: int) -> tuple[int, int]:
    """Give the rows and columns of patches for an image: ``patches`` along its longer side, at least 1."""
    rows, columns = (max(1, round(patches * side / max(size))) for side in size)
    return rows, columns


def load_encoder(kind: str, source: str = "", device: torch.device | str = "cpu") -> Dino:
    """Load an encoder from a folder or the local cache.

    Args:
        kind: "dinov2" or "dinov3".
        source: Folder or hub id; empty for the usual one.
        device: Where it computes.

    Raises:
        ValueError: If transformers or the weights are not at hand, or are of another kind or incomplete.
    """
    source = source or USUAL[kind]
    declare_torchvision_operators()  # before transformers, which imports torchvision
    try:
        from transformers import AutoConfig, AutoModel  # an optional package: only these matchers need it

        found = AutoConfig.from_pretrained(source, local_files_only=True).model_type
        _check_kind(kind, source, found)
        network, loaded = AutoModel.from_pretrained(
            source, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except ImportError as error:
        raise ValueError(f"load_encoder: {kind} needs transformers ({error}); pip install transformers") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"load_encoder: {kind}: {source} is no folder of its weights and not in the local cache "
            f"({type(error).__name__}); huggingface-cli download {source if not Path(source).exists() else USUAL[kind]}"
            f" on a machine with a network, then give the folder"
        ) from error
    if loaded["missing_keys"]:
        raise ValueError(
            f"load_encoder: {source} lacks {len(loaded['missing_keys'])} weights {sorted(loaded['missing_keys'])[:2]}; "
            "download it again"
        )
    return Dino(network=network.to(device).float().eval().requires_grad_(False), patches=PATCHES[kind])


def _check_kind(kind: str, source: str, found: str) -> None:
    if found not in KINDS[kind]:
        raise ValueError(f"load_encoder: {source} is of kind {found!r}, expected {' or '.join(KINDS[kind])} for {kind}")


def load_matcher(kind: str, source: str, device: torch.device) -> Matcher:
    """Load an encoder as a matcher: the nearest patch feature, by cosine, at the centres of tokens."""
    encoder = load_encoder(kind, source, device)

    def describe(views: Views) -> Described:
        maps = encoder.encode(views.image).to(views.image)
        return lambda grid: unit(at_tokens(maps, grid))

    return by_descriptors(describe)


load_dinov2, load_dinov3 = partial(load_matcher, "dinov2"), partial(load_matcher, "dinov3")
