"""Video transformers as users would bring them (small, random weights): ``--model module:video_models.wan``, from here.

A view is one frame of the transformer. Video autoencoders compress time (Wan: 4 frames, CogVideoX: 4), so a clip of all
views would have token frames that stand for groups of views, whose correspondences no token could tell. Both keep a
clip's first frame alone, so each view is encoded as a clip of one frame, and has a token frame of its own. Here the
"latents" are the colours (stride 1); with a real autoencoder, override encode and decode and set stride and channels.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from probe.models.model import MultiViewModel
from probe.models.schedules import pixel_scheduler
from probe.views import Views

SIZE = 32
TEXT, TEXT_WIDTH = 6, 8
PATCH = 4


class Video(MultiViewModel):
    """A transformer that wants an embedded prompt beside the frames, and no cameras."""

    frames_first = True
    """Whether the network takes frames before channels."""

    def condition(self, views: Views, keep_cameras: Tensor | None = None) -> dict[str, Tensor]:
        return {"prompt": torch.zeros(len(views.image), TEXT, TEXT_WIDTH, device=views.image.device)}

    def denoise(self, latents: Tensor, t: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        out = self.network(self._turned(latents), timestep=t, encoder_hidden_states=inputs["prompt"], return_dict=False)
        return self._turned(out[0])

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Any]:
        side = self.size if scale is None else PATCH * scale
        return {
            "hidden_states": self._turned(torch.zeros(1, views, self.channels, side, side)),
            "timestep": torch.zeros(1, dtype=torch.long),
            "encoder_hidden_states": torch.zeros(1, TEXT, TEXT_WIDTH),
        }

    def _turned(self, latents: Tensor) -> Tensor:
        return latents if self.frames_first else rearrange(latents, "b one two h w -> b two one h w")


class Wan(Video):
    """Channels before frames; text through cross-attention."""

    frames_first = False


def wan() -> MultiViewModel:
    from diffusers import WanTransformer3DModel  # here, because probe.models must be imported first

    network = WanTransformer3DModel(
        patch_size=(1, PATCH, PATCH), num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3,
        text_dim=TEXT_WIDTH, freq_dim=8, ffn_dim=16, num_layers=3,
    )  # fmt: skip
    return Wan(name="wan", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)


def cogvideox() -> MultiViewModel:
    from diffusers import CogVideoXTransformer3DModel

    network = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH, num_layers=2, sample_width=SIZE, sample_height=SIZE, sample_frames=9,
        patch_size=PATCH, temporal_compression_ratio=4, max_text_seq_length=TEXT,
    )  # fmt: skip
    return Video(name="cogvideox", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)
