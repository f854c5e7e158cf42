"""CogVideoX as diffusers has it: every ``transformer_blocks.N.attn1`` joins the text and all latent frames.

- Weights: a folder or hub id of a diffusers pipeline (``transformer/``, ``vae/``, ``scheduler/``; ``text_encoder/``
  where the prompt is to be encoded). Empty: ``zai-org/CogVideoX-2b``.
- Views: latent frames (:mod:`probe.models.video.model`), of still clips or of one clip. Cameras: none.
- Text: the empty prompt by T5 with its padding, 226 tokens before the views; zeros without ``text_encoder/``.
- References: noised like all views; in image to video (twice the channels) their latents stand in the channels beside,
  with zeros in targets.
- Noise: betas with zero terminal SNR, v-prediction, by ``scheduler/``.
- Rotary tables (5b) are made by diffusers' functions as in its pipeline. CogVideoX-5b-I2V has learned positions for
  480 x 720 alone, and version 1.5 joins two latent frames in a token: both are rejected.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import Inputs
from probe.models.parts.files import Loading, named
from probe.models.parts.latents import view_size
from probe.models.video.folder import empty_prompt, find_folder, noise_of, read_autoencoder, read_part
from probe.models.video.model import TEXT, References, VideoModel
from probe.views import Views

HUB = "zai-org/CogVideoX-2b"
NAME = "cogvideox"


@dataclass(frozen=True, kw_only=True)
class CogVideoX(VideoModel):
    """A CogVideoX transformer."""

    FRAMES_FIRST: ClassVar[bool] = True

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return frames before channels, the timestep index, the text, and rotary tables where there are such."""
        return {
            "hidden_states": self.frames(latents, inputs),
            "timestep": t,
            "encoder_hidden_states": inputs[TEXT],
            "image_rotary_emb": self._rotary(latents),
            "return_dict": False,
        }

    def reference_channels(self, views: Views, targets: Float[Tensor, "b f"]) -> Float[Tensor, "b f channels h w"]:
        """Return the latents of references, and zeros in targets."""
        latents = self.encode_views(views) * rearrange(1 - targets, "b f -> b f 1 1 1")
        vae: Any = self.vae.config
        return latents / vae.scaling_factor**2 if vae.invert_scale_latents else latents

    def _rotary(self, latents: Float[Tensor, "b f c h w"]) -> tuple[Tensor, Tensor] | None:
        config = self.settings
        if not config.use_rotary_positional_embeddings:
            return None
        h, w = (side // self.patch for side in latents.shape[-2:])
        native = (config.sample_width // self.patch, config.sample_height // self.patch)
        tables = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=get_resize_crop_region_for_grid((h, w), *native),
            grid_size=(h, w),
            temporal_size=latents.shape[1],
        )
        return tables[0].to(latents.device), tables[1].to(latents.device)


def load_cogvideox(source: str, loading: Loading) -> CogVideoX:
    """Load the folder of a CogVideoX pipeline.

    Args:
        source: Folder or hub id; empty for the smallest on the hub.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.

    Raises:
        ValueError: If it is not there, or is a variant with other inputs.
    """
    folder = find_folder(source or HUB)
    network = read_part(CogVideoXTransformer3DModel, folder / "transformer", loading)
    vae, noise = read_autoencoder(AutoencoderKLCogVideoX, folder, loading), noise_of(folder)
    _check(network, vae.config.latent_channels, folder)
    config, stride = network.config, 2 ** (len(vae.config.block_out_channels) - 1)
    prompt = empty_prompt(folder, config.max_text_seq_length, config.text_embed_dim, loading, masked=False)
    beside, ones = config.in_channels - vae.config.latent_channels, torch.ones(vae.config.latent_channels)
    references: References = "channels" if beside else "noised"
    return CogVideoX(
        name=named(NAME, source),
        network=network,
        alpha_bar=noise.alpha_bar,
        size=view_size(loading, config.sample_height * stride, multiple=stride * config.patch_size),
        channels=vae.config.latent_channels,
        stride=stride,
        prediction=noise.prediction,
        clean_references=False,
        default_layer=config.num_layers // 2,
        card={"text": prompt.note, "references": references, "noise": noise.note},
        folder=folder,
        packs=int(vae.config.temporal_compression_ratio),
        vae=vae,
        latent_shift=torch.zeros_like(ones, device=loading.device),
        latent_scale=(ones * vae.config.scaling_factor).to(loading.device),
        text=prompt.text,
        references=references,
        image_channels=beside,
        patch=config.patch_size,
    )


def _check(network: CogVideoXTransformer3DModel, latents: int, folder: Path) -> None:
    config = network.config
    if config.patch_size_t is not None:
        raise ValueError(
            f"load_cogvideox: {folder}/transformer joins {config.patch_size_t} latent frames in a token (CogVideoX "
            "1.5), so that no token stands for one view; give a CogVideoX of version 1.0 (2b, 5b)"
        )
    if config.use_learned_positional_embeddings:
        raise ValueError(
            f"load_cogvideox: {folder}/transformer has learned positions for {config.sample_height} x "
            f"{config.sample_width} latents alone (CogVideoX-5b-I2V), but views are square; give CogVideoX-2b or 5b"
        )
    if config.in_channels not in (latents, 2 * latents):
        raise ValueError(
            f"load_cogvideox: {folder}/transformer takes {config.in_channels} channels for {latents} of the "
            f"autoencoder; expected {latents} (text to video) or {2 * latents} (image to video); bring it by module:"
        )
