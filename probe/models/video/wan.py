"""Wan 2.1 and 2.2 as diffusers has them: every ``blocks.N.attn1`` joins all latent frames; text by cross-attention.

- Weights: a folder or hub id of a diffusers pipeline (``transformer/``, ``vae/``, ``scheduler/``; ``text_encoder/``
  where the prompt is to be encoded). Empty: ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
- Views: latent frames (:mod:`probe.models.video.model`), of still clips or of one clip. Cameras: none.
- Text: the empty prompt by UMT5, zeros behind its end token, as the pipeline pads; zeros without ``text_encoder/``.
- References, by what the network takes. Text to video: noised like all views. Time per token (``expand_timesteps`` of
  model_index.json, Wan2.2-TI2V): clean, at time 0. Image to video (36 channels: latents, a mask, the image's latents):
  noised, and clean in the channels beside, where targets are grey; the mask is 1 in references. The image's embedding
  by CLIP (2.1) is zeros.
- Wan2.2-A14B has two networks: ``transformer/`` denoises above the pipeline's ``boundary_ratio`` of sigma, and is the
  one that is probed; a warning says from which timestep on it is in its range.
- Noise: flow matching, sigma by the scheduler's shift; the network is told 1000 sigma (below float32 rounded to its
  precision).
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import Inputs
from probe.models.parts.files import Loading, named, read_json
from probe.models.parts.latents import view_size
from probe.models.schedules import noise_scales
from probe.models.video.folder import INDEX, Noise, empty_prompt, find_folder, noise_of, read_autoencoder, read_part
from probe.models.video.model import TEXT, References, VideoModel
from probe.views import Views, hide_images

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
NAME = "wan"
TEXT_LENGTH = 512
IMAGE_TOKENS = 257
"""Of CLIP's embedding of an image: its class token and 16 x 16 patches."""
ROUNDING = 1e-9
NATIVE = {8: 480, 16: 704}
"""Side of the views by the autoencoder's pixels per latent: the shorter side of the videos it was trained on."""


@dataclass(frozen=True, kw_only=True)
class Wan(VideoModel):
    """A Wan transformer."""

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return channels before frames, the time of each scene or token, and the text."""
        clean = self.references == "clean"
        arguments = {
            "hidden_states": self.frames(latents, inputs),
            "timestep": self.token_times(t, inputs, latents) if clean else self.flow_time(t),
            "encoder_hidden_states": inputs[TEXT],
            "return_dict": False,
        }
        width = self.settings.image_dim
        image = (
            {}
            if width is None
            else {"encoder_hidden_states_image": latents.new_zeros(len(latents), IMAGE_TOKENS, width)}
        )
        return arguments | image

    def reference_channels(self, views: Views, targets: Float[Tensor, "b f"]) -> Float[Tensor, "b f channels h w"]:
        """Return a mask, 1 in references, then the latents of references and of grey targets."""
        latents = self.encode_views(hide_images(views, views.n_ref))
        h, w = latents.shape[-2:]
        mask = repeat(1 - targets, "b f -> b f c h w", c=self.image_channels - self.channels, h=h, w=w)
        return torch.cat([mask.to(latents), latents], dim=2)


def load_wan(source: str, loading: Loading) -> Wan:
    """Load the folder of a Wan pipeline.

    Args:
        source: Folder or hub id; empty for the smallest on the hub.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.

    Raises:
        ValueError: If it is not there, or is a variant with other inputs.
    """
    folder = find_folder(source or HUB)
    network = read_part(WanTransformer3DModel, folder / "transformer", loading)
    vae, noise, pipeline = (
        read_autoencoder(AutoencoderKLWan, folder, loading),
        noise_of(folder),
        read_json(folder / INDEX),
    )
    references = _references(network, vae, pipeline, folder)
    prompt = empty_prompt(folder, TEXT_LENGTH, network.config.text_dim, loading, masked=True)
    stride, patch = int(vae.config.scale_factor_spatial), int(network.config.patch_size[1])
    note = range_of(pipeline, noise)
    return Wan(
        name=named(NAME, source),
        network=network,
        alpha_bar=noise.alpha_bar,
        size=view_size(loading, NATIVE.get(stride, NATIVE[8]), multiple=stride * patch),
        channels=vae.config.z_dim,
        stride=stride,
        prediction=noise.prediction,
        clean_references=references == "clean",
        default_layer=network.config.num_layers // 2,
        card={"text": prompt.note, "references": references, "noise": noise.note, **note},
        folder=folder,
        packs=int(vae.config.scale_factor_temporal),
        vae=vae,
        latent_shift=torch.tensor(vae.config.latents_mean, device=loading.device),
        latent_scale=1 / torch.tensor(vae.config.latents_std, device=loading.device),
        text=prompt.text * rearrange(prompt.mask, "n -> n 1"),
        references=references,
        image_channels=network.config.in_channels - vae.config.z_dim,
        patch=patch,
    )


def _references(
    network: WanTransformer3DModel, vae: AutoencoderKLWan, pipeline: dict[str, Any], folder: Path
) -> References:
    """Return how references enter, by the network's channels and the pipeline's settings."""
    config, latents = network.config, vae.config.z_dim
    beside, patch = config.in_channels - latents, tuple(config.patch_size)
    if (
        beside not in (0, latents + vae.config.scale_factor_temporal)
        or patch[0] != 1
        or patch[1] != patch[2]
        or config.pos_embed_seq_len is not None
    ):
        raise ValueError(
            f"load_wan: {folder}/transformer takes {config.in_channels} channels in patches of {patch} for {latents} "
            f"of the autoencoder, image tokens {config.pos_embed_seq_len}; expected text to video ({latents} channels) "
            f"or image to video ({2 * latents + vae.config.scale_factor_temporal}), one frame and a square in a patch, "
            "no last image; bring it by module:"
        )
    if beside:
        return "channels"
    return "clean" if pipeline.get("expand_timesteps") else "noised"


def range_of(pipeline: dict[str, Any], noise: Noise) -> dict[str, object]:
    """Return, and warn, from which timestep on the first of two networks is in its range."""
    boundary = pipeline.get("boundary_ratio")
    if boundary is None:
        return {}
    sigma = noise_scales(noise.alpha_bar, "flow")[1]
    first = int((sigma < boundary - ROUNDING).sum())
    text = f"transformer/ denoises where sigma is {boundary:g} or more, timesteps {first} to {len(sigma) - 1}"
    warnings.warn(
        f"load_wan: {text}; transformer_2/, for the others, is not loaded: choose such --timesteps", stacklevel=3
    )
    return {"networks": text}
