"""HunyuanVideo as diffusers has it: ``transformer_blocks`` and ``single_transformer_blocks`` join frames and text.

- Weights: a folder or hub id of a diffusers pipeline (``transformer/``, ``vae/``, ``scheduler/``). Empty:
  ``hunyuanvideo-community/HunyuanVideo``.
- Views: latent frames (:mod:`probe.models.video.model`), of still clips or of one clip. Cameras: none.
- Text: one token of zeros behind the views, and zeros for the pooled embedding; the Llama of the pipeline is not run.
- References: noised like all views. Its image-to-video networks are rejected.
- Noise: flow matching, sigma by the scheduler's shift; the network is told 1000 sigma (below float32 rounded to its
  precision), and, where it is distilled, the pipeline's guidance of 6.
- Its attentions always come with a mask, of text padding; here it hides nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import Inputs
from probe.models.parts.files import Loading, named
from probe.models.parts.latents import view_size
from probe.models.video.folder import find_folder, noise_of, read_autoencoder, read_part, zeros_prompt
from probe.models.video.model import TEXT, VideoModel

HUB = "hunyuanvideo-community/HunyuanVideo"
NAME = "hunyuan-video"
NATIVE = 720
GUIDANCE = 6.0
"""That of diffusers' pipeline by default; the network is told 1000 times it."""


@dataclass(frozen=True, kw_only=True)
class HunyuanVideo(VideoModel):
    """A HunyuanVideo transformer."""

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return channels before frames, the time, the text with a mask that hides nothing, and the guidance."""
        config, scenes = self.settings, len(latents)
        return {
            "hidden_states": self.frames(latents, inputs),
            "timestep": self.flow_time(t),
            "encoder_hidden_states": inputs[TEXT],
            "encoder_attention_mask": torch.ones(inputs[TEXT].shape[:2], dtype=torch.long, device=latents.device),
            "pooled_projections": latents.new_zeros(scenes, config.pooled_projection_dim),
            "guidance": latents.new_full((scenes,), 1000 * GUIDANCE) if config.guidance_embeds else None,
            "return_dict": False,
        }


def load_hunyuan_video(source: str, loading: Loading) -> HunyuanVideo:
    """Load the folder of a HunyuanVideo pipeline.

    Args:
        source: Folder or hub id; empty for the hub's.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.

    Raises:
        ValueError: If it is not there, or is a variant with other inputs.
    """
    folder = find_folder(source or HUB)
    network = read_part(HunyuanVideoTransformer3DModel, folder / "transformer", loading)
    vae, noise = read_autoencoder(AutoencoderKLHunyuanVideo, folder, loading), noise_of(folder)
    _check(network, vae.config.latent_channels, folder)
    config, stride = network.config, int(vae.config.spatial_compression_ratio)
    prompt = zeros_prompt(1, config.text_embed_dim, loading, "one token of zeros")
    ones = torch.ones(vae.config.latent_channels, device=loading.device)
    return HunyuanVideo(
        name=named(NAME, source),
        network=network,
        alpha_bar=noise.alpha_bar,
        size=view_size(loading, NATIVE, multiple=stride * config.patch_size),
        channels=vae.config.latent_channels,
        stride=stride,
        prediction=noise.prediction,
        clean_references=False,
        default_layer=config.num_layers // 2,
        card={"text": prompt.note, "references": "noised", "noise": noise.note},
        folder=folder,
        packs=int(vae.temporal_compression_ratio),
        vae=vae,
        latent_shift=torch.zeros_like(ones),
        latent_scale=ones * vae.config.scaling_factor,
        text=prompt.text,
        patch=config.patch_size,
    )


def _check(network: HunyuanVideoTransformer3DModel, latents: int, folder: Path) -> None:
    config = network.config
    if config.image_condition_type is not None or config.in_channels != latents or config.patch_size_t != 1:
        raise ValueError(
            f"load_hunyuan_video: {folder}/transformer takes {config.in_channels} channels for {latents} of the "
            f"autoencoder, images by {config.image_condition_type}, {config.patch_size_t} latent frames in a token; "
            f"expected text to video: {latents} channels, no images, 1 frame; bring it by module:"
        )
