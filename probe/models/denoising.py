"""One denoising step of a multi-view model: schedule, inputs, noise. Pure functions of tensors."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.geometry import plucker_rays
from probe.views import Views

STEPS = 1000
OTHERS = 2  # index of the domain "others"


@dataclass(frozen=True, kw_only=True)
class MultiViewModel:
    """Hold a denoiser with what its inputs need.

    Attributes:
        name: As given on the command line.
        network: Called as ``network(latents, t, inputs, domain)``; predicts v.
        alpha_bar: Share of signal variance left at each timestep index.
        size: Side of the images the network sees, in pixels.
        ray_scale: World units that make one unit of the rays' moment.
        card: What is known of the weights (data, steps, seed, ...).
        folder: Where the weights lie; None for random ones.
    """

    name: str
    network: nn.Module
    alpha_bar: Float[Tensor, " steps"]
    size: int
    ray_scale: float = 2.0
    card: dict[str, object] | None = None
    folder: Path | None = None


def cameo_betas() -> Float[Tensor, " steps"]:
    """Give the betas of CAMEO's schedule before the zero-terminal-SNR rescale.

    SD 2.1's scaled-linear betas with each step's (1 - beta) / beta divided by sqrt(4), which is 2 beta / (1 + beta).

    Source:
        reference/formats.md A1.5 (closed form checked there against the release).
    """
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return (2 * beta / (1 + beta)).float()


def cameo_scheduler() -> DDPMScheduler:
    """Build the stock scheduler: CAMEO's betas, zero terminal SNR (arXiv 2305.08891), v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        trained_betas=cameo_betas().numpy(),
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def pixel_scheduler() -> DDPMScheduler:
    """Build the small pixel-space model's scheduler: cosine (arXiv 2102.09672), zero terminal SNR, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def condition(
    views: Views, *, ray_scale: float, keep_cameras: Float[Tensor, " b"] | None = None
) -> Float[Tensor, "b f 7 h w"]:
    """Give mask (0 reference, 1 target), ray directions and moments at image resolution.

    Args:
        views: The views, at the size the network sees.
        ray_scale: World units that make one unit of the rays' moment.
        keep_cameras: 1 keeps a scene's rays, 0 blanks them (guidance); None keeps all.
    """
    rays = plucker_rays(views.intrinsics, views.world_to_cam, views.size, scale=ray_scale)
    if keep_cameras is not None:
        rays = rays * rearrange(keep_cameras, "b -> b 1 1 1 1")
    mask = torch.ones_like(rays[:, :, :1])
    mask[:, : views.n_ref] = 0
    return torch.cat([mask, rays], dim=2)


def to_latents(image: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f 3 h w"]:
    """Map colours in [0, 1] to [-1, 1]: the pixel-space model's latents."""
    return image * 2 - 1


def add_noise(
    clean: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], alpha_bar: Float[Tensor, " b"], n_ref: int
) -> Float[Tensor, "b f c h w"]:
    """Mix sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise in target views; references stay clean."""
    level = rearrange(alpha_bar, "b -> b 1 1 1 1")
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    return torch.cat([clean[:, :n_ref], noisy[:, n_ref:]], dim=1)


def velocity(
    clean: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], alpha_bar: Float[Tensor, " b"]
) -> Float[Tensor, "b f c h w"]:
    """Give the target of v-prediction: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean."""
    level = rearrange(alpha_bar, "b -> b 1 1 1 1")
    return level.sqrt() * noise - (1 - level).sqrt() * clean


def predict(
    model: MultiViewModel, views: Views, t: Int[Tensor, " b"], noise: Float[Tensor, "b f 3 h w"]
) -> Float[Tensor, "b f 3 h w"]:
    """Run one denoising step on views of the model's size, references clean, targets noised to timestep ``t``."""
    latents = add_noise(to_latents(views.image), noise, model.alpha_bar.to(noise)[t], views.n_ref)
    inputs = condition(views, ray_scale=model.ray_scale)
    domain = torch.full_like(t, OTHERS)
    return model.network(latents, t, inputs, domain)
