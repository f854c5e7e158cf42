"""LTX-Video as diffusers has it: every ``transformer_blocks.N.attn1`` joins all latent frames; text by cross-attention.

- Weights: a folder or hub id of a diffusers pipeline (``transformer/``, ``vae/``, ``scheduler/``; ``text_encoder/``
  where the prompt is to be encoded). Empty: ``Lightricks/LTX-Video``.
- Views: latent frames (:mod:`probe.models.video.model`), of still clips or of one clip, which the rotary tables take to
  be 8 frames of 25 a second apart, as in diffusers' pipeline. Cameras: none.
- Text: the empty prompt by T5, its padding masked; zeros without ``text_encoder/``.
- References: clean, their tokens at time 0, as diffusers' image-to-video pipeline has its first frame; the same weights
  serve text to video.
- Noise: flow matching; the network is told 1000 sigma (below float32 rounded to its precision). The scheduler's
  dynamic shift depends on the number of tokens and is left out: sigma is (t + 1) / 1000.
- The autoencoder's decoder is told time 0 where it takes one, as by the pipeline's default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import Inputs
from probe.models.parts.files import Loading, named
from probe.models.parts.latents import view_size
from probe.models.video.folder import empty_prompt, find_folder, noise_of, read_autoencoder, read_part
from probe.models.video.model import TEXT, VideoModel

HUB = "Lightricks/LTX-Video"
NAME = "ltx"
NATIVE = 512
TEXT_LENGTH = 128
FRAME_RATE = 25
"""Frames per second, diffusers' pipeline by default."""


@dataclass(frozen=True, kw_only=True)
class LTX(VideoModel):
    """An LTX-Video transformer.

    Attributes:
        text_mask: 1 for tokens of the prompt, 0 for padding.
    """

    text_mask: Float[Tensor, " tokens"]
    patch: int = 1

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return a token per latent, the time of each token, the text, and the scale of rotary positions."""
        _, views, _, h, w = latents.shape
        stride, frames = self.vae.spatial_compression_ratio, self.vae.temporal_compression_ratio
        return {
            "hidden_states": rearrange(latents, "b f c h w -> b (f h w) c"),
            "encoder_hidden_states": inputs[TEXT],
            "timestep": self.token_times(t, inputs, latents),
            "encoder_attention_mask": repeat(self.text_mask.to(latents), "n -> b n", b=len(latents)),
            "num_frames": views,
            "height": h,
            "width": w,
            "rope_interpolation_scale": (frames / FRAME_RATE, stride, stride),  # type: ignore[operator]
            "return_dict": False,
        }

    def to_views(self, output: Tensor, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """Return tokens as latent frames."""
        _, views, _, h, w = latents.shape
        return rearrange(output, "b (f h w) c -> b f c h w", f=views, h=h, w=w)

    def decoded(self, clips: Float[Tensor, "bf c 1 h w"]) -> Float[Tensor, "bf 3 1 H W"]:
        """Call the autoencoder's decoder, at time 0 where it takes a time."""
        timed = self.vae.config.timestep_conditioning  # type: ignore[union-attr]
        frames: Tensor = self.vae.decode(clips, clips.new_zeros(len(clips)) if timed else None).sample  # type: ignore[operator]
        return frames


def load_ltx(source: str, loading: Loading) -> LTX:
    """Load the folder of an LTX-Video pipeline.

    Args:
        source: Folder or hub id; empty for the hub's.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.

    Raises:
        ValueError: If it is not there, or is a variant with other inputs.
    """
    folder = find_folder(source or HUB)
    network = read_part(LTXVideoTransformer3DModel, folder / "transformer", loading)
    vae, noise = read_autoencoder(AutoencoderKLLTXVideo, folder, loading), noise_of(folder)
    _check(network, vae.config.latent_channels, folder)
    prompt = empty_prompt(folder, TEXT_LENGTH, network.config.caption_channels, loading, masked=False)
    return LTX(
        name=named(NAME, source),
        network=network,
        alpha_bar=noise.alpha_bar,
        size=view_size(loading, NATIVE, multiple=vae.spatial_compression_ratio),
        channels=vae.config.latent_channels,
        stride=vae.spatial_compression_ratio,
        prediction=noise.prediction,
        clean_references=True,
        default_layer=network.config.num_layers // 2,
        card={"text": prompt.note, "references": "clean", "noise": noise.note},
        folder=folder,
        packs=int(vae.temporal_compression_ratio),
        vae=vae,
        latent_shift=vae.latents_mean,
        latent_scale=vae.config.scaling_factor / vae.latents_std,
        text=prompt.text,
        text_mask=prompt.mask,
        references="clean",
    )


def _check(network: LTXVideoTransformer3DModel, latents: int, folder: Path) -> None:
    config = network.config
    if config.in_channels != latents or (config.patch_size, config.patch_size_t) != (1, 1):
        raise ValueError(
            f"load_ltx: {folder}/transformer takes {config.in_channels} channels for {latents} of the autoencoder, in "
            f"patches of {config.patch_size} and {config.patch_size_t} frames; expected {latents} channels and a token "
            "per latent; bring it by module:"
        )
