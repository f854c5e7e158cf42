"""What video models share: views as latent frames, text without words, references, and small inputs to find layers by.

A video autoencoder packs 4 or 8 frames into one latent frame; the first frame of a clip is alone. A view is a latent
frame, in one of two ways:

- Still clips: each view is encoded as a clip of one frame, and the latent frames of a scene's views stand side by side
  along time. The models were trained on moving clips; views that are far apart are cuts to them.
- A real clip (``--frames-per-view``; :attr:`probe.views.Views.clip`): its frames are encoded together, and each view is
  the last frame of the group that its latent frame holds (:data:`probe.views.TRUE_FRAME`).

Decoding takes latent frames one by one, and so still clips alone. How each pipeline calls its network:
docs/references.md, "Video models".
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.attention.modules import compute_device
from probe.models.model import Inputs, MultiViewModel, check_frames, to_latents
from probe.models.schedules import STEPS, noise_scales
from probe.views import Views

References = Literal["noised", "clean", "channels", "source"]
"""How references enter: noised like all views (text to video), clean at timestep 0, also as channels beside them, or
clean at the targets' timestep, as a video of their own."""
TEXT, TARGETS, IMAGE = "text", "targets", "image"


@dataclass(frozen=True, kw_only=True)
class VideoModel(MultiViewModel):
    """A video transformer of diffusers, whose latent frames are views. A subclass says how its network is called.

    Attributes:
        vae: The autoencoder of clips.
        latent_shift: Subtracted from the autoencoder's latents, per channel.
        latent_scale: Multiplies them then.
        text: The prompt without words, as the network reads it.
        references: How reference views enter.
        image_channels: Channels beside the latents that hold the references, where they enter as channels.
        patch: Latents per token, along a side.
    """

    vae: nn.Module
    latent_shift: Float[Tensor, " channels"]
    latent_scale: Float[Tensor, " channels"]
    text: Float[Tensor, "tokens width"]
    references: References = "noised"
    image_channels: int = 0
    patch: int = 2

    FRAMES_FIRST: ClassVar[bool] = False
    """Whether the network takes frames before channels."""

    @property
    def settings(self) -> Any:
        """The configuration of the network."""
        return self.network.config

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Turn colours in [0, 1] into normalised latents, each view as a clip of one frame: the posterior's mean."""
        alone = rearrange(image, "b f c h w -> (b f) 1 c h w")
        return rearrange(self.encode_clip(alone), "(b f) 1 c h w -> b f c h w", f=image.shape[1])

    @torch.no_grad()
    def encode_clip(self, frames: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Turn a clip's colours in [0, 1] into normalised latent frames: one for the first, one for each ``packs``."""
        clip = rearrange(to_latents(frames), "b n c h w -> b c n h w").to(_dtype(self.vae))
        latents = self.vae.encode(clip).latent_dist.mode().to(frames.dtype)  # type: ignore[operator]
        ordered = rearrange(latents, "b c f h w -> b f c h w")
        return (ordered - _channels(self.latent_shift)) * _channels(self.latent_scale)

    def encode_views(self, views: Views) -> Float[Tensor, "b f c h w"]:
        """Turn views into normalised latents: each as a still clip, or the clip that they are frames of."""
        if views.clip is None:
            return self.encode(views.image)
        check_frames(self, views.frames_per_view)
        return self.encode_clip(views.clip.image)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """Turn normalised latents into colours in [0, 1], one latent frame at a time."""
        raw = latents / _channels(self.latent_scale) + _channels(self.latent_shift)
        clips = rearrange(raw, "b f c h w -> (b f) c 1 h w").to(_dtype(self.vae))
        image = self.decoded(clips)[:, :, 0].to(latents.dtype)
        return ((rearrange(image, "(b f) c h w -> b f c h w", f=latents.shape[1]) + 1) / 2).clamp(0, 1)

    def decoded(self, clips: Float[Tensor, "bf c 1 h w"]) -> Float[Tensor, "bf 3 1 H W"]:
        """Call the autoencoder's decoder."""
        frames: Tensor = self.vae.decode(clips).sample  # type: ignore[operator]
        return frames

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return the text, which views are targets, and the references' channels; the network takes no cameras."""
        near = views.to(self.alpha_bar.device)
        targets = torch.ones(near.image.shape[:2], device=near.image.device)
        targets[:, : views.n_ref] = 0
        inputs = {TEXT: repeat(self.text, "n c -> b n c", b=len(targets)), TARGETS: targets}
        return inputs | ({IMAGE: self.reference_channels(near, targets)} if self.image_channels else {})

    def reference_channels(self, views: Views, targets: Float[Tensor, "b f"]) -> Float[Tensor, "b f channels h w"]:
        """Return the channels that hold the references, where the network has them."""
        raise NotImplementedError

    def denoise(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> Float[Tensor, "b f c h w"]:
        """Call the network on the latent frames of all views."""
        return self.to_views(self.network(**self.network_inputs(latents, t, inputs))[0], latents)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Any]:
        """Make inputs for recognising layers; scale None gives the size that the views are shown at."""
        side = self.size // self.stride if scale is None else scale * self.patch
        device, dtype = compute_device(self.network), next(self.network.parameters()).dtype
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        inputs = self.probe_conditioning(views, side, like)
        latents = torch.zeros(1, views, self.channels, side, side, **like)
        arguments = self.network_inputs(latents, torch.zeros(1, dtype=torch.long, device=device), inputs)
        return {name: x.to(dtype) if _is_float(x) else x for name, x in arguments.items()}

    def probe_conditioning(self, views: int, side: int, like: dict[str, Any]) -> Inputs:
        """Make what :meth:`condition` returns, of zeros.

        Args:
            views: Number of views, all of them targets.
            side: Of the latents.
            like: Device and precision.
        """
        inputs = {TEXT: self.text[None].to(**like), TARGETS: torch.ones(1, views, **like)}
        if self.image_channels:
            inputs[IMAGE] = torch.zeros(1, views, self.image_channels, side, side, **like)
        return inputs

    @abstractmethod
    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return the arguments of the network's forward, as diffusers' pipeline gives them."""

    def frames(self, latents: Float[Tensor, "b f c h w"], inputs: Inputs) -> Tensor:
        """Return latents with the references' channels beside them, in the network's order of axes."""
        image = [inputs[IMAGE].to(latents)] if self.image_channels else []
        joined = torch.cat([latents, *image], dim=2)
        return joined if self.FRAMES_FIRST else rearrange(joined, "b f c h w -> b c f h w")

    def to_views(self, output: Tensor, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """Return the network's output in the order of axes of views."""
        return output if self.FRAMES_FIRST else rearrange(output, "b c f h w -> b f c h w")

    def flow_time(self, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the time that a network of flow matching is told: 1000 sigma."""
        sigma = noise_scales(self.alpha_bar[t.to(self.alpha_bar.device)], "flow")[1]
        return (STEPS * sigma).float().to(t.device)

    def token_times(
        self, t: Int[Tensor, " b"], inputs: Inputs, latents: Float[Tensor, "b f c h w"]
    ) -> Float[Tensor, "b tokens"]:
        """Return the time of each token: 0 in references, which are clean."""
        times = rearrange(self.flow_time(t), "b -> b 1") * inputs[TARGETS].to(t.device)
        tokens = (latents.shape[-2] // self.patch) * (latents.shape[-1] // self.patch)
        return repeat(times, "b f -> b (f tokens)", tokens=tokens)


def _channels(x: Float[Tensor, " c"]) -> Float[Tensor, "c 1 1"]:
    return rearrange(x, "c -> c 1 1")


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
